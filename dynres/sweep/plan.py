"""What a sweep will run, where, and whether it may be resumed: decided before its first job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from dynres.errors import UserError
from dynres.sweep.record import FILE, Record, newest, record_of, same, write_record
from dynres.sweep.state import FILE as STATE
from dynres.sweep.state import key_of, read_jobs, runs
from dynres.sweep.status import all_done


@dataclass(frozen=True)
class Plan:
    """A sweep about to run.

    Attributes:
        folder: of the sweep.
        resumed: whether it was begun before.
        total: jobs in all.
        labels: number -> what tells a job from the others, where the sweeper decides it beforehand.
        swept: the keys that the sweep varies.
        apart: whether jobs run in processes of their own.
    """

    folder: Path
    resumed: bool
    total: int
    labels: dict[int, str]
    swept: set[str]
    apart: bool


def plan(config: DictConfig) -> Plan:
    """Read a multirun's configuration, choose its folder and write sweep.yaml there; the configuration is adapted.

    Raises:
        UserError: options of `sweep` that make no sense, a folder that holds another sweep, or one to resume that was
            started with other options or cannot be repeated.
    """
    resume, named = config.sweep.resume, config.sweep.folder
    if type(resume) is not bool:
        raise UserError(f"sweep.resume must be true or false, got {resume}")
    if named is not None and not resume:
        raise UserError(f"sweep.folder={named} names a sweep to resume: add sweep.resume=true")
    swept, jobs = _jobs(config)
    record = record_of(config, swept)
    folder = Path(config.hydra.sweep.dir)
    before = _to_resume(record, folder, named, _chosen(config)) if resume else None
    if before is not None:
        _repeatable(config, record)
        _forget(before, in_turn=record.sweeper == "OptunaSweeper")
    elif resume:
        print("sweep.resume=true: no sweep of this command, starting a new one")
    folder = before or _unused(folder, _chosen(config))
    _direct(config, folder)
    if before is None:
        write_record(folder, record)
    labels = {number: " ".join(one for one in job if key_of(one) in swept) for number, job in enumerate(jobs)}
    total = len(jobs) or int(OmegaConf.select(config, "hydra.sweeper.n_trials") or 0)
    apart = not str(config.hydra.launcher["_target_"]).endswith(".BasicLauncher")
    return Plan(folder, before is not None, total, labels, set(swept), apart)


def _jobs(config: DictConfig) -> tuple[dict[str, str], list[list[str]]]:
    """(what is swept: key -> values as typed, the overrides of each job; none where the sweeper chooses them later)."""
    params: dict[str, Any] = dict(config.hydra.sweeper.get("params") or {})
    lines = [f"{key}={value}" for key, value in params.items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*lines, *config.hydra.overrides.task])
    swept = {key: str(value) for key, value in params.items()}
    for override in overrides:
        if override.is_sweep_override():
            swept[override.key_or_group] = str(override.input_line).partition("=")[2]
    if not str(config.hydra.sweeper["_target_"]).endswith(".BasicSweeper"):
        return swept, []
    return swept, BasicSweeper.split_arguments(overrides, None)[0]


def _repeatable(config: DictConfig, record: Record) -> None:
    """Finished jobs are known by their number and overrides: the sweeper must ask for the same ones again."""
    if record.sweeper == "BasicSweeper":
        return
    if record.sweeper != "OptunaSweeper":
        raise UserError(
            f"sweep.resume=true works with Hydra's own sweeper and with Optuna's, not with {record.sweeper}"
        )
    if OmegaConf.select(config, "hydra.sweeper.storage") is not None:
        raise UserError("a study with hydra.sweeper.storage keeps its trials itself: leave out sweep.resume")
    if OmegaConf.select(config, "hydra.sweeper.sampler.seed") is None:
        raise UserError(
            "this sweep has no hydra.sweeper.sampler.seed: Optuna would propose other trials than those that finished; "
            "leave out sweep.resume to start a new one, and give it a seed"
        )


def _forget(folder: Path, in_turn: bool) -> None:
    """What has not finished waits again, but for jobs that outlived the command that started them.

    Args:
        in_turn: jobs were chosen by how those before them ended. What failed before one that finished stays failed: a
            value for it would have the sweeper choose others from there on.
    """
    jobs = read_jobs(folder)
    last = max((job.number for job in jobs.values() if job.state == "done"), default=-1)
    for job_folder, job in jobs.items():
        settled = job.state == "done" or (in_turn and job.state == "failed" and job.number < last)
        if not settled and not runs(job_folder):
            (job_folder / STATE).unlink()


def _chosen(config: DictConfig) -> bool:
    """Whether the command names its folder."""
    return any(key_of(one) == "hydra.sweep.dir" for one in config.hydra.overrides.hydra)


def _to_resume(record: Record, folder: Path, named: str | None, chosen: bool) -> Path | None:
    if named is not None:
        return same(Path(named), record)
    if chosen:
        return same(folder, record) if (folder / FILE).is_file() else None
    return newest(record, folder.parent, all_done)


def _unused(folder: Path, chosen: bool) -> Path:
    """The folder of a new sweep: a second one of the same second gets a number."""
    if not (folder / FILE).is_file():
        return folder
    if chosen:
        raise UserError(f"{folder} holds a sweep already: sweep.resume=true resumes it, else name another folder")
    number = 2
    while (other := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return other


def _direct(config: DictConfig, folder: Path) -> None:
    """Send the jobs to a folder. Hydra composes each job's configuration anew, from the overrides it finds here."""
    hydra = config.hydra
    with open_dict(hydra):
        hydra.overrides.task = _without(hydra.overrides.task, "sweep.resume", "sweep.folder")
        if Path(hydra.sweep.dir) != folder:
            text = str(folder).replace("\\", "\\\\").replace("'", "\\'")
            hydra.overrides.hydra = [*_without(hydra.overrides.hydra, "hydra.sweep.dir"), f"hydra.sweep.dir='{text}'"]
            hydra.sweep.dir = str(folder)


def _without(overrides: Iterable[str], *keys: str) -> list[str]:
    return [one for one in overrides if key_of(one) not in keys]
