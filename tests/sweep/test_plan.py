"""What a sweep will run and where, and what is refused before its first job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dynres.errors import UserError
from dynres.folders import register_resolvers
from dynres.paths import conf_dir
from dynres.sweep.plan import plan
from dynres.sweep.record import NAMED, read_record
from dynres.sweep.state import Job, only_one, read_jobs, write_job

SEEDS = ["backbone=edsr_baseline", "method=assr", "seed=0,1"]
OPTUNA = ["+experiment=tadt_liif", "+sweep=optuna"]

Multirun = Callable[..., DictConfig]


@pytest.fixture
def multirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Multirun]:
    """Composes what Hydra hands over at the start of a multirun of some overrides, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    register_resolvers()

    def composed(*overrides: str) -> DictConfig:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return hydra.compose_config("config", list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False)

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield composed


def test_jobs_are_named_before_they_run(multirun: Multirun) -> None:
    found = plan(multirun("+experiment=tadt_liif", "+sweep=lambda", "method.beta_weight=0,1e-4", "seed=3"))
    assert found.total == 2 and not found.resumed and not found.apart
    assert found.labels == {0: "method.beta_weight=0 seed=3", 1: "method.beta_weight=0.0001 seed=3"}
    assert read_record(found.folder).swept == {"method.beta_weight": "0,1e-4", "seed": "0,1,2"}


def test_a_sweep_that_chooses_as_it_goes_knows_how_many(multirun: Multirun) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    found = plan(multirun(*OPTUNA, "hydra.sweeper.n_trials=7", "method.controller_rate=interval(0.1,1)"))
    assert found.total == 7 and found.labels == {}
    assert found.swept == {"method.learning_rate", "method.beta_weight", "method.controller_rate"}


def test_the_newest_sweep_of_the_command_is_resumed_and_its_jobs_do_not_see_how(multirun: Multirun) -> None:
    first = plan(multirun(*SEEDS))
    newer = plan(multirun(*SEEDS, "hydra.sweep.dir=runs/sweep/b"))
    plan(multirun(*SEEDS, "profile=smoke", "hydra.sweep.dir=runs/sweep/c"))
    cfg = multirun(*SEEDS, "sweep.resume=true")
    found = plan(cfg)
    assert found.resumed and found.folder == newer.folder != first.folder
    assert list(cfg.hydra.overrides.task) == SEEDS and cfg.hydra.sweep.dir == "runs/sweep/b"
    assert list(cfg.hydra.overrides.hydra)[-1] == "hydra.sweep.dir='runs/sweep/b'"
    cfg = multirun(*SEEDS, "sweep.resume=true", f"sweep.folder={first.folder}")
    assert plan(cfg).folder == first.folder and list(cfg.hydra.overrides.task) == SEEDS


def test_a_path_that_hydra_must_see_quoted_is_resumed_too(multirun: Multirun, tmp_path: Path) -> None:
    odd = tmp_path / "it's a=sweep, {old}"
    plan(multirun(*SEEDS)).folder.rename(odd)
    cfg = multirun(*SEEDS, "sweep.resume=true", '''sweep.folder="it's a=sweep, {old}"''')
    assert plan(cfg).folder.resolve() == odd.resolve()
    again = (
        GlobalHydra.instance()
        .config_loader()
        .load_configuration("config", [*cfg.hydra.overrides.hydra, "seed=0"], RunMode.RUN)
    )
    assert Path(again.hydra.sweep.dir).resolve() == odd.resolve()


@pytest.mark.parametrize(
    "others",
    [
        ["+sweep=joblib"], ["hydra.sweeper.max_batch_size=1"], ["+sweep=joblib", "hydra.launcher.n_jobs=7"],
    ],
)  # fmt: skip
def test_where_jobs_run_may_differ(multirun: Multirun, others: list[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    before = plan(multirun(*SEEDS))
    found = plan(multirun(*SEEDS, *others, "sweep.resume=true"))
    assert found.folder == before.folder and found.apart == ("+sweep=joblib" in others)


def test_an_optuna_study_may_go_on_for_longer(multirun: Multirun) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    before = plan(multirun(*OPTUNA))
    assert plan(multirun(*OPTUNA, "hydra.sweeper.n_trials=50", "sweep.resume=true")).folder == before.folder


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (["seed=0,1,2"], "values of seed: set"),
        (["method.learning_rate=1"], "values of method.learning_rate: set"),
        (["+trainer.limit_val_batches=3"], "values of trainer.limit_val_batches: set"),
        (["task=demosaic"], "values of task, data."),
        (["seed=0,1,2", "profile=smoke"], "values of profile, seed, "),
        (["logger=csv"], "values of logger: set"),
    ],
)
def test_another_configuration_is_refused_by_name(multirun: Multirun, others: list[str], named: str) -> None:
    before = plan(multirun(*SEEDS))
    with pytest.raises(UserError) as refused:
        plan(multirun(*SEEDS, *others, "sweep.resume=true"))
    text = str(refused.value)
    assert text.startswith(f"{before.folder} was started with other ") and named in text, text
    assert text.split(":")[0].count(",") <= NAMED, "a refusal is one line that can be read"


def test_a_new_experiment_and_a_finished_sweep_stand_in_nobodys_way(
    multirun: Multirun, capsys: pytest.CaptureFixture[str]
) -> None:
    old = plan(multirun(*SEEDS))
    assert plan(multirun("+experiment=tadt_liif", "seed=0,1", "sweep.resume=true")).folder != old.folder
    (old.folder / "status.json").write_text('{"done": 2, "total": 2}')
    assert not plan(multirun(*SEEDS, "method.learning_rate=1", "sweep.resume=true")).resumed
    assert capsys.readouterr().out.count("no sweep of this command, starting a new one") == 2


def test_two_sweeps_of_the_same_second_have_two_folders(multirun: Multirun) -> None:
    cfg = multirun(*SEEDS)
    first = plan(cfg)
    found = plan(cfg)  # the same configuration has the same time of day
    assert found.folder == first.folder.with_name(f"{first.folder.name}-2") and cfg.hydra.sweep.dir == str(found.folder)


def test_a_folder_that_holds_a_sweep_is_not_used_for_another(multirun: Multirun) -> None:
    here = "hydra.sweep.dir=mine"
    plan(multirun(*SEEDS, here))
    with pytest.raises(UserError, match=r"mine holds a sweep already: sweep\.resume=true resumes it"):
        plan(multirun(*SEEDS, here))
    assert plan(multirun(*SEEDS, here, "sweep.resume=true")).folder == Path("mine")


@pytest.mark.parametrize(
    ("others", "why"),
    [
        (["hydra.sweeper.sampler.seed=null"], "no hydra.sweeper.sampler.seed: Optuna would propose other trials"),
        (["hydra.sweeper.storage=sqlite:///a.db"], "keeps its trials itself"),
    ],
)
def test_a_study_that_cannot_be_repeated_is_not_resumed(multirun: Multirun, others: list[str], why: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    plan(multirun(*OPTUNA, *others))
    with pytest.raises(UserError, match=why):
        plan(multirun(*OPTUNA, *others, "sweep.resume=true"))


def waiting(multirun: Multirun, overrides: list[str]) -> list[int]:
    """The numbers of the jobs that wait after a resume, of six that ended in every way and one that still runs."""
    folder = plan(multirun(*overrides)).folder
    ends = ["done", "failed", "interrupted", "done", "failed", "running", "running"]
    for number, state in enumerate(ends):
        write_job(folder / f"{number}_x", Job(number, [], state, 0.0))
    with only_one(folder / "6_x"):  # a process that outlived the sweep's command
        plan(multirun(*overrides, "sweep.resume=true"))
    return sorted(set(range(7)) - {job.number for job in read_jobs(folder).values()})


def test_what_did_not_finish_waits_again(multirun: Multirun) -> None:
    assert waiting(multirun, SEEDS) == [1, 2, 4, 5]


def test_a_trial_that_failed_before_others_finished_stays_failed(multirun: Multirun) -> None:
    """A value for it would have Optuna propose other trials than those that have finished since."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    assert waiting(multirun, OPTUNA) == [2, 4, 5]


def test_sweep_yaml_does_not_depend_on_the_day(multirun: Multirun) -> None:
    first, second = plan(multirun(*SEEDS)), plan(multirun(*SEEDS, "hydra.sweep.dir=other"))
    told, again = (OmegaConf.to_container(OmegaConf.load(one.folder / "sweep.yaml")) for one in (first, second))
    assert isinstance(told, dict) and isinstance(again, dict)
    assert told.pop("started") < again.pop("started") and told == again
