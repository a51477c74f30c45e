"""One run in a process of its own, its lines heard while it goes on."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from dynres.errors import UserError

# What every run imports (seconds): the server that forks runs has it already.
PRELOADED = ["dynres.run", "dynres.callbacks.panels", "dynres.methods.tadt", "torchmetrics"]


class Run:
    """A run of `python -m dynres.run`; what it prints is appended to a log and kept to be read.

    Where the process that started it is killed, it ends at the next line that it prints: nothing trains on unseen.

    Args:
        command: arguments of `python -m dynres.run`.
        log: a file.
        threads: that the run computes with on a CPU, in a process forked from a server that has imported everything
            already; None for a process and threads as the shell would give them (GPUs, several processes).
    """

    def __init__(self, command: Sequence[str], log: Path, threads: int | None = None) -> None:
        self.command, self.log = list(command), log
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=20)
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process: Any
        if threads is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dynres.run", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            assert self._process.stdout is not None
            stream: IO[bytes] = self._process.stdout
        else:
            ours, theirs = _server(threads).Pipe(duplex=False)
            self._process = _server(threads).Process(target=_forked, args=(self.command, theirs, threads))
            self._process.start()
            theirs.close()
            stream = os.fdopen(os.dup(ours.fileno()), "rb", buffering=0)
            ours.close()
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream, open(self.log, "ab", buffering=0) as file:
            rest = b""
            while chunk := os.read(stream.fileno(), 65536):
                file.write(chunk)
                *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
                for line in lines:
                    self._hear(line)
            self._hear(rest)

    def _hear(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        if text.strip():
            self._last.append(text.strip())
            self.lines.put(text)

    def ended(self) -> bool:
        """Whether it has ended and all it printed was read."""
        if self._code() is None:
            return False
        self._reader.join()
        return True

    def _code(self) -> int | None:
        code: int | None
        code = self._process.poll() if isinstance(self._process, subprocess.Popen) else self._process.exitcode
        return code

    def check(self) -> None:
        """Of an ended run.

        Raises:
            UserError: it failed; with the reason it gave.
        """
        if code := self._code():
            errors = [line.removeprefix("error: ") for line in self._last if line.startswith("error: ")]
            killed = [f"killed by signal {-code}" + ", perhaps for lack of memory" * (code == -9)] if code < 0 else []
            reason = (errors or killed or list(self._last) or ["it printed nothing"])[-1]
            raise UserError(f"{reason} (exit code {code}; all it printed: {self.log})")

    def stop(self) -> None:
        """End it, as long as it takes to write its last checkpoint."""
        if self._code() is None:
            self._process.terminate()
        wait = self._process.wait if isinstance(self._process, subprocess.Popen) else self._process.join
        wait()
        self._reader.join()


def _server(threads: int) -> Any:
    """The context whose processes are forked from one that has imported what a run imports."""
    context = multiprocessing.get_context("forkserver")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when the server imports torch
    context.set_forkserver_preload(PRELOADED)
    return context


def _forked(command: list[str], told: Connection, threads: int) -> None:
    """In the new process: `python -m dynres.run COMMAND`, printing into a pipe."""
    os.dup2(told.fileno(), 1)
    os.dup2(told.fileno(), 2)
    told.close()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    import torch

    from dynres.run import main

    torch.set_num_threads(threads)
    sys.argv = ["dynres.run", *command]
    main()


def run(command: Sequence[str], log: Path, told: Callable[[str], None]) -> None:
    """Run a command to its end; on SIGTERM and Ctrl-C it is ended first, its last checkpoint written.

    Args:
        told: called with every line that it prints.

    Raises:
        UserError: it failed; with the reason it gave.
    """
    one, ended = Run(command, log), False
    with sigterm_raises():
        try:
            while not ended:
                ended = one.ended()
                while not one.lines.empty():
                    told(one.lines.get())
                time.sleep(0 if ended else 0.1)
        except BaseException:
            one.stop()
            raise
    one.check()


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM as SystemExit(143), so that what is running can be ended first."""

    def stop(signum: int, frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
