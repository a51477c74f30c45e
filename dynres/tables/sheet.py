"""A table as data: what a paper prints, what was counted or measured here, and how the two compare.

Papers' modules (tadt.py, acla.py ...) make sheets; Markdown, CSV, LaTeX and the page (render/) are drawn from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Metric:
    """What a column holds.

    Attributes:
        unit: as headers print it, such as "dB", "M", "GMACs"; "" for none.
        digits: after the point, as papers print it.
        better: which value is best; None where none is (nothing is marked then).
        bounds: what can be, ends included.
    """

    name: str
    unit: str
    digits: int
    better: Literal["more", "less"] | None
    bounds: tuple[float, float]
    kind: Literal["cost", "quality"]


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "dB", 2, "more", (5.0, 60.0), "quality"),
        Metric("ssim", "", 4, "more", (-1.0, 1.0), "quality"),
        Metric("psnr_b", "dB", 2, "more", (5.0, 60.0), "quality"),
        Metric("params", "M", 2, "less", (0.0, 1e3), "cost"),
        Metric("gmacs", "GMACs", 2, "less", (0.0, 1e6), "cost"),
        Metric("time", "", 1, "less", (0.0, 1e6), "cost"),
    )
}


@dataclass(frozen=True)
class Measured:
    """A number of ours, or why there is none.

    Attributes:
        value: None where there is none; the mean over seeds where there are several.
        spread: sample standard deviation over the seeds; None of fewer than two.
        seeds: how many runs it is the mean of; 0 where it was counted, not measured.
        note: why there is no value ("not trained", a failure's reason), or what to know of it ("10 of 100 images").
        top: the upper end where the number is a range (ACLA's MACs: value keeps no key, top all of them); else None.
        part: measured on a part of the test set, so that it is not comparable with the published number.
    """

    value: float | None = None
    spread: float | None = None
    seeds: int = 0
    note: str = ""
    top: float | None = None
    part: bool = False


@dataclass(frozen=True)
class Cell:
    """One number of a paper beside ours.

    Attributes:
        published: None where the paper has none.
        comparable: the two are of the same thing, so that their difference means something. Not so for demo-size
            networks on photographs beside DIV2K, nor where the paper's number cannot be reproduced (`reachable`).
        reachable: the published number is one that a rebuilt network can have (accounting; README of the paper says why
            where it is not).
    """

    published: float | None = None
    ours: Measured | None = None
    comparable: bool = True
    reachable: bool = True

    @property
    def difference(self) -> float | None:
        """Ours less the published, or None; of a range, of the end that is nearer (0 inside of it)."""
        if self.published is None or self.ours is None or self.ours.value is None or not self.comparable:
            return None
        low, high = self.ours.value, self.ours.value if self.ours.top is None else self.ours.top
        return 0.0 if low <= self.published <= high else min(low - self.published, high - self.published, key=abs)


@dataclass(frozen=True)
class Column:
    """A column of cells.

    Attributes:
        group: a header over several, such as a test set.
        level: of scale or degradation ("x2", "sigma25"), by which quality falls; "" where columns have none.
        ours: True where there is nothing published: the column of a demo, say.
    """

    name: str
    metric: Metric
    group: str = ""
    level: str = ""
    ours: bool = False


Status = Literal["works here", "cited only"]


@dataclass(frozen=True)
class Row:
    """A system, or a setting of one; cells stand in the order of the sheet's columns."""

    name: str
    cells: tuple[Cell, ...]
    group: str = ""
    status: Status = "works here"
    remark: str = ""


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        key: "tadt/3"; two sheets of one table share it.
        title: with the paper's number, such as "Table 3: parameters and MACs ...".
        label: what "ours" is in it, such as "counted", "demo-size networks, bundled photographs"; never empty.
        best: the row that the paper says is best; it is, but in the columns (group, name) of `best_but`.
        misprints: (row, group, column) of cells that the README calls misprints: neither range nor order hold there.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    label: str
    notes: tuple[str, ...] = ()
    best: str | None = None
    best_but: frozenset[tuple[str, str]] = frozenset()
    misprints: frozenset[tuple[str, str, str]] = frozenset()

    @property
    def paper(self) -> str:
        return self.key.partition("/")[0]


@dataclass(frozen=True)
class Recipe:
    """How a row's network comes about: arguments of `python -m dynres.run`, without profile, data, seed and folders.

    Attributes:
        start: whose last checkpoint this one starts from (`ckpt=`).
        trained: whose `checkpoints/trained.ckpt` it cuts (`method.trained=`), for method=prune.
        teacher: whose last checkpoint teaches it (`method.teacher=`), for method=distill.
    """

    overrides: tuple[str, ...]
    start: Recipe | None = None
    trained: Recipe | None = None
    teacher: Recipe | None = None


@dataclass(frozen=True)
class System:
    """A row of a table of quality, before anything is measured.

    Attributes:
        published: (test set, level) -> a number a metric, None where the paper has none.
        recipe: level -> how it is trained in the paper's size; None where the system is not here.
        demo: the run of experiments/PAPER/demo.yaml that stands for this row in the demo; None for none.
        way: through a network that has several, as tradeoff.csv and subnets.csv name them ("P=4", "h=1.1"); "" for what
            its own test says.
    """

    name: str
    published: Mapping[tuple[str, str], Sequence[float | None]]
    recipe: Callable[[str], Recipe] | None
    group: str = ""
    demo: str | None = None
    way: str = ""
    remark: str = ""


NOTHING = "nothing measured"  # the label of a sheet without a number of ours


class Ours(Protocol):
    """Where numbers of ours come from: the demo's runs, paper-size runs, or tests of given checkpoints.

    Attributes:
        label: what they are, for Sheet.label.
    """

    label: str

    def measured(self, system: System, dataset: str, level: str, protocol: str, metric: str) -> Measured:
        """One number; where there is none, Measured says why."""

    def own(self, systems: Sequence[System]) -> Sequence[tuple[str, str]]:
        """(test set, level) that were measured and are in no paper: the demo's photographs. Empty for others."""


def quality(
    key: str,
    title: str,
    systems: Sequence[System],
    metrics: Sequence[str],
    protocol: str,
    ours: Ours,
    notes: Iterable[str] = (),
    best: str | None = None,
    best_but: Iterable[tuple[str, str]] = (),
    misprints: Iterable[tuple[str, str, str]] = (),
) -> Sheet:
    """A table of quality: a row a system, a column a (test set, level, metric); after them the demo's own columns."""
    places = list(dict.fromkeys(place for system in systems for place in system.published))
    columns = [
        Column(_name(level, metric, metrics), METRICS[metric], dataset, level)
        for dataset, level in places
        for metric in metrics
    ]
    own = list(ours.own(systems))
    columns += [
        Column(_name(level, metric, metrics), METRICS[metric], f"{dataset}: ours", level, ours=True)
        for dataset, level in own
        for metric in metrics
    ]
    rows = []
    for system in systems:
        cells = [
            _beside(value, None if own else ours.measured(system, *place, protocol, metric))
            for place in places
            for metric, value in zip(metrics, system.published.get(place, [None] * len(metrics)), strict=True)
        ]
        cells += [Cell(None, ours.measured(system, *place, protocol, metric)) for place in own for metric in metrics]
        status: Status = "cited only" if system.recipe is None else "works here"
        rows.append(Row(system.name, tuple(cells), system.group, status, system.remark))
    any_of_ours = any(cell.ours is not None and cell.ours.value is not None for row in rows for cell in row.cells)
    return Sheet(
        key,
        title,
        tuple(columns),
        tuple(rows),
        ours.label if any_of_ours else NOTHING,
        tuple(notes),
        best,
        frozenset(best_but),
        frozenset(misprints),
    )


def _beside(published: float | None, ours: Measured | None) -> Cell:
    return Cell(published, ours, comparable=ours is None or not ours.part)


def _name(level: str, metric: str, metrics: Sequence[str]) -> str:
    """ "x2", or "x2 SSIM" where the table has several metrics."""
    name = {"gmacs": "MACs"}.get(metric, metric.upper().replace("_", "-"))
    return level if len(metrics) == 1 else f"{level} {name}".strip()


Judgement = Literal["supported", "not supported", "undecided", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """A claim of a paper, and what our numbers say of it.

    Attributes:
        where: in the paper ("Sec. 4.3, Figure 7").
        published: its figures, in words.
        measures: what was measured, in words ("active branches at x4 less those at x2").
        values: one a seed, positive where they agree with the claim (less the margin that `measures` names).
        verdict: supported or not where the mean over seeds lies beyond twice its standard error, else undecided.
    """

    paper: str
    claim: str
    where: str
    published: str
    measures: str
    unit: str
    digits: int
    values: tuple[float, ...]
    verdict: Judgement
    note: str = ""


# (content of a paper's published.yaml, where ours come from) -> the sheets of one table.
TableMaker = Callable[[Mapping[str, Any], Ours], Sequence[Sheet]]


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        section: where it stands: a paper ("tadt"), or "all".
        caption: what is seen, of which networks, which images; demo-size ones are called so.
        alt: for who does not see it.
        image: PNG.
        wide: as wide as the page rather than one of two columns.
    """

    section: str
    title: str
    caption: str
    alt: str
    image: bytes
    wide: bool = False


@dataclass(frozen=True)
class FinishedRun:
    """A run of the demo's plan (experiments/PAPER/demo.yaml), with its folder: summary.json, CSV files, checkpoints."""

    paper: str
    name: str
    seed: int
    folder: Path
