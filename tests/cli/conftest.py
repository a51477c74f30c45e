"""Commands as a user types them, on a handful of tiny pictures."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from pytorch_lightning import Trainer

from dynres import run
from dynres.callbacks.checkpoints import Checkpoints
from dynres.data.images import Pixels, write_png


class Ended(NamedTuple):
    """How a command ended: exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """The folder the run announced."""
        found = re.search(r"^writing to (.+?)(?:, continuing from .*)?$", self.out, re.MULTILINE)
        assert found, f"no folder announced in:\n{self.out}\n{self.err}"
        return Path(found[1])


def typed(*arguments: str, main: Callable[[], None] = run.main) -> Ended:
    """What `python -m dynres.run ARGUMENTS` does, without the seconds that a new process and large pictures cost."""
    out, err, code, save = io.StringIO(), io.StringIO(), 0, Figure.savefig

    def save_small(self: Figure, *given: Any, **options: Any) -> None:
        save(self, *given, **options | {"dpi": 40})  # all is drawn and written, on a tenth of the pixels

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(Figure, "savefig", save_small)
        patch.setattr(sys, "argv", ["dynres", *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "1")  # main sets it: taken back with the patch
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None  # Lightning asks whether Hydra is in use
    return Ended(code, out.getvalue(), err.getvalue())


def start(arguments: list[str], folder: Path, module: str = "dynres.run", **environment: str) -> subprocess.Popen[str]:
    """A command in a process of its own, working in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[1]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(process: subprocess.Popen[str], seconds: float = 200) -> Ended:
    """The end of a started command."""
    out, err = process.communicate(timeout=seconds)
    return Ended(process.returncode, out, err)


def killed_and_resumed(step: int, command: list[str]) -> Ended:
    """A command that dies right after it has written last.ckpt at a step, typed again with resume=auto."""
    save = Checkpoints._save_last

    def save_and_die(self: Checkpoints, trainer: Trainer) -> None:
        save(self, trainer)
        if trainer.global_step == step:
            raise KeyError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "_save_last", save_and_die)
        with pytest.raises(KeyError, match="killed"):
            typed(*command)
    return typed(*command, "resume=auto")


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    """(height, width, 3) uint8: smooth waves and an edge."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / 16.0
    image = np.zeros((height, width, 3))
    for channel in range(3):
        a, b, phase = random.uniform(0.2, 1.2, 3)
        image[..., channel] = 0.5 + 0.3 * np.sin(a * rows + b * columns + 6 * phase)
    image[height // 3 : height // 2, width // 4 : width // 2] *= 0.6
    return np.asarray(255 * image.clip(0, 1), np.uint8)


def write_scenes(folder: Path, count: int = 3) -> Path:
    for number in range(count):
        write_png(folder / f"{number:02d}.png", scene(72 + 4 * number, 72, number))
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of about 72 x 72 pixels: two to train on, one held out."""
    return write_scenes(tmp_path_factory.mktemp("pictures") / "photos")


UNDRAWN = ["callbacks.panels.count=0", "callbacks.panels.validation=0"]  # drawing takes as long as all else
DRAWN = ["callbacks.panels.count=1", "callbacks.panels.validation=1"]


@pytest.fixture(scope="session")
def tiny(photos: Path) -> list[str]:
    """Overrides that make any experiment take seconds."""
    return [
        "profile=smoke", "data=folder", f"data.root={photos}", "data.lr_size=16", "data.val_crop=48",
        "data.test_scales=[2]", *UNDRAWN,
    ]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; what a command leaves behind is in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A finished `+experiment=tadt_liif`."""
    out = tmp_path_factory.mktemp("trained")
    ended = typed("+experiment=tadt_liif", *tiny, *DRAWN, f"out={out}/runs", "data.test_scales=[2,3]")
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="session")
def edsr(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A finished `backbone=edsr_baseline method=assr`."""
    out = tmp_path_factory.mktemp("edsr")
    ended = typed("backbone=edsr_baseline", "method=assr", *tiny, f"out={out}/runs")
    assert ended.code == 0, ended.err
    return ended
