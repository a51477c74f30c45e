"""The demo's plan, its numbers, and the verdicts on claims."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dynres.launch.find import composed
from dynres.tables.claims import CLAIMS, SET, judged, verdicts
from dynres.tables.demo import Demo, plan
from dynres.tables.results import MEAN_OF_POINTERS, Result
from dynres.tables.sheet import System

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
PAPERS = ("tadt", "anysr", "flexir", "acla", "lightweight_swinir")


def runs_of(paper: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXPERIMENTS / paper / "demo.yaml").read_text(encoding="utf-8"))["runs"]
    return found


@pytest.mark.parametrize("paper", PAPERS)
def test_every_run_of_the_plan_is_one_that_dynres_run_takes(paper: str, tmp_path: Path) -> None:
    (weights := tmp_path / "some.ckpt").touch()
    wanted = plan(paper, EXPERIMENTS)
    assert len({one.name for one in wanted}) == len(wanted)
    names = {one.name for one in wanted}
    for one in wanted:
        assert {other for other, _ in one.needs.values()} <= names
        if "seed 0" in one.name:
            cfg = composed([*one.command, *(f"{key}={weights}" for key in one.needs)])
            assert cfg.profile_name == "demo" and cfg.seed == 0


@pytest.mark.parametrize("paper", PAPERS)
def test_claims_speak_of_runs_of_the_plan(paper: str) -> None:
    assert {run for claim in CLAIMS[paper] for run in claim.runs} <= runs_of(paper).keys()


def test_a_chosen_run_brings_what_it_needs() -> None:
    names = {one.name for one in plan("tadt", EXPERIMENTS, only=["tadt", None])}
    assert names == {f"tadt/{run}, seed {seed}" for run in ("start", "tadt") for seed in (0, 1, 2)}
    with pytest.raises(ValueError, match="no run 'tdat'"):
        plan("tadt", EXPERIMENTS, only=["tdat"])


# ------------------------------------------------------------------------------------------------------- verdicts


@given(st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=2, max_size=5))
def test_a_verdict_needs_a_mean_beyond_twice_its_standard_error(values: list[float]) -> None:
    middle, error = fmean(values), stdev(values) / len(values) ** 0.5
    verdict = judged(values)
    assert (verdict == "supported") == (middle > 2 * error)
    assert (verdict == "not supported") == (-middle > 2 * error)
    opposite = {"supported": "not supported", "not supported": "supported", "undecided": "undecided"}
    assert judged([-value for value in values]) == opposite[verdict]


def test_one_seed_decides_nothing() -> None:
    assert judged([5.0]) == "undecided" and judged([]) == "not measured"


def finish(folder: Path, cells: dict[str, dict[str, float]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"metrics": {SET: cells}}))
    return folder


def session(folders: dict[str, Path], failed: dict[str, str] | None = None) -> Any:
    failed = failed or {}
    return SimpleNamespace(wanted=[*folders, *failed], found=folders, failed=failed)


def test_claims_are_held_seed_by_seed(tmp_path: Path) -> None:
    folders = {
        f"acla/{run}, seed {seed}": finish(tmp_path / f"{run}{seed}", {"x2": {"psnr": psnr + seed}})
        for run, psnr in {"edsr": 30.0, "cla": 30.5}.items()
        for seed in range(3)
    }
    found = verdicts(Demo("acla", session(folders, {"acla/acla, seed 0": "no disk"})))
    assert found[0].values == (0.5, 0.5, 0.5) and found[0].verdict == "supported"
    assert found[1].values == () and found[1].verdict == "not measured" and "no disk" in found[1].note


def test_numbers_are_means_over_seeds_and_failures_are_named(tmp_path: Path) -> None:
    folders = {
        f"acla/edsr, seed {seed}": finish(tmp_path / str(seed), {"x2": {"psnr": 30.0 + seed, "ssim": None}})  # type: ignore[dict-item]
        for seed in (0, 2)
    }
    demo = Demo("acla", session(folders, {"acla/edsr, seed 1": "no disk", "acla/cla, seed 0": "no luck"}))
    edsr, cla, other = (System(name, {}, None, demo=name) for name in ("edsr", "cla", "none"))
    assert demo.own([edsr, cla]) == [(SET, "x2")]
    ours = demo.measured(edsr, SET, "x2", "benchmark", "psnr")
    assert (ours.value, ours.seeds) == (31.0, 2) and ours.spread == pytest.approx(2**0.5) and "no disk" in ours.note
    assert demo.measured(edsr, SET, "x2", "benchmark", "ssim").value is None
    assert demo.measured(edsr, SET, "x3", "benchmark", "psnr").value is None
    assert demo.measured(cla, SET, "x2", "benchmark", "psnr").note == "no luck"
    assert demo.measured(other, SET, "x2", "benchmark", "psnr").value is None
    assert "Not comparable" in demo.label


def test_ways_are_read_from_their_files(tmp_path: Path) -> None:
    folder = finish(tmp_path / "run", {"sigma25": {"psnr": 30.0}})
    lines = ["dataset,label,way,psnr,psnr_b", "demo,sigma25,P=1,29,", "demo,sigma25,P=2,30,", "demo,sigma25,h=1.10,31,"]
    (folder / "tradeoff.csv").write_text("\n".join(lines) + "\n")
    result = Result(folder)
    assert result.value(SET, "sigma25", "psnr", "h=1.10") == 31
    assert result.value(SET, "sigma25", "psnr", MEAN_OF_POINTERS) == 29.5
    assert result.value(SET, "sigma25", "psnr_b", "P=1") is None
    assert result.value(SET, "sigma50", "psnr", MEAN_OF_POINTERS) is None
