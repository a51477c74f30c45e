"""Trainings of the paper's size: planned in the order of their needs, found whoever ran them, and their numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from omegaconf import OmegaConf

from dynres.launch.session import Session
from dynres.tables.catalogue import Catalogue
from dynres.tables.given import Asked
from dynres.tables.paper_size import PaperSize, Plan, plan
from dynres.tables.results import Result
from dynres.tables.rows import at
from dynres.tables.sheet import Recipe, System
from tests.cli.conftest import write_scenes

SMALL = (
    "method=assr", "pixels.mean=0", "pixels.factor=1", "trainer.max_steps=2", "trainer.val_check_interval=2",
    "data.lr_size=16", "data.workers=0", "data.val_images=1", "data.batch_size=2",
)  # fmt: skip
SRCNN = (
    "task=sr", "backbone=srcnn", "backbone.channels=4", "backbone.mapped_channels=4", "upsampler=same_size",
    "upsampler.skip=none", *SMALL,
)  # fmt: skip
EDSR = (
    "backbone=edsr_baseline",
    "backbone.channels=4",
    "backbone.blocks=1",
    "upsampler=liif",
    "data.queries=64",
    *SMALL,
)
BICUBIC = ("task=sr", "method=assr", "backbone=identity", "upsampler=bicubic", "mode=test")


def system(name: str, recipe: Callable[[str], Recipe], places: Sequence[tuple[str, str]]) -> System:
    return System(name, {place: [None] for place in places}, recipe)


def tuned(level: str) -> Recipe:
    """One that starts from the SRCNN of the same scale."""
    return Recipe((*at(SRCNN, level), "method.learning_rate=5e-5"), start=Recipe(at(SRCNN, level)))


EDSR_ROW = system("EDSR", lambda level: Recipe(EDSR), [("DIV2K", "x2"), ("DIV2K", "x6"), ("Set5", "x2")])
SRCNN_ROW = system("SRCNN", lambda level: Recipe(at(SRCNN, level)), [("Set5", "x2"), ("Set5", "x3")])
TUNED_ROW = system("tuned", tuned, [("Set5", "x2"), ("Set5", "x3")])
BICUBIC_ROW = system("Bicubic", lambda level: Recipe(at(BICUBIC, level)), [("Set5", "x2")])
ASKED: list[Asked] = [
    (TUNED_ROW, "Set5", "x2", "benchmark"), (SRCNN_ROW, "Set5", "x2", "benchmark"), (EDSR_ROW, "DIV2K", "x2", "div2k"),
    (EDSR_ROW, "DIV2K", "x6", "div2k"), (EDSR_ROW, "Set5", "x2", "benchmark"), (BICUBIC_ROW, "Set5", "x2", "benchmark"),
    (SRCNN_ROW, "Manga109", "x2", "benchmark"),
]  # fmt: skip


class Ran(NamedTuple):
    data: Path
    out: Path
    plan: Plan
    session: Session

    def ours(self) -> PaperSize:
        return PaperSize(self.plan, Catalogue(self.data), [self.out], self.session.found, self.session.failed)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Three networks trained for two steps, and their tests."""
    folder = tmp_path_factory.mktemp("paper")
    data, out = folder / "data", folder / "runs"
    write_scenes(data / "DIV2K" / "DIV2K_train_HR", 2)
    write_scenes(data / "DIV2K" / "DIV2K_valid_HR", 2)
    write_scenes(data / "Set5" / "HR", 5)
    found = plan("acla", ASKED, Catalogue(data))
    session = Session(found.wanted, out, lambda text: None, threads=1)
    session.run()
    assert not session.failed
    return Ran(data, out, found, session)


def test_every_recipe_is_trained_once_after_what_it_starts_from(ran: Ran) -> None:
    wanted = {one.name: one for one in ran.plan.wanted}
    names = ["acla/SRCNN x2", "acla/tuned x2", "acla/EDSR", "acla/EDSR, benchmark: Set5 at x2"]
    assert list(wanted)[:4] == names and len(wanted) == 5 and "Bicubic" in list(wanted)[4]
    assert wanted["acla/tuned x2"].needs == {"ckpt": ("acla/SRCNN x2", "checkpoints/last.ckpt")}
    assert wanted["acla/EDSR, benchmark: Set5 at x2"].needs == {"ckpt": ("acla/EDSR", "checkpoints/last.ckpt")}
    command = wanted["acla/EDSR"].command
    assert f"data.root={ran.data / 'DIV2K'}" in command and "data=div2k" in command and "profile=paper" in command
    assert "data.test_scales=[2,6]" in command and "data.protocol=div2k" in command
    assert "data.test_downsampling=pillow" in command  # beyond x4, as LIIF


def test_numbers_are_those_of_the_runs_and_of_tests_of_their_checkpoints(ran: Ran) -> None:
    ours, found = ran.ours(), ran.session.found
    trained, tested = Result(found["acla/EDSR"]), Result(found["acla/EDSR, benchmark: Set5 at x2"])
    one = ours.measured(EDSR_ROW, "DIV2K", "x6", "div2k", "psnr")
    assert one.value == trained.value("DIV2K", "x6", "psnr") and one.seeds == 1
    assert one.part and one.note == "2 of 100 images"
    two = ours.measured(EDSR_ROW, "Set5", "x2", "benchmark", "ssim")
    assert two.value == tested.value("Set5", "x2", "ssim") and not two.part
    assert ours.measured(BICUBIC_ROW, "Set5", "x2", "benchmark", "psnr").value is not None
    assert ours.measured(EDSR_ROW, "Set5", "x4", "benchmark", "psnr").note == "not tested on Set5 at x4"
    assert "protocol" in ours.measured(EDSR_ROW, "Set5", "x2", "div2k", "psnr").note
    assert ours.measured(SRCNN_ROW, "Set5", "x3", "benchmark", "psnr").note == "not trained"


def test_what_is_there_is_not_trained_again_though_images_moved_and_sets_were_added(ran: Ran, tmp_path: Path) -> None:
    elsewhere = tmp_path / "moved"
    shutil.copytree(ran.data, elsewhere)
    again = plan("acla", ASKED, Catalogue(elsewhere), [ran.out])
    assert len(again.wanted) == 1 and "Bicubic" in again.wanted[0].name and len(again.found) == 3

    write_scenes(elsewhere / "Manga109", 3)
    more = plan("acla", ASKED, Catalogue(elsewhere), [ran.out])
    test = more.wanted[0]
    assert test.name == "acla/SRCNN x2, benchmark: Manga109 at x2" and not test.needs
    assert f"ckpt={ran.session.found['acla/SRCNN x2'].resolve() / 'checkpoints' / 'last.ckpt'}" in test.command


def copied(run: Path, to: Path, changes: Mapping[str, Any], psnr: float) -> None:
    """A run as somebody else may have made it."""
    shutil.copytree(run, to)
    cfg = OmegaConf.load(to / "config.yaml")
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    OmegaConf.save(cfg, to / "config.yaml")
    summary = json.loads((to / "summary.json").read_text())
    summary["metrics"]["Set5"]["x2"]["psnr"] = psnr
    (to / "summary.json").write_text(json.dumps(summary))


def test_a_users_own_runs_count_and_seeds_are_averaged(ran: Ran, tmp_path: Path) -> None:
    run = ran.session.found["acla/SRCNN x2"]
    own = {"data.root": "/elsewhere/DIV2K", "strategy.devices": 4, "logger.wandb": {"project": "x"}, "data.workers": 9}
    copied(run, tmp_path / "a", {**own, "seed": 1, "data.seed": 1}, 30.0)
    copied(run, tmp_path / "b", {**own, "seed": 2, "data.seed": 2}, 32.0)
    copied(run, tmp_path / "other", {"method.learning_rate": 1.0, "seed": 3}, 10.0)
    copied(run, tmp_path / "demo", {"profile_name": "demo", "seed": 4}, 10.0)
    ours = PaperSize(ran.plan, Catalogue(ran.data), [tmp_path], {}, {})
    found = ours.measured(SRCNN_ROW, "Set5", "x2", "benchmark", "psnr")
    assert found.value == 31.0 and found.seeds == 2 and found.spread == pytest.approx(2**0.5)


def test_what_cannot_be_trained_says_why(ran: Ran) -> None:
    wrong = system("wrong", lambda level: Recipe((*at(SRCNN, level), "backbone.chanels=3")), [("Set5", "x2")])
    after = system("after", lambda level: Recipe(at(SRCNN, level), start=wrong.recipe(level)), [("Set5", "x2")])  # type: ignore[misc]
    noise = ("task=denoise_color", "method=restoration", "backbone=ffdnet", "upsampler=as_image")
    denoiser = system("FFDNet", lambda level: Recipe(at(noise, level)), [("Kodak24", "sigma25")])
    asked: list[Asked] = [
        (wrong, "Set5", "x2", "benchmark"),
        (after, "Set5", "x2", "benchmark"),
        (denoiser, "Kodak24", "sigma25", "denoise"),
    ]
    catalogue = Catalogue(ran.data)
    found = plan("flexir", asked, catalogue)
    assert found.wanted == []
    ours = PaperSize(found, catalogue, [], {}, {})
    notes = [ours.measured(*place, "psnr").note for place in asked]
    assert "chanels" in notes[0] and notes[1].startswith("it needs another: ") and "chanels" in notes[1]
    assert notes[2].startswith("no training images DF2K_BSD_WED")
    unknown = plan("reference", asked[2:], catalogue)
    assert "which images reference trains" in next(iter(unknown.refused.values()))
    failed = PaperSize(ran.plan, catalogue, [], {}, {"acla/EDSR": "out of memory"})
    assert failed.measured(EDSR_ROW, "DIV2K", "x2", "div2k", "psnr").note == "out of memory"
