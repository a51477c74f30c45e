"""Lightweight SwinIR's tables: the distilled and the pruned networks and their costs (1), and pruning by gamma (2).

Costs of a pruned network are those of what the cut leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from math import ceil, floor
from typing import Any

from dynres.cost.__main__ import measure
from dynres.tables.published import always, network, said
from dynres.tables.sheet import (
    METRICS,
    Cell,
    Column,
    Measured,
    Metric,
    Ours,
    Recipe,
    Row,
    Sheet,
    System,
    TableMaker,
    quality,
)

LAYERS, MLP_WIDTH, HEAD_WIDTH = 36, 360, 30  # of the classical network (Sec. 4.3.2): 180 channels in six heads
SCALE = ("task=sr", "task.scale=2")
CLASSICAL = ("backbone=swinir", "upsampler=pixelshuffle")
LIGHTWEIGHT = ("backbone=swinir_lightweight", "upsampler=pixelshuffle_direct")
DISTILLED = ("backbone=swinir_distilled", "upsampler=pixelshuffle_direct")
# SwinIR's own training; on the paper's images (Sec. 4.1-4.2), as conf/profile/setting/paper_distill_sr.yaml has them.
PLAIN = (
    "method=assr", "method.learning_rate=2e-4", "method.milestones=[0.5,0.8,0.9,0.95]", "trainer.max_steps=500000",
    "data.batch_size=32", "pixels.mean=[0.4488,0.4371,0.4040]", "pixels.factor=1.0",
)  # fmt: skip
SMALL = ("data.reduce=8", "data.fraction=0.48", "data.small=skip")
TEACHER = Recipe((*SCALE, *CLASSICAL, *PLAIN))  # whole images: "the authors of the SwinIR provided" it (Sec. 3.2.1)
THOUSANDS = Metric("kparams", "k", 2, "less", (0.0, 1e6), "cost")


@dataclass(frozen=True)
class Made:
    """What stands behind a row.

    Attributes:
        network: choices that build what it restores with, at the widths that are left where it is pruned.
        demo: its run in experiments/lightweight_swinir/demo.yaml.
    """

    network: tuple[str, ...]
    recipe: Recipe
    demo: str | None


def plain(network: tuple[str, ...], demo: str) -> Made:
    """C or L, trained on the small images without a teacher."""
    return Made(network, Recipe((*SCALE, *network, *PLAIN, *SMALL)), demo)


def distilled(weight: str, demo: str) -> Made:
    """lambda = weight."""
    options = (f"method.weight={weight}", "task.scale=2")
    return Made(DISTILLED, Recipe(("+experiment=swinir_kd", *options), teacher=TEACHER), demo)


def pruned(scope: str, rate: float, gamma: str, demo: str | None) -> Made:
    """Scores are trained once a scope and gamma, by the run that cuts the least; the others cut what it trained."""

    def cut(rate: float, *more: str) -> tuple[str, ...]:
        options = (f"method.scope={scope}", f"method.rate={rate:g}", f"method.sparsity={gamma}", "task.scale=2")
        return ("+experiment=swinir_prune", *options, *more)

    if rate == 0.25:
        recipe = Recipe(cut(rate))
    else:
        # Fine-tuned as long as the first: the second half of its 500,000 steps.
        recipe = Recipe(cut(rate, "trainer.max_steps=250000"), trained=Recipe(cut(0.25)))
    widths = {"mlp_widths": MLP_WIDTH * (1 - rate)}
    if scope == "mlp_msa":
        widths["head_widths"] = HEAD_WIDTH * (1 - rate)
    left = (f"backbone.{option}={_alternating(width)}" for option, width in widths.items())
    return Made((*CLASSICAL, *left), recipe, demo)


def _alternating(width: float) -> list[int]:
    """Of each layer, of this mean."""
    return list(islice(cycle((floor(width), ceil(width))), LAYERS))


MADE = {
    "C": plain(CLASSICAL, "uncut"),
    "L": plain(LIGHTWEIGHT, "student"),
    "KD 0.25": distilled("0.25", "kd_025"),
    "KD 0.5": distilled("0.5", "kd_050"),
    "KD 0.75": distilled("0.75", "kd_075"),
    "Pruning(MLP) 0.25": pruned("mlp", 0.25, "1e-5", "mlp_025"),
    "Pruning(MLP) 0.5": pruned("mlp", 0.5, "1e-5", "mlp_050"),
    "Pruning(MLP) 0.75": pruned("mlp", 0.75, "1e-5", "mlp_075"),
    "Pruning(MLP+Attention) 0.25": pruned("mlp_msa", 0.25, "1e-5", "msa_025"),
    "Pruning(MLP+Attention) 0.5": pruned("mlp_msa", 0.5, "1e-5", "msa_050"),
    "Pruning(MLP+Attention) 0.75": pruned("mlp_msa", 0.75, "1e-5", "msa_075"),
    "gamma = 1e-5": pruned("mlp_msa", 0.25, "1e-5", "msa_025"),
    "gamma = 1e-4": pruned("mlp_msa", 0.25, "1e-4", None),
}


@cache
def counted(overrides: tuple[str, ...], height: int, width: int) -> dict[str, int]:
    """{"params", "macs"} of such choices for one low-resolution image of this size, at x2."""
    return measure(network(("method=assr", *SCALE, *overrides)), (height, width), "all", 2.0)


def system(name: str, cells: Mapping[str, list[float | None]], level: str, group: str = "") -> System:
    """A row of Table 1 or 2; `cells`: test set -> PSNR and SSIM."""
    made = MADE[name]
    published = {(dataset, level): numbers for dataset, numbers in cells.items()}
    return System(name, published, always(made.recipe), group, made.demo)


def every(published: Mapping[str, Any], ours: Ours) -> Sheet:
    """Table 1."""
    table = published["table1"]
    rows = [
        system(name, cells, table["level"], group)
        for group, found in table["rows"].items()
        for name, cells in found.items()
    ]
    title = f"Table 1: {table['title']}"
    return quality("lightweight_swinir/1", title, rows, ["psnr", "ssim"], table["protocol"], ours, **said(table))


def costs(published: Mapping[str, Any]) -> Sheet:
    """Of the networks of Table 1: parameters as the text prints them and ours; MACs, which it does not print."""
    table = published["costs"]
    height, width = table["size"]
    rows = []
    for group, found in published["table1"]["rows"].items():
        for name in found:
            count = counted(MADE[name].network, height, width)
            params = Cell(table["params"].get(name), Measured(count["params"] / 1e3))
            rows.append(Row(name, (params, Cell(None, Measured(count["macs"] / 1e9))), group))
    columns = (
        Column("parameters", THOUSANDS),
        Column(f"MACs at {2 * width} x {2 * height}", METRICS["gmacs"], ours=True),
    )
    title = f"Table 1: {table['title']}"
    return Sheet("lightweight_swinir/1", title, columns, tuple(rows), "counted at the paper's size", **said(table))


def by_gamma(published: Mapping[str, Any], ours: Ours) -> Sheet:
    """Table 2."""
    table = published["table2"]
    rows = [system(name, cells, table["level"]) for name, cells in table["rows"].items()]
    title = f"Table 2: {table['title']}"
    return quality("lightweight_swinir/2", title, rows, ["psnr", "ssim"], table["protocol"], ours, **said(table))


TABLES: dict[str, TableMaker] = {
    "lightweight_swinir/1": lambda published, ours: [every(published, ours), costs(published)],
    "lightweight_swinir/2": lambda published, ours: [by_gamma(published, ours)],
}
