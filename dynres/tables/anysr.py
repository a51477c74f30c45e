"""AnySR's tables: what each scale costs, beside the authors' code (1), and what its subnets give and spend (2).

No table of the paper was at hand, so that (2) has rows and nothing published beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from dynres.backbones.anysr import AnySR
from dynres.callbacks.subnets import BY_SCALE
from dynres.contracts import Task
from dynres.cost.counter import count_parameters
from dynres.tables.published import always, network, said
from dynres.tables.sheet import Cell, Column, Measured, Metric, Ours, Recipe, Row, Sheet, System, TableMaker, quality

# As the paper calls them -> conf/backbone.
EXTRACTORS = {"EDSR-baseline": "anysr_edsr", "RDN": "anysr_rdn"}
# (extractor, upsampler) -> how the plain network is trained, and AnySR from it.
TRAINED: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("EDSR-baseline", "SRNO"): (
        ("backbone=edsr_baseline", "upsampler=srno", "method=assr"), ("+experiment=anysr_edsr_srno",)
    ),
    ("RDN", "SRNO"): (("backbone=rdn", "upsampler=srno", "method=assr"), ("+experiment=anysr_rdn_srno",)),
    ("EDSR-baseline", "LIIF"): (("+experiment=edsr_baseline_liif",), ("+experiment=anysr_edsr_liif",)),
    ("EDSR-baseline", "Meta-SR"): (("+experiment=edsr_baseline_metasr",), ("+experiment=anysr_edsr_metasr",)),
    ("EDSR-baseline", "ArbSR"): (
        ("backbone=edsr_baseline", "upsampler=arbsr", "method=assr"),
        ("+experiment=anysr_edsr_srno", "upsampler=arbsr"),
    ),
}  # fmt: skip
WHOLE = "1"  # ‡ in subnets.csv: the width of the largest subnet
DEMO = ("EDSR-baseline", "LIIF")  # what experiments/anysr/demo.yaml trains
DEMO_RUNS = {True: "anysr", False: "anysr_not_enhanced"}  # enhanced -> its run there

WIDTH = Metric("width", "", 1, None, (0.0, 1.0), "cost")
MACS = Metric("macs", "MACs", 0, "less", (0.0, 1e9), "cost")
SHARE = Metric("share", "%", 1, "less", (0.0, 100.0), "cost")
COUNT = Metric("count", "", 0, "less", (0.0, 1e9), "cost")

# ------------------------------------------------------------------------------------------------------------ costs


@cache
def extractor(name: str, enhanced: bool) -> AnySR:
    """A backbone of conf/backbone in its published size, on the meta device."""
    backbone = network(("method=assr", f"backbone={name}", f"backbone.enhanced={str(enhanced).lower()}")).backbone
    assert isinstance(backbone, AnySR)
    return backbone


def macs_of(backbone: AnySR, height: int, width: int, step: int) -> int:
    """What a subnet, numbered from 0, takes of one image."""
    cost = backbone.cost(height, width)
    return cost.fixed + sum(cost.units[:step])


def step_of(backbone: AnySR, scale: float) -> int:
    """Which subnet a scale runs."""
    return int(backbone.route(torch.empty(1, 3, 1, 1), Task(torch.tensor([scale]))).decisions.sum())


def subnet(network: str, step: int, size: tuple[int, int]) -> dict[str, float]:
    """Of one subnet: width, MACs a pixel without gates, their share (%) of the whole, MACs of the gates an image."""
    height, width = size
    gated, bare = extractor(network, True), extractor(network, False)
    macs = macs_of(bare, height, width, step)
    once, twice = (
        macs_of(gated, height, times * width, step) - macs_of(bare, height, times * width, step) for times in (1, 2)
    )
    return {
        "width": gated.widths[step],
        "macs": macs / (height * width),
        "share": 100 * macs / bare.cost(height, width).full,
        "gates": 2 * once - twice,  # their means grow with the image, their linear maps do not
    }


def scale_groups(table: Mapping[str, Any]) -> Iterator[Row]:
    """A row a group of scales. Scales of one group that run different subnets have no number in common."""
    for name, system in table["systems"].items():
        network = EXTRACTORS[name]
        for group in system["groups"]:
            steps = {scale: step_of(extractor(network, True), scale) for scale in group["scales"]}
            if len(set(steps.values())) == 1:
                found = subnet(network, steps[group["scales"][0]], tuple(table["size"]))
                ours = {key: Measured(value) for key, value in found.items()}
            else:
                told = ", ".join(f"x{scale:g}: {step + 1}" for scale, step in steps.items())
                ours = dict.fromkeys(("width", "macs", "share", "gates"), Measured(note=f"different subnets: {told}"))
            low, *_, high = sorted(group["scales"])
            rest = group is system["groups"][-1]
            title = f"x{group['scales'][0]:g} and more, x{low:g}" if rest else f"x{low:g} to x{high:g}"
            yield Row(title, tuple(Cell(group[key], one) for key, one in ours.items()), name)


def parameters(table: Mapping[str, Any]) -> Iterator[Row]:
    """With the gates and without."""
    for name, system in table["systems"].items():
        backbones = {"params": extractor(EXTRACTORS[name], True), "plain": extractor(EXTRACTORS[name], False)}
        cells = (Cell(system[key], Measured(count_parameters(backbone))) for key, backbone in backbones.items())
        yield Row(name, tuple(cells))


def costs(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """MACs by scale, and parameters."""
    table = published["costs"]
    height, width = table["size"]
    columns = (
        Column("width", WIDTH), Column("a pixel", MACS), Column("of the whole", SHARE), Column("gates, an image", MACS)
    )  # fmt: skip
    counts = (Column("with gates", COUNT, "parameters"), Column("without", COUNT, "parameters"))
    label, title = f"counted on {height} x {width} pixels", f"No table of the paper: {table['title']}"
    return [
        Sheet("anysr/1", title, columns, tuple(scale_groups(table)), label, **said(table)),
        Sheet("anysr/1", f"{title}: parameters", counts, tuple(parameters(table)), "counted"),
    ]


# ---------------------------------------------------------------------------------------------------------- quality


def systems(extractor: str, upsampler: str, sets: Mapping[tuple[str, str], list[None]], ablated: bool) -> list[System]:
    """The plain network, and its AnySR by the scale's subnet and whole; `ablated`: also without enhancement."""
    group, names = f"{extractor} + {upsampler}", (extractor, upsampler)
    plain, slimmed = TRAINED[names]
    start = Recipe(plain)
    found = [System(upsampler, sets, always(start), group)]
    for enhanced in (True, False) if ablated else (True,):
        options, note = ((), "") if enhanced else (("backbone.enhanced=false",), ", not enhanced")
        recipe = always(Recipe((*slimmed, *options), start))
        demo = DEMO_RUNS[enhanced] if names == DEMO else None
        for mark, way in (("†", BY_SCALE), ("‡", WHOLE)):
            found.append(System(f"AnySR-{upsampler}{mark}{note}", sets, recipe, group, demo, way))
    return found


def subnets(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """A sheet a test set; in the demo one of its photographs and of the systems that it trains, with their MACs."""
    table = published["quality"]
    title = f"No table of the paper: {table['title']}"

    def sheet(title: str, rows: list[System], metrics: list[str]) -> Sheet:
        found = quality("anysr/2", title, rows, metrics, table["protocol"], ours, **said(table))
        return replace(found, columns=tuple(replace(column, ours=True) for column in found.columns))

    trained = [system for system in systems(*DEMO, {}, ablated=True) if system.demo is not None]
    if ours.own(trained):
        return [sheet(title, trained, ["psnr", "gmacs"])]
    sheets = []
    for name in table["sets"]:
        places: dict[tuple[str, str], list[None]] = {(name, level): [None] for level in table["levels"]}
        rows = [system for one in table["systems"] for system in systems(**one, sets=places)]
        sheets.append(sheet(f"{title}, {name}", rows, ["psnr"]))
    return sheets


TABLES: dict[str, TableMaker] = {"anysr/1": costs, "anysr/2": subnets}
