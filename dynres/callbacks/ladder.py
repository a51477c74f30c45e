"""One image at every depth of a network with branches, beside the adaptive depth of its regions (FlexIR, Fig. 4-6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from dynres.callbacks.depths import draw_counts, draw_map
from dynres.callbacks.panels import most_detailed, pixels
from dynres.contracts import Evaluation


def ladder(found: Mapping[str, Evaluation], crop: int) -> Figure:
    """Above: the degraded image, the deepest result, the depth map and its counts, the original. Below: crops.

    Args:
        found: evaluations of one image by their way, "P=1" ... "P=N" and "h=..."; the h is mapped that sends
            regions to the most depths.
        crop: side of the most detailed square, in output pixels.
    """
    regular = {way: one for way, one in found.items() if way.startswith("P")}
    adaptive = {way: one for way, one in found.items() if way.startswith("h")}
    deepest_way, deepest = list(regular.items())[-1]
    sample = deepest.sample
    height, width = sample.plain.shape[-2:]
    side = min(crop, height, width)
    original = sample.target if sample.target is not None else deepest.restoration.image
    top, left = most_detailed(original[0].cpu().expand(3, -1, -1), side)
    figure = Figure(figsize=(2.1 * (len(regular) + 2), 6.6), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    above, below = halves
    wholes: list[tuple[str, Tensor]] = [(_dB(sample.plain_name, deepest.psnr_plain), sample.plain)]
    wholes.append((_dB(deepest_way, deepest.psnr), deepest.restoration.image))
    if sample.target is not None:
        wholes.append(("original", sample.target))
    columns = above.subplots(1, len(wholes) + (2 if adaptive else 0))
    for axes, (title, image) in zip(columns, wholes, strict=False):
        _show(axes, image, title)
        axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="#ffb000", linewidth=1.5))
    if adaptive:
        _depths(columns[-2], columns[-1], adaptive, len(regular))
    crops = [(sample.plain_name, sample.plain)]
    crops += [(_dB(way, one.psnr), one.restoration.image) for way, one in regular.items()]
    crops += [("original", sample.target)] if sample.target is not None else []
    for axes, (title, image) in zip(below.subplots(1, len(crops)), crops, strict=True):
        _show(axes, image[..., top : top + side, left : left + side], title, "nearest")
    figure.suptitle(f"{sample.dataset} {sample.name}, {sample.label}", fontsize=11)
    return figure


def _depths(axes: Axes, legend: Axes, adaptive: Mapping[str, Evaluation], blocks: int) -> None:
    def depths(one: Evaluation) -> set[int]:
        routing = one.restoration.routing
        return set() if routing is None or routing.regions is None else set(routing.regions.depths[0].tolist())

    way, one = max(adaptive.items(), key=lambda item: len(depths(item[1])))
    routing = one.restoration.routing
    assert routing is not None and routing.regions is not None  # networks without branches are not drawn
    factor = [have / seen for have, seen in zip(one.sample.plain.shape[-2:], one.sample.image.shape[-2:], strict=True)]
    draw_map(axes, pixels(one.restoration.image.expand(-1, 3, -1, -1)), routing.regions, blocks, (factor[0], factor[1]))
    axes.set_title(_dB(f"depths at {way}", one.psnr), fontsize=9)
    _bare(axes)
    draw_counts(legend, routing.regions, blocks)


def _show(axes: Axes, image: Tensor, title: str, interpolation: str = "antialiased") -> None:
    axes.imshow(pixels(image.expand(-1, 3, -1, -1)).numpy(), interpolation=interpolation)
    axes.set_title(title, fontsize=9)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.8")


def _dB(name: str, value: float | None) -> str:
    return name if value is None else f"{name}, {value:.2f} dB"
