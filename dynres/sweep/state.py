"""The state of each job of a sweep: a small file in its folder, written by whichever process runs the job."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from dynres.files import write_text

FILE, LOCK = "job.json", "job.lock"


@dataclass(frozen=True)
class Job:
    """What job.json says.

    number: from 0, as the sweeper counts and as the folder's name begins; overrides: of the job; state: "running",
    "done", "failed" or "interrupted"; started, ended: seconds since the epoch; value: mean PSNR in dB, what the sweeper
    is told; reason: of a failure, one line; host, process: where it runs.
    """

    number: int
    overrides: list[str]
    state: str
    started: float
    ended: float | None = None
    value: float | None = None
    reason: str | None = None
    host: str = ""
    process: int = 0

    def here(self) -> Job:
        """The same, run by this process."""
        return replace(self, host=socket.gethostname(), process=os.getpid())

    def label(self, swept: set[str]) -> str:
        """The overrides of the keys that the sweep varies; all where it varies none."""
        return " ".join(one for one in self.overrides if key_of(one) in swept) or " ".join(self.overrides)


def key_of(override: str) -> str:
    """ "+a.b=c" -> "a.b"."""
    return override.lstrip("+~").partition("=")[0]


def read_job(folder: Path) -> Job | None:
    """The state in a job's folder, or None before it began."""
    try:
        return Job(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def read_jobs(sweep: Path) -> dict[Path, Job]:
    """Folder -> state of every job of a sweep that has begun, by number."""
    found = {file.parent: read_job(file.parent) for file in sweep.glob(f"*/{FILE}")}
    begun = {folder: job for folder, job in found.items() if job is not None}
    return dict(sorted(begun.items(), key=lambda item: (item[1].number, item[1].started)))


def write_job(folder: Path, job: Job) -> None:
    """Replace the state in a job's folder, atomically."""
    write_text(folder / FILE, json.dumps(asdict(job), indent=2) + "\n")


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Of several processes that are given the same job, one works on it and the others wait.

    The command of a sweep may be killed, and started again, while its jobs go on in processes of their own. The system
    frees the lock of a process that ends in whatever way.
    """
    with open(folder / LOCK, "a", encoding="utf-8") as file:
        if not _taken(file):
            job = read_job(folder)
            where = f"process {job.process} on {job.host}" if job else "another process"
            print(f"waiting for {where}, which still runs {folder.name}", flush=True)
            _taken(file, wait=True)
        yield


def runs(folder: Path) -> bool:
    """Whether some process works on the job now."""
    if not (folder / LOCK).is_file():
        return False
    with open(folder / LOCK, "a", encoding="utf-8") as file:
        return not _taken(file)


def _taken(file: IO[Any], wait: bool = False) -> bool:
    """Take the lock, if need be once another process leaves it. Where the system has none, nobody waits for anybody."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
