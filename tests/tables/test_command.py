"""python -m dynres.tables as a user types it: one table from small runs, killed and started again; what it refuses."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from dynres.tables import __main__ as command
from tests.cli.conftest import UNDRAWN, Ended, start, typed, write_scenes

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
TABLE = "flexir/6"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """For a table of three small runs, one of which cannot be."""
    folder = tmp_path_factory.mktemp("tables")
    paper = folder / "experiments" / "flexir"
    paper.mkdir(parents=True)
    (paper / "published.yaml").write_bytes((EXPERIMENTS / "flexir" / "published.yaml").read_bytes())
    plan = yaml.safe_load((EXPERIMENTS / "flexir" / "demo.yaml").read_text(encoding="utf-8"))
    plan["seeds"] = [0]
    plan["runs"]["psd"]["command"].append("backbone.chanels=8")
    (paper / "demo.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    data = ["data=folder", f"data.root={write_scenes(folder / 'photos')}", "data.val_crop=48", "data.patch_size=16"]
    quick = [*UNDRAWN, "callbacks.checkpoints.every=1", "trainer.max_steps=8", "trainer.val_check_interval=8"]
    return ["--table", TABLE, "--profile", "smoke", "--experiments", str(folder / "experiments"), *data, *quick]


def written(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "reports" / "tables").iterdir())}


def made(arguments: list[str], folder: Path) -> Ended:
    where = ["--out", str(folder / "runs"), "--reports", str(folder / "reports")]
    return typed(*arguments, *where, main=command.main)


@pytest.fixture(scope="module")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """The table of a command that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, made(arguments, folder)


def test_a_table_is_made_and_a_failure_named_in_it(whole: tuple[Path, Ended]) -> None:
    folder, ended = whole
    assert ended.code == 2 and "flexir/psd, seed 0 failed: " in ended.out and "1 runs failed" in ended.err
    files = written(folder)
    assert list(files) == ["flexir_6.csv", "flexir_6.md", "flexir_6.tex"]
    text = files["flexir_6.md"].decode()
    assert "chanels" in text and "demo-size" in text and "32.98" in text


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_command_killed_at_any_moment_ends_with_the_same_tables(
    whole: tuple[Path, Ended], arguments: list[str], tmp_path: Path
) -> None:
    process = start([*arguments, "--out", "runs", "--reports", "reports"], tmp_path, "dynres.tables")
    until = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")) and time.monotonic() < until:
        time.sleep(0.05)  # something runs
    time.sleep(2 * random.random())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert made(arguments, tmp_path).code == 2
    again, before = written(tmp_path), written(whole[0])
    assert again["flexir_6.csv"].decode() == before["flexir_6.csv"].decode()
    assert again == before


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--table", "tadt/33"], "there is no table 'tadt/33': tadt/1, "),
        (["--profile", "paper"], "give --data PATH"),
        (["--profile", "demo", "--data", "."], "leave out --profile demo"),
        (["--checkpoints", "weights"], "--checkpoints weights does not exist"),
        (["--checkpoints", "tests"], "give --data PATH"),
        (["--data", "nowhere"], "--data nowhere does not exist"),
        (["--reports", "README.md"], "--reports README.md cannot be written: Not a directory"),
        (["--cluster", "slurm"], "for --profile paper"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--experiments", "nowhere"], "run from a clone"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(given: list[str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)
    monkeypatch.setattr(sys, "argv", ["dynres.tables"])
    ended = typed(*given, main=command.main)
    assert ended.code == 2 and reason in ended.err and ended.err.startswith("error: ")
