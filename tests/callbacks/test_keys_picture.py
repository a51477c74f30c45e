"""The picture of one query's keys: marks at the right places, a crop that holds them, Eq. 3 by its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from dynres.callbacks.keys_picture import QueryKeys, draw, shown_maps, textured, vanilla, window

KEYS = 4


def test_texture_is_found_away_from_the_border() -> None:
    image = torch.full((3, 80, 120), 0.5)
    image[:, 40:56, 80:96] = torch.rand(3, 16, 16)
    image[:, :4] = torch.randint(0, 2, (3, 4, 120)).float()
    row, column = textured(image, (80, 120))
    assert 40 <= row <= 56 and 80 <= column <= 96, (row, column)
    row, column = textured(image, (40, 60))
    assert 19 <= row <= 28 and 39 <= column <= 48, "of an image of half the size"
    for size in ((1, 1), (3, 50), (9, 9)):
        row, column = textured(torch.rand(1, *size), size)
        assert 0 <= row < size[0] and 0 <= column < size[1]


def test_vanilla_keys_are_the_largest_of_one_softmax() -> None:
    """Eq. 3 written out, over pixels of all maps."""
    maps = [torch.randn(1, 6, 5, 7) for _ in range(3)]
    number, places, weights = vanilla(maps[-1], maps, (2, 3))
    query = maps[-1][0, :, 2, 3] / maps[-1][0, :, 2, 3].norm()
    raw = {
        (n, i, j): float(torch.exp(query @ one[0, :, i, j] / one[0, :, i, j].norm()))
        for n, one in enumerate(maps) for i in range(5) for j in range(7)
    }  # fmt: skip
    best = sorted(raw, key=lambda key: -raw[key])[:16]
    assert [(int(n), int(i), int(j)) for n, (i, j) in zip(number, places, strict=True)] == best
    assert weights.tolist() == pytest.approx([raw[key] / sum(raw.values()) for key in best], rel=1e-5)
    assert best[0] == (2, 2, 3), "nothing is as like the query as itself"
    assert len(vanilla(maps[-1][..., :1, :1], [one[..., :1, :1] for one in maps], (0, 0))[0]) == 3


def seen(size: tuple[int, int] = (90, 120), query: tuple[int, int] = (40, 60), maps: int = 3) -> QueryKeys:
    """Keys within five pixels of the query, the second of each map left out."""
    places = torch.tensor(query) + 10 * torch.rand(maps, KEYS, 2) - 5
    weights = torch.rand(maps, KEYS).flatten().softmax(0).unflatten(0, (maps, KEYS))
    kept = torch.ones(maps, KEYS, dtype=torch.bool)
    kept[:, 1] = False
    top = torch.arange(16) % maps, torch.rand(16, 2) * torch.tensor(size), torch.linspace(0.02, 0.01, 16)
    return QueryKeys(9, [f"layer {n}" for n in range(maps)], size, query, places, weights, kept, *top)


def marks(axes: Any, label: str) -> Any:
    (found,) = (one for one in axes.collections if one.get_label() == label)
    return found


def test_circles_stand_at_the_keys_and_a_cross_at_the_query() -> None:
    shown = seen()
    figure = draw(torch.rand(90, 120, 3), shown, "Set5 bird, x2")
    above, below = figure.axes[:3], figure.axes[3:6]
    for number, axes in enumerate(above):
        kept = shown.kept[number]
        circles, gray = marks(axes, "keys"), marks(axes, "left out")
        order = shown.weights[number][kept].argsort()
        np.testing.assert_allclose(circles.get_offsets(), shown.places[number][kept][order].flip(1))
        np.testing.assert_allclose(circles.get_array(), shown.weights[number][kept][order])
        np.testing.assert_allclose(gray.get_offsets(), shown.places[number][~kept].flip(1))
        assert gray.get_sizes() < circles.get_sizes()
        assert axes.get_title() == f"layer {number}: 3 of 4 keys"
    for number, axes in enumerate(below):
        here = shown.top_map == number
        offsets = np.asarray(marks(axes, "keys").get_offsets())
        np.testing.assert_allclose(np.sort(offsets, 0), np.sort(shown.top_places[here].flip(1).numpy(), 0))
        assert axes.get_title() == f"layer {number}: {int(here.sum())} of the top 16"
    for axes in (*above, *below):
        np.testing.assert_allclose(marks(axes, "query").get_offsets(), [[60, 40]])
    for row in (above, below):
        assert len({marks(axes, "keys").norm for axes in row}) == 1, "one scale of colours for all columns"
    assert marks(above[0], "keys").norm.vmax == pytest.approx(float(shown.weights.max()))
    assert "row 40, column 60 after layer 9" in figure.get_suptitle().replace("\n", " ")
    assert "without learned embeddings" in figure.get_suptitle().replace("\n", " ")


def test_the_crop_holds_every_key_and_is_framed_below() -> None:
    shown = seen((300, 400), (150, 60))
    shown.places[1, 2] = torch.tensor([150.0, 1.0])  # far to the left
    figure = draw(torch.rand(300, 400, 3), shown, "")
    box = window(shown, [0, 1, 2])
    for axes in figure.axes[:3]:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        assert (top + 0.5, bottom + 0.5, left + 0.5, right + 0.5) == box
        for one in axes.collections:
            for x, y in np.asarray(one.get_offsets()):
                assert left < x < right and top < y < bottom
    assert box[1] - box[0] == box[3] - box[2] == 2 * 59 + 7
    for axes in figure.axes[3:6]:
        assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 399.5), (299.5, -0.5))
        (frame,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
        assert frame.get_bbox().bounds == (box[2] - 0.5, box[0] - 0.5, box[3] - box[2], box[1] - box[0])


@pytest.mark.parametrize("query", [(0, 0), (299, 399), (150, 3), (0, 200)])
def test_the_crop_lies_within_the_image(query: tuple[int, int]) -> None:
    shown = seen((300, 400), query)
    shown.places.clamp_(min=0)
    top, bottom, left, right = window(shown, [0, 1, 2])
    assert bottom - top == right - left == 48
    assert 0 <= top <= query[0] < bottom <= 300 and 0 <= left <= query[1] < right <= 400


def test_a_small_image_is_shown_whole_and_without_a_frame() -> None:
    shown = seen((60, 70), (30, 30))
    assert window(shown, [0, 1, 2]) == (0, 60, 0, 70)
    figure = draw(torch.rand(60, 70, 3), shown, "")
    assert not any(axes.patches for axes in figure.axes[:6])


def test_a_supernet_shows_the_maps_that_weigh_most() -> None:
    shown = seen(maps=20)
    columns = shown_maps(shown)
    weight = (shown.weights * shown.kept).sum(1)
    assert len(columns) == 8 and columns == sorted(columns)
    assert weight[columns].min() >= weight[[n for n in range(20) if n not in columns]].max()
    figure = draw(torch.rand(90, 120, 3), shown, "")
    assert [axes.get_title().split(":")[0] for axes in figure.axes[:8]] == [f"layer {n}" for n in columns]
    assert "8 of 20 layers" in figure.get_suptitle().replace("\n", " ")
