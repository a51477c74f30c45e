"""Gates: binary forward, identity backward, and random numbers that are a pure function of the seed."""

from __future__ import annotations

import pytest
import torch

from dynres.layers.gates import seeded_uniform, straight_through_bernoulli

MASK = 2**64 - 1


def splitmix64(seed: int, position: int) -> float:
    """The published generator in whole numbers of Python, its upper 24 bits in [0, 1)."""
    z = (seed + position * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return ((z ^ (z >> 31)) >> 40) / 2**24


def test_decisions_are_zero_or_one_and_follow_the_probability() -> None:
    probability = torch.rand(500, 32, requires_grad=True)
    drawn = straight_through_bernoulli(probability, seeded_uniform(torch.arange(500), 32))
    assert torch.equal(drawn.detach().unique(), torch.tensor([0.0, 1.0]))
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = (probability >= low) & (probability < low + 0.25)
        share, expected = drawn[chosen].mean().item(), probability[chosen].mean().item()
        assert abs(share - expected) < 4 * (0.25 / int(chosen.sum())) ** 0.5, f"{share:.3f} drawn of {expected:.3f}"


def test_the_gradient_passes_unchanged() -> None:
    """Eq. 4: of open and closed gates alike."""
    probability = torch.rand(6, 8, requires_grad=True)
    incoming = torch.randn(6, 8)
    drawn = straight_through_bernoulli(probability, torch.rand(6, 8))
    assert 0 < drawn.sum() < drawn.numel()
    drawn.backward(incoming)
    assert probability.grad is not None and torch.equal(probability.grad, incoming)


def test_certain_branches_are_never_bypassed_and_impossible_ones_never_taken() -> None:
    uniform = seeded_uniform(torch.arange(20_000), 8)
    uniform[0, 0] = 0.0  # the smallest number that can be drawn
    uniform[0, 1] = 1 - 2**-24  # the largest
    assert straight_through_bernoulli(torch.ones_like(uniform), uniform).min() == 1
    assert straight_through_bernoulli(torch.zeros_like(uniform), uniform).max() == 0


@pytest.mark.parametrize("seed", [0, 1, 12345, -1, -(2**63), 2**63 - 1])
def test_numbers_are_those_of_splitmix64(seed: int) -> None:
    ours = seeded_uniform(torch.tensor([seed]), 40)[0].tolist()
    assert ours == [splitmix64(seed, position) for position in range(1, 41)]


def test_a_sample_draws_the_same_alone_and_in_any_batch() -> None:
    seeds = torch.tensor([7, 0, 2**40 + 3, -5])
    together = seeded_uniform(seeds, 16)
    for row, seed in enumerate(seeds):
        assert torch.equal(seeded_uniform(seed[None], 16)[0], together[row])
    assert torch.equal(seeded_uniform(seeds, 5), together[:, :5]), "the first numbers depend on how many are drawn"


def test_numbers_do_not_depend_on_torch_generator_nor_touch_it() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = seeded_uniform(torch.arange(4), 8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(seeded_uniform(torch.arange(4), 8), first)


def test_numbers_are_uniform_over_consecutive_seeds() -> None:
    """Mean, variance, and the Kolmogorov-Smirnov distance at a level of 1e-4; no seed repeats another's row."""
    draws = seeded_uniform(torch.arange(2000), 32).double()
    count = draws.numel()
    assert draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean().item() - 1 / 2) < 4 * (1 / 12 / count) ** 0.5, f"mean {draws.mean():.5f}"
    assert abs(draws.var().item() - 1 / 12) < 4 * (1 / 180 / count) ** 0.5, f"variance {draws.var():.5f}"
    distance = (draws.flatten().sort().values - torch.arange(count) / count).abs().max().item()
    assert distance < 2.2 / count**0.5, f"Kolmogorov-Smirnov distance {distance:.2g}"
    assert len({tuple(row.tolist()) for row in draws}) == 2000


def test_neighbouring_seeds_and_positions_are_uncorrelated() -> None:
    draws = seeded_uniform(torch.arange(2000), 32).double() - 0.5
    for name, product in (("seeds", draws[1:] * draws[:-1]), ("positions", draws[:, 1:] * draws[:, :-1])):
        correlation = 12 * product.mean().item()
        assert abs(correlation) < 4 / product.numel() ** 0.5, f"neighbouring {name} correlate by {correlation:.4f}"
