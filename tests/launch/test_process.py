"""A run in a process of its own: heard, logged, ended before the one that started it; told why it failed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from dynres.errors import UserError
from dynres.launch.process import run


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of shell in the place of python -m dynres.run."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))


def test_a_process_is_listened_to_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, 'echo "$2 $3"; echo "to stderr" >&2', monkeypatch)
    heard: list[str] = []
    for _ in range(2):
        run(["seed=1"], tmp_path / "logs" / "a.log", heard.append)
    assert heard == ["dynres.run seed=1", "to stderr"] * 2
    assert (tmp_path / "logs" / "a.log").read_text() == "".join(f"{line}\n" for line in heard)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'error: no disk'; echo later; exit 2", r"^no disk \(exit code 2; all it printed: .*a\.log\)$"),
        ("echo 'KeyError: x'; echo; exit 1", r"^KeyError: x \(exit code 1"),
        ("exit 1", r"^it printed nothing \(exit code 1"),
        ("echo 'train: step 3/8'; kill -9 $$", r"^killed by signal 9, perhaps for lack of memory \(exit code -9"),
    ],
)
def test_a_process_that_fails_says_why(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, script, monkeypatch)
    with pytest.raises(UserError, match=reason):
        run([], tmp_path / "a.log", lambda line: None)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_process_ends_before_the_one_that_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "trap 'echo saved; exit 143' TERM; echo ready; while :; do sleep 0.05; done", monkeypatch)
    ready = threading.Event()

    def stop() -> None:
        ready.wait(20)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    before, thread = signal.getsignal(signal.SIGTERM), threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit, match="143"):
        run([], tmp_path / "a.log", lambda line: ready.set())
    thread.join()
    assert (tmp_path / "a.log").read_text() == "ready\nsaved\n"
    assert signal.getsignal(signal.SIGTERM) == before
