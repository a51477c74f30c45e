"""FlexIR's tables: quality (1, 2), what each pointer costs and gives (3, 4), adaptive inference (5), training (6).

Costs are published by thop's convention (dynres.cost), which leaves much out: beside them stands, without a published
number, all that a network holds and multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

from dynres.backbones.flexir import FlexIR
from dynres.cost.__main__ import measure
from dynres.cost.counter import count_macs, count_parameters
from dynres.restorer import Restorer
from dynres.tables.published import network
from dynres.tables.rows import cost, counted, levels_of, measures, with_costs, with_digits
from dynres.tables.sheet import METRICS, Cell, Column, Measured, Ours, Sheet, TableMaker

COSTS = (Column("#Params", METRICS["params"]), Column("MACs", METRICS["gmacs"]))
EVERYTHING = tuple(replace(column, group="everything", ours=True) for column in COSTS)
TIME = Column("Time Cost", replace(METRICS["time"], unit="s", digits=2))
NOT_TIMED = "published on an RTX 4090; not timed there"
SHALLOW = "The demo's network has four blocks: its P = 4 is its full size, and it has no P = 5."


def pointed(overrides: tuple[str, ...], pointer: int | None) -> Restorer:
    """What Tables 3 and 4 count: the first P blocks with the last one's branch; the whole network without a pointer."""
    whole = network(overrides)
    if pointer is None:
        return whole
    assert isinstance(whole.backbone, FlexIR)
    return Restorer(whole.backbone.truncated(pointer), whole.upsampler)


@cache
def costs_of(overrides: tuple[str, ...], pointer: int | None, size: tuple[int, int]) -> dict[str, dict[str, int]]:
    """Convention -> {"params", "macs"} of one image, by thop's and of everything, in one pass."""
    built, thop = pointed(overrides, pointer), dict[str, int]()
    scale = float(built.upsampler.scale or 1)
    macs = count_macs(lambda: thop.update(measure(built, size, "thop", scale)), "all")
    return {"thop": thop, "all": {"params": count_parameters(built), "macs": macs}}


def cost_cells(about: Mapping[str, Any], size: tuple[int, int], level: str) -> list[Cell]:
    """Parameters and MACs by thop beside the published ones; then all parameters and all products."""
    overrides, pointer = counted(about, level), about.get("pointer")
    assert overrides is not None, "every row of Tables 3 and 4 can be built"
    costs, pixels = costs_of(overrides, pointer, size), size[0] * size[1]
    # A softmax that its authors' code calls as a function is one that thop does not see.
    macs = costs["thop"]["macs"] - about.get("unseen_softmaxes", 0) * pixels * (3 * pixels - 1)
    chosen = about["macs"] is None  # as many as the image needs
    return [
        cost(about, "params", Measured(costs["thop"]["params"] / 1e6)),
        Cell() if chosen else cost(about, "macs", Measured(macs / 1e9)),
        Cell(None, Measured(costs["all"]["params"] / 1e6)),
        Cell() if chosen else Cell(None, Measured(costs["all"]["macs"] / 1e9)),
    ]


def told(sheet: Sheet) -> Sheet:
    """With what is to be known of the demo, where its columns are there."""
    own = any(column.ours and column.metric.kind == "quality" for column in sheet.columns)
    return replace(sheet, notes=(*sheet.notes, SHALLOW)) if own else sheet


def benchmarks(number: int, published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 1 or 2."""
    return [told(measures(f"flexir/{number}", published[f"table{number}"], ours))]


def pointers(number: int, published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 3 or 4."""
    table = published[f"table{number}"]
    (level,), size = levels_of(table), tuple(table["size"])
    cells = [cost_cells(table["systems"][name], size, level) for name in table["rows"]]
    return [told(with_costs(measures(f"flexir/{number}", table, ours), (*COSTS, *EVERYTHING), cells))]


def thresholds(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 5: adaptive inference."""
    table = published["table5"]
    cells = [[cost(table["systems"][name], "time", Measured(note=NOT_TIMED))] for name in table["rows"]]
    found = measures("flexir/5", table, ours)
    return [with_digits(replace(with_costs(found, [TIME], cells), label=found.label), {"psnr": 3})]


def trainings(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 6: the mean over the branches."""
    return [with_digits(measures("flexir/6", published["table6"], ours), {"psnr": 3})]


TABLES: dict[str, TableMaker] = {
    **{f"flexir/{number}": partial(benchmarks, number) for number in (1, 2)},
    **{f"flexir/{number}": partial(pointers, number) for number in (3, 4)},
    "flexir/5": thresholds,
    "flexir/6": trainings,
}
