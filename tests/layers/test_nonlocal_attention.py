"""The non-local block: its two soft-max axes by their definitions, and the bound on its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynres.cost.counter import count_macs, count_on_meta
from dynres.layers.nonlocal_attention import NonLocalBlock, attend_over_queries

AXIS = {"queries": 1, "keys": 2}


def tokens(*lengths: int, dtype: torch.dtype = torch.double) -> list[Tensor]:
    return [torch.randn(2, length, 5, dtype=dtype, requires_grad=True) for length in lengths]


def block(axis: Any) -> NonLocalBlock:
    made = NonLocalBlock(6, 3, softmax_over=axis).double()
    nn.init.normal_(made.W.weight)
    return made


@pytest.mark.parametrize("scores_at_once", [1, 26, 60, 10**6])
def test_keys_taken_some_at_a_time_give_the_whole_attention_and_gradient(scores_at_once: int) -> None:
    query, key, value = tokens(13, 11, 11)
    whole = (query @ key.transpose(1, 2)).softmax(dim=1) @ value
    ours = attend_over_queries(query, key, value, scores_at_once)
    torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(out.square().sum(), (query, key, value)) for out in (ours, whole)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, out.numel() if isinstance(out, Tensor) else 0)
        return out


def test_no_more_than_the_scores_at_once_are_ever_in_memory() -> None:
    query, key, value = tokens(300, 300, 300)
    with Largest() as bounded, torch.no_grad():
        attend_over_queries(query, key, value, scores_at_once=6000)
    with Largest() as whole, torch.no_grad():
        attend_over_queries(query, key, value)
    assert (bounded.elements, whole.elements) == (6000, 2 * 300 * 300)


def test_half_precision_keeps_what_thousands_of_keys_add_up() -> None:
    """Sums of small terms: in bfloat16 itself they would stop growing."""
    query, key, value = (t.detach() for t in tokens(4, 4000, 4000, dtype=torch.float32))
    value = value.abs()
    exact = attend_over_queries(query, key, value)
    ours = attend_over_queries(query.bfloat16(), key.bfloat16(), value.bfloat16(), scores_at_once=8)
    assert ours.dtype == torch.bfloat16
    assert ((ours - exact).abs() / exact).max() < 0.03


@pytest.mark.parametrize("axis", ["queries", "keys"])
def test_block_is_its_definition(axis: str) -> None:
    made, x = block(axis), torch.randn(2, 6, 4, 5, dtype=torch.double)
    query, key, value = (conv(x).flatten(2).transpose(1, 2) for conv in (made.theta, made.phi, made.g))
    found = (query @ key.transpose(1, 2)).softmax(dim=AXIS[axis]) @ value
    torch.testing.assert_close(made(x), x + made.W(found.transpose(1, 2).unflatten(2, (4, 5))))


@pytest.mark.parametrize(("axis", "without_effect"), [("queries", "theta"), ("keys", "phi")])
def test_the_bias_along_the_axis_of_the_softmax_has_no_effect(axis: str, without_effect: str) -> None:
    made, x = block(axis), torch.randn(1, 6, 4, 5, dtype=torch.double)
    before = made(x)
    for name in ("theta", "phi"):
        bias = made.get_parameter(f"{name}.bias")
        with torch.no_grad():
            bias.add_(torch.randn_like(bias))
            changed = not torch.allclose(made(x), before, rtol=1e-9, atol=1e-9)
        assert changed == (name != without_effect)
        before = made(x)


@pytest.mark.parametrize("axis", ["queries", "keys"])
def test_block_begins_as_the_identity(axis: Any) -> None:
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(NonLocalBlock(6, 3, softmax_over=axis)(x), x)


@pytest.mark.parametrize("axis", ["queries", "keys"])
def test_cost_is_the_projections_and_two_products(axis: str) -> None:
    made, x, pixels = block(axis), torch.randn(1, 6, 4, 5, dtype=torch.double), 20
    expected = pixels * 4 * 6 * 3 + 2 * pixels * pixels * 3
    assert count_on_meta(made, x.to("meta")) == count_macs(lambda: made(x)) == expected


def test_impossible_options_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="inner of at least 1, got 0"):
        NonLocalBlock(4, 0)
    with pytest.raises(ValueError, match="softmax_over must be keys or queries, got 'rows'"):
        NonLocalBlock(4, 2, softmax_over="rows")  # type: ignore[arg-type]
