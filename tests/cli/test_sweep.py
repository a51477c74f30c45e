"""Many runs from one command, and one table over them; docs/sweeps.md."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from .conftest import start, typed, wait

SHORT = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
EDSR = ["backbone=edsr_baseline", "method=assr"]
PLUGINS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "optuna": "hydra_plugins.hydra_optuna_sweeper",
}


def table(here: Path) -> list[dict[str, str]]:
    """The one summary table below `here`."""
    (file,) = here.glob("runs/sweep/*/summary_table.csv")
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def needs(plugin: str) -> None:
    pytest.importorskip(PLUGINS[plugin], reason=f'{plugin} needs pip install "dynres[sweep]"')


def test_a_multirun_is_every_combination_and_one_table(here: Path, tiny: list[str]) -> None:
    ended = typed("-m", *EDSR, *tiny, *SHORT, "seed=0,1", "method.learning_rate=1e-3,2e-4")
    assert ended.code == 0, ended.err
    rows = table(here)
    assert [(row["seed"], row["overrides"]) for row in rows] == [
        ("0", "method.learning_rate=0.001"), ("0", "method.learning_rate=0.0002"),
        ("1", "method.learning_rate=0.001"), ("1", "method.learning_rate=0.0002"),
    ]  # fmt: skip
    assert "4 runs in" in ended.out and all(float(row["held-out x2 dB"]) > 5 for row in rows)


def test_a_failed_job_does_not_stop_the_others(here: Path, tiny: list[str]) -> None:
    ended = typed("-m", *EDSR, *tiny, *SHORT, "seed=-1,0")
    assert ended.code == 2 and ended.err.strip().splitlines()[-1].startswith("error: seed"), ended.err
    assert "Traceback" not in ended.err
    (finished,) = here.glob("runs/sweep/*/*/summary.json")
    assert json.loads(finished.read_text())["seed"] == 0


def test_optuna_maximises_what_a_run_returns(here: Path, tiny: list[str]) -> None:
    needs("optuna")
    ended = typed("-m", "+experiment=tadt_liif", "+sweep=optuna", *tiny, *SHORT, "hydra.sweeper.n_trials=2")
    assert ended.code == 0, ended.err
    (file,) = here.glob("runs/sweep/*/optimization_results.yaml")
    best = max(float(row["held-out x2 dB"]) for row in table(here))
    found = float(next(line for line in file.read_text().splitlines() if "best_value" in line).split(":")[1])
    assert found == pytest.approx(best, abs=0.01), f"best of the study {found} dB, of the table {best} dB"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_the_jobs(launcher: str, here: Path, tiny: list[str]) -> None:
    """Each job is a process of its own; one of the two commands is too, and sends what a shell made `__main__`."""
    needs(launcher)
    command = ["-m", *EDSR, f"+sweep={launcher}", *tiny, *SHORT, "seed=0,1"]
    ended = wait(start(command, here), 280) if launcher == "joblib" else typed(*command)
    assert ended.code == 0, ended.err
    assert [row["seed"] for row in table(here)] == ["0", "1"]
