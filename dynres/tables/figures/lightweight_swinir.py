"""Lightweight SwinIR: what pruning costs, what distillation gives (of one seed each), and which layers pruning cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from cycler import cycler
from matplotlib import rc_context
from matplotlib.figure import Figure

from dynres.errors import UserError
from dynres.tables.figures.found import Published, Runs, less, metric, networks, sentence, value
from dynres.tables.figures.style import COLOURS, COLUMN, DARK, PAGE, bars, new, png
from dynres.tables.pruned import NAMES, Shares, draw, kept
from dynres.tables.sheet import FinishedRun, Measured, Picture

LEVEL = "x2"
RATES = {"025": 25, "050": 50, "075": 75}  # of a run's name, in per cent
SCOPES = {
    "mlp": ("MLP", COLOURS["tadt"], "o", "Pruning(MLP)"),
    "msa": ("MLP + attention", COLOURS["pruned"], "s", "Pruning(MLP+Attention)"),
}
SETS = {"Urban100": "-", "Manga109": ":"}
SHADES = {25: "#F0C24B", 50: "#C98500", 75: "#7A4F00"}


def _rates(runs: Runs, scope: str) -> dict[int, list[FinishedRun]]:
    """Rate in per cent -> runs."""
    names = {f"{scope}_{text}": rate for text, rate in RATES.items()}
    return {names[name]: some for name, some in runs.named("lightweight_swinir", names).items()}


# ------------------------------------------------------------------------------------------------ rates


def rates(runs: Runs, published: Published) -> list[Picture]:
    """PSNR by pruning rate less that of the uncut network, ours (of the same seed) and published."""
    ours: dict[str, dict[int, Measured]] = {}
    theirs, own = _published(published), ""
    if uncut := runs.of("lightweight_swinir", "uncut"):
        found = {scope: some for scope in SCOPES if (some := _rates(runs, scope))}
        for scope, by_rate in found.items():
            lost = {rate: less(some, uncut, LEVEL, "psnr") for rate, some in by_rate.items()}
            ours[scope] = {0: Measured(0.0)} | {rate: one for rate, one in lost.items() if one is not None}
        about = networks(uncut, *(some for by_rate in found.values() for some in by_rate.values()))
        own = "Ours: after fine-tuning, less the uncut network of the same seed, fine-tuned as long; held-out "
        own += f"photographs at x2, where that has {value(metric(uncut, LEVEL, 'psnr')):.2f} dB; {about}."
    if not ours and not theirs:
        return []
    printed = "Published: Table 1, whose Manga109 cell of MLP at 75% is a misprint." if theirs else ""
    return [
        Picture(
            "lightweight_swinir",
            "What pruning costs",
            " ".join(filter(None, (own if ours else "", printed))),
            "PSNR less that of the uncut network over the share of channels that is cut, from 0 to 75%: "
            f"{' and '.join(['ours'] * bool(ours) + ['published'] * bool(theirs))}.",
            png(rate_figure(ours, theirs)),
            wide=True,
        )
    ]


def _published(published: Published) -> dict[tuple[str, str], dict[int, float]]:
    """(Scope, test set) -> rate -> PSNR less that of the uncut network."""
    rows: Mapping[str, Any] = published.get("lightweight_swinir", {}).get("table1", {}).get("rows", {})
    if not rows:
        return {}
    found: dict[tuple[str, str], dict[int, float]] = {}
    for scope, (_, _, _, group) in SCOPES.items():
        for dataset in SETS:
            cells = {0: rows["Base"]["C"], **{rate: rows[group][f"{group} {rate / 100:g}"] for rate in RATES.values()}}
            found[scope, dataset] = {rate: row[dataset][0] - cells[0][dataset][0] for rate, row in cells.items()}
    return found


def rate_figure(
    ours: Mapping[str, Mapping[int, Measured]], theirs: Mapping[tuple[str, str], Mapping[int, float]]
) -> Figure:
    """Scope -> rate -> PSNR less that of the uncut network, which stands at rate 0."""
    figure, (panels,) = new(PAGE, 3.9, columns=bool(ours) + bool(theirs))
    for axes in panels[: bool(ours)]:
        for number, (scope, by_rate) in enumerate(ours.items()):
            words, colour, marker, _ = SCOPES[scope]
            places = [rate + (1.2 * number - 0.6) * (len(ours) > 1) * (rate > 0) for rate in by_rate]
            bars(axes, places, list(by_rate.values()), color=colour, marker=marker, label=words)
        axes.set_title("ours, photographs")
    for axes in panels[bool(ours) :]:
        for (scope, dataset), cells in theirs.items():
            words, colour, marker, _ = SCOPES[scope]
            style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": SETS[dataset]}
            axes.plot(list(cells), list(cells.values()), **style, label=f"{words}, {dataset}")
        axes.set_title("published")
    for axes in panels:
        axes.set_xticks([0, *RATES.values()], ["uncut", *(f"{rate}%" for rate in RATES.values())])
        axes.set_xlabel("channels cut")
        axes.legend(loc="best")
    panels[0].set_ylabel("PSNR less uncut, dB")
    return figure


# ------------------------------------------------------------------------------------------------ distillation


def distillation(runs: Runs, published: Published) -> list[Picture]:
    """PSNR of the students by the weight of distillation, and of the teacher, less that of the network alone."""
    names = {"student": 0.0, "kd_025": 0.25, "kd_050": 0.5, "kd_075": 0.75}
    found = {names[name]: some for name, some in runs.named("lightweight_swinir", names).items()}
    alone = found.pop(0.0, [])
    known = {weight: one for weight, some in found.items() if (one := less(some, alone, LEVEL, "psnr")) is not None}
    if not known:
        return []
    students = {0.0: Measured(0.0)} | known
    teacher = less(runs.of("lightweight_swinir", "uncut"), alone, LEVEL, "psnr")
    return [
        Picture(
            "lightweight_swinir",
            "What distillation gives",
            "Students with 0.25 to 0.75 of the loss from their teacher, the uncut network, less the same network of "
            f"the same seed alone: held-out photographs at x2, {networks(alone, *found.values())}. In the paper's "
            "Table 1 0.25 gains, 0.5 and 0.75 lose.",
            f"PSNR of students for the weights {', '.join(f'{weight:g}' for weight in students)}, less the first's.",
            png(distillation_figure(students, teacher)),
        )
    ]


def distillation_figure(students: Mapping[float, Measured], teacher: Measured | None) -> Figure:
    """Weight -> PSNR less that of weight 0; and the teacher's."""
    figure, ((axes,),) = new(COLUMN, 3.9)
    bars(axes, list(students), list(students.values()), color=COLOURS["student"], label="student")
    if teacher is not None:
        middle, spread = value(teacher), teacher.spread or 0.0
        axes.axhline(middle, color=DARK, linestyle="--", label="teacher")
        axes.axhspan(middle - spread, middle + spread, color=DARK, alpha=0.12, linewidth=0)
    axes.set_xticks(list(students), [f"{weight:g}" if weight else "0\n(alone)" for weight in students])
    axes.set(xlabel=r"weight $\lambda$ of the distillation", ylabel="PSNR less alone, dB")
    axes.margins(0.12, 0.15)
    axes.legend(loc="best")
    return figure


# ------------------------------------------------------------------------------------------------ where


def where(runs: Runs, published: Published) -> list[Picture]:
    """Channels that are kept in each layer at each rate, from the pruning.csv of the runs that cut both kinds."""
    found = _rates(runs, "msa")
    if not found:
        return []
    shares = {rate: _mean([_kept(run) for run in some]) for rate, some in found.items()}
    kinds = ", ".join(NAMES[kind] for kind in next(iter(shares.values())))
    return [
        Picture(
            "lightweight_swinir",
            "Where pruning cuts",
            "Channels that are kept in each layer when MLPs and attention are cut together, by rate; means over the "
            f"seeds. {sentence(networks(*found.values()))}.",
            f"Lines over the layers for each rate; columns for {kinds}.",
            png(where_figure(shares)),
            wide=True,
        )
    ]


def _kept(run: FinishedRun) -> Shares:
    try:
        return kept(run.folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{run.folder / 'pruning.csv'} cannot be read: {error}") from error


def _mean(seeds: Sequence[Shares]) -> Shares:
    """Layer by layer."""
    return {kind: [fmean(layer) for layer in zip(*(one[kind] for one in seeds), strict=True)] for kind in seeds[0]}


def where_figure(shares: Mapping[int, Shares]) -> Figure:
    """Rate in per cent -> shares of kept channels."""
    with rc_context({"axes.prop_cycle": cycler(color=[SHADES[rate] for rate in shares])}):
        figure = draw({f"{rate}% cut": shares for rate, shares in shares.items()})
    figure.set_size_inches(PAGE, 3.6)
    return figure
