"""Window attention against a reference written with loops, one window and one head at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynres.layers import pointwise
from dynres.layers.attention import WindowAttention, attend_in_windows, masked_biases, position_bias
from dynres.layers.windows import relative_position_index
from tests.reference.attention import manual_attention


def build(channels: int, heads: int, window: int, pooled: int | None = None, shift: int = 0) -> WindowAttention:
    """In double precision, with weights large enough for the softmax and the bias to matter."""
    attention = WindowAttention(channels, heads, window, pooled, shift).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return attention


def bias_between(attention: WindowAttention, head: int) -> Tensor:
    """(w*w, d*d) bias by the offset of a query and a key, looked up in the table one by one."""
    window, pooled = attention.window, attention.pooled
    step = window // pooled
    reach = (pooled - 1) * step
    values = window + reach
    rows = []
    for q in range(window**2):
        row = []
        for k in range(pooled**2):
            down = q // window - step * (k // pooled) + reach
            right = q % window - step * (k % pooled) + reach
            row.append(attention.bias_table[down * values + right, head])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def pooled_maximum(tokens: Tensor, window: int, pooled: int) -> Tensor:
    """(w*w, C) -> (d*d, C)."""
    step = window // pooled
    square = tokens.view(window, window, -1)
    return torch.stack(
        [
            square[step * i : step * (i + 1), step * j : step * (j + 1)].flatten(0, 1).max(0).values
            for i in range(pooled)
            for j in range(pooled)
        ]
    )


def shifted_regions(height: int, width: int, window: int, shift: int) -> Tensor:
    """(H, W) numbers of the nine regions of the rolled image, as Swin and SwinIR label them."""
    regions, number = torch.zeros(height, width), 0
    spans = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for rows in spans:
        for columns in spans:
            regions[rows, columns] = number
            number += 1
    return regions


def reference(attention: WindowAttention, x: Tensor) -> Tensor:
    """The same attention, slowly: roll, an explicit -inf mask for each window, roll back."""
    window, shift, heads = attention.window, attention.shift, attention.heads
    _, height, width, channels = x.shape
    size = channels // heads
    rolled = x.roll((-shift, -shift), dims=(1, 2))
    regions = shifted_regions(height, width, window, shift) if shift else torch.zeros(height, width)
    images = []
    for image in rolled:
        rows = []
        for top in range(0, height, window):
            row = []
            for left in range(0, width, window):
                box = (slice(top, top + window), slice(left, left + window))
                query, key, value = attention.qkv(image[box].reshape(window**2, channels)).chunk(3, dim=-1)
                key = pooled_maximum(key, window, attention.pooled)
                value = pooled_maximum(value, window, attention.pooled)
                region = regions[box].flatten()
                out = []
                for head in range(heads):
                    part = slice(size * head, size * (head + 1))
                    logits = query[:, part] @ key[:, part].T / size**0.5 + bias_between(attention, head)
                    if shift:
                        logits = logits.masked_fill(region[:, None] != region[None, :], float("-inf"))
                    out.append(logits.softmax(-1) @ value[:, part])
                row.append(torch.cat(out, dim=-1).view(window, window, channels))
            rows.append(torch.cat(row, dim=1))
        images.append(torch.cat(rows, dim=0))
    return torch.stack(images).roll((shift, shift), dims=(1, 2))


@settings(max_examples=25)
@given(
    batch=st.integers(1, 3), rows=st.integers(1, 4), columns=st.integers(1, 4), heads=st.integers(1, 3),
    kind=st.sampled_from([(4, 4, 0), (4, 4, 1), (4, 4, 2), (4, 2, 0), (6, 3, 0)]),
    cached=st.sampled_from([1, 20, 1024]), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_it_is_the_plain_form_with_its_gradients_in_any_pieces(
    batch: int, rows: int, columns: int, heads: int, kind: tuple[int, int, int], cached: int, dtype: torch.dtype
) -> None:
    window, pooled, shift = kind
    attention = build(2 * heads, heads, window, pooled, shift).to(dtype)
    x = torch.randn(batch, window * rows, window * columns, 2 * heads, dtype=dtype, requires_grad=True)
    weight = torch.randn_like(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pointwise, "CACHED", cached)
        ours = attention(x)
        with torch.inference_mode():
            fused = attention(x)
        wanted = [x, *attention.parameters()]
        gradients = torch.autograd.grad((ours * weight).sum(), wanted)
    plain = manual_attention(attention, x)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(ours, plain, **tolerance)
    torch.testing.assert_close(fused, plain.detach(), **tolerance)
    if dtype == torch.float64:  # the -100 of the plain form's mask leaves 1e-44
        for one, other in zip(gradients, torch.autograd.grad((plain * weight).sum(), wanted), strict=True):
            torch.testing.assert_close(one, other, **tolerance)


def test_kept_biases_follow_the_weights() -> None:
    """What is prepared once while testing is prepared anew when the table changes, in whatever way."""
    attention, x = build(4, 2, window=4, shift=2).eval(), torch.randn(1, 8, 8, 4, dtype=torch.double)

    def is_right() -> bool:
        with torch.inference_mode():
            return torch.allclose(attention(x), manual_attention(attention, x), rtol=1e-4, atol=1e-4)

    assert is_right()
    with torch.no_grad():
        attention.bias_table.add_(torch.randn_like(attention.bias_table))
    assert is_right()
    attention.load_state_dict(
        {key: value + 1 + torch.randn_like(value) for key, value in attention.state_dict().items()}
    )
    assert is_right()
    torch.optim.SGD(attention.parameters(), lr=1e-3).zero_grad()
    attention(x).pow(2).sum().backward()
    torch.optim.SGD(attention.parameters(), lr=1e-3).step()
    assert is_right()
    attention.float()
    x = x.float()
    assert is_right()


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_local_attention_is_softmax_attention_with_the_swin_mask(shift: int, rows: int, columns: int) -> None:
    attention = build(4, 2, window=4, shift=shift)
    x = torch.randn(2, 4 * rows, 4 * columns, 4, dtype=torch.double)
    torch.testing.assert_close(attention(x), reference(attention, x))


@pytest.mark.parametrize(("window", "pooled"), [(4, 2), (6, 2), (6, 3), (4, 1), (4, 4)])
def test_global_attention_pools_keys_and_values_by_their_maximum(window: int, pooled: int) -> None:
    attention = build(6, 3, window, pooled)
    x = torch.randn(2, window, 2 * window, 6, dtype=torch.double)
    torch.testing.assert_close(attention(x), reference(attention, x))


@pytest.mark.parametrize(("pooled", "shift"), [(4, 0), (4, 2), (2, 0)])
def test_gradients_are_those_of_the_reference(pooled: int, shift: int) -> None:
    """The bias table and qkv alike; every offset of the window occurs, so every row of the table learns."""
    attention = build(4, 2, 4, pooled, shift)
    x = torch.randn(1, 8, 8, 4, dtype=torch.double)
    weight = torch.randn(1, 8, 8, 4, dtype=torch.double)
    names, parameters = zip(*attention.named_parameters(), strict=True)
    ours = torch.autograd.grad((attention(x) * weight).sum(), parameters)
    theirs = torch.autograd.grad((reference(attention, x) * weight).sum(), parameters)
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, msg=f"gradient of {name} differs by {(one - other).abs().max():.2g}")
    untouched = (ours[names.index("bias_table")] == 0).all(1).sum()
    assert untouched == 0, f"{untouched} rows of the bias table get no gradient"


def test_what_the_mask_hides_has_no_influence() -> None:
    """The last rows and columns of an image never see the first ones, which the roll brings beside them."""
    attention = build(4, 2, window=4, shift=2)
    x = torch.randn(1, 8, 8, 4, dtype=torch.double)
    changed = x.clone()
    changed[:, :2] += 1
    assert torch.equal(attention(x)[:, 2:], attention(changed)[:, 2:])
    assert not torch.equal(attention(x)[:, :2], attention(changed)[:, :2])


@pytest.mark.parametrize(("window", "shift"), [((2, 4), (0, 0)), ((2, 4), (1, 2)), ((8, 2), (0, 1)), ((4, 8), (2, 0))])
def test_attention_in_rectangles_is_that_of_pixels_which_share_one(
    window: tuple[int, int], shift: tuple[int, int]
) -> None:
    """Against one softmax over all pixels of the image, in which those of other windows are hidden from each other.

    Windows begin `shift` pixels into the image; what is left before the first one are windows of their own.
    """
    height, width, heads, channels = 8, 8, 2, 4
    index, rows = relative_position_index(window)
    table = torch.randn(rows, heads, dtype=torch.double)
    qkv = torch.randn(1, height, width, 3 * channels, dtype=torch.double)
    ours = attend_in_windows(qkv, masked_biases(position_bias(table, index), window, shift), window, shift)

    place = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    number = torch.div(place - torch.tensor(shift), torch.tensor(window), rounding_mode="floor")
    together = (number[:, None] == number[None, :]).all(-1)
    down, right = ((place[:, None] - place[None, :]) + torch.tensor(window) - 1).unbind(-1)
    row = (down * (2 * window[1] - 1) + right).where(together, 0)
    query, key, value = qkv.flatten(0, 2).view(-1, 3, heads, channels // heads).unbind(1)
    logits = torch.einsum("qhc,khc->hqk", query, key) / (channels // heads) ** 0.5 + table[row].permute(2, 0, 1)
    weights = logits.masked_fill(~together, float("-inf")).softmax(-1)
    expected = torch.einsum("hqk,khc->qhc", weights, value).reshape(1, height, width, channels)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 6, "heads": 4, "window": 4},
        {"channels": 4, "heads": 2, "window": 4, "pooled": 3},
        {"channels": 4, "heads": 2, "window": 4, "pooled": 2, "shift": 1},
    ],
)
def test_impossible_windows_are_refused_with_their_numbers(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"channels={options['channels']}.*window=4"):
        WindowAttention(**options)
