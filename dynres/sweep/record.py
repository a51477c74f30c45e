"""What a sweep is (sweep.yaml in its folder), and which sweep a command resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from dynres.errors import UserError
from dynres.files import write_text
from dynres.folders import experiment_name
from dynres.sweep.state import key_of

FILE = "sweep.yaml"
NAMED = 6  # changed options that a refusal names

# What a resumed sweep may say differently: where its jobs run, how many at a time, and how many Optuna tries.
_FREE = ("hydra.sweeper.n_trials", "hydra.sweeper.max_batch_size")


@dataclass(frozen=True)
class Record:
    """What sweep.yaml says.

    started: ISO 8601; command: overrides; sweeper: its class; choices: of conf/, by group, but those that others bring
    along; settings: dotted key -> value of all that decides what its jobs are, interpolations unresolved; swept: key ->
    values.
    """

    experiment: str
    started: str
    command: list[str]
    sweeper: str
    choices: dict[str, str]
    settings: dict[str, Any]
    swept: dict[str, str]


def record_of(cfg: DictConfig, swept: Mapping[str, str]) -> Record:
    """The record of a multirun's configuration, hydra's node included.

    Args:
        swept: the keys that get several values, and these, as typed.
    """
    choices = dict(cfg.hydra.runtime.choices)
    everything: Any = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    sweeper = everything.pop("hydra")["sweeper"]
    sweeper.pop("params", None)  # they are in `swept`
    everything.pop("sweep", None)
    return Record(
        experiment=experiment_name(choices),
        started=datetime.now().isoformat(),
        command=not_of_the_launcher(cfg.hydra.overrides.task),
        sweeper=str(sweeper["_target_"]).rpartition(".")[2],
        choices={key: str(value) for key, value in choices.items() if key.isidentifier() and key != "sweep"},
        settings={key: value for key, value in _flat({**everything, "hydra.sweeper": sweeper}) if key not in _FREE},
        swept=dict(swept),
    )


def not_of_the_launcher(overrides: Iterable[str]) -> list[str]:
    """Without `sweep.resume=true` and `+sweep=joblib`: they may differ from one start of a sweep to the next."""
    return [one for one in overrides if key_of(one).partition(".")[0] != "sweep"]


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def write_record(folder: Path, record: Record) -> None:
    write_text(folder / FILE, yaml.safe_dump(asdict(record), sort_keys=False, allow_unicode=True))


def read_record(folder: Path) -> Record:
    """The record of a sweep's folder.

    Raises:
        UserError: it has none, or not a whole one.
    """
    try:
        return Record(**yaml.safe_load((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder} is not the folder of a sweep that can be resumed: no {FILE} in it") from error


def changed(before: Record, now: Record) -> list[str]:
    """The options in which two sweeps differ; of those that a changed choice brings along, the choice alone."""
    if before.experiment != now.experiment:
        return ["experiment"]
    choices = _different(before.choices, now.choices)
    swept = _different(before.swept, now.swept)
    settings = [key for key in _different(before.settings, now.settings) if key.partition(".")[0] not in choices]
    return [*choices, *(key for key in swept if key not in choices), *(key for key in settings if key not in swept)]


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    absent = object()
    keys = dict.fromkeys([*before, *now])
    return [key for key in keys if before.get(key, absent) != now.get(key, absent)]


def same(folder: Path, now: Record) -> Path:
    """The folder of a sweep that a command names.

    Raises:
        UserError: it holds none, or one that was started with other options.
    """
    _refuse(folder, changed(read_record(folder), now))
    return folder


def newest(now: Record, parent: Path, finished: Callable[[Path], bool]) -> Path | None:
    """The newest sweep of a command in a folder of sweeps, or None.

    Args:
        finished: of a sweep's folder, whether nothing of it is left to run.

    Raises:
        UserError: the newest unfinished sweep of the experiment was started with other options, and none with these.
    """
    records = {}
    for file in parent.glob(f"*/{FILE}"):
        with suppress(UserError):  # of another version
            records[file.parent] = read_record(file.parent)
    by_age = sorted(records, key=lambda one: records[one].started, reverse=True)
    for other in by_age:
        if not changed(records[other], now):
            return other
    for other in by_age:
        if records[other].experiment == now.experiment and not finished(other):
            _refuse(other, changed(records[other], now))
    return None


def _refuse(folder: Path, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise UserError(
            f"{folder} was started with other values of {', '.join(names[:NAMED])}{more}: set them back to resume it, "
            f"name another sweep with sweep.folder=PATH, or leave out sweep.resume to start a new one"
        )
