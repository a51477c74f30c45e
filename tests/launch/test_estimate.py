"""How long is left of several trainings."""

from __future__ import annotations

import pytest

from dynres.launch.estimate import Estimate


def test_the_estimate_knows_that_steps_take_unlike_times() -> None:
    now = 0.0
    estimate = Estimate({"a": 10.0, "b": 30.0, "c": 5.0, "d": 100.0}, lambda: now)
    estimate.skip("d")
    estimate.begin("a")
    assert estimate.left(0, 50) == float("inf")
    now = 10.0  # half of what was to take 10 s
    assert estimate.left(25, 50) == pytest.approx(2 * (5 + 30 + 5))
    now = 20.0
    estimate.end()
    estimate.begin("b")
    estimate.resumed()
    assert estimate.left(80, 100) == pytest.approx(2 * (6 + 5)), "20 of 100 steps are left"
    now = 26.0
    assert estimate.left(90, 100) == pytest.approx(2 * (3 + 5))
