"""Networks side by side on a bundled photograph: what they restore, enlarged, and where they err."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from dynres.callbacks.depths import draw_map
from dynres.callbacks.panels import MARK, most_detailed, pixels
from dynres.contracts import EvalSample, Evaluation
from dynres.tables.figures.found import Published, Runs, metrics, networks, sentence
from dynres.tables.figures.samples import restored, square
from dynres.tables.figures.style import PAGE, png
from dynres.tables.sheet import FinishedRun, Picture

SIDE, CROP = 240, 64  # pixels of the original: what is restored, and what is enlarged
IMAGE_DPI = 125  # SIDE pixels stand on about as many
ERRORS = "magma"
THRESHOLDS, REGIONS = (1.0, 1.02, 1.05, 1.1), 9  # of FlexIR's adaptive inference


@dataclass(frozen=True)
class Shown:
    """A column: title, image (1, c, H, W) and its PSNR in dB; None for the original."""

    title: str
    image: Tensor
    psnr: float | None = None


def columns(sample: EvalSample, found: Sequence[tuple[str, Evaluation]]) -> list[Shown]:
    """What there is without a network, what networks restored, the original."""
    assert sample.target is not None  # of `square`
    shown = [Shown(sample.plain_name, sample.plain, found[0][1].psnr_plain)]
    shown += [Shown(title, one.restoration.image, one.psnr) for title, one in found]
    return [*shown, Shown("original", sample.target)]


def error(image: Tensor, original: Tensor) -> Tensor:
    """(H, W), the mean over the colours of the absolute difference, in levels of 8 bits."""
    return 255 * (pixels(image) - pixels(original)).abs().mean(-1)


def side_by_side(shown: Sequence[Shown], crop: int = CROP) -> tuple[Figure, Axes]:
    """Columns of the image, its most detailed crop and its error; the axes below the original stay free.

    Args:
        shown: the original last, all of one size.
    """
    original = shown[-1].image
    crop = min(crop, *original.shape[-2:])
    top, left = most_detailed(original[0].expand(3, -1, -1), crop)
    maps = [error(one.image, original) for one in shown[:-1]]
    most = max(5.0, 5 * math.ceil(float(torch.stack(maps).quantile(0.995)) / 5))
    figure = Figure(figsize=(PAGE, 3 * PAGE / len(shown) + 1.1), layout="constrained")
    rows = figure.subplots(3, len(shown), squeeze=False)
    for place, one in enumerate(shown):
        whole, detail, errors = rows[:, place]
        image = pixels(one.image)
        whole.imshow(image.numpy(), interpolation="antialiased")
        whole.add_patch(Rectangle((left - 0.5, top - 0.5), crop, crop, fill=False, edgecolor=MARK, linewidth=1.5))
        whole.set_title(one.title if one.psnr is None else f"{one.title}\n{one.psnr:.2f} dB", fontsize=11)
        detail.imshow(image[top : top + crop, left : left + crop].numpy(), interpolation="nearest")
        if place < len(maps):
            drawn = errors.imshow(maps[place].numpy(), cmap=ERRORS, vmin=0, vmax=most, interpolation="antialiased")
        for axes, colour in ((whole, "0.8"), (detail, MARK), (errors, "0.8")):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=colour)
    for axes, name in zip(rows[:, 0], ("restored", "enlarged", "error"), strict=True):
        axes.set_ylabel(name)
    rows[2, -1].set_axis_off()
    bar = figure.colorbar(drawn, ax=list(rows[2]), location="bottom", fraction=0.06, pad=0.03, aspect=50)
    bar.set_label("absolute error, levels of 8 bits", fontsize=10)
    bar.outline.set_visible(False)
    return figure, rows[2, -1]


def picture(
    section: str,
    title: str,
    run: FinishedRun,
    sample: EvalSample,
    found: Sequence[tuple[str, Evaluation]],
    note: str = "",
) -> Picture:
    """The picture of some evaluations of one sample.

    Args:
        run: one of those that restored, for the caption.
    """
    shown = columns(sample, found)
    figure, free = side_by_side(shown)
    mapped = _depths(free, found)
    height, width = shown[-1].image.shape[-2:]
    psnr = ", ".join(f"{one.title} {one.psnr:.2f} dB" for one in shown[:-1])
    depths = " Below the original: how many blocks each region went through." if mapped else ""
    return Picture(
        section,
        title,
        f"{sentence(sample.name)}, the most detailed {width} x {height} pixels, {sample.label}; {networks([run])}. "
        "PSNR is of this cut. Middle: the framed square enlarged. Below: the absolute error, mean over the colours."
        f"{depths} {note}".strip(),
        f"The photograph {sample.name} side by side: {psnr}, and the original.",
        png(figure, IMAGE_DPI),
        wide=True,
    )


def _depths(axes: Axes, found: Sequence[tuple[str, Evaluation]]) -> bool:
    """Map the depths of the last evaluation that has several regions."""
    for title, one in reversed(found):
        routing = one.restoration.routing
        if routing is not None and routing.regions is not None and len(routing.regions.boxes) > 1:
            axes.set_axis_on()
            draw_map(axes, pixels(one.restoration.image), routing.regions, len(routing.units), (1.0, 1.0))
            axes.set_title(f"depths, {title}", fontsize=10)
            return True
    return False


# ------------------------------------------------------------------------------------------------ the papers'


def tadt(runs: Runs, published: Published) -> list[Picture]:
    """TADT beside the Baseline that it is made of, at the whole scales up to 4."""
    ours, static = runs.of("tadt", "tadt"), runs.of("tadt", "baseline")
    if not ours or not static:
        return []
    made = []
    for level in metrics(ours[0]):
        if level in ("x2", "x3", "x4"):
            sample = square(ours[0], level, SIDE)
            found = [("Baseline", restored(static[0], sample)), ("TADT", restored(ours[0], sample))]
            ran = found[1][1].restoration
            note = f"TADT spends {float(ran.macs[0]) / ran.full_macs:.0%} of what every branch would cost here."
            made.append(picture("tadt", f"Side by side, {level}", ours[0], sample, found, note))
    return made


def anysr(runs: Runs, published: Published) -> list[Picture]:
    """The subnet of the scale beside the whole network."""
    ours = runs.of("anysr", "anysr")
    if not ours:
        return []
    sample = square(ours[0], "x2", SIDE)
    found = [("† subnet", restored(ours[0], sample)), ("‡ whole", restored(ours[0], sample, budget=1.0))]
    some = found[0][1].restoration
    share = float(some.macs[0]) / some.full_macs
    note = f"The subnet of x2 spends {share:.0%} of the whole network's multiply-accumulates."
    return [picture("anysr", "Side by side, x2", ours[0], sample, found, note)]


def flexir(runs: Runs, published: Published) -> list[Picture]:
    """The first and the last pointer, and adaptive inference at the threshold that sends regions to the most depths."""
    made = []
    for run in runs.of("flexir", "psd_cws")[:1]:
        sample, found = _pointers(run)
        tried = {h: restored(run, sample, threshold=h, regions=REGIONS) for h in THRESHOLDS}
        h = max(tried, key=lambda one: len(_different(tried[one])))
        note = (
            f"h: adaptive inference in {REGIONS} regions; each leaves after the first block whose result scores above "
            f"{h:g} times that of block 1."
        )
        found.append((f"h = {h:g}", tried[h]))
        made.append(picture("flexir", f"Side by side, {sample.label}", run, sample, found, note))
    for run in runs.of("flexir", "sr_x2")[:1]:
        sample, found = _pointers(run)
        note = "Not a task of the paper's tables; for its Figure 3."
        made.append(picture("flexir", f"Side by side, super-resolution {sample.label}", run, sample, found, note))
    return made


def _pointers(run: FinishedRun) -> tuple[EvalSample, list[tuple[str, Evaluation]]]:
    """A sample of a FlexIR's test, and what its first and its last pointer make of it."""
    sample = square(run, next(iter(metrics(run))), SIDE)
    deepest = restored(run, sample)
    assert deepest.restoration.routing is not None  # FlexIR has branches
    last = f"P = {len(deepest.restoration.routing.units)}"
    return sample, [("P = 1", restored(run, sample, pointer=1)), (last, deepest)]


def _different(one: Evaluation) -> set[int]:
    routing = one.restoration.routing
    return set() if routing is None or routing.regions is None else set(routing.regions.depths[0].tolist())


def acla(runs: Runs, published: Published) -> list[Picture]:
    """EDSR without modules beside the one with them."""
    ours, static = runs.of("acla", "acla"), runs.of("acla", "edsr")
    if not ours or not static:
        return []
    sample = square(ours[0], "x2", SIDE)
    found = [("EDSR", restored(static[0], sample)), ("ACLA", restored(ours[0], sample))]
    return [picture("acla", "Side by side, x2", ours[0], sample, found)]


def lightweight_swinir(runs: Runs, published: Published) -> list[Picture]:
    """The uncut network beside what half and three quarters of its channels leave."""
    names = {"uncut": "uncut", "msa_050": "half cut", "msa_075": "3/4 cut"}
    found_runs = runs.named("lightweight_swinir", names)
    if "uncut" not in found_runs or len(found_runs) < 2:
        return []
    first = found_runs["uncut"][0]
    sample = square(first, "x2", SIDE)
    found = [(names[name], restored(some[0], sample)) for name, some in found_runs.items()]
    costs = [one.restoration.macs[0] for _, one in found]
    spent = " and ".join(f"{float(cost / costs[0]):.0%}" for cost in costs[1:])
    note = f"Cut of MLPs and attention; they spend {spent} of the uncut network's multiply-accumulates."
    return [picture("lightweight_swinir", "Side by side, x2", first, sample, found, note)]
