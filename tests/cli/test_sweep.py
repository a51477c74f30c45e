"""Many runs from one command: one table over them, whatever fails or stops; docs/sweeps.md."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from dynres import run
from dynres.callbacks.checkpoints import Checkpoints

from .conftest import Ended, start, typed, wait

SHORT = ["trainer.max_steps=4", "trainer.val_check_interval=4", "callbacks.checkpoints.every=2"]
EDSR = ["backbone=edsr_baseline", "method=assr"]
PLUGINS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "optuna": "hydra_plugins.hydra_optuna_sweeper",
}


def sweep_of(here: Path) -> Path:
    """The one sweep below `here`."""
    (folder,) = here.glob("runs/sweep/*")
    return folder


def table(sweep: Path) -> list[dict[str, str]]:
    with open(sweep / "summary_table.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def status(sweep: Path) -> dict[str, Any]:
    return dict(json.loads((sweep / "status.json").read_text()))


def states(sweep: Path) -> list[str]:
    """Of the jobs, by number."""
    return [job["state"] for job in status(sweep)["jobs"]]


def begun(ended: Ended) -> list[str]:
    """The numbers of the jobs that a command ran."""
    return [line.split()[1] for line in ended.out.splitlines() if line.startswith("job ") and line.endswith("begins")]


def needs(plugin: str) -> None:
    pytest.importorskip(PLUGINS[plugin], reason=f'{plugin} needs pip install "dynres[sweep]"')


@pytest.fixture(scope="module")
def command(tiny: list[str]) -> list[str]:
    return ["-m", *EDSR, *tiny, *SHORT, "seed=0,1", "method.learning_rate=1e-3,2e-4"]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """A sweep that nothing stopped, and its folder."""
    here = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        ended = typed(*command)
    assert ended.code == 0, ended.err
    return ended, sweep_of(here)


def test_a_multirun_is_every_combination_and_one_table(whole: tuple[Ended, Path]) -> None:
    ended, sweep = whole
    rows = table(sweep)
    assert [(row["seed"], row["overrides"]) for row in rows] == [
        ("0", "method.learning_rate=0.001"), ("0", "method.learning_rate=0.0002"),
        ("1", "method.learning_rate=0.001"), ("1", "method.learning_rate=0.0002"),
    ]  # fmt: skip
    assert "4 runs in" in ended.out and all(float(row["held-out x2 dB"]) > 5 for row in rows)


def test_a_sweep_says_how_far_it_is_and_its_runs_are_a_group(whole: tuple[Ended, Path]) -> None:
    ended, sweep = whole
    done = [line for line in ended.out.splitlines() if line.startswith("job ") and " done in " in line]
    assert begun(ended) == ["0", "1", "2", "3"]
    assert [line.split("; ")[1] for line in done] == [
        "1 of 4 done, 3 queued", "2 of 4 done, 2 queued", "3 of 4 done, 1 queued", "4 of 4 done"
    ]  # fmt: skip
    assert "about" in done[0] and "left" in done[0] and "left" not in done[3]
    assert "| 2 | seed=1 method.learning_rate=0.001 | done |" in (sweep / "status.md").read_text()
    values = [float(row["held-out x2 dB"]) for row in table(sweep)]
    assert [job["psnr"] for job in status(sweep)["jobs"]] == pytest.approx(values, abs=0.005)
    for config in sweep.glob("*/config.yaml"):
        assert yaml.safe_load(config.read_text())["logger"]["wandb"]["group"] == sweep.name


def killed(command: list[str], seed: int, step: int) -> int:
    """The exit code of a command that kills itself without warning once a job has written last.ckpt at a step."""
    save = Checkpoints._save_last

    def save_and_die(self: Checkpoints, trainer: Trainer) -> None:
        save(self, trainer)
        method: Any = trainer.lightning_module
        if trainer.global_step == step and method.seed == seed:
            os.kill(os.getpid(), signal.SIGKILL)

    def child() -> None:
        Checkpoints._save_last = save_and_die  # type: ignore[method-assign]
        sys.exit(typed(*command).code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def test_a_killed_sweep_ends_like_one_that_was_not(command: list[str], whole: tuple[Ended, Path], here: Path) -> None:
    assert killed(command, seed=1, step=2) == -signal.SIGKILL
    sweep = sweep_of(here)
    assert states(sweep) == ["done", "done", "running", "queued"]
    finished = {file: file.stat().st_mtime_ns for file in sweep.glob("*/summary.json")}
    assert len(finished) == 2

    other = typed(*command[:-1], "method.learning_rate=1e-3", "trainer.log_every_n_steps=7", "sweep.resume=true")
    assert other.code == 2 and other.err.startswith(f"error: {Path('runs/sweep') / sweep.name} was started with other")
    assert "values of method.learning_rate, trainer.log_every_n_steps: set them back" in other.err
    assert len(other.err.splitlines()) == 1, other.err

    resumed = typed(*command, "sweep.resume=true")
    assert resumed.code == 0, resumed.err
    assert begun(resumed) == ["2", "3"], "what has finished is not run again"
    assert "2 of 4 done, 2 queued" in resumed.out.splitlines()[0]
    (third,) = (line for line in resumed.out.splitlines() if line.startswith("writing to") and "/2_" in line)
    assert third.endswith("continuing from last.ckpt")
    assert all(file.stat().st_mtime_ns == written for file, written in finished.items())
    for name in ("summary_table.csv", "summary_table.md"):
        assert (sweep / name).read_bytes() == (whole[1] / name).read_bytes(), name

    again = typed(*command, "sweep.resume=true")
    assert again.code == 0 and begun(again) == [] and "4 runs in" in again.out, again.err


def test_a_failed_job_is_told_at_once_and_is_a_row_of_the_table(
    here: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mistake of the user's, one bug, and one job that has nothing to do with either."""
    build = run.build_method

    def broken(cfg: DictConfig) -> Any:
        if cfg.seed == 1:
            raise RuntimeError("shapes [a] and [b]\ndo not fit")
        return build(cfg)

    monkeypatch.setattr(run, "build_method", broken)
    command = ["-m", *EDSR, *tiny, *SHORT, "seed=-1,1,0"]
    ended = typed(*command)
    sweep = sweep_of(here)
    lines = [line for line in ended.err.splitlines() if line.startswith(("job", "error"))]
    assert ended.code == 2 and "Traceback" not in ended.err
    assert lines[0].startswith("job 0 (seed=-1) failed: seed must be")
    assert lines[1].startswith("job 1 (seed=1) failed: RuntimeError: shapes [a] and [b] do not fit (")
    assert lines[2].startswith("error: 2 of 3 jobs failed") and len(lines) == 3
    assert 'raise RuntimeError("shapes' in next(sweep.glob("1_*/error.txt")).read_text()
    rows = {row["seed"]: row for row in table(sweep)}
    assert rows["-1"]["failed"].startswith("seed must be") and "do not fit" in rows["1"]["failed"]
    assert rows["0"]["failed"] == "" and float(rows["0"]["held-out x2 dB"]) > 5
    assert "RuntimeError: shapes [a] and [b]" in ended.out, "brackets in the printed table are no markup"
    assert states(sweep) == ["failed", "failed", "done"]

    monkeypatch.setattr(run, "build_method", build)
    mended = typed(*command, "sweep.resume=true")
    assert mended.code == 2 and begun(mended) == ["0", "1"], "failed jobs run again, finished ones do not"
    assert states(sweep) == ["failed", "done", "done"]


def test_ctrl_c_ends_a_sweep_and_says_how_to_go_on(
    here: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Checkpoints, trainer: Trainer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "_save_last", interrupt)
    ended = typed(*command)
    assert ended.code == 130 and "Traceback" not in ended.err
    assert f"the same command with sweep.resume=true goes on with {sweep_of(here).relative_to(here)}" in ended.err
    assert "resume=auto" not in ended.err
    assert states(sweep_of(here)) == ["interrupted", "queued", "queued", "queued"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sweep.resume=true"], "sweep.resume is for a sweep: add -m"),
        (["-m", "sweep.resume=auto"], "sweep.resume must be true or false, got auto"),
        (["-m", "sweep.folder=runs"], "sweep.folder=runs names a sweep to resume: add sweep.resume=true"),
        (["-m", "sweep.folder=runs", "sweep.resume=true"], "runs is not the folder of a sweep that can be resumed"),
        (["-m", "backbone=edrs,tadt"], "did you mean edsr?"),
        (["-m", "sweep.resum=true"], "did you mean resume?"),
        (["-m", "method.learning_rate=interval(0,1)"], "does not support sweep type"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_line_and_leaves_nothing(
    arguments: list[str], told: str, here: Path, tiny: list[str]
) -> None:
    ended = typed(*arguments, *tiny)
    assert ended.code == 2 and len(ended.err.splitlines()) == 1 and told in ended.err, ended.err
    assert not (here / "runs").exists(), sorted((here / "runs").rglob("*"))


def test_optuna_maximises_what_a_run_returns_and_resumes(here: Path, tiny: list[str]) -> None:
    """Its third trial is chosen by what the first two gave: resumed with their results, it proposes the same."""
    needs("optuna")
    command = ["-m", "+experiment=tadt_liif", "+sweep=optuna", *tiny, *SHORT, "hydra.sweeper.n_trials=3"]
    command.append("hydra.sweeper.sampler.n_startup_trials=1")
    ended = typed(*command)
    assert ended.code == 0, ended.err
    sweep = sweep_of(here)
    found = (sweep / "optimization_results.yaml").read_text()
    best = max(float(row["held-out x2 dB"]) for row in table(sweep))
    assert yaml.safe_load(found)["best_value"] == pytest.approx(best, abs=0.01)

    (lost,) = sweep.glob("1_*")
    shutil.rmtree(lost)
    resumed = typed(*command, "sweep.resume=true")
    assert resumed.code == 0, resumed.err
    assert begun(resumed) == ["1"] and lost.is_dir(), "the trials before and after it are the same ones"
    assert (sweep / "optimization_results.yaml").read_text() == found


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_the_jobs(launcher: str, here: Path, tiny: list[str]) -> None:
    """Each job is a process of its own; one of the two commands is too, and sends what a shell made `__main__`.

    Another launcher resumes what it left.
    """
    needs(launcher)
    command = ["-m", *EDSR, *tiny, *SHORT, "seed=0,-1"]
    apart = [*command, f"+sweep={launcher}"]
    ended = wait(start(apart, here), 280) if launcher == "joblib" else typed(*apart)
    assert ended.code == 2, ended.err
    assert "job 1 (seed=-1) failed: seed must be" in ended.err and "job 0 (seed=0) done in" in ended.out
    assert "Traceback" not in ended.err and "error: 1 of 2 jobs failed" in ended.err
    sweep = sweep_of(here)
    assert [(row["seed"], bool(row["failed"])) for row in table(sweep)] == [("0", False), ("-1", True)]
    processes = [json.loads(file.read_text())["process"] for file in sweep.glob("*/job.json")]
    assert os.getpid() not in processes

    resumed = typed(*command, "sweep.resume=true")
    assert begun(resumed) == ["1"] and states(sweep) == ["done", "failed"], resumed.err
