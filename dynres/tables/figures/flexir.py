"""FlexIR: Figure 3 (how deep each task has to go), the pointers under each training, and what depth costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from dynres.tables.figures import labels
from dynres.tables.figures.found import Published, Runs, networks, over_seeds, photographs, value
from dynres.tables.figures.labels import Label
from dynres.tables.figures.style import COLOURS, COLUMN, DARK, LIGHT, bars, new, png
from dynres.tables.sheet import FinishedRun, Measured, Picture

TRAININGS = {
    "sd": ("SD: all blocks at once", "#56B4E9", "s"),
    "psd": ("PSD: block after block", "#E69F00", "^"),
    "psd_cws": ("PSD + C-WS: with scored channels", COLOURS["flexir"], "o"),
}
TASKS = {"denoising": COLOURS["flexir"], "JPEG artifacts": COLOURS["pruned"], "super-resolution x2": COLOURS["tadt"]}
Ways = dict[str, dict[str, str]]  # way -> a line of tradeoff.csv


def ways(run: FinishedRun) -> Ways:
    """The tradeoff.csv of a run at its first level."""
    found = photographs(run, "tradeoff.csv")
    return {line["way"]: line for line in found if line["label"] == found[0]["label"]}


def pointers(found: Ways) -> list[str]:
    """ "P=1" to the last."""
    return [way for way in found if way.startswith("P=")]


def over(seeds: Sequence[Ways], way: str, key: str) -> Measured:
    """A number of one way over the seeds."""
    return over_seeds(float(one[way][key]) for one in seeds)


# ------------------------------------------------------------------------------------------------ Figure 3


def figure3(runs: Runs, published: Published) -> list[Picture]:
    """What stopping early loses, by task: published and ours."""
    theirs = _published(published)
    found = {"denoising": runs.of("flexir", "psd_cws"), "super-resolution x2": runs.of("flexir", "sr_x2")}
    ours = {task: [ways(run) for run in some] for task, some in found.items() if some}
    if not theirs and not ours:
        return []
    about = "".join(f" Ours, {task}: {networks(found[task])}." for task in ours)
    return [
        Picture(
            "flexir",
            "Figure 3",
            "PSNR at pointer P less that of the full depth, by task. The paper's Figure 3 shows pictures and says that "
            "super-resolution needs a larger pointer than denoising and JPEG artifacts. Published: Tables 3 (McMaster, "
            f"sigma 25) and 4 (classic5, q 40).{about}",
            f"Lines over the share of the depth: {', '.join([*theirs, *(f'{task} (ours)' for task in ours)])}.",
            png(task_figure(theirs, ours)),
        )
    ]


def _published(published: Published) -> dict[str, dict[int, float]]:
    """Task -> pointer -> PSNR."""
    if "flexir" not in published:
        return {}
    found = {}
    for task, key, dataset, level in (
        ("denoising", "table3", "McMaster", "sigma25"),
        ("JPEG artifacts", "table4", "classic5", "q40"),
    ):
        table: Mapping[str, Any] = published["flexir"][key]
        some = {
            about["pointer"]: table["rows"][name][dataset][level][0]
            for name, about in table["systems"].items()
            if "pointer" in about
        }
        found[task] = dict(sorted(some.items()))
    return found


def task_figure(theirs: Mapping[str, Mapping[int, float]], ours: Mapping[str, Sequence[Ways]]) -> Figure:
    """Shares of the depth along, dB beside the full depth up."""
    figure, ((axes,),) = new(COLUMN, 4.1)
    for task, rows in theirs.items():
        last = max(rows)
        heights = [psnr - rows[last] for psnr in rows.values()]
        places = [100 * pointer / last for pointer in rows]
        axes.plot(places, heights, "D:", color=TASKS[task], markerfacecolor="white", label=f"{task}, published")
    for task, seeds in ours.items():
        names = pointers(seeds[0])
        less = [over_seeds(float(one[way]["psnr"]) - float(one[names[-1]]["psnr"]) for one in seeds) for way in names]
        places = [100 * number / len(names) for number in range(1, len(names) + 1)]
        bars(axes, places, less, color=TASKS[task], label=f"{task}, ours")
    axes.axhline(0, color=LIGHT, linewidth=1, zorder=0)
    axes.set(xlabel="depth of the pointer, share of all blocks", ylabel="PSNR less that of the full depth, dB")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))
    axes.legend(loc="lower right")
    return figure


# ------------------------------------------------------------------------------------------------ trainings


def trainings(runs: Runs, published: Published) -> list[Picture]:
    """PSNR at every pointer under SD, PSD and PSD + C-WS (Table 6)."""
    found = runs.named("flexir", TRAININGS)
    if not found:
        return []
    tables = {name: [ways(run) for run in some] for name, some in found.items()}
    level = next(iter(tables.values()))[0]["P=1"]["label"]
    return [
        Picture(
            "flexir",
            "Pointers by training",
            "PSNR of the held-out photographs at each pointer, by what Table 6 compares: self-distillation, "
            f"progressive self-distillation, and with channel-wise scoring. {level}; {networks(*found.values())}.",
            f"A line over the pointers for each of {', '.join(name.upper().replace('_', ' + ') for name in found)}.",
            png(training_figure(tables)),
        )
    ]


def training_figure(tables: Mapping[str, Sequence[Ways]]) -> Figure:
    """Run -> its tradeoff.csv of each seed."""
    figure, ((axes,),) = new(COLUMN, 4.1)
    names = pointers(next(iter(tables.values()))[0])
    for number, (name, seeds) in enumerate(tables.items()):
        words, colour, marker = TRAININGS[name]
        places = [place + 0.07 * (number - (len(tables) - 1) / 2) for place in range(1, len(names) + 1)]
        bars(axes, places, [over(seeds, way, "psnr") for way in names], color=colour, marker=marker, label=words)
    axes.set_xticks(range(1, len(names) + 1), [way.replace("=", " = ") for way in names])
    axes.set(xlabel="pointer", ylabel="PSNR, dB")
    axes.margins(y=0.1)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left")
    return figure


def depths(runs: Runs, published: Published) -> list[Picture]:
    """What regular and adaptive inference give for their cost (Tables 3 and 5)."""
    found = runs.of("flexir", "psd_cws")
    if not found:
        return []
    seeds = [ways(run) for run in found]
    level = seeds[0]["P=1"]["label"]
    return [
        Picture(
            "flexir",
            "Depth, cost, quality",
            "PSNR of the held-out photographs against multiply-accumulates: regular inference at pointer P, adaptive "
            "inference at threshold h, whose regions overlap and score the result of every block that they run. "
            f"{level}, PSD + C-WS; {networks(found)}.",
            "Two lines over GMACs: pointers from 1 to the last, and thresholds of adaptive inference.",
            png(depth_figure(seeds)),
        )
    ]


def depth_figure(seeds: Sequence[Ways]) -> Figure:
    """The tradeoff.csv of each seed."""
    figure, ((axes,),) = new(COLUMN, 4.1)
    texts: list[Label] = []
    for kind, colour, marker, words in (
        ("P=", COLOURS["flexir"], "o", "regular, at pointer P"),
        ("h=", DARK, "s", "adaptive, at threshold h"),
    ):
        names = [way for way in seeds[0] if way.startswith(kind)]
        if not names:
            continue
        places = [value(over(seeds, way, "macs")) / 1e9 for way in names]
        psnr = [over(seeds, way, "psnr") for way in names]
        bars(axes, places, psnr, color=colour, marker=marker, linestyle="-" if kind == "P=" else ":", label=words)
        alike: dict[float, list[int]] = {}  # of those that spend the same, one text speaks for all
        for number, place in enumerate(places):
            alike.setdefault(place, []).append(number)
        for place, some in alike.items():
            text = f"{kind[0]} = {', '.join(names[one][2:] for one in some)}"
            texts.append(Label(place, value(psnr[some[0]]), text, colour))
    axes.set(xlabel="GMACs of the network an image", ylabel="PSNR, dB")
    axes.margins(0.12, 0.15)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    labels.write(axes, texts)
    return figure
