"""Every decoder against its paper's plain form (tests/reference): any size, scale and type, gradients included.

The coordinates of a whole image are float32 in either form, also where weights are float64.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynres.contracts import Features
from dynres.upsamplers.implicit import ImplicitUpsampler
from tests.reference.decoders import plain_decode, plain_query
from tests.upsamplers.test_upsamplers import LEARNED, build, features

learned = pytest.mark.parametrize("name", LEARNED)
side = st.integers(1, 11)
# Whole, real, and different by axis: what an output side is of an input one.
scale = st.one_of(st.integers(1, 6).map(float), st.floats(1, 8))


def implicit(name: str, dtype: torch.dtype = torch.float32) -> ImplicitUpsampler:
    upsampler = build(name).to(dtype)
    assert isinstance(upsampler, ImplicitUpsampler)
    return upsampler


def typed(given: Features, dtype: torch.dtype) -> Features:
    return Features(given.map.to(dtype), given.image.to(dtype))


def relative(ours: Tensor, plain: Tensor) -> float:
    """Largest difference over the largest value."""
    assert ours.shape == plain.shape
    return ((ours - plain).abs().max() / plain.abs().max().clamp(min=1e-3)).item()


@learned
@settings(max_examples=25)
@given(
    batch=st.integers(1, 2), shape=st.tuples(side, side), scales=st.tuples(scale, scale), square=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]), chunk=st.integers(1, 300), lifted=st.integers(1, 60),
)  # fmt: skip
def test_decode_is_the_plain_form_in_any_pieces(
    name: str, batch: int, shape: tuple[int, int], scales: tuple[float, float], square: bool, dtype: torch.dtype,
    chunk: int, lifted: int,
) -> None:  # fmt: skip
    network, some = implicit(name, dtype), typed(features(batch, *shape), dtype)
    network.chunk_pixels, network.lifted_pixels = chunk, lifted
    size = (round(shape[0] * scales[0]), round(shape[1] * scales[0 if square else 1]))
    with torch.inference_mode():
        error = relative(network.decode(some, size), plain_decode(network, some, size))
    assert error <= 1e-5, f"{error:.2g} at {shape} -> {size}, {dtype}"


@learned
@settings(max_examples=15)
@given(shape=st.tuples(side, side), queries=st.integers(1, 50), seed=st.integers(0, 1000))
def test_query_and_all_its_gradients_are_the_plain_forms(
    name: str, shape: tuple[int, int], queries: int, seed: int
) -> None:
    """In double precision: colours, and the gradients of every parameter, of the features, and of the image."""
    network, random = implicit(name, torch.float64), torch.Generator().manual_seed(seed)
    coords = torch.rand(2, queries, 2, generator=random, dtype=torch.float64) * 2 - 1
    cell = torch.rand(2, queries, 2, generator=random, dtype=torch.float64) * 0.5 + 0.01
    given = typed(features(2, *shape), torch.float64)

    def measured(form) -> tuple[Tensor, list[Tensor]]:  # type: ignore[no-untyped-def]
        leaf = given.map.clone().requires_grad_()
        colours = form(Features(leaf, given.image))
        towards = torch.randn(colours.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        wanted = [leaf, *network.parameters()]
        return colours.detach(), list(torch.autograd.grad((colours * towards).sum(), wanted))

    ours, our_gradients = measured(lambda some: network.query(some, coords, cell))
    plain, plain_gradients = measured(lambda some: plain_query(network, some, coords, cell))
    assert relative(ours, plain) <= 1e-10
    names = ["features", *(key for key, _ in network.named_parameters())]
    for key, ours, plain in zip(names, our_gradients, plain_gradients, strict=True):
        assert relative(ours, plain) <= 1e-8, key


@learned
@settings(max_examples=10)
@given(shape=st.tuples(st.integers(3, 11), st.integers(3, 11)), scales=st.tuples(scale, scale))
def test_bfloat16_rounds_colours_and_moves_no_pixel(
    name: str, shape: tuple[int, int], scales: tuple[float, float]
) -> None:
    """A wrong neighbour would show as an error of the order of the features, far above bfloat16's 8 bits."""
    network, some = implicit(name), features(1, *shape)
    size = (round(shape[0] * scales[0]), round(shape[1] * scales[1]))
    with torch.inference_mode():
        plain = plain_decode(network, some, size)
        with torch.autocast("cpu", torch.bfloat16):
            ours = network.decode(some, size)
    assert ours.dtype == torch.float32
    assert relative(ours, plain) <= 0.04, f"{relative(ours, plain):.2g} at {shape} -> {size}"
