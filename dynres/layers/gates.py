"""Binary gates that are drawn at random, trainable, and a pure function of a seed."""

from __future__ import annotations

import torch
from torch import Tensor


def seeded_uniform(seed: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each seed, (B,) int64 -> (B, count) float32; the same on every device and batch.

    The splitmix64 finaliser of (seed, position): no generator state, so a sample draws the same alone or in a batch.
    """
    position = torch.arange(1, count + 1, device=seed.device, dtype=torch.int64)
    z = seed.to(torch.int64)[:, None] + position * _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 40).to(torch.float32) / 2**24


def straight_through_bernoulli(probability: Tensor, uniform: Tensor) -> Tensor:
    """r ~ Bernoulli(p) forward, identity gradient backward (TADT, Eq. 4).

    Args:
        probability: (B, U) in [0, 1]; receives the gradient of the decisions unchanged.
        uniform: (B, U) in [0, 1); the decision is 1 where uniform < probability, so p = 1 is never bypassed.
    """
    drawn = (uniform < probability).to(probability.dtype)
    return drawn.detach() + (probability - probability.detach())


def binary_gumbel_softmax(logit: Tensor, temperature: float) -> Tensor:
    """sigma((b + e1 - e2) / tau) with Gumbel noise e1, e2 from torch's generator: in (0, 1), differentiable in b.

    The simplified binary Gumbel-Softmax (ACLA, Eq. 7 and 10); the difference of two Gumbels is drawn as one logistic.
    """
    return torch.sigmoid((logit + logistic(logit)) / temperature)


def logistic(like: Tensor) -> Tensor:
    """Standard logistic noise of the shape of a tensor, finite."""
    uniform = torch.rand_like(like).clamp(_TINY, 1 - _TINY)
    return uniform.log() - (-uniform).log1p()


def straight_through(soft: Tensor) -> Tensor:
    """1 where soft > 0.5 and 0 elsewhere forward, identity gradient backward (ACLA, Eq. 9)."""
    return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())


_TINY = 1e-6
_SIGN = -(2**63)
# Odd 64-bit constants of splitmix64 (Steele, Lea and Flood, 2014), as signed integers: torch multiplies modulo 2^64.
_GOLDEN, _MIX_1, _MIX_2 = (value + 2 * _SIGN for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
