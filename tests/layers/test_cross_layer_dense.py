"""Cross-layer non-local attention: Eq. 3 written out, what changes nothing, its cost, and the bound on its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from dynres.cost.counter import count_macs, count_on_meta
from dynres.cost.memory import peak_on_meta
from dynres.layers import cross_layer_dense
from dynres.layers.cross_layer_dense import CrossLayerNonLocal
from dynres.layers.nonlocal_attention import NonLocalBlock


def attention(channels: int, maps: int, inner: int) -> CrossLayerNonLocal:
    """In double precision, with weights large enough for the soft-max to matter and an h that is not zero."""
    made = CrossLayerNonLocal(channels, maps, inner).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.7)
    return made


def images(count: int, channels: int, height: int, width: int, batch: int = 1) -> list[Tensor]:
    return [torch.randn(batch, channels, height, width, dtype=torch.double, requires_grad=True) for _ in range(count)]


def written_out(layer: CrossLayerNonLocal, x: Tensor, maps: list[Tensor]) -> Tensor:
    """Eq. 1-3 pixel by pixel: f(x_i, x_n) = exp(theta(x_i) . phi(x_n)), C(x) its sum over every pixel of every map."""

    def pixel(conv: Any, image: Tensor, place: int) -> Tensor:
        return conv.weight.flatten(1) @ image.flatten(1)[:, place] + conv.bias

    samples = []
    for b in range(len(x)):
        out = []
        for i in range(x[b, 0].numel()):
            theta = pixel(layer.theta, x[b], i)
            total, norm = torch.zeros_like(theta), torch.zeros((), dtype=x.dtype)
            for phi, g, image in zip(layer.phi, layer.g, maps, strict=True):
                for n in range(image[b, 0].numel()):
                    affinity = torch.exp(theta @ pixel(phi, image[b], n))
                    total, norm = total + affinity * pixel(g, image[b], n), norm + affinity
            out.append(layer.h.weight.flatten(1) @ (total / norm) + layer.h.bias)
        samples.append(x[b] + torch.stack(out, dim=1).unflatten(1, x.shape[-2:]))
    return torch.stack(samples)


@pytest.mark.parametrize("scores_at_once", [1, 70, 2**25])
@pytest.mark.parametrize("count", [1, 3])
def test_it_is_the_formula_with_its_gradients(monkeypatch: pytest.MonkeyPatch, count: int, scores_at_once: int) -> None:
    """x itself is the last of the maps: its gradient comes from its part as query, as key and as residual."""
    monkeypatch.setattr(cross_layer_dense, "SCORES_AT_ONCE", scores_at_once)
    layer, maps = attention(3, count, 2), images(count, 3, 3, 4, batch=2)
    ours, plain = layer(maps[-1], maps), written_out(layer, maps[-1], maps)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    wanted, weight = [*maps, *layer.parameters()], torch.randn_like(ours)
    gradients = [torch.autograd.grad((out * weight).sum(), wanted) for out in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_maps_may_be_of_other_sizes() -> None:
    layer, (x,), (small,) = attention(3, 2, 2), images(1, 3, 3, 4), images(1, 3, 2, 2)
    torch.testing.assert_close(layer(x, [small, x]), written_out(layer, x, [small, x]))


@settings(max_examples=20)
@given(
    count=st.integers(1, 4), height=st.integers(1, 6), width=st.integers(1, 6), batch=st.integers(1, 3),
    scores_at_once=st.integers(1, 2000), kernel=st.sampled_from([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]),
)  # fmt: skip
def test_queries_taken_some_at_a_time_give_the_same(
    count: int, height: int, width: int, batch: int, scores_at_once: int, kernel: SDPBackend
) -> None:
    layer, maps = attention(4, count, 3), images(count, 4, height, width, batch)

    def result(at_once: int) -> list[Tensor]:
        with pytest.MonkeyPatch.context() as patch, sdpa_kernel(kernel):
            patch.setattr(cross_layer_dense, "SCORES_AT_ONCE", at_once)
            out = layer(maps[-1], maps)
            return [out, *torch.autograd.grad(out.square().sum(), [*maps, *layer.parameters()])]

    for some, whole in zip(result(scores_at_once), result(2**25), strict=True):
        torch.testing.assert_close(some, whole, rtol=1e-9, atol=1e-9)


@settings(max_examples=10)
@given(order=st.permutations(range(4)))
def test_the_order_of_the_maps_with_their_weights_changes_nothing(order: list[int]) -> None:
    layer, maps = attention(4, 4, 3), images(4, 4, 3, 5)
    x = maps[-1]
    before = layer(x, maps)
    layer.phi, layer.g = (nn.ModuleList(convs[i] for i in order) for convs in (layer.phi, layer.g))
    torch.testing.assert_close(layer(x, [maps[i] for i in order]), before)
    if order != sorted(order):
        assert not torch.allclose(layer(x, maps), before), "each map has weights of its own"


def test_one_map_is_the_non_local_block() -> None:
    layer, block, (x,) = attention(6, 1, 3), NonLocalBlock(6, 3).double(), images(1, 6, 4, 5, batch=2)
    for ours, its in [(layer.theta, block.theta), (layer.phi[0], block.phi), (layer.g[0], block.g), (layer.h, block.W)]:
        its.load_state_dict(ours.state_dict())
    torch.testing.assert_close(layer(x, [x]), block(x))


def test_it_begins_as_the_identity() -> None:
    x, other = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4)
    assert torch.equal(CrossLayerNonLocal(6, 2, 3)(x, [other, x]), x)


def test_half_precision_keeps_what_many_pieces_of_queries_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """576 pieces: in bfloat16 the sums of the keys' and values' gradients would stop growing."""
    monkeypatch.setattr(cross_layer_dense, "SCORES_AT_ONCE", 1)
    layer, maps = attention(4, 2, 4).float(), [image.detach().float() for image in images(2, 4, 24, 24)]
    nn.init.normal_(layer.theta.weight, std=0.05)  # near uniform attention
    wanted = [layer.phi[0].weight, layer.g[0].weight]

    def result() -> list[Tensor]:
        out = layer(maps[-1], maps)
        assert out.dtype == torch.float32
        return [out.detach() - maps[-1], *torch.autograd.grad(out.sum(), wanted)]

    exact = result()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = result()
    for one, other in zip(ours, exact, strict=True):
        assert (one - other).norm() < 0.02 * other.norm(), f"{(one - other).norm() / other.norm():.4f}"


def test_cost_is_the_projections_and_two_products_a_map() -> None:
    layer, maps, pixels = attention(6, 3, 4), images(3, 6, 4, 5), 20
    expected = pixels * 6 * 4 * (2 + 2 * 3) + 2 * pixels * 3 * pixels * 4
    on_meta = [image.to("meta") for image in maps]
    assert count_on_meta(layer, on_meta[-1], on_meta) == expected
    assert count_macs(lambda: layer(maps[-1], maps)) == expected


def test_four_on_edsr_of_256_channels_cost_28_convolutions_and_10_attentions() -> None:
    """EDSR x2 of 32 blocks: 40.73 M and 93.85 G at 48 x 48; modules for 1, 2, 3, 4 maps make it 42.57 and 125.26."""
    x = torch.empty(1, 256, 48, 48, device="meta")
    layers = [CrossLayerNonLocal(256, count, 256) for count in (1, 2, 3, 4)]
    macs = sum(count_on_meta(layer, x, [x] * count) for count, layer in enumerate(layers, 1))
    parameters = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    assert (40_729_603 + parameters, round(93.85 + macs / 1e9, 2)) == (42_571_779, 125.26)


class Live(TorchDispatchMode):
    """Bytes that all operations' results hold at most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self.alive = 0, WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.alive[tensor.untyped_storage()] = tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self.alive.values()))
        return out


def training_peak(layer: nn.Module, *inputs: Any) -> int:
    """Of a forward and a backward pass, in the form of attention that holds its scores."""
    with Live() as live, sdpa_kernel(SDPBackend.MATH):
        layer(*inputs).sum().backward()
    return live.peak


def test_memory_of_training_grows_with_the_pixels_and_the_piece_not_with_pairs_of_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, found = CrossLayerNonLocal(2, 1, 2), {}
    for side, piece in [(48, 2**19), (48, 2**21), (96, 2**19)]:
        monkeypatch.setattr(cross_layer_dense, "SCORES_AT_ONCE", piece)
        x = torch.randn(1, 2, side, side, requires_grad=True)
        found[side, piece] = training_peak(layer, x, [x])
    scores = 4 * 96**4
    assert found[96, 2**19] < scores / 40, f"{found[96, 2**19] / scores:.3f} of the scores' 340 MB"
    assert found[96, 2**19] < 2 * found[48, 2**19], "16 times the pairs"
    assert 3 < found[48, 2**21] / found[48, 2**19] < 4.5, "4 times the piece"


def test_memory_is_counted_with_scores_in_pieces() -> None:
    """At 512 x 512 the scores of all pairs would take half a terabyte."""
    small, large = (
        peak_on_meta(CrossLayerNonLocal(8, 2, 8), side**2, x, [x, x])
        for side in (128, 512)
        for x in [torch.empty(1, 8, side, side, device="meta")]
    )
    feature_map = 4 * 8 * 512**2
    assert small < large < small + 12 * feature_map, f"{small / 1e6:.0f} and {large / 1e6:.0f} MB"


def test_gradients_are_the_same_bits_every_time_on_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_layer_dense, "SCORES_AT_ONCE", 2**14)
    layer, maps = attention(8, 2, 8).float(), [image.detach().float() for image in images(2, 8, 12, 14)]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [torch.autograd.grad(layer(maps[-1], maps).square().sum(), list(layer.parameters())) for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for again in runs[1:] for a, b in zip(runs[0], again, strict=True))


def test_impossible_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="inner of at least 1, got 0"):
        CrossLayerNonLocal(4, 2, 0)
    with pytest.raises(ValueError, match="maps of at least 1, got 0"):
        CrossLayerNonLocal(4, 0, 2)
    x = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="refers to 2 maps, got 1"):
        CrossLayerNonLocal(4, 2, 2)(x, [x])
