"""make bench: what each fast path is worth against the plain form of the same formula, in one report."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import dynres  # isort: skip  # noqa: F401  # first: makes torchvision importable on a CPU-only torch

import torch
from rich.console import Console

from benchmarks import backbones, cross_layer, data, decoders, pruning, report, subnets, training
from benchmarks.harness import Bench
from benchmarks.rows import Point, Row
from dynres.errors import UserError, clean_exit

SECTIONS = {
    "decoders": decoders.measurements,
    "backbones": backbones.measurements,
    "cross_layer": cross_layer.measurements,
    "pruning": pruning.measurements,
    "subnets": subnets.measurements,
    "data": data.measurements,
    "training": training.measurements,
}
COLOURS = {"met": "green", "not met": "red", "not measured": "yellow"}


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"sections, with commas between: {','.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds; bars do not apply")
    parser.add_argument("--anyway", action="store_true", help="tell what was measured on busy cores, marked so")
    parser.add_argument("--threads", type=int, default=1, help="of torch (the bars hold for 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="folder of the report (default: runs/bench/DATE-TIME)")
    return parser.parse_args(arguments)


def asked(only: str | None) -> list[str]:
    """The sections to measure."""
    names = list(SECTIONS) if only is None else [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise UserError(f"--only takes sections out of {', '.join(SECTIONS)}, got {unknown[0]!r}")
    return names


def bench_of(options: argparse.Namespace) -> Bench:
    if options.threads < 1:
        raise UserError(f"--threads must be at least 1, got {options.threads}")
    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise UserError(f"--device takes cpu or cuda, got {options.device!r}") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise UserError(f"--device takes cpu, or cuda where torch sees a GPU, got {options.device!r}")
    return Bench(device, options.threads, options.quick, options.anyway)


@clean_exit
def main() -> None:
    """Measure, tell as it goes, and write the report after each measurement, so that nothing is lost."""
    options = parsed()
    bench, names = bench_of(options), asked(options.only)
    folder = options.out or Path("runs/bench") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    console = Console(highlight=False, soft_wrap=True)
    plan = [measurement for name in names for measurement in SECTIONS[name](bench)]
    rows: list[Row] = []
    points: list[Point] = []
    left, started = sum(one.seconds for one in plan), time.perf_counter()
    pace = 1.0  # seconds here for one that was expected
    for number, one in enumerate(plan, 1):
        console.print(
            f"[{number:{len(str(len(plan)))}}/{len(plan)}] {one.name} [dim](about {_duration(left * pace)} left)[/dim]"
        )
        found = list(one.run())
        rows += [result for result in found if isinstance(result, Row)]
        points += [result for result in found if isinstance(result, Point)]
        for row in found:
            if isinstance(row, Row):
                _tell(console, row)
        left -= one.seconds
        spent = time.perf_counter() - started
        pace = spent / (sum(one.seconds for one in plan) - left)
        file = report.write(folder, bench, rows, points, spent)
    console.print(f"{report.summary(rows)} Report: {file}")


def _tell(console: Console, row: Row) -> None:
    colour = COLOURS.get(row.verdict, "default")
    measured = " ".join(filter(None, (report.value(row), f"[{colour}]{row.verdict}[/{colour}]")))
    note = report.remarks(row)
    console.print(f"        {row.what}: {measured}{f' [dim]({note})[/dim]' if note else ''}")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    main()
