"""Windows: cutting loses nothing, padding reflects, every offset has one row of the bias table."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dynres.layers.windows import (
    from_windows,
    kinds_of_windows,
    pad_to_multiple,
    relative_offsets,
    relative_position_index,
    shift_mask,
    to_windows,
    window_order,
)


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2), rows=st.integers(1, 4), columns=st.integers(1, 4), height=st.integers(1, 5),
    width=st.integers(1, 5), channels=st.integers(1, 3),
)  # fmt: skip
def test_merging_the_windows_of_an_image_returns_it(
    batch: int, rows: int, columns: int, height: int, width: int, channels: int
) -> None:
    x = torch.rand(batch, rows * height, columns * width, channels)
    order = window_order(batch, rows * height, columns * width, (height, width), 0, x.device)
    windows = to_windows(x, order, (height, width))
    assert windows.shape == (batch * rows * columns, height * width, channels) and order.counts == (len(windows),)
    assert torch.equal(from_windows(windows, order, x.shape), x)


@pytest.mark.parametrize(("window", "height", "width"), [(3, 3, 3), ((2, 3), 2, 3), ((3, 1), 3, 1)])
def test_a_window_holds_its_own_pixels_row_by_row(window: int | tuple[int, int], height: int, width: int) -> None:
    x = torch.arange(6 * 9).view(1, 6, 9, 1)
    windows = to_windows(x, window_order(1, 6, 9, window, 0, x.device), window).unflatten(0, (6 // height, -1))
    for i in range(6 // height):
        for j in range(9 // width):
            own = x[0, height * i : height * (i + 1), width * j : width * (j + 1), 0]
            assert torch.equal(windows[i, j, :, 0], own.flatten())


@pytest.mark.parametrize(("window", "shift"), [((4, 4), (2, 2)), ((2, 4), (1, 2)), ((4, 2), (0, 1)), ((3, 4), (2, 0))])
@pytest.mark.parametrize("batch", [1, 3])
def test_shifted_windows_come_kind_by_kind_and_go_back(
    window: tuple[int, int], shift: tuple[int, int], batch: int
) -> None:
    """Each kind's windows are those of the rolled image that lie in its last row or column, image after image."""
    rows, columns = 3, 2
    x = torch.rand(batch, rows * window[0], columns * window[1], 5)
    order = window_order(batch, *x.shape[1:3], window, shift, x.device)
    windows = to_windows(x, order, window)
    rolled = x.roll((-shift[0], -shift[1]), dims=(1, 2)).unflatten(1, (rows, -1)).unflatten(3, (columns, -1))
    expected = [
        rolled[image, i, :, j].flatten(0, 1)
        for kind in kinds_of_windows(shift)
        for image in range(batch)
        for i in range(rows)
        for j in range(columns)
        if kind == (bool(shift[0]) and i == rows - 1, bool(shift[1]) and j == columns - 1)
    ]
    assert torch.equal(windows, torch.stack(expected)) and sum(order.counts) == len(expected)
    assert torch.equal(from_windows(windows, order, x.shape), x)


@pytest.mark.parametrize(("window", "pooled", "rows"), [(4, 4, 49), (8, 8, 225), (16, 16, 961), (48, 12, 8464)])
def test_bias_table_has_the_published_rows_and_uses_all(window: int, pooled: int, rows: int) -> None:
    index, count = relative_position_index(window, pooled)
    assert count == rows
    assert index.shape == (window**2, pooled**2)
    assert torch.equal(index.unique(), torch.arange(rows))


@pytest.mark.parametrize(("window", "pooled"), [(3, 3), (4, 2), (6, 2), (6, 3), (4, 1)])
def test_bias_row_depends_on_the_offset_alone(window: int, pooled: int) -> None:
    """One row an offset, one offset a row; a pooled key stands at its square's first pixel."""
    index, _ = relative_position_index(window, pooled)
    step = window // pooled
    row_of: dict[tuple[int, int], int] = {}
    for query in range(window**2):
        for key in range(pooled**2):
            offset = (query // window - step * (key // pooled), query % window - step * (key % pooled))
            row = int(index[query, key])
            assert row_of.setdefault(offset, row) == row, f"offset {offset} has rows {row_of[offset]} and {row}"
    assert len(set(row_of.values())) == len(row_of)


@pytest.mark.parametrize("window", [(1, 1), (2, 5), (4, 3)])
def test_rows_of_the_bias_table_are_offsets_in_order(window: tuple[int, int]) -> None:
    """The offset that a pair's row stands for is the pair's own: the query's place less the key's."""
    index, rows = relative_position_index(window)
    offsets = relative_offsets(window)
    assert offsets.shape == (rows, 2) and torch.equal(index.unique(), torch.arange(rows))
    place = torch.cartesian_prod(*(torch.arange(side) for side in window))
    assert torch.equal(offsets[index], (place[:, None] - place[None, :]).float())


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), multiple=st.integers(1, 12))
def test_padding_is_torch_reflection_where_torch_can(height: int, width: int, multiple: int) -> None:
    image = torch.rand(2, 3, height, width)
    bottom, right = -height % multiple, -width % multiple
    padded = pad_to_multiple(image, multiple)
    assert padded.shape == (2, 3, height + bottom, width + right)
    assert torch.equal(padded[..., :height, :width], image)
    if bottom < height and right < width:
        assert torch.equal(padded, F.pad(image, (0, right, 0, bottom), mode="reflect"))


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [0] * 8), (2, [0, 1] * 4), (3, [0, 1, 2, 1, 0, 1, 2, 1]), (8, list(range(8)))]
)
def test_an_image_shorter_than_its_padding_is_reflected_again(size: int, expected: list[int]) -> None:
    line = torch.arange(size)
    assert pad_to_multiple(line.view(1, 1, size, 1).expand(1, 1, size, 8), 8)[0, 0, :, 0].tolist() == expected
    assert pad_to_multiple(line.view(1, 1, 1, size).expand(1, 1, 8, size), 8)[0, 0, 0].tolist() == expected


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), multiple=st.integers(1, 12))
def test_padding_that_repeats_the_edge_is_the_image_and_its_mirror_image_in_turn(
    height: int, width: int, multiple: int
) -> None:
    image = torch.rand(2, 3, height, width)
    padded = pad_to_multiple(image, multiple, repeat_edge=True)
    tall = torch.cat([image, image.flip(2)] * multiple, dim=2)[:, :, : height + -height % multiple]
    expected = torch.cat([tall, tall.flip(3)] * multiple, dim=3)[..., : width + -width % multiple]
    assert torch.equal(padded, expected)


@pytest.mark.parametrize(
    ("window", "shift"), [((4, 4), (2, 2)), ((3, 3), (1, 1)), ((2, 4), (1, 2)), ((4, 2), (2, 1)), ((3, 4), (0, 2))]
)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (3, 1), (2, 3)])
def test_shift_mask_joins_what_was_together_before_the_roll(
    window: tuple[int, int], shift: tuple[int, int], rows: int, columns: int
) -> None:
    """Two tokens of a rolled window may see each other if both, or neither, were carried over each border."""
    height, width = rows * window[0], columns * window[1]
    where = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1)[None]
    rolled = where[0].roll((-shift[0], -shift[1]), dims=(0, 1)).unflatten(0, (rows, -1)).unflatten(2, (columns, -1))
    windows = rolled.transpose(1, 2).flatten(2, 3)
    for i in range(rows):
        for j in range(columns):
            # a token from the first rows (columns) ends up in the last window
            carried = windows[i, j] < torch.tensor(shift)
            carried = carried & torch.tensor([i == rows - 1, j == columns - 1])
            expected = (carried[:, None] == carried[None, :]).all(-1)
            assert torch.equal(shift_mask(window, shift, i == rows - 1, j == columns - 1), expected), f"window {i}, {j}"
