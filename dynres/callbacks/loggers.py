"""Where metrics go: metrics.csv always, Weights & Biases and TensorBoard as conf/logger says."""

from __future__ import annotations

import csv
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from dynres.callbacks import wandb_log
from dynres.callbacks.wandb_log import WandbLog
from dynres.errors import UserError
from dynres.files import atomic_file

WANDB_MODES = ("auto", "online", "offline", "disabled")


class CsvLog(Logger):
    """metrics.csv in the run's folder: one line for each time metrics are logged, on the disk at once.

    Columns are step, then every metric's name in the order of its first appearance; a cell is empty where a line has no
    such metric. `step` counts the optimizer steps before the one that logged, from 0.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": 0 if step is None else step, **metrics}
        columns = self._columns()
        if new := [name for name in row if name not in columns]:
            self._write([*columns, *new], read_metrics(self.path))
            columns = [*columns, *new]
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, columns, lineterminator="\n").writerow(row)

    @rank_zero_only
    def keep_before(self, step: int) -> None:
        """Forget the lines of `step` and later, which a run resumed at `step` will write again."""
        if self.path.exists():
            self._write(self._columns(), [row for row in read_metrics(self.path) if int(row["step"]) < step])

    def _columns(self) -> list[str]:
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    def _write(self, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
        with atomic_file(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The whole lines of a metrics.csv; a last line that a full disk cut short is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


class MetricsFile(Callback):
    """Lets metrics.csv continue where a resumed run does, without gaps, repeats or shifted steps."""

    def __init__(self) -> None:
        self._first = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first = True
        for logger in trainer.loggers:
            if isinstance(logger, CsvLog):
                logger.keep_before(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._first:  # Lightning counts one too many after a checkpoint written between two steps
            self._first = False
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


def build_loggers(settings: Mapping[str, Any], folder: Path, name: str, config: Mapping[str, Any]) -> list[Logger]:
    """The loggers of a run: CsvLog first, then what `settings` (conf/logger) asks for.

    Args:
        settings: {"wandb": None or {project, entity, mode, group, tags}, "tensorboard": None or {}}.
        folder: the run's folder; everything is written below it.
        name: the run's name in Weights & Biases.
        config: the resolved configuration, plain types.

    Raises:
        UserError: an unknown logger or option, TensorBoard that cannot be imported, or W&B asked for online without an
            account or without a package that works. Any other trouble with W&B is said, and it is left out.
    """
    if unknown := sorted(set(settings) - {"wandb", "tensorboard"}):
        raise UserError(f"logger.{unknown[0]} is unknown: known are wandb, tensorboard (metrics.csv is always there)")
    loggers: list[Logger] = [CsvLog(folder)]
    if (options := settings.get("wandb")) is not None:
        asked = _checked(options, "wandb", _WANDB_DEFAULTS)
        wish = asked.pop("mode")
        mode = wandb_mode(wish, os.environ)
        if mode != "disabled":
            log = wandb_log.start(mode, wish == "online", folder, name, config, **asked)
            loggers += [] if log is None else [log]
    if (options := settings.get("tensorboard")) is not None:
        _checked(options, "tensorboard", {})
        loggers += _tensorboard(folder)
    return loggers


def finish(loggers: Sequence[Logger], failed: bool = False) -> None:
    """End the loggers' runs, without waiting for a network for more than a minute; call it whatever happened."""
    for logger in loggers:
        if isinstance(logger, WandbLog):
            logger.finish(failed)


_WANDB_DEFAULTS: dict[str, Any] = {"project": "dynres", "entity": None, "mode": "auto", "group": None, "tags": ()}


def _checked(options: Mapping[str, Any], logger: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := sorted(set(options) - set(defaults)):
        raise UserError(f"logger.{logger}.{unknown[0]} is unknown: options are {', '.join(defaults) or 'none'}")
    return {**defaults, **options}


def _tensorboard(folder: Path) -> list[Logger]:
    try:
        return [TensorBoardLogger(folder, name="", version="tensorboard")]
    except ImportError as error:
        raise UserError(f"TensorBoard cannot be imported ({error}): pip install tensorboard, or logger=csv") from error


def wandb_mode(requested: str, environment: Mapping[str, str]) -> str:
    """online, offline or disabled. WANDB_MODE decides where it is set; "auto" is online for who has an account.

    Raises:
        UserError: an unknown mode, or online without an account.
    """
    if requested not in WANDB_MODES:
        raise UserError(f"logger.wandb.mode must be one of {', '.join(WANDB_MODES)}, got {requested!r}")
    told = environment.get("WANDB_MODE", "").lower()
    if told:
        return {"dryrun": "offline", "run": "online", "shared": "online"}.get(told, told)
    if environment.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    account = has_account(environment)
    if requested == "online" and not account:
        raise UserError("logger.wandb.mode=online needs an account: `wandb login`, or logger.wandb.mode=offline")
    return ("online" if account else "offline") if requested == "auto" else requested


def has_account(environment: Mapping[str, str]) -> bool:
    """Whether W&B would find a key by itself: WANDB_API_KEY, or a netrc entry for its host. The key is not read out."""
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    home = Path(environment.get("HOME") or Path.home())
    files = [Path(environment["NETRC"])] if environment.get("NETRC") else [home / ".netrc", home / "_netrc"]
    for file in files:
        try:
            if file.is_file() and host in netrc.netrc(str(file)).hosts:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
