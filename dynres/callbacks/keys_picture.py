"""One query's keys over the image: those that ACLA chooses, and those that Eq. 3 weighs most (ACLA, Figure 2)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

TOP = 16  # keys of vanilla attention that are drawn
LEAST = 48  # pixels, side of the crop around the query
COLUMNS = 8
WINDOW = 7  # pixels, over which texture is summed
COLOURS = "plasma"
QUERY, FRAME = "#1fe01f", "#ffb000"


class QueryKeys(NamedTuple):
    """The keys of one query in the n maps that a module refers to, on the CPU.

    layer: after which the module stands. names: of the n maps. size: (H, W) of the maps. query: (row, column).
    places (n, K, 2), weights (n, K), kept (n, K) bool: of the sampled keys; row and column in pixels. The T keys of the
    highest weight among all pixels of all maps: top_map (T,) number of the map, top_places (T, 2), top_weights (T,).
    """

    layer: int
    names: list[str]
    size: tuple[int, int]
    query: tuple[int, int]
    places: Tensor
    weights: Tensor
    kept: Tensor
    top_map: Tensor
    top_places: Tensor
    top_weights: Tensor


def query_keys(
    layer: int, names: list[str], x: Tensor, maps: Sequence[Tensor], keys: Any, query: tuple[int, int]
) -> QueryKeys:
    """Of the first image of a batch.

    Args:
        x: (B, C, H, W), the queries.
        maps: n of (B, C, H, W).
        keys: what the module chose, its `Keys`.
        query: (row, column).
    """
    size = (x.shape[-2], x.shape[-1])
    pixel = query[0] * size[1] + query[1]
    places, weights = keys.places[0, pixel], keys.weights[0, pixel]
    kept = torch.ones_like(weights) if keys.kept is None else keys.kept[0, pixel]
    own = [part.detach().float().cpu().unflatten(0, (len(names), -1)) for part in (places, weights, kept)]
    return QueryKeys(layer, names, size, query, own[0], own[1], own[2] > 0.5, *vanilla(x, maps, query))


def vanilla(x: Tensor, maps: Sequence[Tensor], query: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The TOP pixels of the highest weight for a query under Eq. 3, without learned embeddings.

    f is a soft-max over all pixels of all maps of normalised dot products of the network's own features.

    Returns:
        Number of the map (T,), row and column (T, 2), weight (T,), from the highest, on the CPU.
    """
    with torch.autocast(x.device.type, enabled=False):
        own = F.normalize(x[0, :, query[0], query[1]].float(), dim=0)
        scores = torch.stack([own @ F.normalize(one[0].flatten(1).float(), dim=0) for one in maps])
        best = scores.flatten().softmax(0).cpu().topk(min(TOP, scores.numel()))
    place, width = best.indices % scores.shape[1], x.shape[-1]
    places = torch.stack([place // width, place % width], dim=-1)
    return best.indices // scores.shape[1], places.float(), best.values


def textured(image: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """(row, column), in an image of a size, of the strongest texture: the sum of squared differences in a window.

    An eighth of the image is left out at each border, where keys would be moved.

    Args:
        image: (c, H', W'), shrunken to the size by averages.
    """
    gray = F.interpolate(image.detach().float().cpu().mean(0)[None, None], size=size, mode="area")
    energy = F.pad(gray.diff(dim=2).square(), (0, 0, 0, 1)) + F.pad(gray.diff(dim=3).square(), (0, 1))
    energy = F.avg_pool2d(energy, WINDOW, 1, WINDOW // 2)[0, 0]
    top, left = size[0] // 8, size[1] // 8
    inner = energy[top : size[0] - top, left : size[1] - left]
    row, column = divmod(int(inner.argmax()), inner.shape[1])
    return top + row, left + column


# ------------------------------------------------------------------------------------------------ the picture


def draw(image: Tensor, seen: QueryKeys, title: str) -> Figure:
    """Columns are maps, at most COLUMNS: those with the most weight. Above the sampled keys, below the vanilla ones.

    Args:
        image: (H, W, 3) in [0, 1]; of another size, it is stretched to that of the maps.
    """
    columns = shown_maps(seen)
    box = window(seen, columns)
    height, width = seen.size
    ratios = [min(1.6, max(0.5, (box[1] - box[0]) / (box[3] - box[2]))), min(1.6, max(0.5, height / width))]
    inches = 2.9 if len(columns) > 1 else 4.0
    figure = Figure(figsize=(inches * len(columns) + 1.2, inches * sum(ratios) + 1.2), layout="constrained")
    above, below = figure.subplots(2, len(columns), height_ratios=ratios, squeeze=False)
    for axes in (*above, *below):
        axes.imshow(image.numpy(), extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="antialiased")
        axes.set_xticks([])
        axes.set_yticks([])
    _sampled(above, seen, columns)
    _vanilla(below, seen, columns)
    for axes in above:
        axes.set(xlim=(box[2] - 0.5, box[3] - 0.5), ylim=(box[1] - 0.5, box[0] - 0.5))
        _cross(axes, seen.query, 90)
    for axes in below:
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        _cross(axes, seen.query, 45)
        if box != (0, height, 0, width):
            frame = Rectangle((box[2] - 0.5, box[0] - 0.5), box[3] - box[2], box[1] - box[0], fill=False)
            frame.set(edgecolor=FRAME, linewidth=1.4)
            axes.add_patch(frame)
    if box != (0, height, 0, width):
        for axes in above:
            axes.spines[:].set(color=FRAME, linewidth=1.4)
    figure.suptitle(_caption(seen, columns, title, round(11 * figure.get_figwidth())), fontsize=10)
    return figure


def shown_maps(seen: QueryKeys) -> list[int]:
    """Numbers of the maps that have a column."""
    weight = (seen.weights * seen.kept).sum(1)
    return sorted(weight.topk(min(COLUMNS, len(weight))).indices.tolist())


def window(seen: QueryKeys, columns: Sequence[int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) around the query with all its sampled keys; all of an image that is hardly larger."""
    reach = (seen.places[list(columns)] - torch.tensor(seen.query)).abs().max()
    side = max(LEAST, 2 * math.ceil(float(reach)) + 7)  # three pixels around the farthest key
    if 1.5 * side >= max(seen.size):
        return (0, seen.size[0], 0, seen.size[1])
    box: list[int] = []
    for middle, length in zip(seen.query, seen.size, strict=True):
        first = min(max(middle - side // 2, 0), max(length - side, 0))
        box += [first, min(first + side, length)]
    return (box[0], box[1], box[2], box[3])


def _sampled(row: Any, seen: QueryKeys, columns: Sequence[int]) -> None:
    """The sampled keys of each map: kept ones coloured by their weight, the others small and gray."""
    some = seen.weights[list(columns)]
    scale = Normalize(0, float(some.max()))
    for number, axes in zip(columns, row, strict=True):
        places, weights, kept = seen.places[number], seen.weights[number], seen.kept[number]
        out = places[~kept]
        axes.scatter(out[:, 1], out[:, 0], s=16, color="0.75", edgecolors="0.25", linewidths=0.5, label="left out")
        _circles(axes, places[kept], weights[kept], scale, 52)
        axes.set_title(f"{seen.names[number]}: {int(kept.sum())} of {len(kept)} keys", fontsize=10)
    row[0].set_ylabel("sampled keys" if bool(seen.kept.all()) else "keys chosen by ACLA", fontsize=10)
    _bar(row[-1], scale)


def _vanilla(row: Any, seen: QueryKeys, columns: Sequence[int]) -> None:
    """The keys that vanilla attention weighs most, over the whole image."""
    low, high = float(seen.top_weights.min()), float(seen.top_weights.max())
    scale = Normalize(low, high if high > low else low + 1e-12)
    for number, axes in zip(columns, row, strict=True):
        here = seen.top_map == number
        _circles(axes, seen.top_places[here], seen.top_weights[here], scale, 40)
        axes.set_title(f"{seen.names[number]}: {int(here.sum())} of the top {len(here)}", fontsize=10)
    row[0].set_ylabel(f"top {len(seen.top_map)} keys of Eq. 3", fontsize=10)
    _bar(row[-1], scale)


def _circles(axes: Axes, places: Tensor, weights: Tensor, scale: Normalize, size: float) -> None:
    order = weights.argsort()  # the heaviest on top
    axes.scatter(
        places[order, 1], places[order, 0], s=size, c=weights[order].numpy(), cmap=COLOURS, norm=scale,
        edgecolors="white", linewidths=0.9, clip_on=False, label="keys",
    )  # fmt: skip


def _cross(axes: Axes, query: tuple[int, int], size: float) -> None:
    mark = axes.scatter(
        [query[1]], [query[0]], s=size, marker="+", color=QUERY, linewidths=1.2, zorder=4, label="query"
    )
    mark.set_path_effects([withStroke(linewidth=2.4, foreground="black")])


def _bar(axes: Axes, scale: Normalize) -> None:
    """The colour scale of a row, at its right end."""
    bar = axes.figure.colorbar(ScalarMappable(scale, COLOURS), cax=axes.inset_axes((1.04, 0, 0.05, 1)))
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.get_offset_text().set(size=8, ha="left")
    bar.set_label("attention weight", fontsize=8.5)
    bar.outline.set_visible(False)


def _caption(seen: QueryKeys, columns: Sequence[int], title: str, width: int) -> str:
    some = f" ({len(columns)} of {len(seen.names)} layers)" if len(columns) < len(seen.names) else ""
    own = f"{title}: keys of the query at row {seen.query[0]}, column {seen.query[1]} after layer {seen.layer}{some}"
    other = "below: Eq. 3 (CLNL) with normalised dot products of these features, without learned embeddings"
    return "\n".join(textwrap.fill(line, width) for line in (own, other))
