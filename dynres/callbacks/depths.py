"""How deep a network went in each region of an image (FlexIR): the map over the image, and what its colours mean."""

from __future__ import annotations

from itertools import pairwise

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.typing import ColorType
from torch import Tensor

from dynres.contracts import RegionDepths

Box = tuple[float, float, float, float]
Span = tuple[int, int]


def cores(boxes: tuple[tuple[int, int, int, int], ...]) -> list[Box]:
    """The boxes (top, bottom, left, right) of a grid, cut in the middle of where neighbours overlap."""
    rows, columns = _cut([box[:2] for box in boxes]), _cut([box[2:] for box in boxes])
    return [(*rows[top, bottom], *columns[left, right]) for top, bottom, left, right in boxes]


def _cut(spans: list[Span]) -> dict[Span, tuple[float, float]]:
    """Overlapping spans of one axis -> what each keeps."""
    different = sorted(set(spans))
    middles = [(before[1] + after[0]) / 2 for before, after in pairwise(different)]
    return dict(zip(different, pairwise([different[0][0], *middles, different[-1][1]]), strict=True))


def colours(blocks: int) -> list[ColorType]:
    """A colour for each depth from 1 to `blocks`, the deepest the brightest."""
    return [colormaps["plasma"](0.1 + 0.8 * depth / max(1, blocks - 1)) for depth in range(blocks)]


def draw_map(axes: Axes, image: Tensor, regions: RegionDepths, blocks: int, factor: tuple[float, float]) -> None:
    """The image in gray, each region's core outlined, tinted by its depth, and the depth written in it.

    Args:
        axes: 3 inches wide or so.
        image: (H', W', 3) in [0, 1], the restored first image of the batch.
        blocks: of the whole network.
        factor: output pixels an input pixel, vertical and horizontal.
    """
    gray = 0.25 + 0.65 * image.mean(-1)  # neither black nor white, on which a tint is lost
    axes.imshow(gray.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    boxes = [tuple(edge * factor[axis // 2] for axis, edge in enumerate(box)) for box in cores(regions.boxes)]
    height, width = image.shape[:2]
    smallest = min(min(bottom - top, right - left) for top, bottom, left, right in boxes)
    points = smallest * min(216 / width, 346 / height)  # on paper
    palette = colours(blocks)
    for (top, bottom, left, right), depth in zip(boxes, regions.depths[0].tolist(), strict=True):
        place, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
        axes.add_patch(Rectangle(place, *size, facecolor=palette[depth - 1], alpha=0.5, linewidth=0))
        axes.add_patch(Rectangle(place, *size, fill=False, edgecolor="white", linewidth=min(0.8, 0.05 * points)))
        if points >= 8:  # smaller numbers are a blur: the colour tells
            middle, font = ((left + right - 1) / 2, (top + bottom - 1) / 2), min(13, 0.55 * points)
            text = axes.text(*middle, str(depth), ha="center", va="center", fontsize=font, color="white")
            text.set_path_effects([withStroke(linewidth=1.6, foreground="black")])


def draw_counts(axes: Axes, regions: RegionDepths, blocks: int) -> None:
    """The legend of the map: a bar a depth in its colour, as long as there are regions of that depth."""
    depths = regions.depths[0].tolist()
    counts = [depths.count(depth) for depth in range(1, blocks + 1)]
    longest = max(counts)
    axes.barh(range(1, blocks + 1), counts, color=colours(blocks), edgecolor="0.3", linewidth=0.6, height=0.72)
    for depth, count in enumerate(counts, 1):
        colour, regional = "0.15" if count else "0.6", f"{count} region{'s' * (count != 1)}"
        axes.text(-0.04 * longest, depth, f"depth {depth}", ha="right", va="center", fontsize=9, color=colour)
        axes.text(count + 0.04 * longest, depth, regional, va="center", fontsize=9, color=colour)
    axes.set_ylim(max(blocks, 4) + 0.6, 0.4)
    axes.set_xlim(-0.5 * longest, 1.7 * longest)
    axes.set_axis_off()
