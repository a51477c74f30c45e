"""best.ckpt and last.ckpt: when they are written, what survives what, and that a resumed run equals an unbroken one."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dynres.callbacks.checkpoints import Checkpoints, SelfDescription
from dynres.callbacks.ema import Ema
from dynres.callbacks.loggers import read_metrics
from dynres.checkpoint_io import CheckpointNotWritten, read_checkpoint
from dynres.errors import UserError

Fit = Callable[..., Any]
Make = Callable[..., Trainer]


class At(Callback):
    """Does something at a step, once: before the batch, in the middle of the optimizer step, or inside validation."""

    def __init__(self, step: int, action: Callable[[], object], where: str = "batch") -> None:
        self.step, self.action, self.where = step, action, where

    def _do(self, trainer: Trainer, where: str) -> None:
        if where == self.where and trainer.global_step == self.step:
            self.where = "done"
            self.action()

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._do(trainer, "batch")

    def on_before_zero_grad(self, trainer: Trainer, *args: Any) -> None:
        self._do(trainer, "forward")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._do(trainer, "validation")


def fail() -> None:
    raise RuntimeError("something broke")


def state(folder: Path, name: str = "last") -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, optimizer, best score, average and metrics, to the last bit."""
    for name in ("last", "best"):
        a, b = state(one, name), state(other, name)
        assert a["global_step"] == b["global_step"], (name, a["global_step"], b["global_step"])
        for key, value in a["state_dict"].items():
            difference = (value - b["state_dict"][key]).abs().max()
            assert torch.equal(value, b["state_dict"][key]), f"{name} {key} differs by {difference}"
        assert a["callbacks"]["Checkpoints"] == b["callbacks"]["Checkpoints"]
        for key, value in a["callbacks"]["Ema"]["weights"].items():
            assert torch.equal(value, b["callbacks"]["Ema"]["weights"][key]), f"{name}: average of {key} differs"
        for index, moments in a["optimizer_states"][0]["state"].items():
            assert torch.equal(moments["exp_avg"], b["optimizer_states"][0]["state"][index]["exp_avg"])
    rows = [read_metrics(folder / "metrics.csv") for folder in (one, other)]
    assert rows[0] == rows[1]


@pytest.fixture
def unbroken(tmp_path: Path, make_trainer: Make, fit: Fit) -> Path:
    """A run of 12 steps that nothing disturbed: validation at 6 and 12, last.ckpt at 4, 8 and 12."""
    folder = tmp_path / "unbroken"
    fit(make_trainer(Ema(decay=0.9), folder=folder))
    return folder


def test_both_checkpoints_are_where_and_what_they_should_be(unbroken: Path) -> None:
    assert sorted(os.listdir(unbroken / "checkpoints")) == ["best.ckpt", "last.ckpt"]
    assert state(unbroken)["global_step"] == 12
    scores = {
        int(row["step"]) + 1: float(row["val/psnr"])
        for row in read_metrics(unbroken / "metrics.csv")
        if row["val/psnr"]
    }
    assert list(scores) == [6, 12]
    best = max(scores, key=lambda step: scores[step])
    assert state(unbroken, "best")["global_step"] == best
    assert state(unbroken, "best")["callbacks"]["Checkpoints"]["best_score"] == pytest.approx(scores[best], abs=1e-5)


@pytest.mark.parametrize(
    ("step", "where"), [(5, "batch"), (6, "validation"), (8, "batch"), (10, "batch"), (12, "validation")]
)
def test_a_run_killed_anywhere_and_resumed_equals_an_unbroken_one(
    tmp_path: Path, unbroken: Path, make_trainer: Make, fit: Fit, step: int, where: str
) -> None:
    folder = tmp_path / "killed"

    def train() -> None:
        torch.set_num_threads(1)
        fit(make_trainer(Ema(decay=0.9), At(step, lambda: os.kill(os.getpid(), signal.SIGKILL), where), folder=folder))

    process = multiprocessing.get_context("fork").Process(target=train)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    last = folder / "checkpoints" / "last.ckpt"
    assert state(folder)["global_step"] == (step - 1) // 4 * 4 if where == "validation" else step // 4 * 4
    fit(make_trainer(Ema(decay=0.9), folder=folder), ckpt=last)
    assert_same_run(unbroken, folder)


@pytest.mark.parametrize("step", [5, 6, 7, 8, 11])
@pytest.mark.parametrize("error", [RuntimeError("broken"), SIGTERMException(), KeyboardInterrupt()])
def test_a_run_that_raised_and_was_resumed_equals_an_unbroken_one(
    tmp_path: Path, unbroken: Path, make_trainer: Make, fit: Fit, step: int, error: BaseException
) -> None:
    """The batch that raised is taken again; the step of the exception is not lost."""
    folder = tmp_path / "raised"

    def throw() -> None:
        raise error

    with pytest.raises((type(error), SystemExit)):
        fit(make_trainer(Ema(decay=0.9), At(step, throw), folder=folder))
    assert state(folder)["global_step"] == step
    fit(make_trainer(Ema(decay=0.9), folder=folder), ckpt=folder / "checkpoints" / "last.ckpt")
    assert_same_run(unbroken, folder)


def test_an_exception_in_the_forward_pass_loses_nothing(
    tmp_path: Path, unbroken: Path, make_trainer: Make, fit: Fit
) -> None:
    folder = tmp_path / "forward"
    with pytest.raises(RuntimeError, match="something broke"):
        fit(make_trainer(Ema(decay=0.9), At(7, fail, "forward"), folder=folder))
    assert state(folder)["global_step"] == 7
    fit(make_trainer(Ema(decay=0.9), folder=folder), ckpt=folder / "checkpoints" / "last.ckpt")
    assert_same_run(unbroken, folder)


@pytest.mark.parametrize("step", [6, 7])
def test_sigterm_ends_the_step_writes_last_and_resumes(
    tmp_path: Path, unbroken: Path, make_trainer: Make, fit: Fit, step: int
) -> None:
    folder = tmp_path / "terminated"
    with pytest.raises(SIGTERMException):
        fit(make_trainer(Ema(decay=0.9), At(step - 1, lambda: os.kill(os.getpid(), signal.SIGTERM)), folder=folder))
    assert state(folder)["global_step"] == step
    fit(make_trainer(Ema(decay=0.9), folder=folder), ckpt=folder / "checkpoints" / "last.ckpt")
    assert_same_run(unbroken, folder)


@pytest.mark.parametrize("error", [RuntimeError("broken"), SIGTERMException(), KeyboardInterrupt()])
def test_a_validation_that_raised_runs_whole_after_the_resume(
    tmp_path: Path, unbroken: Path, make_trainer: Make, fit: Fit, error: BaseException
) -> None:
    folder = tmp_path / "validation"

    def throw() -> None:
        raise error

    with pytest.raises((type(error), SystemExit)):
        fit(make_trainer(Ema(decay=0.9), At(6, throw, "validation"), folder=folder))
    assert state(folder)["global_step"] == 6
    last = folder / "checkpoints" / "last.ckpt"
    with pytest.raises((type(error), SystemExit)):  # and a second time, after the resumed validation
        fit(make_trainer(Ema(decay=0.9), At(9, throw), folder=folder), ckpt=last)
    fit(make_trainer(Ema(decay=0.9), folder=folder), ckpt=last)
    assert_same_run(unbroken, folder)


def test_an_exception_inside_an_optimizer_step_leaves_last_alone(tmp_path: Path, make_trainer: Make, fit: Fit) -> None:
    class Halfway(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:
            result = super().step(closure)
            if len(self.state) and next(iter(self.state.values()))["step"] == 7:
                fail()
            return result

    trainer = make_trainer()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="something broke"):
        patch.setattr(torch.optim, "Adam", Halfway)
        fit(trainer)
    assert state(tmp_path)["global_step"] == 4


def test_a_full_disk_stops_the_run_in_one_line_and_keeps_the_checkpoint(
    tmp_path: Path, make_trainer: Make, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    filled = At(5, lambda: monkeypatch.setattr(Path, "write_bytes", full))
    with pytest.raises(CheckpointNotWritten, match="No space left on device"):
        fit(make_trainer(filled))
    assert state(tmp_path)["global_step"] == 4


def test_a_metric_that_is_not_logged_is_named(make_trainer: Make, fit: Fit) -> None:
    trainer = make_trainer()
    trainer.checkpoint_callback.monitor = "val/ssim"  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"monitor=val/ssim is not logged; logged are: .*val/psnr"):
        fit(trainer)


@pytest.mark.parametrize("options", [{"every": 0}, {"mode": "highest"}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=str(next(iter(options.values())))):
        Checkpoints(**options)


def test_checkpoints_describe_themselves_in_plain_types(tmp_path: Path, make_trainer: Make, fit: Fit) -> None:
    description = {"network": {"channels": 8, "windows": (4, 8)}, "seed": 0, "note": None}
    fit(make_trainer(SelfDescription(description)))
    for name in ("best", "last"):
        assert state(tmp_path, name)["dynres"] == {
            "network": {"channels": 8, "windows": [4, 8]},
            "seed": 0,
            "note": None,
        }
    with pytest.raises(TypeError, match=r"description\.network\.root is a PosixPath"):
        SelfDescription({"network": {"root": Path("/")}})


def test_lightnings_best_is_ours(tmp_path: Path, make_trainer: Make, fit: Fit) -> None:
    trainer = make_trainer()
    module: LightningModule = fit(trainer)
    assert trainer.checkpoint_callback.best_model_path == str(tmp_path / "checkpoints" / "best.ckpt")  # type: ignore[union-attr]
    assert module is trainer.lightning_module
