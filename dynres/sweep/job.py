"""One job of a sweep: begun, resumed, or already done."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dynres.errors import UserError
from dynres.folders import unfinished
from dynres.sweep.record import not_of_the_launcher
from dynres.sweep.state import Job, only_one, read_job, write_job
from dynres.sweep.watch import look, watching


def perform(cfg: DictConfig, run: Callable[[DictConfig], float], score: Callable[[Path], float]) -> float | None:
    """Run one job of a sweep, unless it has finished before; one that was begun goes on from its last checkpoint.

    Args:
        cfg: of the job; `resume` and the group of its W&B run are filled in.
        run: of a configuration; returns the score.
        score: of the folder of a finished run, what `run` returned for it.

    Returns:
        The score; None where the job failed under Hydra's own sweeper, which would else leave out further batches.

    Raises:
        UserError: the folder is of another job; or the job failed under another sweeper, which counts failures
            (`hydra.sweeper.max_failure_rate`).
    """
    hydra, parent = HydraConfig.get(), os.getppid()
    folder = Path(hydra.runtime.output_dir)
    job = Job(int(hydra.job.num), not_of_the_launcher(hydra.overrides.task), "running", time.time()).here()
    try:
        with only_one(folder):
            before = read_job(folder)
            if before is not None and before.overrides != job.overrides:
                raise UserError(f"{folder} is of another job, {' '.join(before.overrides)}")
            try:
                return _performed(cfg, folder, job, before, run, score)
            except UserError:
                if str(hydra.sweeper["_target_"]).endswith(".BasicSweeper"):
                    return None
                raise
    finally:
        if os.getppid() != parent and not watching():
            os._exit(1)  # the command was killed: nobody hears the result, nor ever ends this process (joblib)


def _performed(
    cfg: DictConfig,
    folder: Path,
    job: Job,
    before: Job | None,
    run: Callable[[DictConfig], float],
    score: Callable[[Path], float],
) -> float:
    if before is not None and before.state == "failed":  # and stays so: see plan._forget
        raise UserError(str(before.reason))
    if (folder / "summary.json").is_file():
        if before is None or before.state != "done":  # finished by hand
            write_job(folder, replace(job, state="done", ended=job.started, value=score(folder)))
            look()
        return score(folder)
    if cfg.logger.get("wandb") is not None and cfg.logger.wandb.get("group") is None:
        cfg.logger.wandb.group = folder.parent.name
    if unfinished(folder):
        cfg.resume = "auto"
    write_job(folder, job)
    look()
    try:
        value = run(cfg)
    except Exception as error:
        raise UserError(_failed(folder, job, error)) from None
    except BaseException:  # SIGTERM, Ctrl-C
        write_job(folder, replace(job, state="interrupted", ended=time.time()))
        raise
    write_job(folder, replace(job, state="done", ended=time.time(), value=value))
    look()
    return value


def _failed(folder: Path, job: Job, error: Exception) -> str:
    """Keep the reason of a failure, and the whole story where it is no mistake of the user's."""
    reason = " ".join(str(error).split())
    if not isinstance(error, UserError):
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        reason = f"{type(error).__name__}: {reason} ({folder / 'error.txt'})"
    (folder / "summary.json").unlink(missing_ok=True)  # of a run whose last steps failed: it has not finished
    write_job(folder, replace(job, state="failed", ended=time.time(), reason=reason))
    look()
    return reason
