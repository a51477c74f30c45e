"""Time left is honest, a log file stays short, a bar does not disturb."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Trainer

from dynres.callbacks.progress import Meter, RunProgress, Sparse, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(start=st.integers(0, 50), done=st.integers(1, 40), rest=st.integers(0, 900), pace=st.floats(0.01, 9.0))
def test_time_left_counts_only_what_this_process_did(start: int, done: int, rest: int, pace: float) -> None:
    clock = Clock()
    meter = Meter(start + done + rest, start, clock)
    assert math.isinf(meter.left(start))
    clock.now += pace * done
    assert meter.left(start + done) == pytest.approx(pace * rest, abs=1e-6)


def test_time_left_of_an_endless_run_is_unknown() -> None:
    clock = Clock()
    meter = Meter(math.inf, 0, clock)
    clock.now += 10
    assert math.isinf(meter.left(5)) and duration(meter.left(5)) == "-:--"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (75, "1:15"), (59.7, "1:00"), (3600, "1:00:00"), (4000, "1:06:40")]
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("steps", "pace", "most"), [(600, 0.25, 21), (100_000, 1.0, 1700), (10, 0.001, 1), (20, 10.0, 20)]
)
def test_a_log_file_gets_few_lines(steps: int, pace: float, most: int) -> None:
    """5 % or a minute apart, never within 5 seconds, and always the last step."""
    clock = Clock()
    wants = Sparse(clock)
    written = []
    for step in range(1, steps + 1):
        clock.now += pace
        if wants(step / steps):
            written.append(clock.now)
    assert 1 <= len(written) <= most, len(written)
    assert written[-1] == clock.now
    assert all(later - earlier >= 5 for earlier, later in pairwise(written[:-1]))
    assert all(later - earlier <= 65 for earlier, later in pairwise(written))


def test_plain_progress_says_step_loss_psnr_and_image(
    tmp_path: Path, make_trainer: Callable[..., Trainer], fit: Callable[..., Any], check: Callable[..., Any],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Sparse, "__call__", lambda self, share: True)
    bar = RunProgress(live=False)
    module = fit(make_trainer(bar, enable_progress_bar=True))
    check(bar, folder=tmp_path, module=module, enable_progress_bar=True)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("train:", "validate:", "test:"))]
    assert lines[0].startswith("train: step 1/12  loss ") and lines[0].endswith(" left")
    last = next(line for line in lines if line.startswith("train: step 12/12"))
    assert "val 28." in last and not last.endswith("left"), last
    assert sum(line.startswith("validate: image") for line in lines) == 12
    assert lines[-1].startswith("test: image 6/6  Toy x4  24."), lines[-1]


def test_a_live_bar_runs_through_training_validation_and_test(
    tmp_path: Path, make_trainer: Callable[..., Trainer], fit: Callable[..., Any], check: Callable[..., Any],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    bar = RunProgress(live=True)
    module = fit(make_trainer(bar, enable_progress_bar=True))
    check(bar, folder=tmp_path, module=module, enable_progress_bar=True)
    written = capsys.readouterr().err
    assert "step 12/12" in written and "image 6/6" in written
    assert bar._bar is None, "the bar is closed at the end"


def test_lightning_adds_no_bar_of_its_own(make_trainer: Callable[..., Trainer]) -> None:
    bar = RunProgress(live=False)
    assert make_trainer(bar, enable_progress_bar=True).progress_bar_callback is bar


def test_an_exception_closes_the_bar(make_trainer: Callable[..., Trainer], fit: Callable[..., Any], tiny: Any) -> None:
    bar = RunProgress(live=True)
    with pytest.raises(RuntimeError, match="the step failed"):
        fit(make_trainer(bar, enable_progress_bar=True), tiny(fail_at=3))
    assert bar._bar is None
