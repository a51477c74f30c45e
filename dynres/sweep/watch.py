"""The command that started a sweep tells how far it is and ends it, in whatever process its jobs run."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dynres.build import configuration_errors
from dynres.callbacks.progress import duration
from dynres.errors import UserError, clean_exit
from dynres.sweep.plan import Plan, plan
from dynres.sweep.record import FILE
from dynres.sweep.state import Job, read_jobs, runs, write_job
from dynres.sweep.status import Status, write_status
from dynres.sweep.table import write_table

EVERY = 1.0  # seconds between two looks at jobs in other processes
REWRITE = 10.0  # seconds after which the status is written though no job has changed

LOST = "its process ended without a word: killed, or out of memory"

_current: Watch | None = None  # the sweep that this process started


class SweepWatch(Callback):
    """Hydra's hook at the start of a multirun."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra would only warn of an exception here, and go on: the command ends instead."""
        try:
            clean_exit(_watch)(config)
        except Exception as error:
            traceback.print_exc()
            raise SystemExit(1) from error


def _watch(config: DictConfig) -> None:
    global _current
    with configuration_errors():
        _current = Watch(plan(config))


def watching() -> bool:
    """Whether this process started the sweep."""
    return _current is not None and _current.process == os.getpid()


def look() -> None:
    """Tell what has changed, if this process started the sweep; where another did, that one looks by itself."""
    if _current is not None and watching():
        _current.look()


@contextmanager
def watched() -> Iterator[None]:
    """Around a command that may be a sweep: whatever ends it, its table is written and failures are its exit code.

    Raises:
        UserError: jobs failed.
    """
    global _current
    stopped: BaseException | None = None
    try:
        yield
    except BaseException as error:
        stopped = error
    watch, _current = _current, None
    if watch is not None:
        watch.end(stopped)
    if stopped is not None:
        raise stopped


class Watch:
    """Reads the states of a sweep's jobs, prints what changes, and keeps status.md and status.json up to date."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.process, self.began = plan, os.getpid(), time.time()
        self._told = {job.number: job.state for job in read_jobs(plan.folder).values()}
        self._written = 0.0
        self._turn, self._ended = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._before: Any = None
        again = "resuming " if plan.resumed else ""
        print(f"{again}sweep {plan.folder}: {self.status().headline()}", flush=True)
        self.look()
        if plan.apart:
            self._before = signal.signal(signal.SIGTERM, _leave)
            self._thread = threading.Thread(target=self._look_again, daemon=True)
            self._thread.start()

    def status(self) -> Status:
        plan = self.plan
        jobs = {job.number: job for job in read_jobs(plan.folder).values()}  # of one number the newest
        labels = plan.labels | {number: job.label(plan.swept) for number, job in jobs.items()}
        return Status(plan.folder.name, max(plan.total, len(jobs)), jobs, labels, self.began, time.time())

    def look(self) -> None:
        """Print a line for each job whose state has changed since the last look."""
        with self._turn:
            status = self.status()
            news = [job for job in status.jobs.values() if self._told.get(job.number) != job.state]
            if news or time.monotonic() - self._written > REWRITE:
                self._written = time.monotonic()
                with suppress(OSError):  # a full disk: the jobs will say so
                    write_status(self.plan.folder, status)
            for job in news:
                self._told[job.number] = job.state
                self._tell(job, status)

    def _look_again(self) -> None:
        while not self._ended.wait(EVERY):
            self.look()

    def _tell(self, job: Job, status: Status) -> None:
        name = f"job {job.number} ({job.label(self.plan.swept)})"
        if job.state == "running":
            print(f"{name} begins", flush=True)
        elif job.state == "done" and job.ended is not None and job.value is not None:
            took = duration(job.ended - job.started)
            print(f"{name} done in {took}: {job.value:.2f} dB; {status.headline()}", flush=True)
        elif job.state == "failed":
            print(f"{name} failed: {job.reason}", file=sys.stderr, flush=True)

    def end(self, stopped: BaseException | None) -> None:
        """The last look, and the table of what there is.

        Args:
            stopped: what ended the sweep before its time.

        Raises:
            UserError: jobs failed; not where the sweep itself was stopped by a signal.
        """
        by_hand = stopped is not None and not isinstance(stopped, Exception)  # Ctrl-C, SIGTERM
        while self.plan.apart and stopped is not None and not by_hand and self._others():
            time.sleep(EVERY)
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            signal.signal(signal.SIGTERM, self._before)
        state, reason = ("interrupted", None) if by_hand else ("failed", LOST)
        for folder, job in read_jobs(self.plan.folder).items():
            if job.state == "running" and not runs(folder):
                write_job(folder, replace(job, state=state, ended=time.time(), reason=reason))
        self._written = 0.0
        self.look()
        jobs = read_jobs(self.plan.folder)
        if by_hand:
            print(f"the same command with sweep.resume=true goes on with {self.plan.folder}", file=sys.stderr)
            return
        if not jobs:
            self._leave_nothing()
            return
        failed = {folder: job for folder, job in jobs.items() if job.state == "failed"}
        write_table(self.plan.folder, failed, self.plan.swept)
        if failed:
            status, table = self.status(), self.plan.folder / "summary_table.md"
            waiting = f" and {status.counts['queued']} did not run" if status.counts["queued"] else ""
            again = "the same command with sweep.resume=true runs them again"
            raise UserError(f"{len(failed)} of {status.total} jobs failed{waiting} ({table}); {again}") from stopped

    def _others(self) -> bool:
        """Whether jobs go on in processes that the end of one has not touched."""
        return any(job.state == "running" and runs(folder) for folder, job in read_jobs(self.plan.folder).items())

    def _leave_nothing(self) -> None:
        """No job ever began: remove what was made for them."""
        folder = self.plan.folder
        if not self.plan.resumed:
            for name in (FILE, "status.json", "status.md", "multirun.yaml"):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # one that is not empty
                for empty in (folder, *folder.parents[:2]):
                    empty.rmdir()


def _leave(number: int, frame: object) -> None:
    """SIGTERM ends the launcher, which ends the processes that it keeps."""
    raise SystemExit(128 + number)
