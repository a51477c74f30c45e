"""A run with Weights & Biases as a user has it by default, and without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from dynres.callbacks.checkpoints import Checkpoints

from .conftest import typed

EDSR = ["backbone=edsr_baseline", "method=assr", "trainer.max_steps=2", "trainer.val_check_interval=2"]


def test_without_wandb_a_run_is_told_and_ends_as_ever(
    here: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", None)
    ended = typed(*EDSR, *tiny)
    assert ended.code == 0, ended.err
    assert [line for line in ended.err.splitlines() if "W&B" in line] == [
        "W&B: wandb cannot be imported (ModuleNotFoundError: import of wandb halted; None in sys.modules); "
        "the run goes on, metrics.csv has everything"
    ]
    assert (ended.folder / "summary.json").is_file() and not (ended.folder / "wandb").exists()


def services() -> set[int]:
    """W&B's own processes that this one started."""
    told = subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in told.splitlines()[1:]]
    return {int(pid) for pid, parent, command in rows if int(parent) == os.getpid() and "wandb-core" in command}


def test_a_wandb_whose_process_is_killed_stops_neither_a_run_nor_the_next(
    here: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep of two: the first loses its W&B in mid-run, the second has one again."""
    save = Checkpoints._save_last
    killed: list[int] = []

    def save_and_kill(self: Checkpoints, trainer: Trainer) -> None:
        save(self, trainer)
        if not killed:
            killed.extend(services())
            for process in killed:
                os.kill(process, signal.SIGKILL)

    monkeypatch.setattr(Checkpoints, "_save_last", save_and_kill)
    monkeypatch.setenv("WANDB_MODE", "offline")
    ended = typed("-m", *EDSR, *tiny, "seed=0,1", "callbacks.checkpoints.every=1")
    assert killed, "there was nothing to kill"
    assert ended.code == 0, ended.err
    warnings = [line for line in ended.err.splitlines() if "W&B" in line]
    assert len(warnings) == 1 and warnings[0].startswith("W&B: stopped logging ("), warnings
    (sweep,) = here.glob("runs/sweep/*")
    told = json.loads((sweep / "status.json").read_text())
    assert [job["state"] for job in told["jobs"]] == ["done", "done"]
    assert ended.out.count("W&B: logged offline; to upload it: wandb sync ") == 1
    assert f"{sweep.name}/1_" in ended.out.split("wandb sync ")[1]
