"""CLA and ACLA: against their formulas in plain loops, their laws, and their gradients by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynres.cost.counter import count_macs, count_on_meta
from dynres.layers import cross_layer
from dynres.layers.cross_layer import CrossLayerAttention, corners, highest
from dynres.layers.gates import binary_gumbel_softmax
from tests.reference.cross_layer import plain_attention, sampled

KINDS = ["cla", "per_key", "one"]


def attention(kind: str = "per_key", channels: int = 5, maps: int = 3, keys: int = 4, **options: Any) -> Any:
    """A module whose weights are as if trained: keys pixels away and between pixels, some left out."""
    adaptive = kind != "cla"
    units: Any = kind if adaptive else "per_key"
    made = CrossLayerAttention(channels, maps, keys, adaptive, units, **options).double().eval()
    randomised(made)
    return made


def randomised(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(0, 0.7 if name in ("query.weight", "mask.0.bias") else 0.5)


def pictures(maps: int = 3, channels: int = 5, size: tuple[int, int] = (5, 7), batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, channels, *size, dtype=torch.double) for _ in range(maps)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(5, 7), (1, 6), (1, 1)])
def test_module_is_its_formula(kind: str, size: tuple[int, int]) -> None:
    """Eq. 5 and 6-9, at borders and on maps of one row as well."""
    made, maps = attention(kind, temperature=0.7), pictures(size=size)
    x = maps[-1]
    with torch.no_grad():
        found, chosen = made(x, maps)
        torch.testing.assert_close(found, plain_attention(made, x, maps), rtol=1e-10, atol=1e-10)
    assert (found - x).abs().max() > 0.1
    border = torch.tensor([float(side - 1) for side in size])
    assert ((chosen.places == 0) | (chosen.places == border)).any(), "no key beyond the border"
    assert (chosen.places >= 0).all() and (chosen.places <= border).all()
    if kind == "cla":
        assert chosen.kept is None and chosen.soft is None
    elif size == (5, 7):
        assert 0.1 < chosen.kept.mean() < 0.9


def test_query_and_referred_map_may_differ() -> None:
    made, (x, *maps) = attention(), pictures(4)
    with torch.no_grad():
        torch.testing.assert_close(made(x, maps)[0], plain_attention(made, x, maps), rtol=1e-10, atol=1e-10)


def test_keys_in_place_and_of_equal_weight_average_the_values() -> None:
    made, maps = attention("cla"), pictures()
    with torch.no_grad():
        for parameter in made.query.parameters():
            parameter.zero_()
        mean = torch.stack([value(one) for value, one in zip(made.value, maps, strict=True)]).mean(0)
        torch.testing.assert_close(made(maps[-1], maps)[0], maps[-1] + made.output(mean))


@pytest.mark.parametrize("kind", ["per_key", "one"])
def test_masks_that_keep_every_key_change_nothing(kind: str) -> None:
    adaptive, plain, maps = attention(kind), attention("cla"), pictures()
    plain.load_state_dict({key: value for key, value in adaptive.state_dict().items() if not key.startswith("mask")})
    with torch.no_grad():
        for unit in adaptive.mask:
            unit.bias.fill_(100.0)
        torch.testing.assert_close(adaptive(maps[-1], maps)[0], plain(maps[-1], maps)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["per_key", "one"])
def test_masks_that_keep_none_leave_the_bias(kind: str) -> None:
    made, maps = attention(kind), pictures()
    with torch.no_grad():
        for unit in made.mask:
            unit.bias.fill_(-100.0)
        found, chosen = made(maps[-1], maps)
    assert not chosen.kept.any()
    torch.testing.assert_close(found, maps[-1] + made.output.bias[:, None, None])


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_maps_is_a_matter_of_names(kind: str) -> None:
    made, again, maps, order = attention(kind), attention(kind), pictures(), [2, 0, 1]
    with torch.no_grad():
        again.load_state_dict(made.state_dict())
        for name, parameter in made.query.named_parameters():
            moved = parameter.unflatten(0, (3, 3, 4))[:, order].flatten(0, 2)
            again.query.get_parameter(name).copy_(moved)
        for parts, others in ((again.value, made.value), (again.mask or [], made.mask or [])):
            for part, source in zip(parts, order, strict=False):
                part.load_state_dict(others[source].state_dict())
        found, chosen = again(maps[-1], [maps[source] for source in order])
        expected, keys = made(maps[-1], maps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(chosen.places.unflatten(2, (3, 4)), keys.places.unflatten(2, (3, 4))[:, :, order])


@pytest.mark.parametrize("kind", ["per_key", "one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reading_only_kept_keys_equals_masking_all(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form of inference and that of training."""
    made, maps = attention(kind).to(dtype), [one.to(dtype) for one in pictures()]
    read = spied(monkeypatch)
    with torch.no_grad():
        gathered, chosen = made(maps[-1], maps)
    assert sum(read) == 4 * int(chosen.kept.sum()), "keys left out are not read"
    read.clear()
    with_gradient = chosen._replace(kept=chosen.kept.clone().requires_grad_())
    masked = maps[-1] + made.output(made._attend(with_gradient, maps))
    assert read == [4 * chosen.kept.numel()]
    torch.testing.assert_close(gathered, masked.detach(), rtol=1e-5, atol=1e-5)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows of the table each later call reads."""
    read, embedding_bag = [], cross_layer.F.embedding_bag

    def spy(index: Tensor, *args: Any, **options: Any) -> Tensor:
        read.append(index.numel())
        return embedding_bag(index, *args, **options)

    monkeypatch.setattr(cross_layer.F, "embedding_bag", spy)
    return read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [1, 4 * 12 * 3])
def test_queries_taken_some_at_a_time_give_the_same(kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, maps = attention(kind), pictures()
    made.train()

    def found() -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        out, chosen = made(maps[-1], maps)
        return (out, chosen.weights, *torch.autograd.grad(out.square().sum(), list(made.parameters())))

    whole = found()
    read = spied(monkeypatch)
    monkeypatch.setattr(cross_layer, "CORNERS_AT_ONCE", at_once)
    for ours, expected in zip(found(), whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert len(read) == -(-2 * 35 // max(1, at_once // 48)) and max(read) <= max(48, at_once)


# ------------------------------------------------------------------------------------------------ gradients


def checked(function: Callable[..., Tensor], *inputs: Tensor) -> bool:
    return torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the soft mask in the place of the hard one, whose own gradient is nowhere."""
    monkeypatch.setattr(cross_layer, "straight_through", lambda soft: soft)
    made, maps = attention(kind, channels=3, maps=2, keys=2), pictures(2, 3, (2, 3), batch=1)
    made.train()
    names = [name for name, _ in made.named_parameters()]
    count = 2 * 2

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        torch.manual_seed(5)
        given = dict(zip(names, values, strict=True))
        out, _ = torch.func.functional_call(made, given, (x, [maps[0], x]))
        return out

    values = [parameter.detach().clone().requires_grad_() for parameter in made.parameters()]
    x = maps[-1].clone().requires_grad_()
    assert checked(loss, x, *values)
    gradients = dict(zip(names, torch.autograd.grad(loss(x, *values).square().sum(), values), strict=True))
    asked = gradients["query.bias"].abs()
    assert (asked[: 2 * count].sum() > 1e-3) and (asked[2 * count :].sum() > 1e-3), "offsets and weights are reached"
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 1e-6, name


@pytest.mark.parametrize("kind", ["per_key", "one"])
def test_presence_is_reached_by_finite_differences(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_layer, "straight_through", lambda soft: soft)
    made, maps = attention(kind, channels=3, maps=2, keys=2), pictures(2, 3, (2, 3), batch=1)
    made.train()

    def out(presence: Tensor) -> Tensor:
        torch.manual_seed(5)
        found: Tensor = made(maps[-1], maps, None, presence)[0]
        return found

    assert checked(out, torch.tensor([-0.7, -0.1], dtype=torch.double, requires_grad=True))


def test_the_hard_mask_has_the_gradient_of_the_soft_one() -> None:
    """Eq. 9: where y is linear in m, the gradients that reach the mask units are sums of m's own over sigma'."""
    made, maps = attention(), pictures()
    made.train()
    torch.manual_seed(7)
    out, chosen = made(maps[-1], maps)
    chosen.kept.retain_grad()
    ours = torch.autograd.grad(out.square().sum(), [*made.mask.parameters(), chosen.kept], retain_graph=True)
    incoming = ours[-1]
    torch.manual_seed(7)
    beta = made._beta(chosen.places.detach(), maps)
    soft = binary_gumbel_softmax(beta, 1.0)
    assert torch.equal((soft > 0.5).double(), chosen.kept.detach())
    expected = torch.autograd.grad((soft * incoming).sum(), list(made.mask.parameters()))
    torch.testing.assert_close(list(ours[:-1]), list(expected), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ noise


def test_masks_are_drawn_in_training_only() -> None:
    made, maps = attention(), pictures()
    drawn = [made.choose(maps[-1], maps).kept for _ in range(2)]
    state = torch.get_rng_state()
    assert torch.equal(*drawn)
    made.choose(maps[-1], maps)
    assert torch.equal(state, torch.get_rng_state()), "evaluation draws nothing"
    assert torch.equal(drawn[0], (made.choose(maps[-1], maps).soft > 0.5).double())
    made.train()
    first, second = made.choose(maps[-1], maps), made.choose(maps[-1], maps)
    assert not torch.equal(first.kept, second.kept) and torch.equal(first.soft, second.soft)
    torch.testing.assert_close(first.soft, made.eval().choose(maps[-1], maps).soft)


# ------------------------------------------------------------------------------------------------ a cap on the keys


@given(
    queries=st.integers(1, 9),
    keys=st.integers(1, 7),
    share=st.floats(0, 1),
    ties=st.booleans(),
    batch=st.integers(1, 3),
)
def test_the_highest_are_exactly_as_many_as_allowed(
    queries: int, keys: int, share: float, ties: bool, batch: int
) -> None:
    soft = torch.rand(batch, queries, keys, generator=torch.Generator().manual_seed(queries * 31 + keys))
    soft = soft.mul(3).round().div(3) if ties else soft
    allowed = highest(soft, share)
    exactly = math.floor(share * queries * keys + 1e-9)
    assert allowed.flatten(1).sum(1).tolist() == [exactly] * batch
    assert set(allowed.unique().tolist()) <= {0.0, 1.0}
    for values, chosen in zip(soft, allowed, strict=True):
        if 0 < exactly < values.numel():
            assert values[chosen == 1].min() >= values[chosen == 0].max()


@given(share=st.floats(0, 1))
def test_a_cap_leaves_the_keys_with_the_highest_mask(share: float) -> None:
    torch.manual_seed(1)
    made, maps = attention("per_key"), pictures()
    with torch.no_grad():
        free, capped = made.choose(maps[-1], maps), made.choose(maps[-1], maps, share)
    assert torch.equal(free.soft, capped.soft) and (capped.kept <= free.kept).all()
    total = free.kept[0].numel()
    for soft, all_kept, kept in zip(free.soft, free.kept, capped.kept, strict=True):
        expected = min(int(all_kept.sum()), math.floor(share * total + 1e-9))
        assert int(kept.sum()) == expected
        if 0 < expected < int(all_kept.sum()):
            assert soft[kept == 1].min() >= soft[(kept == 0) & (all_kept == 1)].max()


def test_a_cap_needs_masks() -> None:
    made, maps = attention("cla"), pictures()
    with torch.no_grad():
        assert torch.equal(made(maps[-1], maps, 0.1)[0], made(maps[-1], maps)[0])


# ------------------------------------------------------------------------------------------------ a search


@pytest.mark.parametrize("kind", ["per_key", "one"])
def test_an_absent_map_might_as_well_not_be_there(kind: str) -> None:
    made, maps = attention(kind), pictures()
    smaller = attention(kind, maps=2)
    left = [0, 2]
    with torch.no_grad():
        for name, parameter in made.query.named_parameters():
            smaller.query.get_parameter(name).copy_(parameter.unflatten(0, (3, 3, 4))[:, left].flatten(0, 2))
        for part in ("value", "mask"):
            for own, source in zip(getattr(smaller, part), left, strict=True):
                own.load_state_dict(getattr(made, part)[source].state_dict())
        smaller.output.load_state_dict(made.output.state_dict())
        presence = torch.tensor([1.0, 0.0, 1.0], dtype=torch.double).log()
        found, chosen = made(maps[-1], maps, None, presence)
        expected, keys = smaller(maps[-1], [maps[number] for number in left])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(chosen.kept.unflatten(2, (3, 4))[:, :, left].flatten(2), keys.kept)
    assert not chosen.kept.unflatten(2, (3, 4))[:, :, 1].any()


def test_maps_that_are_all_present_change_nothing() -> None:
    made, maps = attention(), pictures()
    with torch.no_grad():
        assert torch.equal(made(maps[-1], maps, None, torch.zeros(3))[0], made(maps[-1], maps)[0])


# ------------------------------------------------------------------------------------------------ beginnings, costs


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("units", ["per_key", "one"])
def test_module_begins_as_the_identity_and_attends_to_a_disc(adaptive: bool, units: Any) -> None:
    made, maps = CrossLayerAttention(6, 2, 16, adaptive, units).eval(), [torch.randn(1, 6, 20, 20) for _ in range(2)]
    out, chosen = made(maps[-1], maps)
    assert torch.equal(out, maps[-1])
    middle = 10 * 20 + 10
    distance = (chosen.places[0, middle] - torch.tensor([10.0, 10.0])).norm(dim=-1)
    expected = torch.arange(16.0).sqrt().repeat(2)
    torch.testing.assert_close(distance, expected)
    if adaptive:
        count = 16 if units == "per_key" else 1
        assert [tuple(unit.weight.shape) for unit in made.mask] == [(count, 6, 1, 1)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_query_sum_to_one_before_masking(kind: str) -> None:
    made, maps = attention(kind), pictures()
    weights = made.choose(maps[-1], maps).weights
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert (weights > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_cost_is_the_convolutions_and_the_keys_that_are_kept(kind: str) -> None:
    made, maps = attention(kind), pictures(batch=1)
    convolutions = sum(p.numel() for name, p in made.named_parameters() if name.endswith("weight"))
    with torch.no_grad():
        kept = made.choose(maps[-1], maps).kept
    keys = 35 * 12 if kept is None else int(kept.sum())
    assert count_macs(lambda: made(maps[-1], maps)) == 35 * convolutions + keys * 5
    on_meta = [one.to("meta") for one in maps]
    assert count_on_meta(made, on_meta[-1], on_meta) == 35 * convolutions + 35 * 12 * 5, "on meta all keys are kept"


@given(row=st.floats(0, 4), column=st.floats(0, 6))
def test_corners_read_what_lies_between_pixels(row: float, column: float) -> None:
    image = torch.randn(3, 5, 7, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    first, weights, steps = corners(torch.tensor([row, column], dtype=torch.double), (5, 7))
    index, weight = first + torch.tensor(steps), torch.stack(weights)
    assert weight.sum().item() == pytest.approx(1) and weight.min() >= 0
    found = (image.flatten(1)[:, index] * weight).sum(-1)
    torch.testing.assert_close(found, sampled(image, row, column))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close_and_its_keys_are_those_of_its_maps(kind: str) -> None:
    made, maps = attention(kind, channels=16).float(), [one.float() for one in pictures(channels=16)]
    with torch.no_grad():
        exact, keys = made(maps[-1], maps)
        with torch.autocast("cpu", torch.bfloat16):
            ours, same = made(maps[-1], maps)
    assert all(torch.equal(a, b) for a, b in zip(keys[:2], same[:2], strict=True)), "positions are in full precision"
    assert kind == "cla" or torch.equal(keys.kept, same.kept)
    error = (ours.float() - exact).square().mean().sqrt() / (exact - maps[-1]).square().mean().sqrt()
    assert 0 < error < 0.02, error
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = [one.bfloat16() for one in maps]
        assert made(half[-1], half)[1].places.dtype == torch.float32


def test_impossible_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="keys of at least 1, got 0"):
        CrossLayerAttention(4, 1, 0)
    with pytest.raises(ValueError, match="mask_units must be one of per_key, one, got 'two'"):
        CrossLayerAttention(4, 1, 2, True, "two")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        CrossLayerAttention(4, 1, 2, True, temperature=0)
    with pytest.raises(ValueError, match="refers to 3 maps, got 2"):
        attention().choose(pictures()[0], pictures(2))
