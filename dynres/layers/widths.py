"""The check that every network makes of its sizes."""

from __future__ import annotations


def check_widths(network: str, **values: int) -> None:
    """Refuse widths and counts below 1; the message names the network, the option and the value."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{network} needs {name} of at least 1, got {value}")
