"""Numbers as text, the same in every form of a table: "38.24", "27.31 ± 0.04", "1.20–3.40", "−0.04", "+0.01%"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from dynres.tables.sheet import Measured

MINUS, DASH = "−", "–"


def number(value: float, digits: int) -> str:
    """With so many digits after the point; a zero has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if _is_zero(text) else text.replace("-", MINUS)


def signed(value: float, digits: int) -> str:
    """A difference: "+0.04", "−0.04", and "0.00" for what rounds to it."""
    text = f"{value:+.{digits}f}"
    return text[1:] if _is_zero(text) else text.replace("-", MINUS)


def percent(ratio: float) -> str:
    """A relative difference: 0.0012 -> "+0.12%"."""
    return f"{signed(100 * ratio, 2)}%"


def measured(ours: Measured, digits: int) -> str:
    """A number of ours: its mean and spread, or its range; a dash where there is none."""
    if ours.value is None:
        return DASH
    text = number(ours.value, digits)
    if ours.top is not None:
        return f"{text}{DASH}{number(ours.top, digits)}"
    return text if ours.spread is None else f"{text} ± {number(ours.spread, digits)}"


def over_seeds(values: Sequence[float], digits: int, unit: str) -> str:
    """Mean and sample standard deviation of signed figures: "+0.12 ± 0.03 dB"; a dash of none."""
    if not values:
        return DASH
    spread = f" ± {number(stdev(values), digits)}" if len(values) > 1 else ""
    return f"{signed(fmean(values), digits)}{spread} {unit}".rstrip()


def relative(published: float, difference: float) -> float:
    """A difference as a part of what is published; infinite where that is zero and there is a difference."""
    return difference / abs(published) if published else math.copysign(math.inf, difference) if difference else 0.0


def _is_zero(text: str) -> bool:
    return not set(text) - set("+-0.")
