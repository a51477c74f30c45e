"""A user's mistake is one line, exit code 2, and nothing left behind."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from dynres.data.images import write_png

from .conftest import Ended, scene, typed, write_scenes


def refused(ended: Ended, here: Path, *words: str) -> None:
    """One line that says the words; no folder of a run that never was."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    assert ended.code == 2, f"exit code {ended.code}: {ended.err}"
    assert len(lines) == 1 and lines[0].startswith("error: "), ended.err
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"
    assert not (here / "runs").exists(), f"left behind: {sorted(map(str, (here / 'runs').rglob('*')))}"


MISTAKES = [
    ("backbone=edrs", "backbone=edrs", "did you mean edsr?"),
    ("bakbone=tadt", "bakbone", "did you mean backbone?"),
    ("+experiment=tadt_lif", "did you mean tadt_liif?"),
    ("method.beta_wieght=1", "method.beta_wieght", "did you mean beta_weight?"),
    ("+method.foo=1", "method.foo", "beta_weight"),
    ("+foo=1", "foo", "backbone"),
    ("precision=foo", "did you mean", ".precision?"),
    ("callbacks.panels.coun=2", "did you mean count?"),
    ("hydra/launcher=nope", "hydra/launcher=nope", "dynres[sweep]"),
    ("seed=[1", "[1"),
    ("task.same_size=true", "upsampler=liif"),
    ("backbone=edsr_baseline", "method=tadt", "backbone=edsr_baseline", "method=assr"),
    ("method.dense_fraction=0", "ckpt=PATH"),
    ("upsampler=bicubic", "mode=test"),
    ("mode=foo", "foo", "predict"),
    ("mode=test", "ckpt="),
    ("ckpt=nope.ckpt", "nope.ckpt"),
    ("inference.budget=0", "(0, 1]", "got 0"),
    ("inference.budget=1.5", "1.5"),
    ("inference.budget=nan", "nan"),
    ("inference.budget=abc", "a number", "abc"),
    ("inference.tile=3", "at least 192"),
    ("inference.tile=large", "whole number of pixels or auto", "large"),
    ("inference.precision=16", "32, bf16", "16"),
    ("inference.compile=1", "true or false"),
    ("data.test_scales=[0.5]", "from 1 to 30", "0.5"),
    ("data.test_scales=[31]", "31"),
    ("data.test_scales=[nan]", "nan"),
    ("seed=-1", "seed", "-1"),
    ("seed=abc", "abc"),
    ("data.root=null", "data.root"),
    ("data.root=nowhere", "nowhere"),
    ("data.batch_size=0", "data.batch_size"),
    ("resume=foo", "auto", "foo"),
    ("trainer.precision=foo", "foo", "bf16-mixed"),
    ("trainer.max_steps=0", "trainer.max_steps", "0"),
    ("trainer.max_steps=abc", "abc"),
    ("trainer.val_check_interval=100", "trainer.max_steps=6"),
    ("trainer.gradient_clip_val=abc", "abc"),
    ("method.learning_rate=abc", "method.learning_rate", "a number"),
    ("backbone.heads=3", "3 heads"),
    ("callbacks.checkpoints.every=0", "callbacks.checkpoints.every"),
    ("logger.wandb.mode=foo", "foo"),
    ("image_skip=abc", "true or false"),
    ("strategy.devices=0", "0"),
    ("strategy=cpu strategy.accelerator=gpu", "GPU"),
    ("strategy=ddp_cpu data.batch_size=3", "data.batch_size=3", "multiple of their number, 2"),
    ("+trainer.profiler=foo", "simple", "foo"),
]


@pytest.mark.parametrize(("overrides", "words"), [(m[0], m[1:]) for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line(
    overrides: str, words: tuple[str, ...], here: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(typed(*tiny, *overrides.split()), here, *words)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("ddp", "GPU"),
        ("fsdp", "GPU"),
        ("fsdp strategy.accelerator=cpu", "GPUs"),
        ("deepspeed", "pip install deepspeed"),
    ],
)
def test_a_strategy_says_what_it_lacks(
    strategy: str, words: str, here: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # as where DeepSpeed is not installed
    refused(typed(*tiny, *f"strategy={strategy}".split()), here, words)


def test_processes_started_together_ask_for_one_folder(
    here: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(typed(*tiny), here, "2 processes", "hydra.run.dir=")


def test_a_bad_image_is_named_before_anything_runs(here: Path, tiny: list[str]) -> None:
    for name in ("cut", "text", "dot", "small"):
        write_scenes(here / name)
    whole = (here / "cut" / "01.png").read_bytes()
    (here / "cut" / "01.png").write_bytes(whole[: len(whole) // 2])
    (here / "text" / "01.png").write_text("not a picture")
    write_png(here / "dot" / "00.png", scene(1, 1))
    write_png(here / "small" / "00.png", scene(30, 40))
    (here / "empty").mkdir()
    said = {"cut": "01.png", "text": "01.png", "dot": "1x1", "small": "64x64 crop", "empty": "no image"}
    for name, word in said.items():
        refused(typed(*tiny, f"data.root={here / name}"), here, str(here / name), word)


class Code:
    """What a checkpoint must not be able to do."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_checkpoint_that_does_not_fit_is_refused(here: Path, tiny: list[str], trained: Ended) -> None:
    best, mark = trained.folder / "checkpoints" / "best.ckpt", here / "executed"
    (here / "cut.ckpt").write_bytes(best.read_bytes()[:100_000])
    torch.save({"state_dict": {"a": Code(mark)}}, here / "code.ckpt")
    (here / "bare.ckpt").write_bytes(pickle.dumps(Code(mark)))
    said = {"cut.ckpt": "truncated", "code.ckpt": "code", "bare.ckpt": "pickle"}
    for name, word in said.items():
        refused(typed(*tiny, "mode=test", f"ckpt={here / name}"), here, name, word)
    assert not mark.exists(), "code in a checkpoint was run"
    other = ("backbone=edsr_baseline", "method=assr", "mode=test", f"ckpt={best}")
    refused(typed(*tiny, *other), here, "TADT(channels=16", "edsr_baseline(channels=8")
    refused(typed(*tiny, "mode=test", f"ckpt={best}", "upsampler=lte"), here, "LIIF(", "LTE(")


def test_a_folder_that_cannot_be_made_is_one_line(here: Path, tiny: list[str]) -> None:
    (here / "file").write_text("")
    refused(typed(*tiny, f"out={here}/file/runs"), here, f"{here}/file")
