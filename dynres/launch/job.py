"""What a job of the cluster does; a module of its own, so that the job's process does not import what only submits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from dynres.errors import UserError


class Job:
    """What a job does: `python -m dynres.run`, in a process of its own, which ends when this one does.

    On a signal that its time is over it stops the run, which writes its last checkpoint, and submitit puts the job into
    the queue again.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def __call__(self) -> int:
        """The run's exit code."""
        process = subprocess.Popen(
            [sys.executable, "-m", "dynres.run", *self.command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # broken where this process is killed: the run ends at its next line
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
            return process.wait()
        except BaseException:
            process.terminate()
            print(process.stdout.read(), flush=True)  # as long as it writes its checkpoint
            process.wait()
            raise

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same, since the command says resume=auto."""
        return submitit_module().helpers.DelayedSubmission(self)


def submitit_module() -> Any:
    """The package, or a UserError that says how to get it."""
    try:
        import submitit
    except ImportError as error:
        raise UserError('jobs of a cluster need submitit: pip install "dynres[sweep]"') from error
    return submitit
