"""A run that stops anywhere and is started again ends with the weights of one that never stopped."""

from __future__ import annotations

import csv
import errno
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from dynres import checkpoint_io
from dynres.callbacks.checkpoints import Checkpoints
from dynres.files import atomic_file

from .conftest import DRAWN, Ended, start, typed, wait

LONG = ["trainer.max_steps=20", "trainer.val_check_interval=10", "callbacks.checkpoints.every=2"]

Stop = Callable[[signal.Signals, list[str], Path, Path], Ended]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    worst = max(float((first[key] - second[key]).abs().max()) for key in first)
    assert worst == 0, f"weights differ by up to {worst:g}"


def schedule(folder: Path) -> list[tuple[int, float, float]]:
    """(step, learning rate, loss) of metrics.csv."""
    with open(folder / "metrics.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["train/loss"]]
    return [(int(line["step"]), float(line["lr"]), float(line["train/loss"])) for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = typed("+experiment=tadt_liif", *tiny, *LONG, f"out={tmp_path_factory.mktemp('whole')}")
    assert ended.code == 0, ended.err
    return ended


def stopped_in_a_shell(number: signal.Signals, command: list[str], here: Path, last: Path) -> Ended:
    """A command typed in `here`, that gets a signal as soon as it has written last.ckpt."""
    process = start(command, here)
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    return wait(process)


def stopped_at_once(number: signal.Signals, command: list[str], here: Path, last: Path) -> Ended:
    """The same, without the seconds that a new process takes to import everything; here it sends itself the signal."""
    save = Checkpoints._save_last

    def save_and_send(self: Checkpoints, trainer: Trainer) -> None:
        save(self, trainer)
        os.kill(os.getpid(), number)

    def child() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        Checkpoints._save_last = save_and_send
        ended = typed(*command)
        (here / "err").write_text(ended.err)
        sys.exit(ended.code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert last.exists() and process.exitcode is not None
    return Ended(process.exitcode, "", "" if number is signal.SIGKILL else (here / "err").read_text())


@pytest.mark.parametrize(
    ("number", "code", "stopped_by"),
    [
        (signal.SIGKILL, -9, stopped_at_once),
        (signal.SIGTERM, 143, stopped_in_a_shell),
        (signal.SIGINT, 130, stopped_at_once),
    ],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    number: signal.Signals, code: int, stopped_by: Stop, here: Path, tiny: list[str], uninterrupted: Ended
) -> None:
    command = ["+experiment=tadt_liif", *tiny, *LONG]
    folder = here / "runs" / "tadt_liif" / uninterrupted.folder.name
    stopped = stopped_by(number, command, here, folder / "checkpoints" / "last.ckpt")
    assert stopped.code == code, stopped.err
    assert "Traceback" not in stopped.err, stopped.err
    if number is not signal.SIGKILL:
        assert "resume=auto" in stopped.err
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < step < 20 and not (folder / "summary.json").exists(), f"stopped at step {step}"

    resumed = typed(*command, "resume=auto")
    assert resumed.code == 0, resumed.err
    assert resumed.folder == folder and "continuing from last.ckpt" in resumed.out
    lost = set(schedule(uninterrupted.folder)) ^ set(schedule(folder))
    # The line of a step is written after its checkpoint: a stop between the two loses that line, and nothing else.
    assert len(lost) <= (number is not signal.SIGTERM), f"lines of metrics.csv that differ: {sorted(lost)}"
    assert all(line[0] == step - 1 for line in lost)
    assert_same_weights(folder, uninterrupted.folder)


def test_resuming_with_a_changed_option_is_refused_by_name(here: Path, tiny: list[str], trained: Ended) -> None:
    shutil.copytree(trained.folder, here / "begun")
    (here / "begun" / "summary.json").unlink()
    same = ["+experiment=tadt_liif", *tiny, *DRAWN, "data.test_scales=[2,3]"]
    command = [*same, f"hydra.run.dir={here}/begun", "resume=auto"]
    ended = typed(*command, "method.learning_rate=0.5", "callbacks.panels.crop=32")
    assert ended.code == 2 and len(ended.err.strip().splitlines()) == 1, ended.err
    assert "callbacks.panels.crop, method.learning_rate" in ended.err
    assert (here / "begun" / "checkpoints" / "last.ckpt").is_file()


def test_a_full_disk_keeps_the_previous_checkpoint(
    here: Path, tiny: list[str], trained: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    @contextmanager
    def filling(path: Path) -> Iterator[Path]:
        with atomic_file(path) as temporary:
            yield temporary
            written.append(path.name)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")

    command = ["+experiment=tadt_liif", *tiny, "data.test_scales=[2,3]"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_io, "atomic_file", filling)
        failed = typed(*command)
    assert failed.code == 2 and failed.err.strip().splitlines()[-1].startswith("error: checkpoint"), failed.err
    assert "Traceback" not in failed.err and "No space left on device" in failed.err
    kept = torch.load(failed.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2, f"last.ckpt of step {kept['global_step']}; written: {written}"
    resumed = typed(*command, "resume=auto")
    assert resumed.code == 0 and resumed.folder == failed.folder, resumed.err
    assert_same_weights(resumed.folder, trained.folder)


def test_resume_without_an_unfinished_run_starts_one(here: Path, tiny: list[str]) -> None:
    ended = typed("+experiment=tadt_liif", *tiny, "resume=auto", "trainer.max_steps=3")
    assert ended.code == 0 and "no unfinished run" in ended.out, ended.err
