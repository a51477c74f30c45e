"""Of several processes that are given one job, one works on it; what a job is called."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from dynres.sweep.state import Job, only_one, read_job, read_jobs, runs, write_job

FORK: Any = multiprocessing.get_context("fork")


def job(number: int = 0, state: str = "running", **about: Any) -> Job:
    return Job(number, ["+experiment=tadt_liif", f"seed={number}"], state, started=100.0, **about)


def hold(folder: Path, begun: Any, leave: Any) -> None:
    with only_one(folder):
        begun.set()
        leave.wait(30)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = {tmp_path / f"{number}_x": job(number, "done", ended=103.5, value=31.25).here() for number in (10, 2)}
    for folder, state in written.items():
        write_job(folder, state)
    assert read_jobs(tmp_path) == written and list(read_jobs(tmp_path)) == [tmp_path / "2_x", tmp_path / "10_x"]
    assert read_job(tmp_path) is None


def test_a_job_waits_for_the_process_that_still_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun, leave = FORK.Event(), FORK.Event()
    other = FORK.Process(target=hold, args=(tmp_path, begun, leave))
    other.start()
    assert begun.wait(30)
    write_job(tmp_path, Job(0, [], "running", 0.0, host="there", process=7))
    assert runs(tmp_path)
    started = time.monotonic()
    FORK.Process(target=lambda: (time.sleep(0.3), leave.set())).start()
    with only_one(tmp_path):
        assert time.monotonic() - started >= 0.25
    assert "waiting for process 7 on there" in capsys.readouterr().out
    assert not runs(tmp_path)
    other.join()


def test_a_process_that_is_killed_leaves_its_job(tmp_path: Path) -> None:
    begun, leave = FORK.Event(), FORK.Event()
    other = FORK.Process(target=hold, args=(tmp_path, begun, leave))
    other.start()
    assert begun.wait(30) and runs(tmp_path)
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert not runs(tmp_path)


def test_a_folder_where_nothing_began_is_not_run(tmp_path: Path) -> None:
    assert not runs(tmp_path) and list(tmp_path.iterdir()) == []


def test_a_job_is_called_by_what_the_sweep_varies() -> None:
    assert job(3).label({"seed"}) == "seed=3"
    assert job(3).label(set()) == "+experiment=tadt_liif seed=3"
    assert job(3).label({"experiment"}) == "+experiment=tadt_liif"
