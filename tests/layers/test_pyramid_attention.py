"""Pyramid attention: its definition patch by patch, any image size, bounded memory, and its cost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynres.cost.counter import count_macs, count_on_meta
from dynres.layers import pyramid_attention
from dynres.layers.pyramid_attention import PyramidAttention


def attention(residual_scale: float = 1.0) -> PyramidAttention:
    return PyramidAttention(8, 4, residual_scale).double()


def image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 8, height, width, dtype=torch.double)


def patches(x: Tensor) -> Tensor:
    """(1, c, h, w) -> (h w, c, 3, 3), zero beyond the border."""
    padded = F.pad(x, (1, 1, 1, 1))[0]
    height, width = x.shape[-2:]
    return torch.stack([padded[:, i : i + 3, j : j + 3] for i in range(height) for j in range(width)])


def defined(layer: PyramidAttention, x: Tensor, levels: tuple[float, ...]) -> Tensor:
    """The definition with convolutions: key patches are kernels, value patches are pasted where they matched."""
    keys, values = [], []
    for level in levels:
        small = F.interpolate(x, scale_factor=level, mode="bicubic", align_corners=False) if level < 1 else x
        keys.append(patches(layer.key(small)))
        values.append(patches(layer.value(small)))
    kernels = torch.cat(keys)
    kernels = kernels / kernels.flatten(1).norm(dim=1).clamp(min=1e-4).view(-1, 1, 1, 1)
    match = F.conv2d(layer.query(x), kernels, padding=1)
    pasted = F.conv_transpose2d((10 * match).softmax(dim=1), torch.cat(values), padding=1)
    return pasted / 4 + layer.residual_scale * x


@pytest.mark.parametrize(("height", "width"), [(5, 7), (10, 4), (2, 2)])
def test_layer_is_its_definition(height: int, width: int) -> None:
    layer, x = attention(residual_scale=0.1), image(height, width)
    torch.testing.assert_close(layer(x), defined(layer, x, (1.0, 0.9, 0.8, 0.7, 0.6)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (4, 1)])
def test_a_line_of_pixels_has_the_first_level_alone(height: int, width: int) -> None:
    layer, x = attention(), image(height, width)
    torch.testing.assert_close(layer(x), defined(layer, x, (1.0,)))


def test_pixels_taken_some_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = attention(), image(6, 9, batch=2)
    whole = layer(x)
    monkeypatch.setattr(pyramid_attention, "SCORES_AT_ONCE", 2000)
    torch.testing.assert_close(layer(x), whole, rtol=1e-12, atol=1e-12)


def test_sample_alone_equals_sample_in_a_batch() -> None:
    layer, x = attention(), image(6, 5, batch=3)
    torch.testing.assert_close(layer(x[1:2]), layer(x)[1:2])


def test_it_is_the_input_that_is_scaled() -> None:
    layer, x = attention(residual_scale=1.0), image(4, 4)
    whole = layer(x)
    layer.residual_scale = 0.25
    torch.testing.assert_close(whole - layer(x), 0.75 * x)


def test_gradients_are_the_same_bits_every_time_on_two_threads() -> None:
    layer, x = attention(), image(12, 14, batch=2).requires_grad_()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inputs = [x, *layer.parameters()]
        once = torch.autograd.grad(layer(x).square().sum(), inputs)
        for _ in range(3):
            again = torch.autograd.grad(layer(x).square().sum(), inputs)
            assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_cost_is_the_projections_and_nine_products_a_pair_of_patches() -> None:
    layer, x = attention(), image(10, 20)
    levels = [10 * 20, 9 * 18, 8 * 16, 7 * 14, 6 * 12]
    expected = 8 * 2 * 200 + sum(levels) * (8 * 2 + 8 * 8) + 200 * sum(levels) * 9 * (2 + 8)
    assert count_on_meta(layer, x.to("meta")) == count_macs(lambda: layer(x)) == expected


def test_impossible_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="reduction of at least 1, got 0"):
        PyramidAttention(8, 0, 1.0)
    with pytest.raises(ValueError, match="reduction must be at most channels=8, got 9"):
        PyramidAttention(8, 9, 1.0)
