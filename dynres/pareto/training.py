"""Runs of `python -m dynres.run`: found again when they are finished, resumed when they are not, else started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from dynres.build import configuration_errors
from dynres.checks import check
from dynres.errors import UserError
from dynres.folders import experiment_name, register_resolvers, settings, unfinished
from dynres.paths import conf_dir


def composed(command: Sequence[str]) -> DictConfig:
    """The configuration of a command, as dynres.run gets it, checked before hours are spent.

    Raises:
        UserError: what dynres.run would refuse before it reads data.
    """
    register_resolvers()
    with configuration_errors():
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("config", list(command), return_hydra_config=True)
        choices: dict[str, str] = dict(cfg.hydra.runtime.choices)
        with open_dict(cfg):
            del cfg["hydra"]
        cfg.experiment_name = experiment_name(choices)
        check(cfg, choices)
    return cfg


def finished(out: Path, cfg: DictConfig) -> Path | None:
    """The newest finished run below `out` with the same resolved configuration, or None."""
    alike = [folder for folder in _alike(out, cfg) if (folder / "summary.json").is_file()]
    alike = [folder for folder in alike if (folder / "checkpoints" / "last.ckpt").is_file()]
    return max(alike, key=lambda folder: (folder / "summary.json").stat().st_mtime, default=None)


def begun(out: Path, cfg: DictConfig) -> bool:
    """Whether a run below `out` with the same resolved configuration was interrupted."""
    return any(unfinished(folder) for folder in _alike(out, cfg))


def _alike(out: Path, cfg: DictConfig) -> list[Path]:
    wanted = settings(cfg, "out")
    files = out.rglob("config.yaml")
    return [file.parent for file in files if settings(OmegaConf.load(file), "out") == wanted]


def run(command: Sequence[str], log: Path, told: Callable[[str], None]) -> None:
    """Run a command in a process of its own, to its end; what it prints is appended to `log`.

    On SIGTERM and Ctrl-C it is ended too, its last checkpoint written, before this process ends. Where this one is
    killed, the other ends at the next line that it prints: nothing trains on unseen.

    Args:
        command: arguments of `python -m dynres.run`.
        told: called with every line that it prints.

    Raises:
        UserError: it failed; with the reason it gave.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: deque[str] = deque(maxlen=20)
    process = subprocess.Popen(
        [sys.executable, "-m", "dynres.run", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    with open(log, "a", encoding="utf-8") as file, _sigterm_raises():
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                if line.strip():
                    last.append(line.strip())
                told(line)
        except BaseException:
            process.terminate()
            file.write(process.stdout.read())  # as long as it writes its checkpoint
            raise
        finally:
            process.wait()
            process.stdout.close()
    if process.returncode:
        reasons = [line.removeprefix("error: ") for line in last if line.startswith("error: ")]
        reason = (reasons or list(last) or ["it printed nothing"])[-1]
        raise UserError(f"{reason} (exit code {process.returncode}; all it printed: {log})")


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM as SystemExit(143), so that what is running can be ended first."""

    def stop(signum: int, frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
