"""metrics.csv is one file, whole at every moment; which loggers a run has, and how W&B runs (test_wandb_log.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from dynres.callbacks.loggers import CsvLog, build_loggers, has_account, read_metrics, wandb_mode
from dynres.errors import UserError


def test_each_line_is_on_the_disk_at_once_and_new_columns_keep_the_old_lines(tmp_path: Path) -> None:
    log = CsvLog(tmp_path)
    log.log_metrics({"train/loss": 0.5}, step=0)
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss\n0,0.5\n"
    log.log_metrics({"val/psnr": 30.25, "epoch": 0}, step=0)
    log.log_metrics({"train/loss": 0.25}, step=1)
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss,val/psnr,epoch\n0,0.5,,\n0,,30.25,0\n1,0.25,,\n"


def test_a_line_that_a_full_disk_cut_short_is_forgotten(tmp_path: Path) -> None:
    log = CsvLog(tmp_path)
    for step in range(3):
        log.log_metrics({"a": step / 4}, step=step)
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("3,0.7")
    log.keep_before(10)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == ["0", "1", "2"]
    log.log_metrics({"a": 1.0}, step=3)
    assert read_metrics(tmp_path / "metrics.csv")[-1] == {"step": "3", "a": "1.0"}


def test_lines_from_the_resumed_step_on_are_dropped(tmp_path: Path) -> None:
    log = CsvLog(tmp_path)
    for step in range(5):
        log.log_metrics({"a": 0.0}, step=step)
    CsvLog(tmp_path).keep_before(3)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == ["0", "1", "2"]


def test_a_new_run_in_an_old_folder_starts_a_new_file(
    tmp_path: Path, make_trainer: Callable[..., Trainer], fit: Callable[..., Any]
) -> None:
    fit(make_trainer(max_steps=3, val_check_interval=100))
    fit(make_trainer(max_steps=2, val_check_interval=100))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == ["0", "1"]


@pytest.mark.parametrize(
    ("requested", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("online", {"WANDB_API_KEY": "k"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("disabled", {"WANDB_API_KEY": "k"}, "disabled"),
        ("auto", {"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "dryrun"}, "offline"),
        ("offline", {"WANDB_DISABLED": "true"}, "disabled"),
    ],
)
def test_wandb_is_online_only_for_who_has_an_account(
    tmp_path: Path, requested: str, environment: dict[str, str], mode: str
) -> None:
    assert wandb_mode(requested, {"HOME": str(tmp_path), **environment}) == mode


def test_wandb_online_without_an_account_is_an_error_and_not_a_prompt(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs an account: `wandb login`"):
        wandb_mode("online", {"HOME": str(tmp_path)})
    with pytest.raises(UserError, match="must be one of auto, online, offline, disabled, got 'of'"):
        wandb_mode("of", {})


def test_an_account_in_netrc_counts_for_its_own_host_only(tmp_path: Path) -> None:
    file = tmp_path / "some.netrc"
    file.write_text("machine api.wandb.ai login user password none\n")
    file.chmod(0o600)
    here = {"NETRC": str(file), "HOME": str(tmp_path)}
    assert has_account(here)
    assert not has_account(here | {"WANDB_BASE_URL": "https://wandb.example.org"})
    file.write_text("machine\n")
    assert not has_account(here), "a broken netrc is no account"


def test_what_is_asked_for_is_built_and_csv_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    built = build_loggers({"wandb": {}, "tensorboard": {}}, tmp_path, "name", {})
    assert [type(logger) for logger in built] == [CsvLog, TensorBoardLogger], "disabled W&B is no logger"
    assert [type(logger) for logger in build_loggers({"wandb": None}, tmp_path, "name", {})] == [CsvLog]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"comet": {}}, "logger.comet is unknown: known are wandb, tensorboard"),
        (
            {"wandb": {"projekt": "x"}},
            "logger.wandb.projekt is unknown: options are project, entity, mode, group, tags",
        ),
        ({"tensorboard": {"port": 1}}, "logger.tensorboard.port is unknown: options are none"),
    ],
)
def test_an_unknown_logger_or_option_is_named(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build_loggers(settings, tmp_path, "name", {})


def test_figures_go_to_tensorboard(tmp_path: Path) -> None:
    from matplotlib.figure import Figure
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from dynres.callbacks.common import save_figure

    built = build_loggers({"tensorboard": {}}, tmp_path, "name", {})
    trainer = Trainer(logger=built, default_root_dir=tmp_path, enable_checkpointing=False, enable_progress_bar=False)
    save_figure(trainer, Figure(figsize=(1, 1)), "figure.png", "key/figure")
    built[1].experiment.flush()  # type: ignore[attr-defined]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["key/figure"]
