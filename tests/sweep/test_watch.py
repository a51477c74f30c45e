"""How a sweep ends: its table, its failures, the jobs whose processes were killed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dynres.errors import UserError
from dynres.report import write_json
from dynres.sweep.plan import Plan
from dynres.sweep.state import Job, only_one, read_job, write_job
from dynres.sweep.watch import LOST, Watch


def finished(folder: Path, psnr: float) -> None:
    row = {
        "psnr": psnr, "psnr_plain": 30.0, "plain": "bicubic", "ssim": 0.9, "psnr_b": None, "protocol": "div2k",
        "macs": 1e9, "milliseconds": 1.0, "beta": None, "active_fraction": None, "macs_fraction": 1.0,
    }  # fmt: skip
    about = {"experiment": "e", "profile": "demo", "seed": 0, "params": 1, "train_seconds": 1.0}
    write_json(folder / "summary.json", {**about, "metrics": {"Set5": {"x2": row}}})


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A job that finished, one that runs, and one that waits."""
    for number, state in enumerate(["done", "running"]):
        write_job(tmp_path / f"{number}_x", Job(number, [f"seed={number}"], state, 0.0, None, 31.0))
    finished(tmp_path / "0_x", 31.0)
    return tmp_path


def watch(folder: Path, **about: bool) -> Watch:
    return Watch(Plan(folder, about.get("resumed", False), 3, {2: "seed=2"}, {"seed"}, about.get("apart", False)))


def test_a_job_whose_process_was_killed_is_a_failed_one(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"1 of 3 jobs failed and 1 did not run.*sweep\.resume") as told:
        watch(sweep).end(RuntimeError("a process in the pool was terminated abruptly"))
    assert isinstance(told.value.__cause__, RuntimeError)
    assert f"job 1 (seed=1) failed: {LOST}" in capsys.readouterr().err
    with open(sweep / "summary_table.csv", newline="") as lines:
        assert [row["failed"] for row in csv.DictReader(lines)] == ["", LOST]


def test_after_a_signal_nothing_has_failed(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch(sweep).end(SystemExit(143))
    job = read_job(sweep / "1_x")
    assert job is not None and job.state == "interrupted" and not (sweep / "summary_table.csv").exists()
    assert f"sweep.resume=true goes on with {sweep}" in capsys.readouterr().err


def test_a_job_that_outlives_the_command_is_left_to_itself(sweep: Path) -> None:
    (sweep / "1_x" / "job.lock").touch()
    with only_one(sweep / "1_x"):
        watch(sweep).end(SystemExit(143))
    job = read_job(sweep / "1_x")
    assert job is not None and job.state == "running"


def test_a_sweep_whose_jobs_run_apart_is_watched_while_they_do(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dynres.sweep.watch.EVERY", 0.02)
    mine = watch(sweep, apart=True)
    write_job(sweep / "1_x", Job(1, ["seed=1"], "done", mine.began, mine.began + 75, 32.5))
    for _ in range(200):
        if "seed=1" in (text := capsys.readouterr().out):
            break
        mine._ended.wait(0.02)
    assert "job 1 (seed=1) done in 1:15: 32.50 dB; 2 of 3 done, 1 queued" in text
    assert "| 2 | seed=2 | queued |" in (sweep / "status.md").read_text()
    mine.end(None)


def test_a_sweep_of_which_no_job_began_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "sweep" / "now"
    folder.mkdir(parents=True)
    for name in ("sweep.yaml", "multirun.yaml"):
        (folder / name).touch()
    watch(folder).end(UserError("a mistake"))
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").touch()
    watch(folder, resumed=True).end(UserError("a mistake"))
    assert (folder / "sweep.yaml").is_file(), "what was there before stays"
