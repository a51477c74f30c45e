"""+experiment=swinir_kd as a user types it: teacher and student in one run or two, killed and resumed, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from dynres.checkpoint_io import read_checkpoint
from dynres.checks import check
from dynres.interop.weights import load_pretrained
from dynres.paths import conf_dir

from .conftest import UNDRAWN, Ended, killed_and_resumed, typed
from .test_experiments import composed

KD = ["+experiment=swinir_kd", "method.features=0.1", "trainer.max_steps=6", "trainer.val_check_interval=3"]


@pytest.fixture(scope="module")
def distilled(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = typed(*KD, *tiny, f"out={tmp_path_factory.mktemp('distilled')}/runs")
    assert ended.code == 0, ended.err
    return ended


def checkpoint(ended: Ended, name: str) -> Path:
    return ended.folder / "checkpoints" / f"{name}.ckpt"


def test_the_checkpoints_are_of_the_student_and_the_teacher_has_its_own(distilled: Ended) -> None:
    names = {name: load_pretrained(checkpoint(distilled, name)) for name in ("teacher", "best", "last")}
    kinds = [type(network.backbone).__name__ for network in names.values()]
    assert kinds == ["SwinIR", "SwinIRDistilled", "SwinIRDistilled"]
    state = read_checkpoint(checkpoint(distilled, "last"))["state_dict"]
    student = {f"restorer.{name}" for name in names["last"].state_dict()}
    assert state.keys() == student | {"adapter.weight", "adapter.bias"}
    count = sum(parameter.numel() for parameter in names["last"].parameters())
    assert f"then a student of {count:,} parameters" in distilled.out


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_killed_in_either_part_resumes_as_if_it_had_not(
    step: int, distilled: Ended, tiny: list[str], here: Path
) -> None:
    """The student begins at step 3: the last checkpoint is from before, from the very step, or from after it."""
    command = [*KD, *tiny, f"out={here}", "callbacks.checkpoints.every=1"]
    resumed = killed_and_resumed(step, command)
    assert resumed.code == 0 and "continuing from last.ckpt" in resumed.out, resumed.err
    for name in ("teacher", "last"):
        one, other = (read_checkpoint(checkpoint(each, name))["state_dict"] for each in (distilled, resumed))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_what_is_tested_later_is_the_student(distilled: Ended, tiny: list[str], here: Path) -> None:
    tested = typed(KD[0], *tiny, "mode=test", f"ckpt={checkpoint(distilled, 'last')}")
    assert tested.code == 0, tested.err
    scores = [json.loads((one.folder / "summary.json").read_text())["metrics"] for one in (distilled, tested)]
    assert scores[0]["held-out"]["x2"]["psnr"] == pytest.approx(scores[1]["held-out"]["x2"]["psnr"], abs=1e-4)


def test_a_teacher_of_another_run_teaches_from_the_first_step(distilled: Ended, tiny: list[str], here: Path) -> None:
    """A student without the token, as the paper's "L"."""
    file = checkpoint(distilled, "teacher")
    ended = typed(KD[0], *tiny, f"method.teacher={file}", "backbone=swinir_lightweight", "trainer.max_steps=3")
    assert ended.code == 0, ended.err
    lines = (ended.folder / "metrics.csv").read_text().splitlines()
    first = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert float(first["train/distillation"]) > 0 and not checkpoint(ended, "teacher").exists()


def test_other_tasks_distil_too(photos: Path, here: Path) -> None:
    choices = ["task=denoise_color", "method=distill", "backbone=swinir_distilled", "upsampler=same_size"]
    ended = typed(*choices, "profile=smoke", "data=folder", f"data.root={photos}", "data.val_crop=48", *UNDRAWN)
    assert ended.code == 0, ended.err
    teacher = load_pretrained(checkpoint(ended, "teacher"))
    assert type(teacher.upsampler).__name__ == "SameSize", "a head like the student's"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method.teacher=nowhere.ckpt"], "method.teacher=nowhere.ckpt does not exist"),
        (["method.weight=2"], "weight is lambda of Eq. 6 and must lie in [0, 1], got 2"),
        (["method.pretraining=0"], "pretraining must lie in (0, 1)"),
        (["method.features=-1"], "features must be at least 0"),
        (["method.wieght=0.5"], "did you mean weight?"),
        (["+method.teacher_network.backbone.dephts=[2]"], "did you mean depths?"),
        (["method.teacher_network.backbone.image_channels=1"], "image_channels"),
        (["method.teacher_network.upsampler=liif"], "must hold the nodes of a backbone and of an upsampler"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(
    options: list[str], message: str, tiny: list[str], here: Path
) -> None:
    done = typed(*KD[:1], *tiny, *options)
    assert done.code == 2 and message in done.err and len(done.err.strip().splitlines()) == 1, done.err
    assert not (here / "runs").exists()


def test_a_teacher_of_another_scale_is_refused(distilled: Ended, tiny: list[str], here: Path) -> None:
    file = checkpoint(distilled, "teacher")
    done = typed(KD[0], *tiny, f"method.teacher={file}", "task.scale=3", "data.test_scales=[3]")
    assert done.code == 2 and "gives x2, the student x3" in done.err, done.err


def test_the_papers_run_takes_a_file(tmp_path: Path) -> None:
    (tmp_path / "teacher.pth").touch()  # its content is not looked at here
    options = [f"method.teacher={tmp_path / 'teacher.pth'}", "data=div2k", "data.root=DIV2K", "data.reduce=8"]
    cfg, choices = composed(KD[0], "profile=paper", *options, "data.fraction=0.48")
    check(cfg, choices)
    assert (cfg.data.batch_size, cfg.data.lr_size, cfg.backbone.window) == (32, 48, 8)  # Sec. 4.1
    assert (cfg.method.weight, cfg.method.features, cfg.method.loss) == (0.25, 0, "l1")


def test_the_sweep_is_of_lambda_and_seeds() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", [KD[0], "+sweep=kd_lambda"], return_hydra_config=True)
    assert cfg.hydra.sweeper.params == {"method.weight": "0,0.25,0.5,0.75", "seed": "0,1,2"}


def test_a_teacher_is_not_asked_for_the_students_tiles(tiny: list[str], here: Path) -> None:
    """Too small for a SwinIR's windows: while it is trained and validated, and when it is tested beside the student."""
    student = ["backbone=edsr_baseline", "upsampler=pixelshuffle", "inference.tile=24"]
    ended = typed(KD[0], *tiny, *student)
    assert ended.code == 0, ended.err
    assert "teacher" in (ended.folder / "companions.csv").read_text()
