"""Attention with relative positions: Eq. 3 pixel by pixel, what changes nothing, its cost, bounded memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynres.cost.counter import count_macs, count_on_meta
from dynres.cost.memory import peak_on_meta
from dynres.layers import cross_layer_dense
from dynres.layers.relative_attention import RelativeAttention
from tests.layers.test_cross_layer_dense import training_peak


def attention(channels: int, heads: int, reach: int) -> RelativeAttention:
    """In double precision, with weights large enough for the soft-max to matter and an output that is not zero."""
    made = RelativeAttention(channels, heads, reach).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.7)
    return made


def image(channels: int, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, channels, height, width, dtype=torch.double, requires_grad=True)


def written_out(layer: RelativeAttention, x: Tensor) -> Tensor:
    """The plain double loop: the embedding of each pair of pixels is looked up, one head and one query at a time."""
    height, width = x.shape[-2:]
    places = [(row, column) for row in range(height) for column in range(width)]
    reach, size = len(layer.r_W) // 2, x.shape[1] // layer.heads
    samples = []
    for sample in x:
        query, key, value = (
            (conv.weight.flatten(1) @ sample.flatten(1) + conv.bias[:, None]).t()
            for conv in (layer.q, layer.k, layer.v)
        )
        heads = []
        for head in range(layer.heads):
            of_head, out = slice(head * size, (head + 1) * size), []
            for i, (i_row, i_column) in enumerate(places):
                logits = []
                for j, (j_row, j_column) in enumerate(places):
                    right = max(-reach, min(j_column - i_column, reach))
                    down = max(-reach, min(j_row - i_row, reach))
                    relative = layer.r_W[right + reach] + layer.r_H[down + reach]
                    logits.append(query[i, of_head] @ (key[j, of_head] + relative) / size**0.5)
                out.append(torch.stack(logits).softmax(0) @ value[:, of_head])
            heads.append(torch.stack(out))
        mixed = layer.out.weight.flatten(1) @ torch.cat(heads, dim=1).t() + layer.out.bias[:, None]
        samples.append(sample + mixed.unflatten(1, (height, width)))
    return torch.stack(samples)


@pytest.mark.parametrize("scores_at_once", [1, 100, 2**25])
@pytest.mark.parametrize(
    ("height", "width", "reach"), [(3, 4, 3), (3, 4, 1), (1, 5, 2), (5, 1, 2), (1, 1, 1), (2, 3, 9)]
)
def test_it_is_the_formula_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, reach: int, scores_at_once: int
) -> None:
    monkeypatch.setattr(cross_layer_dense, "SCORES_AT_ONCE", scores_at_once)
    layer, x = attention(4, 2, reach), image(4, height, width, batch=2)
    ours, plain = layer(x), written_out(layer, x)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain.detach(), rtol=1e-10, atol=1e-10)
    wanted, weight = [x, *layer.parameters()], torch.randn_like(ours)
    gradients = [torch.autograd.grad((out * weight).sum(), wanted) for out in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=20)
@given(
    height=st.integers(1, 7), width=st.integers(1, 7), batch=st.integers(1, 3), heads=st.integers(1, 3),
    reach=st.integers(1, 8), scores_at_once=st.integers(1, 3000),
)  # fmt: skip
def test_queries_taken_some_at_a_time_give_the_same(
    height: int, width: int, batch: int, heads: int, reach: int, scores_at_once: int
) -> None:
    layer, x = attention(2 * heads, heads, reach), image(2 * heads, height, width, batch)

    def result(at_once: int) -> list[Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cross_layer_dense, "SCORES_AT_ONCE", at_once)
            out = layer(x)
            return [out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])]

    for some, whole in zip(result(scores_at_once), result(2**25), strict=True):
        torch.testing.assert_close(some, whole, rtol=1e-9, atol=1e-9)


def test_without_positions_the_order_of_the_pixels_changes_nothing() -> None:
    layer, x = attention(6, 3, 4), image(6, 4, 5, batch=2)
    order = torch.randperm(20)

    def equivariant() -> bool:
        mixed = x.flatten(2)[..., order].view_as(x)
        return torch.allclose(layer(mixed).flatten(2), layer(x).flatten(2)[..., order], rtol=1e-9, atol=1e-9)

    assert not equivariant(), "positions matter"
    for embeddings in (layer.r_W, layer.r_H):
        nn.init.zeros_(embeddings)
    assert equivariant()


@pytest.mark.parametrize(("axis", "other"), [("r_W", "r_H"), ("r_H", "r_W")])
def test_each_axis_has_its_own_embeddings(axis: str, other: str) -> None:
    """In an image one pixel high all keys are at the same vertical distance, which the soft-max does not see."""
    layer, x = attention(4, 2, 3), image(4, 1, 5) if axis == "r_W" else image(4, 5, 1)
    before = layer(x)
    nn.init.normal_(layer.get_parameter(other))
    torch.testing.assert_close(layer(x), before)
    nn.init.normal_(layer.get_parameter(axis))
    assert not torch.allclose(layer(x), before)


def test_distances_beyond_the_reach_count_as_the_reach() -> None:
    """Equal to a layer of longer reach whose further embeddings repeat the last ones; unequal once they do not."""
    short, long, x = attention(4, 2, 2), attention(4, 2, 7), image(4, 6, 8)
    repeated = torch.arange(-7, 8).clamp(-2, 2) + 2
    long.load_state_dict(
        {name: value[repeated] if name in ("r_W", "r_H") else value for name, value in short.state_dict().items()}
    )
    torch.testing.assert_close(short(x), long(x))
    with torch.no_grad():
        long.r_W[0] += 1
    assert not torch.allclose(short(x), long(x))


def test_default_reach_covers_the_training_patches() -> None:
    """48 x 48: a change of any of the 95 embeddings of an axis changes the output."""
    layer, x = RelativeAttention(2, 1), torch.randn(1, 2, 48, 48)
    nn.init.normal_(layer.out.weight)
    for gradient in torch.autograd.grad(layer(x).square().sum(), (layer.r_W, layer.r_H)):
        assert gradient.shape == (95, 2) and (gradient != 0).any(dim=1).all()


def test_it_begins_as_the_identity() -> None:
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(RelativeAttention(6, 2)(x), x)


def test_half_precision_keeps_positions_scores_and_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of some 100 that come from positions alone, in 256 pieces; autocast rounds only in the convolutions."""
    monkeypatch.setattr(cross_layer_dense, "SCORES_AT_ONCE", 1)
    layer, x = attention(4, 2, 20).float(), image(4, 16, 16).detach().float()
    for parameter in (layer.q.weight, layer.k.weight, layer.k.bias):
        nn.init.zeros_(parameter)
    nn.init.constant_(layer.q.bias, 64.0)

    def result() -> list[Tensor]:
        out = layer(x)
        assert out.dtype == torch.float32
        return [out.detach() - x, *torch.autograd.grad(out.sum(), [layer.r_W, layer.v.weight])]

    exact = result()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = result()
    for one, other in zip(ours, exact, strict=True):
        assert (one - other).norm() < 0.04 * other.norm(), f"{(one - other).norm() / other.norm():.4f}"


def test_cost_is_the_projections_the_products_and_those_with_the_embeddings() -> None:
    layer, x, pixels = attention(6, 3, 4), image(6, 5, 8), 40
    expected = 4 * pixels * 6 * 6 + 2 * pixels * pixels * 6 + 2 * pixels * (2 * 4 + 1) * 6
    assert count_on_meta(layer, x.to("meta")) == count_macs(lambda: layer(x)) == expected


def test_memory_of_training_grows_with_the_piece_not_with_pairs_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, found = RelativeAttention(2, 1, 5), {}
    for side, piece in [(32, 2**17), (32, 2**19), (64, 2**17)]:
        monkeypatch.setattr(cross_layer_dense, "SCORES_AT_ONCE", piece)
        found[side, piece] = training_peak(layer, torch.randn(1, 2, side, side, requires_grad=True))
    scores = 4 * 64**4
    assert found[64, 2**17] < scores / 15, f"{found[64, 2**17] / scores:.3f} of the scores' 67 MB"
    assert found[64, 2**17] < 2 * found[32, 2**17], "16 times the pairs"
    assert 3 < found[32, 2**19] / found[32, 2**17] < 4.5, "4 times the piece"


def test_memory_is_counted_with_scores_in_pieces() -> None:
    """At 512 x 512 the scores of all pairs would take half a terabyte."""
    small, large = (
        peak_on_meta(RelativeAttention(16, 2), side**2, torch.empty(1, 16, side, side, device="meta"))
        for side in (128, 512)
    )
    feature_map = 4 * 16 * 512**2
    assert small < large < small + 25 * feature_map, f"{small / 1e6:.0f} and {large / 1e6:.0f} MB"


def test_gradients_are_the_same_bits_every_time_on_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_layer_dense, "SCORES_AT_ONCE", 2**14)
    layer, x = attention(8, 2, 5).float(), image(8, 12, 14).detach().float()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())) for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for again in runs[1:] for a, b in zip(runs[0], again, strict=True))


def test_impossible_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="reach of at least 1, got 0"):
        RelativeAttention(4, 2, 0)
    with pytest.raises(ValueError, match="divide channels=4, got 3"):
        RelativeAttention(4, 3)
