"""What the report is made of: rows with a bar and a verdict, and points of curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from benchmarks.harness import Bench, Timing

Verdict = Literal["met", "not met", "not measured", "not applicable", "no bar"]


@dataclass(frozen=True)
class Form:
    """One way to compute the thing.

    Attributes:
        macs: multiply-accumulates it runs; None where the thing is no arithmetic.
        gemm_fraction: of the rate of a GEMM in the same rounds.
        peak_mb: megabytes (10^6 bytes) above what was there before.
    """

    name: str
    milliseconds: float | None = None
    macs: float | None = None
    gemm_fraction: float | None = None
    peak_mb: float | None = None

    @property
    def gflops(self) -> float | None:
        """10^9 operations a second, two a multiply-accumulate."""
        if self.macs is None or not self.milliseconds:
            return None
        return 2 * self.macs / self.milliseconds / 1e6


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        section: decoders, backbones, cross_layer, pruning, subnets, data or training.
        value: of what was measured, in `unit`; None where it was not.
        bar: what it must reach ("at least") or keep to ("at most"); None without one.
        applies: whether the bar holds for how this was measured.
        free: whether the cores were free; None where it does not matter (memory).
        others: cores that other processes took.
        error: of ours, of what `error_of` says; `error_bar` what it may be.
        forms: the plain one first.
    """

    section: str
    what: str
    value: float | None
    unit: str = "x"
    bar: float | None = None
    sense: Literal["at least", "at most"] = "at least"
    applies: bool = True
    free: bool | None = None
    others: float | None = None
    error: float | None = None
    error_bar: float | None = None
    error_of: str = ""
    threads: int = 1
    rounds: int | None = None
    forms: tuple[Form, ...] = ()
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.free is False or self.value is None:
            return "not measured"
        if self.bar is None:
            return "no bar"
        if not self.applies:
            return "not applicable"
        reached = self.value >= self.bar if self.sense == "at least" else self.value <= self.bar
        exact = self.error_bar is None or (self.error is not None and self.error <= self.error_bar)
        return "met" if reached and exact else "not met"


class Point(NamedTuple):
    """Of a curve: `plot` names the picture, `network` and `form` the curve in it."""

    plot: str
    network: str
    form: str
    x: float
    y: float


Results = Iterable[Row | Point]


class Measurement(NamedTuple):
    """Something to measure, and about how many seconds it takes on a common core."""

    name: str
    seconds: float
    run: Callable[[], Results]


def timed_row(bench: Bench, timing: Timing, section: str, what: str, value: float, **others: object) -> Row:
    """A row of something timed; what was measured on busy cores is told only if --anyway."""
    told = timing.free or bench.anyway
    return Row(
        section,
        what,
        value if told else None,
        applies=bench.bars,
        free=timing.free,
        others=timing.others,
        threads=timing.threads,
        rounds=len(next(iter(timing.seconds.values()))),
        **(others if told else others | {"forms": ()}),  # type: ignore[arg-type]
    )


def timed_points(bench: Bench, timing: Timing, points: Iterable[Point]) -> Iterable[Point]:
    """The points, or none where the cores were busy."""
    return points if timing.free or bench.anyway else ()


def form(timing: Timing, name: str, macs: float | None = None, peak_mb: float | None = None) -> Form:
    fraction = None if macs is None else timing.gemm_fraction(name, macs)
    return Form(name, timing.milliseconds(name), macs, fraction, peak_mb)
