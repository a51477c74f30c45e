"""The simplified binary Gumbel-Softmax and its straight-through form (ACLA, Eq. 7 and 9)."""

from __future__ import annotations

import pytest
import torch

from dynres.layers.gates import binary_gumbel_softmax, logistic, straight_through


def test_straight_through_by_hand() -> None:
    soft = torch.tensor([0.2, 0.5, 0.51, 1.0], requires_grad=True)
    hard = straight_through(soft)
    assert hard.tolist() == [0, 0, 1, 1]
    hard.backward(torch.tensor([1.0, -2.0, 3.0, 4.0]))
    assert soft.grad is not None and soft.grad.tolist() == [1, -2, 3, 4]


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_a_key_is_kept_as_often_as_its_logit_says(temperature: float) -> None:
    """P(b + e1 - e2 > 0) = sigma(b) for Gumbel e1 and e2, at any temperature."""
    logit = torch.tensor([-2.0, 0.0, 1.0]).repeat(20_000, 1)
    soft = binary_gumbel_softmax(logit, temperature)
    share = (soft > 0.5).double().mean(0)
    torch.testing.assert_close(share, logit[0].double().sigmoid(), rtol=0, atol=4 * 0.5 / 20_000**0.5)
    assert soft.min() >= 0 and soft.max() <= 1


def test_logistic_noise_is_finite_and_of_the_difference_of_two_gumbels() -> None:
    noise = logistic(torch.empty(200_000))
    gumbel = -(-torch.rand(2, 200_000).clamp(1e-9).log()).log()
    levels = torch.linspace(0.02, 0.98, 25)
    torch.testing.assert_close(noise.quantile(levels), (gumbel[0] - gumbel[1]).quantile(levels), rtol=0, atol=0.06)
    for value in (0.0, 1.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand_like", lambda like, value=value: torch.full_like(like, value))
            assert logistic(torch.empty(3)).isfinite().all()
