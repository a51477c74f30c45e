"""The files of conf/callbacks and conf/logger build what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning import Callback

from dynres.callbacks.ema import Ema
from dynres.callbacks.loggers import build_loggers
from dynres.callbacks.panels import Panels
from dynres.callbacks.progress import RunProgress
from dynres.callbacks.summary import SummaryCallback
from dynres.paths import conf_dir


def composed(*overrides: str) -> Any:
    """The groups callbacks and logger alone, with the values a run gives them."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = ["+callbacks=default", "+logger=default"]
        kept = [item for item in chosen if not any(o.startswith(item.split("=")[0] + "=") for o in overrides)]
        run = ["+experiment_name=toy", "+profile_name=smoke", "+seed=3"]
        return compose(None, [*kept, *overrides, *run])


def callbacks(*overrides: str) -> dict[str, Callback]:
    return {name: instantiate(node, _convert_="all") for name, node in composed(*overrides).callbacks.items()}


def test_the_default_callbacks_are_built_with_the_runs_names() -> None:
    built = callbacks()
    assert "ema" not in built and isinstance(built["progress"], RunProgress)
    summary = built["summary"]
    assert isinstance(summary, SummaryCallback)
    assert (summary.experiment, summary.profile, summary.seed) == ("toy", "smoke", 3)


def test_a_knob_turns_and_a_callback_can_be_left_out() -> None:
    built = callbacks("callbacks.panels.count=3", "~callbacks.beta")
    assert isinstance(built["panels"], Panels) and built["panels"].count == 3
    assert "beta" not in built


def test_ema_is_the_default_and_the_average_last() -> None:
    built = callbacks("+callbacks=ema")
    assert list(built) == [*callbacks(), "ema"], "what is written after a test is written before the weights swap back"
    assert isinstance(built["ema"], Ema) and built["ema"].decay == 0.999


@pytest.mark.parametrize(("name", "kinds"), [("csv", 1), ("default", 1), ("tensorboard", 2)])
def test_logger_files_hold_what_build_loggers_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kinds: int
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    settings = OmegaConf.to_container(composed(f"+logger={name}").logger)
    assert isinstance(settings, dict)
    assert len(build_loggers(settings, tmp_path, "name", {})) == kinds


def test_logger_wandb_insists_on_being_online() -> None:
    assert composed("+logger=wandb").logger.wandb.mode == "online"
    assert composed().logger.wandb.mode == "auto"
