"""A run in Weights & Biases: metrics, images, tables and charts; whatever happens to it, training goes on."""

from __future__ import annotations

import math
import re
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from dynres.errors import UserError

STEP = "trainer/global_step"  # the x axis of every metric, as of Lightning's own logger


@dataclass(frozen=True)
class Lines:
    """A chart of lines. lines: name -> (xs, ys), the same xs in each or others."""

    title: str
    x_name: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]


def label_value(label: str) -> float:
    """Where a label lies on a chart's axis: the number in it ("x2": 2, "sigma25": 25), of two the geometric mean."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", label)]
    return math.prod(numbers) ** (1 / len(numbers)) if numbers else 0.0


class WandbLog(Logger):
    """What is logged goes to a W&B run, until something fails there: that is said once, and the rest is left out.

    A full disk, a network that is gone or a W&B process that was killed costs the log there; metrics.csv has it all.

    Args:
        run: a `wandb.Run`; None where nothing is logged (a process other than the first).
        module: the imported `wandb`.
    """

    def __init__(self, run: Any, module: Any) -> None:
        super().__init__()
        self._run = self._logged_to = run
        self._wandb = module
        self._do(lambda run: run.define_metric("*", step_metric=STEP, step_sync=True))

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The whole configuration is with the run already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._do(lambda run: run.log({**metrics, **({} if step is None else {STEP: step})}))

    @rank_zero_only
    def log_image(self, key: str, path: Path, step: int | None = None) -> None:
        """A picture, from its file."""
        self._do(lambda run: run.log({key: self._wandb.Image(str(path)), **({} if step is None else {STEP: step})}))

    @rank_zero_only
    def log_table(self, key: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; an empty cell, as in CSV files, is an unknown value."""
        data = [[None if cell == "" else cell for cell in row] for row in rows]
        self._do(lambda run: run.log({key: self._wandb.Table(columns=list(header), data=data)}))

    @rank_zero_only
    def log_chart(self, key: str, chart: Lines) -> None:
        """A chart in the vector graphics of W&B's page, its numbers a table beside it."""

        def draw(run: Any) -> None:
            xs, ys = ([list(line[axis]) for line in chart.lines.values()] for axis in (0, 1))
            run.log({key: self._wandb.plot.line_series(xs, ys, list(chart.lines), chart.title, chart.x_name)})

        self._do(draw)

    @rank_zero_only
    def log_result(self, values: Mapping[str, float]) -> None:
        """Columns of W&B's table over runs."""
        self._do(lambda run: run.summary.update(dict(values)))

    def finish(self, failed: bool) -> None:
        """End the run, also one that logging stopped for; where it was offline, say how to upload it."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            offline, where = run.settings._offline, Path(run.dir).parent
            run.finish(exit_code=int(failed))
            if offline:
                print(f"W&B: logged offline; to upload it: wandb sync {where}")
        except Exception as error:
            self._stop(error)
            with suppress(Exception):  # else it would try again when Python ends, and the next run of a sweep fail
                self._wandb.run = None
                self._wandb.teardown(1)

    def _do(self, action: Callable[[Any], None]) -> None:
        if self._logged_to is None:
            return
        try:
            action(self._logged_to)
        except Exception as error:  # its own errors, and those of sockets, files and threads under them
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        if self._logged_to is not None:
            self._logged_to = None
            warn(f"stopped logging ({described(error)})")


def warn(what: str) -> None:
    """One line about W&B."""
    print(f"W&B: {what}; the run goes on, metrics.csv has everything", file=sys.stderr, flush=True)


def described(error: Exception) -> str:
    """Class and text in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def start(
    mode: str,
    must: bool,
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    project: str,
    entity: str | None,
    group: str | None,
    tags: Sequence[str],
) -> WandbLog | None:
    """A W&B run that has begun; None where W&B does not work, which is said.

    Args:
        mode: "online" or "offline"; a network that is down makes the first the second.
        must: refuse to go on without a usable `wandb`.
        folder: the run's; W&B writes into wandb/ in it.
        name: of the run.
        config: plain types.

    Raises:
        UserError: `wandb` cannot be imported, with `must`.
    """
    try:
        import wandb
    except Exception as error:  # a broken installation raises anything
        if must:
            cure = "pip install -U wandb, or run with logger=csv"
            raise UserError(f"wandb cannot be imported ({described(error)}): {cure}") from error
        warn(f"wandb cannot be imported ({described(error)})")
        return None
    if rank() != 0:
        return WandbLog(None, wandb)
    try:
        about: dict[str, Any] = {
            "project": project, "entity": entity, "group": group, "tags": list(tags), "name": name[:128],
            "dir": str(folder), "config": dict(config), "id": _run_id(folder), "resume": "allow",
            "settings": _quiet(wandb.Settings),
        }  # fmt: skip
        if wandb.run is not None:  # of an earlier run in this process, in a sweep
            wandb.run.finish()
        try:
            run = wandb.init(**about, mode=mode)  # type: ignore[arg-type]
        except wandb.Error as error:
            if mode != "online":
                raise
            print(f"W&B cannot be reached ({error}): logging offline")
            run = wandb.init(mode="offline", **about)
    except Exception as error:
        warn(f"it cannot start ({described(error)})")
        return None
    return WandbLog(run, wandb)


def rank() -> int:
    """Of this process among those of a distributed run."""
    return int(getattr(rank_zero_only, "rank", None) or 0)


def _quiet(settings: Any) -> Any:
    """No waiting for a network beyond a minute, no copy of the progress bar, no git of its own."""
    wishes = {
        "init_timeout": 30.0, "finish_timeout": 60.0, "silent": True, "console": "off", "disable_git": True,
        "disable_code": True,
    }  # fmt: skip
    return settings(**{key: value for key, value in wishes.items() if key in settings.model_fields})


def _run_id(folder: Path) -> str:
    """W&B's name for the run in this folder, the same after a restart."""
    file = folder / "wandb" / "run-id"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
