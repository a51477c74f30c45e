"""Sparse attention: the authors' numbers, random directions that repeat, and images smaller than a chunk."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dynres.cost.counter import count_macs, count_on_meta
from dynres.layers import sparse_attention
from dynres.layers.sparse_attention import SparseAttention, attend_in_chunks, nearest_direction
from tests.golden.fill import assert_parity, oracle

GOLDEN = oracle("nlsa_block")


def golden_block(case: str) -> SparseAttention:
    """The oracle's block with its random directions."""
    block = SparseAttention(channels=32, reduction=4, chunk=36, hashes=3, residual_scale=1.0)
    state = GOLDEN.weights()
    block.load_state_dict({key: state[f"attn.conv_{key.replace('.', '.0.')}"] for key in block.state_dict()})
    directions = GOLDEN.array(f"{case}.rotation0")[0]

    def recorded(buckets: int, like: Tensor) -> Tensor:
        assert buckets == 2 * directions.shape[-1]
        return directions

    block.rotations = recorded  # type: ignore[method-assign]
    return block.eval()


def small_block(**options: float) -> SparseAttention:
    return SparseAttention(**{"channels": 8, "reduction": 2, "chunk": 6, "hashes": 3, "residual_scale": 1.0} | options)


@pytest.mark.parametrize("case", ["a", "b"])
def test_output_equals_the_authors(case: str) -> None:
    with torch.no_grad():
        assert_parity(golden_block(case)(GOLDEN.array(f"{case}.input")), GOLDEN.array(f"{case}.output"), case)


def test_gradient_equals_the_authors() -> None:
    block = golden_block("b")
    loss = block(GOLDEN.array("b.input")).abs().mean()
    loss.backward()
    gradient = block.match.weight.grad
    assert gradient is not None and str(GOLDEN.arrays["b.grad_name"]) == "attn.conv_match.0.weight"
    assert loss.item() == pytest.approx(float(GOLDEN.arrays["b.loss"]), rel=1e-5)
    assert gradient.double().abs().sum().item() == pytest.approx(float(GOLDEN.arrays["b.grad_abs_sum"]), rel=1e-4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (7, 9)])
def test_an_image_smaller_than_a_chunk_attends_to_all_of_itself(height: int, width: int) -> None:
    block, x = small_block(chunk=144).double().eval(), torch.randn(2, 8, height, width, dtype=torch.double)
    keys, values = (conv(x).flatten(2).transpose(1, 2) for conv in (block.match, block.assembly))
    full = F.scaled_dot_product_attention(keys, F.normalize(keys, dim=-1, eps=5e-5), values, scale=1.0)
    torch.testing.assert_close(block(x), x + full.transpose(1, 2).unflatten(2, (height, width)))


def test_a_pixel_sees_its_own_chunk_and_the_two_beside_it_in_a_closed_line() -> None:
    """The value of the last chunk of 5 reaches the chunks 0, 3 and 4 of the sorted line and no other."""
    keys, values = torch.randn(1, 20, 3), torch.zeros(1, 20, 1)
    order = torch.randperm(20)[None]
    values[0, order[0, 16:]] = 1.0
    reached = attend_in_chunks(keys, values, order, 4)[0][0, order[0], 0] > 0
    assert reached.view(5, 4).all(1).tolist() == [True, False, False, True, True]
    assert reached.sum() == 12


def test_nearest_direction_is_the_largest_projection_or_its_opposite() -> None:
    keys = torch.tensor([[[3.0, 1.0], [-3.0, 1.0], [0.1, 1.0], [0.1, -1.0]]])
    assert nearest_direction(keys, torch.eye(2)).tolist() == [[0, 2, 1, 3]]


def test_chunks_taken_some_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = small_block().double().eval(), torch.randn(2, 8, 9, 11, dtype=torch.double)
    whole = block(x)
    monkeypatch.setattr(sparse_attention, "CHUNKS_AT_ONCE", 4)
    torch.testing.assert_close(block(x), whole, rtol=1e-12, atol=1e-12)


def test_evaluation_repeats_and_leaves_torchs_generator_alone() -> None:
    block, x = small_block().eval(), torch.randn(2, 8, 10, 10)
    first, state = block(x), torch.get_rng_state()
    assert torch.equal(block(x), first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(77)
    assert torch.equal(block(x), first)
    torch.testing.assert_close(block(x[1:]), first[1:])
    assert not torch.equal(block.rotations(4, x), small_block(seed=1).eval().rotations(4, x))


def test_training_draws_from_torchs_generator() -> None:
    block, x = small_block().train(), torch.randn(1, 8, 10, 10)
    drawn = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        drawn.append(block(x))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_counting_on_the_meta_device_draws_nothing_and_counts_what_runs() -> None:
    block, x = small_block().train(), torch.randn(1, 8, 7, 9)
    state = torch.get_rng_state()
    counted = count_on_meta(block, x.to("meta"))
    assert torch.equal(torch.get_rng_state(), state)
    assert counted == count_macs(lambda: block(x))


def test_gradients_are_the_same_bits_every_time_on_two_threads() -> None:
    block, x = small_block(chunk=16).eval(), torch.randn(2, 8, 24, 24, requires_grad=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inputs = [x, *block.parameters()]
        once = torch.autograd.grad(block(x).square().sum(), inputs)
        for _ in range(3):
            again = torch.autograd.grad(block(x).square().sum(), inputs)
            assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("option", ["channels", "reduction", "chunk", "hashes"])
def test_impossible_sizes_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} of at least 1, got 0"):
        small_block(**{option: 0})


def test_a_reduction_that_leaves_no_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction must be at most channels=8, got 9"):
        small_block(reduction=9)
