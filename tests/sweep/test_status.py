"""How far a sweep is, in numbers and words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynres.sweep.state import Job
from dynres.sweep.status import Status, all_done, write_status


def job(number: int, state: str, started: float, ended: float | None = None, value: float | None = None) -> Job:
    reason = "no | more\nspace".replace("\n", " ") if state == "failed" else None
    return Job(number, [f"seed={number}"], state, started, ended, value, reason)


def status(*jobs: Job, total: int = 6, now: float = 400.0) -> Status:
    return Status("name", total, {one.number: one for one in jobs}, {5: "seed=5"}, began=100.0, now=now)


def test_the_time_left_is_what_jobs_took_shared_by_those_that_run() -> None:
    jobs = [
        job(0, "done", 100, 220, 31.0),
        job(1, "done", 100, 180, 32.0),
        job(2, "running", 350),
        job(3, "running", 380),
    ]
    # 100 s a job; 50 and 80 are left of those that run, and two wait: 330 s of work for two at a time.
    assert status(*jobs).left() == pytest.approx(165)
    assert status(*jobs).headline() == "2 of 6 done, 2 running, 2 queued; 5:00 so far, about 2:45 left"


def test_what_an_earlier_command_ran_says_nothing_about_this_one() -> None:
    before = job(0, "done", 10, 20, 31.0)
    assert status(before, job(1, "running", 390)).left() == math.inf
    assert status(before, total=1).left() == 0
    assert status(before, total=1).headline() == "1 of 1 done; 5:00 so far"


def test_a_row_says_what_became_of_a_job() -> None:
    rows = status(job(0, "done", 100, 161, 31.234), job(1, "failed", 100, 103), job(2, "running", 395)).rows()
    assert rows[0][2:] == ("done", "31.23", "1:01") and rows[1][2:] == ("failed", "-", "0:03; no | more space")
    assert rows[2][2:] == ("running", "-", "0:05")
    assert rows[3] == (3, "", "queued", "-", "-") and rows[5] == (5, "seed=5", "queued", "-", "-")


def test_the_table_of_states_is_markdown_whatever_a_reason_holds(tmp_path: Path) -> None:
    write_status(tmp_path, status(job(1, "failed", 100, 103)))
    lines = (tmp_path / "status.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 8 and {line.replace("\\|", "").count("|") for line in rows} == {6}
    assert not all_done(tmp_path) and not all_done(tmp_path / "nowhere")
    write_status(tmp_path, status(job(0, "done", 100, 103, 30.0), total=1))
    assert all_done(tmp_path)


@given(st.lists(st.sampled_from(["done", "failed", "running", "interrupted"]), max_size=8), st.integers(0, 4))
def test_every_job_is_counted_once(states: list[str], waiting: int) -> None:
    jobs = [job(number, state, 150, None if state == "running" else 160) for number, state in enumerate(states)]
    found = status(*jobs, total=len(jobs) + waiting)
    assert sum(found.counts.values()) == found.total == len(found.rows()) and found.counts["queued"] == waiting
    assert found.left() >= 0
    told = found.plain()
    assert (
        sum(told[state] for state in ("done", "failed", "running", "queued")) + states.count("interrupted")
        == found.total
    )
