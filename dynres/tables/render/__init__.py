"""Sheets as Markdown, CSV, LaTeX and one self-contained page: pure functions of the data, with no clock in them."""
