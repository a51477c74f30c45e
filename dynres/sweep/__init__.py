"""Sweeps that survive: each job keeps its own state, one process watches them, and what is missing is run again."""
