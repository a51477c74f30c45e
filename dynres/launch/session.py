"""Many runs, several at a time: what is finished is found again, what was interrupted resumed, a failure named."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from dynres.callbacks.progress import duration
from dynres.errors import UserError
from dynres.launch.find import begun, finished
from dynres.launch.process import Run, sigterm_raises
from dynres.launch.wanted import Wanted, Wants

STEP = re.compile(r"(?:train: step|test: image) (\d+)/(\d+)")  # lines of callbacks.progress
EVERY = 20.0  # seconds between two lines about what runs


@dataclass
class _Running:
    wanted: Wanted
    run: Run
    cfg: DictConfig
    share: float = 0.0  # of its steps
    first: float | None = None  # share at which this process took it up


class Session(Wants):
    """Runs what is wanted, in an order that needs allow.

    Args:
        wanted: names in `needs` are among them.
        out: where runs go and are looked for; each command gets `out=` of it.
        say: prints a line.
        jobs: runs at a time.
        threads: see launch.process.Run.
        code: see launch.find.finished.
        logs: folder of what each run prints.

    Attributes:
        found: name -> folder of a finished run.
        failed: name -> reason.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        out: Path,
        say: Callable[[str], None],
        jobs: int = 1,
        threads: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(wanted, out, say, code)
        self.jobs, self.threads = jobs, threads
        self._running: list[_Running] = []
        self._weight = 0.0  # of what this process has run to its end
        self._began = self._told = time.monotonic()

    def run(self) -> None:
        """Until each is found or failed. SIGTERM and Ctrl-C end what runs, its last checkpoint written."""
        waiting = list(self.wanted)
        with sigterm_raises():
            try:
                while waiting or self._running:
                    while len(self._running) < self.jobs and (name := self.ready(waiting)) is not None:
                        waiting.remove(name)
                        self._take(self.wanted[name])
                    self._listen()
                    if self._running:
                        time.sleep(0.2)
            except BaseException:
                for one in self._running:
                    one.run.stop()
                raise

    def _take(self, wanted: Wanted) -> None:
        """Find a run, or start it, or say why it cannot be."""
        if (prepared := self.prepared(wanted, self.out)) is None:
            return
        command, cfg = prepared
        if begun(self.out, cfg, self.code) is not None:
            command.append("resume=auto")
        log = self.out / "logs" / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', wanted.name)}.log"
        self._running.append(_Running(wanted, Run(command, log, self.threads), cfg))

    def _listen(self) -> None:
        for one in list(self._running):
            ended = one.run.ended()
            while not one.run.lines.empty():
                if step := STEP.match(one.run.lines.get().lstrip()):
                    one.share = max(one.share, int(step[1]) / max(int(step[2]), 1))  # the test comes after the training
                    one.first = one.share if one.first is None else one.first
            if ended:
                self._running.remove(one)
                self._end(one)
        if self._running and time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            self.say(self.status())

    def _end(self, one: _Running) -> None:
        try:
            one.run.check()
            if (folder := finished(self.out, one.cfg, self.code)) is None:
                raise UserError(f"it ended without results below {self.out}")
        except UserError as error:
            self.fail(one.wanted, str(error))
            return
        self.found[one.wanted.name] = folder
        self._weight += one.wanted.weight * (1 - (one.first or 0.0))

    def status(self) -> str:
        """ "12 of 68 runs done, 1 failed; tadt/tadt, seed 1: 40%; about 12:30 left"."""
        done = self._weight + sum(one.wanted.weight * (one.share - (one.first or 0.0)) for one in self._running)
        left = sum(one.wanted.weight * (1 - one.share) for one in self._running)
        there = {*self.found, *self.failed, *(one.wanted.name for one in self._running)}
        left += sum(one.weight for name, one in self.wanted.items() if name not in there)
        elapsed = time.monotonic() - self._began
        running = ", ".join(f"{one.wanted.name} {one.share:.0%}" for one in self._running)
        failed = f", {len(self.failed)} failed" if self.failed else ""
        text = f"{len(self.found)} of {len(self.wanted)} runs done{failed}; {running}"
        known = done > 0.02 * (done + left)  # before that the shares of the first steps say little
        return text + (f"; about {duration(elapsed * left / done)} left" if known else "")
