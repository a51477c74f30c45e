"""What W&B gets, read back from its own log; and that nothing W&B does stops a run."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning import Trainer

from dynres.callbacks import loggers
from dynres.callbacks.beta import BetaCurve, threshold
from dynres.callbacks.flops import Flops
from dynres.callbacks.loggers import CsvLog, build_loggers, finish, read_metrics
from dynres.callbacks.panels import Panels
from dynres.callbacks.routing import RoutingMap
from dynres.callbacks.summary import SummaryCallback
from dynres.callbacks.wandb_log import Lines, WandbLog, label_value
from dynres.callbacks.ways import against_macs
from dynres.errors import UserError


def records(folder: Path) -> list[Any]:
    """The records of the offline run in a folder, once W&B's process has written the last of them."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 20
    while not (found := list(parsed(file.read_bytes()))) or not any(record.HasField("exit") for record in found):
        assert time.monotonic() < deadline, f"{file} has {len(found)} records, and no last one"
        time.sleep(0.05)
    return found


def parsed(content: bytes) -> Iterator[Any]:
    """The records of a .wandb file, as far as it is written.

    It is a header of 7 bytes, then blocks of 32 KiB with pieces of records: crc (4 bytes), length (2), kind (1: a whole
    record, 2, 3, 4: its first, a middle and its last piece); what is left of a block has no room for a header.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    at, parts = 7, b""
    while at + 7 <= len(content):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        at += 7 + length
        if at > len(content):
            return
        parts += content[at - length : at]
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""


def logged(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Of the run in a folder: what each call logged, the columns of the table over runs, and how charts are drawn."""
    history, summary, charts = [], {}, {}
    for record in records(folder):
        if record.HasField("history"):
            items: dict[str, Any] = {}
            for item in record.history.item:
                value = json.loads(item.value_json)
                key, *inner = item.nested_key or [item.key]
                items[key] = items.get(key, {}) | {inner[0]: value} if inner else value
            history.append(items)
        for item in record.summary.update:
            summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        for item in record.config.update:
            if list(item.nested_key)[:2] == ["_wandb", "visualize"]:
                charts[item.nested_key[2]] = json.loads(item.value_json)
    return history, summary, charts


def table(folder: Path, history: list[dict[str, Any]], key: str) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the table that was logged last under a key."""
    (about, *_) = [items[key] for items in reversed(history) if key in items]
    (file,) = folder.glob(f"wandb/offline-run-*/files/{about['path']}")
    content = json.loads(file.read_text())
    return content["columns"], content["data"]


def offline(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Any]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    return list(build_loggers({"wandb": options}, folder, "name", {"method": {"a": 1}}))


def test_tables_charts_and_pictures_of_a_test_arrive(
    tmp_path: Path, check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real thing, without a network or a key: about four seconds."""
    built = offline(tmp_path, monkeypatch, project="p", tags=["t"], group="g")
    watchers = [SummaryCallback("e", "demo", 0), Flops(), RoutingMap(), BetaCurve(), Panels()]
    check(*watchers, folder=tmp_path, logger=built)
    finish(built)
    assert "wandb sync " in capsys.readouterr().out
    (run,) = [record.run for record in records(tmp_path) if record.HasField("run")]
    assert (run.run_group, run.display_name, list(run.tags)) == ("g", "name", ["t"])
    assert run.run_id == (tmp_path / "wandb" / "run-id").read_text(), "a resumed run keeps its name"

    history, summary, charts = logged(tmp_path)
    columns, rows = table(tmp_path, history, "tables/per_image")
    written = (tmp_path / "per_image.csv").read_text().splitlines()
    assert columns == written[0].split(",") and len(rows) == len(written) - 1 == 6
    columns, rows = table(tmp_path, history, "tables/summary")
    means = json.loads((tmp_path / "summary.json").read_text())["metrics"]["Toy"]
    assert [row[columns.index("psnr")] for row in rows] == pytest.approx([means[key]["psnr"] for key in means])
    assert summary["test/Toy/x2/psnr"] == pytest.approx(means["x2"]["psnr"])
    for name in ("macs", "routing", "beta_curve"):
        columns, rows = table(tmp_path, history, f"tables/{name}")
        written = (tmp_path / f"{name}.csv").read_text().splitlines()
        assert columns == written[0].split(",") and len(rows) == len(written) - 1, name

    assert set(charts) == {"charts/beta", "charts/routing", "charts/macs"}
    _, rows = table(tmp_path, history, "charts/beta_table")
    at_four = {name: y for x, name, y in rows if x == 4}
    assert at_four["threshold"] == pytest.approx(threshold(4)) and 0 < at_four["beta"] < 2, at_four
    _, rows = table(tmp_path, history, "charts/routing_table")
    assert {name for _, name, _ in rows} == {"4x4", "8x8", "global"}
    assert [x for x, name, _ in rows if name == "global"] == [2, 3, 4], "one point a scale"
    _, rows = table(tmp_path, history, "charts/macs_table")
    assert {name for _, name, _ in rows} == {"Toy", "Toy, all units on"}

    pictures = {
        key for items in history for key, value in items.items() if isinstance(value, dict) and "height" in value
    }
    assert {"test/macs", "test/routing", "beta_curve", "panels/Toy_x2_1"} <= pictures
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/panels/*.png"))) == 3


def test_metrics_carry_the_step_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = offline(tmp_path, monkeypatch)
    for logger in built:
        logger.log_metrics({"val/psnr": 31.5}, step=3)
    finish(built)
    assert {"val/psnr": 31.5, "trainer/global_step": 3}.items() <= logged(tmp_path)[0][0].items()


@pytest.mark.parametrize(
    ("label", "value"), [("x2", 2), ("x1.5", 1.5), ("x2x8", 4), ("sigma25", 25), ("q10", 10), ("", 0)]
)
def test_a_label_has_its_place_on_an_axis(label: str, value: float) -> None:
    assert label_value(label) == pytest.approx(value)


def test_a_chart_leaves_out_what_is_not_known() -> None:
    chart = against_macs([("a", 2e9, 31.0), ("b", 1e9, None), ("a", 1e9, 30.0)])
    assert chart.lines == {"a": ([1.0, 2.0], [30.0, 31.0])}


# ------------------------------------------------------------------------------------------------ trouble


class Dying:
    """A run whose connection breaks at the third thing that is logged."""

    settings = SimpleNamespace(_offline=True)

    def __init__(self) -> None:
        self.calls = 0

    def define_metric(self, *args: Any, **options: Any) -> None:
        pass

    def log(self, metrics: dict[str, Any]) -> None:
        self.calls += 1
        if self.calls >= 3:
            raise BrokenPipeError("the service is gone")

    def finish(self, exit_code: int) -> None:
        raise BrokenPipeError("the service is gone")


def test_a_wandb_that_dies_in_mid_run_is_said_once_and_training_ends_as_without_it(
    tmp_path: Path,
    fit: Callable[..., Any],
    make_trainer: Callable[..., Trainer],
    capsys: pytest.CaptureFixture[str],
) -> None:
    torn_down = []
    run, module = Dying(), SimpleNamespace(run=object(), teardown=torn_down.append)
    log = WandbLog(run, module)
    fit(make_trainer(logger=[CsvLog(tmp_path / "with"), log], folder=tmp_path / "with"))
    log.log_table("a", ["b"], [[1]])
    log.log_chart("a", Lines("a", "b", {"c": ([1], [2])}))
    finish([log])
    warnings = [line for line in capsys.readouterr().err.splitlines() if "W&B" in line]
    assert len(warnings) == 1 and "BrokenPipeError: the service is gone" in warnings[0], warnings
    assert run.calls == 3 and torn_down == [1] and module.run is None
    fit(make_trainer(folder=tmp_path / "without"))
    assert read_metrics(tmp_path / "with" / "metrics.csv") == read_metrics(tmp_path / "without" / "metrics.csv")


@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_without_wandb_a_run_has_its_metrics_file(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delenv("WANDB_MODE")
    built = build_loggers({"wandb": {"mode": mode}}, tmp_path, "name", {})
    assert [type(logger) for logger in built] == [CsvLog]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("W&B: wandb cannot be imported (ModuleNotFoundError") and "metrics.csv" in line


def test_who_asks_for_wandb_online_hears_at_the_start_that_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb cannot be imported \(ModuleNotFoundError.*logger=csv"):
        build_loggers({"wandb": {"mode": "online"}}, tmp_path, "name", {})


@pytest.mark.parametrize("error", [OSError("No space left on device"), RuntimeError("a bug in it")])
def test_a_wandb_that_cannot_start_is_left_out(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def init(**about: Any) -> Any:
        raise error

    monkeypatch.setattr(wandb, "init", init)
    assert [type(logger) for logger in offline(tmp_path, monkeypatch)] == [CsvLog]
    assert f"cannot start ({type(error).__name__}: {error})" in capsys.readouterr().err


def test_a_network_that_is_down_means_offline_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    asked = []

    def init(mode: str, **about: Any) -> Any:
        asked.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("no route to host")
        return Dying()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(loggers, "wandb_mode", lambda requested, environment: "online")
    built = build_loggers({"wandb": {}}, tmp_path, "name", {})
    assert asked == ["online", "offline"] and isinstance(built[1], WandbLog)
    assert "W&B cannot be reached (no route to host): logging offline" in capsys.readouterr().out
