"""Where pruning happened (Lightweight SwinIR, Table 2's remark): channels that runs of method=prune kept, by layer."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

NAMES = {"msa": "attention", "mlp": "MLP"}
Shares = dict[str, list[float]]  # kind -> part of each layer's channels that is kept, first to last


def kept(folder: Path) -> Shares:
    """Of a finished run: what its pruning.csv says."""
    shares: Shares = {}
    with open(folder / "pruning.csv", newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            shares.setdefault(line["kind"], []).append(int(line["kept"]) / int(line["of"]))
    return shares


def draw(runs: Mapping[str, Shares]) -> Figure:
    """A column of axes a kind, a line a run under its name, such as "$\\gamma$ = 1e-5"; runs of one scope."""
    kinds = list(next(iter(runs.values())))
    figure = Figure(figsize=(5.2 * len(kinds), 3.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for name, shares in runs.items():
            axes.plot(range(1, len(shares[kind]) + 1), shares[kind], "o-", markersize=4, label=name)
        axes.set_title(NAMES[kind], fontsize=10)
        axes.set_xlabel("layer, first to last")
        axes.set_ylabel("channels kept")
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1.05)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure
