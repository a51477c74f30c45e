"""Runs of `python -m dynres.run` that other commands ask for: found again, resumed, started, watched."""
