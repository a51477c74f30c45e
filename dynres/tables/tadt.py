"""TADT's tables: PSNR under three upsamplers (1, 2), costs of extractors (3), designs of beta (4), its loss (5).

Published MACs of TADT itself are of its trained routing: beside them stands what a network of ours, trained in the
paper's size, spent on the same images, or without one the range from no branch to every branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

from dynres.backbones.base import Backbone
from dynres.backbones.tadt import TADT
from dynres.cost.counter import count_parameters
from dynres.tables.published import always, network, said
from dynres.tables.sheet import METRICS, Cell, Column, Measured, Ours, Recipe, Row, Sheet, System, TableMaker, quality

# As the paper calls them -> conf/backbone, conf/upsampler.
EXTRACTORS = {
    "EDSR-baseline": "edsr_baseline", "RDN": "rdn", "RCAN": "rcan", "NLSA": "nlsa", "SwinIR": "swinir",
    "CAT-R-2": "cat_r_2", "Baseline": "mstb", "TADT": "tadt",
}  # fmt: skip
UPSAMPLERS = {"MetaSR": "metasr", "LIIF": "liif", "LTE": "lte"}
EXPERIMENTS = {
    "EDSR-baseline": "edsr_baseline",
    "Baseline": "baseline",
    "TADT": "tadt",
}  # conf/experiment/NAME_UPSAMPLER
# Rows of Tables 4 and 5, all under LIIF -> conf/experiment/tadt_liif*, and the demo's runs tadt*.
DESIGNS = {
    "beta = 0.5": "_beta_constant", "beta = 0.25s": "_beta_proportional", "Our TARC": "",
    "TADT, w L_beta": "", "TADT, w/o L_beta": "_no_beta_loss",
}  # fmt: skip
OTHERS = {"ArbSR (ICCV'2021)": ("backbone=arbrcan", "upsampler=arbsr", "method=assr")}
SCALES = (2, 3, 4)  # of Table 3

# -------------------------------------------------------------------------------------------------------- recipes


def routed(experiment: str, upsampler: str) -> Recipe:
    """TADT "is trained on the pre-trained Baseline" (Sec. 4.1)."""
    return Recipe((f"+experiment={experiment}",), start=Recipe((f"+experiment=baseline_{upsampler}",)))


def recipe(extractor: str, upsampler: str) -> Recipe:
    """How a row of Tables 1 and 2 is trained, once for all scales."""
    head = UPSAMPLERS[upsampler]
    if extractor == "TADT":
        return routed(f"tadt_{head}", head)
    if extractor in EXPERIMENTS:
        return Recipe((f"+experiment={EXPERIMENTS[extractor]}_{head}",))
    return Recipe((f"backbone={EXTRACTORS[extractor]}", f"upsampler={head}", "method=assr"))


def design(name: str, cells: Mapping[str, Mapping[str, Any]]) -> System:
    """A row of Table 4 or 5."""
    suffix = DESIGNS[name]
    return System(name, places(cells), always(routed(f"tadt_liif{suffix}", "liif")), demo=f"tadt{suffix}")


def places(cells: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Sequence[float | None]]:
    """{set: {scale: number, or a list of them}} as `System.published`."""
    return {
        (dataset, scale): found if isinstance(found, list) else [found]
        for dataset, scales in cells.items()
        for scale, found in scales.items()
    }


# -------------------------------------------------------------------------------------------------------- quality


def upsampled(number: int, published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 1 or 2: a sheet an upsampler, and one of the whole networks that Table 2 lists."""
    table, title = published[f"table{number}"], f"Table {number}: {published[f'table{number}']['title']}"
    sheets = []
    for upsampler, rows in table["rows"].items():
        systems = []
        for name, cells in rows.items():
            extractor = name.rstrip("†")
            demo = EXPERIMENTS.get(extractor) if upsampler == "LIIF" else None
            systems.append(System(name, places(cells), always(recipe(extractor, upsampler)), upsampler, demo))
        key = f"tadt/{number}"
        sheets.append(
            quality(key, f"{title}, under {upsampler}", systems, ["psnr"], table["protocol"], ours, **said(table))
        )
    if others := table.get("others"):
        systems = [
            System(name, places(cells), always(Recipe(OTHERS[name])) if name in OTHERS else None)
            for name, cells in others.items()
        ]
        notes = table["others_notes"]
        sheets.append(
            quality(f"tadt/{number}", f"{title}, other networks", systems, ["psnr"], table["protocol"], ours, notes)
        )
    return sheets


def designs(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 4."""
    table = published["table4"]
    systems = [design(name, cells) for name, cells in table["rows"].items()]
    return [quality("tadt/4", f"Table 4: {table['title']}", systems, ["psnr"], table["protocol"], ours, **said(table))]


def losses(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 5: PSNR, and MACs as `spent` says."""
    table, costs = published["table5"], published["table3"]
    systems = [design(name, cells) for name, cells in table["rows"].items()]
    title = f"Table 5: {table['title']}"
    sheet = quality("tadt/5", title, systems, ["psnr", "gmacs"], table["protocol"], ours, **said(table))
    rows = []
    for row in sheet.rows:
        cells = [
            spent(cell, costs, int(column.level[1:])) if column.metric.name == "gmacs" and not column.ours else cell
            for column, cell in zip(sheet.columns, row.cells, strict=True)
        ]
        rows.append(replace(row, cells=tuple(cells)))
    note = "MACs beside the published ones that are a range are counted in the paper's size: no branch to every branch."
    return [replace(sheet, rows=tuple(rows), notes=(*sheet.notes, note))]


def spent(cell: Cell, table: Mapping[str, Any], scale: int) -> Cell:
    """MACs of TADT: those of a trained network where `cell` has them, else the range of what its routing can choose."""
    if cell.ours is not None and cell.ours.value is not None:
        return replace(cell, reachable=False)  # by a network that is trained, not by one that is built
    low, high = mean_gmacs("tadt", table, scale)
    return Cell(
        cell.published, Measured(low, top=high, note="no branch to every branch"), comparable=False, reachable=False
    )


# -------------------------------------------------------------------------------------------------------- costs


@cache
def extractor(name: str) -> Backbone:
    """A backbone of conf/backbone in its published size, on the meta device."""
    return network(("method=assr", f"backbone={name}")).backbone


@cache
def line(network: str) -> tuple[int, int] | None:
    """(MACs a pixel of the padded image, MACs an image) of a network of which three sizes say so; None of others.

    Counting takes seconds a size, and a table has thirty. The sizes have to be padded, so that what a network does
    before that is seen (TADT's controller), and their areas divide by nothing that it might round to (NLSA's chunks).
    """
    backbone = extractor(network)
    side, found = backbone.size_multiple, list[tuple[int, int]]()
    for high, wide in ((29, 31), (37, 41), (43, 47)):
        macs = backbone.cost(high * side - side // 2, wide * side - side // 3).full
        found.append((high * wide * side**2, macs))
    (area, least), *others = found
    slopes = {Fraction(macs - least, its_area - area) for its_area, macs in others}
    slope = slopes.pop()
    return (int(slope), least - int(slope) * area) if slope.denominator == 1 and not slopes else None


def full_macs(network: str, height: int, width: int) -> int:
    """Of one low-resolution image, every branch on (fvcore convention)."""
    backbone, found = extractor(network), line(network)
    if found is None:
        return backbone.cost(height, width).full
    side = backbone.size_multiple
    return found[0] * (-(-height // side) * side) * (-(-width // side) * side) + found[1]


def gmacs(network: str, height: int, width: int) -> tuple[float, float]:
    """No branch and every branch, of one low-resolution image; twice the same for a network without branches."""
    high, backbone = full_macs(network, height, width), extractor(network)
    low = backbone.cost(height, width).fixed if isinstance(backbone, TADT) else high
    return low / 1e9, high / 1e9


def mean_gmacs(network: str, table: Mapping[str, Any], scale: int) -> tuple[float, float]:
    """`gmacs`, mean over the validation images, long_side x short_side -> how many, at 1/scale of their size."""
    sides: Mapping[int, int] = table["short_sides"]
    found = {short: gmacs(network, short // scale, table["long_side"] // scale) for short in sides}
    low, high = (sum(count * found[short][end] for short, count in sides.items()) for end in (0, 1))
    return low / sum(sides.values()), high / sum(sides.values())


def costs(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """Table 3, and the one number of Figure 2 that is printed."""
    table, group = published["table3"], published["table3"]["group"]
    columns = [Column("Params", METRICS["params"])]
    columns += [Column(f"x{scale}", METRICS["gmacs"], group, f"x{scale}") for scale in SCALES]
    rows, odd = [], said(table)["misprints"]
    for name, numbers in table["rows"].items():
        network = EXTRACTORS[name]
        cells = [Cell(numbers["params"], Measured(count_parameters(extractor(network)) / 1e6))]
        for scale in SCALES:
            level = f"x{scale}"
            if name == "TADT":
                system = System(name, {}, always(recipe(name, "LIIF")))
                measured = ours.measured(system, "DIV2K", level, "div2k", "gmacs")
                cells.append(spent(Cell(numbers[level], measured), table, scale))
                continue
            counted = Measured(mean_gmacs(network, table, scale)[1])
            possible = (name, group, level) not in odd
            cells.append(Cell(numbers[level], counted, comparable=possible, reachable=possible))
        rows.append(Row(name, tuple(cells), remark=table["remarks"].get(name, "")))
    label = f"counted at the paper's size, convention {table['convention']}"
    sheet = Sheet("tadt/3", f"Table 3: {table['title']}", tuple(columns), tuple(rows), label, **said(table))
    return [sheet, figure2(published["figure2"], label)]


def figure2(figure: Mapping[str, Any], label: str) -> Sheet:
    """What one image costs at three scales: SwinIR whatever the scale, TADT between no branch and every branch."""
    rows = []
    for name, numbers in figure["rows"].items():
        low, high = gmacs(EXTRACTORS[name], *figure["size"])
        measured = Measured(high) if low == high else Measured(low, top=high, note="no branch to every branch")
        rows.append(Row(name, tuple(Cell(number, measured) for number in numbers.values())))
    columns = tuple(Column(level, METRICS["gmacs"], "FLOPs (G)", level) for level in figure["rows"]["SwinIR"])
    return Sheet("tadt/3", f"Figure 2: {figure['title']}", columns, tuple(rows), label)


TABLES: dict[str, TableMaker] = {
    "tadt/1": lambda published, ours: upsampled(1, published, ours),
    "tadt/2": lambda published, ours: upsampled(2, published, ours),
    "tadt/3": costs,
    "tadt/4": designs,
    "tadt/5": losses,
}
