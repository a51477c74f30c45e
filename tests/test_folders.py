"""Folders are named after what ran, never overwrite each other, and are found again by resume=auto."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dynres.errors import UserError
from dynres.folders import claim, register_resolvers, run_folder, slug, unfinished

CHOICES = {"backbone": "mstb", "upsampler": "lte", "profile": "demo"}


def folder(out: Path, *overrides: str, seed: int = 0, resume: str | None = None, **choices: str) -> Path:
    return Path(run_folder(str(out), CHOICES | choices, overrides, seed, resume))


def begin(path: Path, finished: bool = False) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").touch()
    if finished:
        (path / "summary.json").touch()
    return path


@pytest.mark.parametrize(
    ("overrides", "choices", "name"),
    [
        ([], {}, "mstb_lte/demo-seed3"),
        (["+experiment=tadt_liif"], {"experiment": "tadt_liif"}, "tadt_liif/demo-seed3"),
        (["+experiment=a", "seed=3", "profile=demo"], {"experiment": "a"}, "a/demo-seed3"),
        (["mode=test", "ckpt=x/best.ckpt"], {}, "mstb_lte/test-demo-seed3"),
        (["mode=fit"], {}, "mstb_lte/demo-seed3"),
        (["method.beta_weight=0", "data=div2k"], {}, "mstb_lte/demo-seed3-method.beta_weight-0+data-div2k"),
        (["hydra.verbose=true", "+trainer.fast_dev_run=1"], {}, "mstb_lte/demo-seed3-trainer.fast_dev_run-1"),
    ],
)
def test_a_run_is_named_after_what_differs(
    tmp_path: Path, overrides: list[str], choices: dict[str, str], name: str
) -> None:
    assert folder(tmp_path, *overrides, seed=3, **choices) == tmp_path / name


def test_a_second_run_of_a_command_gets_a_number(tmp_path: Path) -> None:
    first = begin(folder(tmp_path))
    second = begin(folder(tmp_path))
    third = begin(folder(tmp_path), finished=True)
    assert [p.name for p in (first, second, third)] == ["demo-seed0", "demo-seed0-2", "demo-seed0-3"]
    assert folder(tmp_path).name == "demo-seed0-4"
    assert folder(tmp_path, seed=1).name == "demo-seed1"


def test_resume_finds_the_newest_unfinished_run(tmp_path: Path) -> None:
    assert folder(tmp_path, resume="auto").name == "demo-seed0", "there is nothing to resume: a new run"
    first = begin(folder(tmp_path))
    second = begin(folder(tmp_path))
    begin(folder(tmp_path), finished=True)
    assert folder(tmp_path, "resume=auto", resume="auto") == second
    (second / "summary.json").touch()
    assert folder(tmp_path, "resume=auto", resume="auto") == first
    (first / "summary.json").touch()
    assert folder(tmp_path, "resume=auto", resume="auto").name == "demo-seed0-4"


def test_a_run_is_unfinished_between_its_configuration_and_its_summary(tmp_path: Path) -> None:
    assert not unfinished(tmp_path / "absent") and not unfinished(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert unfinished(tmp_path)
    (tmp_path / "summary.json").touch()
    assert not unfinished(tmp_path)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("data.root=/a/b/DIV2K", "data.root-DIV2K"),
        ("data.root=/a/b/DIV2K/", "data.root-DIV2K"),
        ("data.root=../sets/Set5", "data.root-Set5"),
        ("data.sets=[/a/b,/c/d]", "data.sets-_b_d"),
        ("++method.milestones=[0.5,0.75]", "method.milestones-_0.5_0.75"),
        ("~callbacks.panels", "callbacks.panels-"),
        ("data.name='two words'", "data.name-_two_words"),
    ],
)
def test_names_hold_no_paths_and_nothing_that_a_shell_or_hydra_reads(override: str, part: str) -> None:
    assert slug([override]) == part
    assert slug(["a=1", override, "b=2"]) == f"a-1+{part}+b-2"


def test_long_names_are_cut_and_stay_different() -> None:
    many = [f"method.option_{i}={i}" for i in range(30)]
    one, other = slug(many), slug([*many, "method.last=1"])
    assert one != other and max(len(one), len(other)) <= 110
    assert one[:100] == other[:100] and slug(many) == one


def test_whatever_is_asked_is_one_folder_name(tmp_path: Path) -> None:
    name = folder(tmp_path, "data.root=/a/../b", "x=a/b:c*?|<>", "y=" + "z" * 400)
    assert name.parent == tmp_path / "mstb_lte" and len(name.name) < 255 and os.sep not in name.name
    name.mkdir(parents=True)


def test_the_configuration_can_ask_for_both_kinds_of_folder(tmp_path: Path) -> None:
    """A run of a sweep carries its number, what it varies, and its seed."""
    register_resolvers()
    cfg = OmegaConf.create(
        {
            "overrides": ["+experiment=tadt_liif", "seed=1", "method.beta_weight=2e-4"],
            "choices": {"experiment": "tadt_liif", "profile": "smoke"},
            "run": "${run_folder:" + str(tmp_path) + ",${choices},${overrides},1,null}",
            "sweep": "${sweep_folder:7,${overrides}}",
        }
    )
    assert cfg.run == str(tmp_path / "tadt_liif" / "smoke-seed1-method.beta_weight-2e-4")
    assert cfg.sweep == "7_seed-1+method.beta_weight-2e-4"
    begin(Path(cfg.run))
    assert cfg.run == str(tmp_path / "tadt_liif" / "smoke-seed1-method.beta_weight-2e-4"), "the name changed on the way"


def test_a_folder_is_one_process_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fcntl")
    first = claim(tmp_path / "run")
    with pytest.raises(UserError, match=r"another process writes to .*run: wait for it"):
        claim(tmp_path / "run", patience=0.3)
    assert "waiting for another process" in capsys.readouterr().out
    threading.Timer(0.3, first.close).start()
    claim(tmp_path / "run", patience=20).close()
