"""TADT: Figure 1 (PSNR, GFLOPs and parameters), Figure 2 (cost over scales), Figure 7 (beta over scales)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from dynres.cost.counter import count_parameters
from dynres.tables.figures import labels
from dynres.tables.figures.found import Published, Runs, lines, metric, metrics, networks, over_seeds, sentence
from dynres.tables.figures.labels import Label
from dynres.tables.figures.style import COLOURS, COLUMN, DARK, LIGHT, band, bars, new, png
from dynres.tables.sheet import FinishedRun, Measured, Picture
from dynres.tables.tadt import EXTRACTORS, SCALES, extractor, gmacs, mean_gmacs

AREA = 20.0  # square points a million parameters
APART = 0.005  # counts that differ by less than that of the published one are not drawn beside it
TINTS = {"TADT": COLOURS["tadt"], "Baseline": COLOURS["baseline"]}
LOSSES = {"tadt": ("with the beta loss", COLOURS["tadt"]), "tadt_no_beta_loss": ("without", COLOURS["anysr"])}

LEGEND = (
    "The area of a disc is in proportion to the parameters that we count (in the paper the radius is). Filled discs "
    "stand at the published costs. An open ring is our count, where it differs by more than 0.5% or nothing is "
    "published; TADT's is with every branch on, the published one of its trained routing."
)

# ------------------------------------------------------------------------------------------------ Figure 1


def discs(runs: Runs, published: Published) -> list[Picture]:
    """Figure 1, a picture a scale of Table 3."""
    if "tadt" not in published:
        return []
    quality, table = published["tadt"]["table1"]["rows"]["LIIF"], published["tadt"]["table3"]
    return [_discs(quality, table, scale) for scale in SCALES]


class Disc(NamedTuple):
    """A feature extractor: PSNR in dB, GFLOPs as published (None: not) and as counted, parameters in millions."""

    psnr: float
    printed: float | None
    counted: float
    params: float


def _discs(quality: Mapping[str, Any], table: Mapping[str, Any], scale: int) -> Picture:
    level, found = f"x{scale}", dict[str, Disc]()
    for name, cells in quality.items():
        plain = name.rstrip("†")
        if (psnr := cells["DIV2K"][level]) is not None:
            printed, network = table["rows"].get(plain, {}).get(level), EXTRACTORS[plain]
            params = count_parameters(extractor(network)) / 1e6
            found[plain] = Disc(psnr, printed, mean_gmacs(network, table, scale)[1], params)
    best = max(found, key=lambda name: found[name].psnr)
    return Picture(
        "tadt",
        f"Figure 1, {level}",
        f"PSNR on the DIV2K validation set under LIIF (Table 1) against multiply-accumulates (Table 3), at {level}. "
        f"{LEGEND if scale == SCALES[0] else f'Discs and rings as at x{SCALES[0]}.'}",
        f"Discs over GFLOPs and PSNR for {len(found)} feature extractors at {level}; {best} stands highest, with "
        f"{found[best].psnr:.2f} dB.",
        png(disc_figure(found)),
    )


def disc_figure(found: Mapping[str, Disc]) -> Figure:
    """Discs of an area in proportion to the parameters, at published and at counted costs."""
    figure, ((axes,),) = new(COLUMN, 4.1)
    texts = []
    for name, (psnr, printed, counted, params) in found.items():
        area, colour = AREA * params, TINTS.get(name, LIGHT)
        if printed is not None:
            axes.scatter([printed], [psnr], s=area, color=colour, alpha=0.75, linewidths=0, label=name)
        if printed is None or abs(counted / printed - 1) > APART:
            edge, label = colour if name in TINTS else DARK, f"{name}, counted"
            axes.scatter([counted], [psnr], s=area, facecolors="none", edgecolors=edge, linewidths=1.1, label=label)
            texts.append(Label(counted, psnr, radius=area**0.5 / 2))
        tint = colour if name == "TADT" else DARK
        at = counted if printed is None else printed
        texts.append(Label(at, psnr, f"{name} {psnr:.2f}", tint, area**0.5 / 2))
    axes.set_xlabel("GFLOPs of the feature extractor, mean over the images")
    axes.set_ylabel("PSNR (dB), published")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(-0.06 * axes.get_xlim()[1], 1.1 * axes.get_xlim()[1])  # for texts on either side
    axes.margins(y=0.14)
    _sizes(axes)
    labels.write(axes, texts)
    return figure


def _sizes(axes: Axes) -> None:
    """The legend of areas, in the corner where no network stands that is dear and bad."""
    some = {f"{million} M parameters": axes.scatter([], [], s=AREA * million, color="0.85") for million in (5, 20)}
    axes.legend(list(some.values()), list(some), loc="lower right", labelspacing=1.1, handletextpad=0.8)


# ------------------------------------------------------------------------------------------------ Figure 2


def costs(runs: Runs, published: Published) -> list[Picture]:
    """Figure 2: counted on the image that the paper names."""
    if "tadt" not in published:
        return []
    figure2, table = published["tadt"]["figure2"], published["tadt"]["table3"]
    height, width = figure2["size"]
    printed = {int(level[1:]): value for level, value in figure2["rows"]["SwinIR"].items() if value is not None}
    (swinir, _), ends = gmacs("swinir", height, width), gmacs("tadt", height, width)
    parts = {scale: table["rows"]["TADT"][f"x{scale}"] / mean_gmacs("tadt", table, scale)[1] for scale in SCALES}
    return [
        Picture(
            "tadt",
            "Figure 2",
            f"What features of one {width} x {height} image cost at three scales: SwinIR the same {swinir:,.2f} G "
            f"always (published {next(iter(printed.values())):,.2f}), TADT between no branch and all, counted. "
            "The paper draws what its TADT spends there but prints no number; the line stands at the share of the full "
            "cost that its Table 3 has at each scale.",
            f"SwinIR is a level line at {swinir:,.0f} GFLOPs; TADT's lies below and rises a little with the scale.",
            png(cost_figure(printed, swinir, ends, parts)),
        )
    ]


def cost_figure(
    printed: Mapping[int, float], swinir: float, ends: tuple[float, float], parts: Mapping[int, float]
) -> Figure:
    """GFLOPs: of SwinIR, published by scale and counted; of TADT with no branch and every one, and parts of these."""
    figure, ((axes,),) = new(COLUMN, 4.1)
    axes.axhline(swinir, color=DARK, label="SwinIR, counted")
    axes.plot(list(printed), list(printed.values()), "o", color=DARK, label="SwinIR, published")
    axes.axhspan(*ends, color=COLOURS["tadt"], alpha=0.15, linewidth=0, label="TADT: no branch to every")
    heights = {scale: part * ends[1] for scale, part in parts.items()}
    label = "TADT at Table 3's share of every branch"
    axes.plot(list(heights), list(heights.values()), "o-", color=COLOURS["tadt"], label=label)
    beside: dict[str, Any] = {"textcoords": "offset points", "ha": "center"}
    for scale, height in heights.items():
        axes.annotate(f"{parts[scale]:.1%}", (scale, height), (0, -7), color=COLOURS["tadt"], va="top", **beside)
    axes.annotate(f"{swinir:,.0f}", (3, swinir), (0, 7), color=DARK, va="bottom", **beside)
    axes.margins(x=0.12)
    axes.set(xticks=list(parts), xticklabels=[f"x{scale}" for scale in parts], xlabel="scale", ylabel="GFLOPs")
    axes.set_ylim(0, 1.12 * swinir)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(loc="lower left")
    return figure


def shares(runs: Runs, published: Published) -> list[Picture]:
    """What Figure 2 tells, of Tables 3 and 5 and of our runs: the part of every branch's cost that a TADT spends."""
    found, theirs = runs.named("tadt", LOSSES), _published_shares(published)
    if not found and not theirs:
        return []
    ours = {name: _spent(some) for name, some in found.items()}
    own = f" Ours: on the held-out photographs, {networks(*found.values())}." if found else ""
    return [
        Picture(
            "tadt",
            "What TADT spends at each scale",
            "Multiply-accumulates spent, as a share of those with every branch on. Published: Tables 3 and 5 over our "
            f"count of the paper's network on the DIV2K validation set.{own}",
            "Share of the full cost over the scales, with and without the beta loss.",
            png(share_figure(ours, theirs)),
        )
    ]


def _spent(runs: Sequence[FinishedRun]) -> dict[str, Measured]:
    """Level -> share of the full cost."""
    return {level: metric(runs, level, "macs_fraction") for level in metrics(runs[0])}


def share_figure(ours: Mapping[str, Mapping[str, Measured]], theirs: Mapping[str, Mapping[str, float]]) -> Figure:
    """Run -> level -> share of the full cost, of our runs and of the paper's that they stand for."""
    figure, ((axes,),) = new(COLUMN, 4.1)
    known = {level for some in (*ours.values(), *theirs.values()) for level in some}
    levels = sorted(known, key=lambda level: float(level[1:]))  # "x2"
    for number, (name, (words, colour)) in enumerate(LOSSES.items()):
        if name in theirs:
            places = [levels.index(level) for level in theirs[name]]
            how: dict[str, Any] = {"color": colour, "markerfacecolor": "white", "label": f"{words}, published"}
            axes.plot(places, list(theirs[name].values()), "D:", **how)
        if name in ours:
            beside = [levels.index(level) + 0.06 * (number - 0.5) for level in ours[name]]
            bars(axes, beside, list(ours[name].values()), color=colour, label=f"{words}, ours")
    axes.set(xlabel="scale", ylabel="share of the cost with every branch")
    axes.set_xticks(range(len(levels)), levels)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="best")
    return figure


def _published_shares(published: Published) -> dict[str, dict[str, float]]:
    """Run of ours that stands for it -> level -> share of the full cost."""
    if "tadt" not in published:
        return {}
    table = published["tadt"]["table3"]
    full = {f"x{scale}": mean_gmacs("tadt", table, scale)[1] for scale in SCALES}
    rows, names = (
        published["tadt"]["table5"]["rows"],
        {"TADT, w L_beta": "tadt", "TADT, w/o L_beta": "tadt_no_beta_loss"},
    )
    return {
        name: {level: gflops / full[level] for level, (_, gflops) in rows[row]["DIV2K"].items()}
        for row, name in names.items()
    }


# ------------------------------------------------------------------------------------------------ Figure 7


def betas(runs: Runs, published: Published) -> list[Picture]:
    """Figure 7 from the beta_curve.csv of runs with and without the beta loss."""
    found = runs.named("tadt", LOSSES)
    if not found:
        return []
    figure = beta_figure({name: [lines(run, "beta_curve.csv") for run in some] for name, some in found.items()})
    return [
        Picture(
            "tadt",
            "Figure 7",
            "The intensity beta over the scale, with and without the beta loss, and the threshold from which the loss "
            "penalises it (Eq. 6). Trained on scales from 1 to 4: right of the gray line it is extrapolated. "
            f"{sentence(networks(*found.values()))}.",
            f"Curves of beta over scales from 1 to 30: {', '.join(LOSSES[name][0] for name in found)}.",
            png(figure),
        )
    ]


def beta_figure(curves: Mapping[str, Sequence[Sequence[Mapping[str, str]]]]) -> Figure:
    """Mean and band of each run's curves.

    Args:
        curves: run -> for each seed the lines of its beta_curve.csv.
    """
    figure, ((axes,),) = new(COLUMN, 4.1)
    first = next(iter(curves.values()))[0]
    scales = [float(line["scale"]) for line in first]
    limits = [float(line["threshold"]) for line in first]
    axes.plot(scales, limits, "--", color=LIGHT, label=r"threshold $0.25 + 0.25\sqrt{s}$")
    for name, seeds in curves.items():
        words, colour = LOSSES[name]
        found = [over_seeds(float(curve[place]["beta"]) for curve in seeds) for place in range(len(scales))]
        band(axes, scales, found, color=colour, linewidth=2, label=words)
    axes.axvline(4, color="0.85", linewidth=1, zorder=0)
    axes.set(xscale="log", xlim=(scales[0], scales[-1]), xlabel="scale $s$", ylabel=r"intensity $\beta$")
    ticks = [tick for tick in (1, 2, 3, 4, 6, 8, 12, 18, 30) if scales[0] <= tick <= scales[-1]]
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(loc="best")
    return figure
