"""How far a sweep is: status.md and status.json in its folder, and lines on the terminal."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dynres.callbacks.progress import duration
from dynres.files import write_text
from dynres.report import UNKNOWN, markdown_table, shown, write_json
from dynres.sweep.state import Job

FILE = "status.json"
OTHERS = ("failed", "running", "interrupted", "queued")


@dataclass(frozen=True)
class Status:
    """A sweep at a moment.

    Attributes:
        name: of its folder.
        total: jobs in all.
        jobs: number -> state of those that have begun.
        labels: number -> what tells a job from the others; those that a sweeper has not yet chosen are absent.
        began, now: seconds since the epoch; when this command took the sweep up, and the moment.
    """

    name: str
    total: int
    jobs: Mapping[int, Job]
    labels: Mapping[int, str]
    began: float
    now: float

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by state; "queued" are those that have not begun."""
        found = Counter(job.state for job in self.jobs.values())
        return {**found, "queued": max(0, self.total - sum(found.values()))}

    def left(self) -> float:
        """Seconds until the end, from the jobs that this command has run to their end; inf before the first."""
        done = [job for job in self.jobs.values() if job.state == "done" and job.started >= self.began]
        lasted = [job.ended - job.started for job in done if job.ended is not None and job.ended > job.started]
        running = [self.now - job.started for job in self.jobs.values() if job.state == "running"]
        waiting = self.counts["queued"] + self.counts.get("interrupted", 0)
        if not lasted:
            return math.inf if running or waiting else 0.0
        mean = fmean(lasted)
        rest = waiting * mean + sum(max(0.0, mean - seconds) for seconds in running)
        return rest / max(1, len(running))

    def headline(self) -> str:
        """ "3 of 12 done, 1 failed, 2 running, 6 queued; 5:20 so far, about 12:00 left"."""
        counts = self.counts
        parts = [f"{counts.get('done', 0)} of {self.total} done"]
        parts += [f"{counts[state]} {state}" for state in OTHERS if counts.get(state)]
        left = self.left()
        text = f"{', '.join(parts)}; {duration(self.now - self.began)} so far"
        return text + (f", about {duration(left)} left" if 0 < left < math.inf else "")

    def rows(self) -> list[tuple[int, str, str, str, str]]:
        """A row a job: number, label, state, PSNR in dB, and how long it took or has taken; or the reason."""
        rows = []
        for number in range(max([self.total, *(number + 1 for number in self.jobs)])):
            job = self.jobs.get(number)
            label = self.labels.get(number, "")
            if job is None:
                rows.append((number, label, "queued", UNKNOWN, UNKNOWN))
                continue
            took = duration((job.ended or self.now) - job.started)
            last = f"{took}; {job.reason}" if job.reason else took
            rows.append((number, label, job.state, shown(job.value, ".2f"), last))
        return rows

    def markdown(self) -> str:
        """The content of status.md."""
        lines = [[str(cell).replace("|", "\\|") for cell in row] for row in self.rows()]
        table = markdown_table(["job", "overrides", "state", "PSNR dB", "time"], lines)
        return f"# Sweep {self.name}\n\n{self.headline()}\n\n{table}"

    def plain(self) -> dict[str, Any]:
        """The content of status.json; seconds and PSNR are null where they are not known."""
        left = self.left()
        jobs = [
            {"number": number, "overrides": label, "state": state, "psnr": job.value if job else None}
            for number, label, state, *_ in self.rows()
            for job in [self.jobs.get(number)]
        ]
        return {
            "sweep": self.name, "total": self.total, **{"done": 0, "failed": 0, "running": 0}, **self.counts,
            "elapsed_seconds": self.now - self.began, "left_seconds": left if left < math.inf else None, "jobs": jobs,
        }  # fmt: skip


def write_status(folder: Path, status: Status) -> None:
    """Replace status.json and status.md in a sweep's folder."""
    write_json(folder / FILE, status.plain())
    write_text(folder / "status.md", status.markdown())


def all_done(folder: Path) -> bool:
    """Whether each job of a sweep has finished, as its last status says."""
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except OSError:
        return False
    return bool(told["done"] == told["total"])
