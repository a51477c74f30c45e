"""make bench: MACs and milliseconds side by side. Speeds are ratios of things measured in turn in one run."""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import dynres  # noqa: F401  # first: makes torchvision importable on a CPU-only torch
from dynres.backbones.tadt import TADT
from dynres.contracts import Routing, Task

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


def interleaved(functions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median milliseconds of each function, called in turn so that a slow spell of the machine hits all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()  # warm-up
    for _ in range(rounds):
        for index, function in enumerate(functions):
            started = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[index].append(1000 * (time.perf_counter() - started))
    return [statistics.median(one) for one in times]


def spread(units: int, fraction: float) -> torch.Tensor:
    """(1, U) decisions with a fraction of the branches on, each of the four kinds equally often."""
    decisions = torch.zeros(units // 4, 4)
    turns = torch.arange(units // 4)
    for step in range(round(4 * fraction)):
        decisions[turns, (turns + step) % 4] = 1.0
    return decisions.flatten()[None]


def routed_backbone(channels: int, groups: int, side: int, rounds: int, device: str) -> Table:
    """Wall clock of a TADT at 0 to 100 % of its branches, beside the MACs that ran."""
    torch.manual_seed(0)
    network = TADT(channels=channels, groups=groups).eval().to(device)
    image, scale = torch.rand(1, 3, side, side, device=device), torch.ones(1, device=device)
    cost = network.cost(side, side)
    calls, macs = [], []
    for fraction in FRACTIONS:
        decisions = spread(len(network.units), fraction)
        macs.append(cost.fixed + int((decisions[0].double() @ torch.tensor(cost.units, dtype=torch.float64)).item()))
        routing = Routing(decisions, decisions, torch.ones(1), network.units)
        calls.append(functools.partial(network, image, Task(scale, routing=routing)))
    with torch.inference_mode():
        milliseconds = interleaved(calls, rounds)
    title = f"TADT C={channels} N={groups}, {side}x{side} input, float32, {device} ({torch.get_num_threads()} threads)"
    table = Table(title=title)
    for column in ("branches on", "GMACs", "MACs / full", "ms", "ms / full"):
        table.add_column(column, justify="right")
    for fraction, spent, ms in zip(FRACTIONS, macs, milliseconds, strict=True):
        table.add_row(
            f"{fraction:.0%}",
            f"{spent / 1e9:.2f}",
            f"{spent / cost.full:.3f}",
            f"{ms:.0f}",
            f"{ms / milliseconds[-1]:.3f}",
        )
    return table


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    console = Console()
    for channels, groups, side in ((32, 2, 96), (224, 8, 96)):
        console.print(routed_backbone(channels, groups, side, options.rounds, options.device))


if __name__ == "__main__":
    main()
