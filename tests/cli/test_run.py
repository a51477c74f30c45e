"""What a run leaves behind, and that its checkpoint gives the same numbers again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from .conftest import Ended, typed


def summary(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    return dict(json.loads((folder / "summary.json").read_text())["metrics"])


def test_a_run_leaves_everything_it_promises(trained: Ended) -> None:
    folder = trained.folder
    promised = [
        "config.yaml", "provenance.json", "metrics.csv", "per_image.csv", "summary.json", "summary.md", "macs.csv",
        "macs.png", "routing.csv", "routing_heatmap.png", "beta_curve.csv", "beta_curve.png", "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
    ]  # fmt: skip
    assert not [name for name in promised if not (folder / name).is_file()], sorted(map(str, folder.rglob("*")))
    for picture in folder.rglob("*.png"):
        assert min(Image.open(picture).size) > 50, picture
    assert len(list((folder / "panels").glob("*.png"))) >= 3  # one at validation, one for each test scale

    found = json.loads((folder / "summary.json").read_text())
    kinds = {"experiment": str, "profile": str, "seed": int, "params": int, "train_seconds": float, "metrics": dict}
    assert {key: type(found[key]) for key in kinds} == kinds
    assert (found["experiment"], found["profile"], found["seed"]) == ("tadt_liif", "smoke", 0)
    assert list(found["metrics"]) == ["held-out"] and list(found["metrics"]["held-out"]) == ["x2", "x3"]
    row = found["metrics"]["held-out"]["x2"]
    assert 5 < row["psnr"] < 60 and 0 < row["macs_fraction"] <= 1 and row["protocol"] == "div2k"

    with open(folder / "metrics.csv", newline="") as file:
        steps = [int(line["step"]) for line in csv.DictReader(file) if line["train/loss"]]
    assert steps == list(range(6)), "one line of training a step"
    assert OmegaConf.load(folder / "config.yaml").trainer.max_steps == 6
    provenance = json.loads((folder / "provenance.json").read_text())
    assert "profile=smoke" in provenance["overrides"] and provenance["versions"]["torch"] == torch.__version__
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6 and last["dynres"]["network"]["backbone"]["_target_"].endswith("TADT")
    assert "profile=paper" in trained.out, "the run says what the paper's would be"


def test_a_checkpoint_gives_the_same_numbers_in_every_mode(here: Path, tiny: list[str], trained: Ended) -> None:
    last = f"ckpt={trained.folder}/checkpoints/last.ckpt"
    command = ["+experiment=tadt_liif", *tiny, last, "data.test_scales=[2,3]"]
    predicted = typed(*command, "mode=predict")
    assert predicted.code == 0, predicted.err
    before, after = summary(trained.folder), summary(predicted.folder)
    for label in ("x2", "x3"):
        one, other = before["held-out"][label], after["held-out"][label]
        assert (one["psnr"], one["ssim"], one["macs"]) == (other["psnr"], other["ssim"], other["macs"]), label
    images = sorted((predicted.folder / "predictions").rglob("*.png"))
    assert [path.relative_to(predicted.folder / "predictions").as_posix() for path in images] == [
        "held-out/x2/02.png", "held-out/x3/02.png",
    ]  # fmt: skip
    assert np.asarray(Image.open(images[0])).std() > 5

    validated = typed(*command, "mode=validate")
    assert validated.code == 0, validated.err
    assert list(summary(validated.folder)) == ["val"]
    half = typed(*command, "mode=test", "inference.budget=0.85")
    assert half.code == 0, half.err
    spent = summary(half.folder)["held-out"]["x2"]["macs_fraction"]
    assert spent <= 0.85 < after["held-out"]["x2"]["macs_fraction"], f"a budget of 0.85 spent {spent:.3f}"


def test_the_same_command_gives_the_same_weights_in_a_folder_of_its_own(
    here: Path, tiny: list[str], edsr: Ended
) -> None:
    taken = here / "runs" / edsr.folder.parent.name / edsr.folder.name
    taken.mkdir(parents=True)
    again = typed("backbone=edsr_baseline", "method=assr", *tiny)
    assert again.code == 0, again.err
    assert again.folder == taken.with_name(f"{taken.name}-2") and not any(taken.iterdir())
    one, other = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (edsr.folder, again.folder)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    "choice",
    [
        "+experiment=tadt_lte",
        "+experiment=tadt_metasr inference.budget=0.85",
        "+experiment=baseline_lte callbacks=ema",
        "backbone=edsr_baseline method=assr data.workers=1",
        "+experiment=bicubic mode=test",
        "+experiment=edsr_baseline_metasr trainer.enable_progress_bar=false logger=tensorboard",
    ],
)
def test_every_combination_trains_and_is_tested(choice: str, here: Path, tiny: list[str]) -> None:
    ended = typed(*tiny, *choice.split())
    assert ended.code == 0, ended.err
    row = summary(ended.folder)["held-out"]["x2"]
    assert 5 < row["psnr"] < 60, row
    if "bicubic" in choice:
        assert row["psnr"] == pytest.approx(row["psnr_plain"], abs=0.1)


def test_tadt_starts_from_a_baseline(here: Path, tiny: list[str]) -> None:
    baseline = typed("+experiment=baseline_liif", *tiny)
    assert baseline.code == 0, baseline.err
    ckpt = f"ckpt={baseline.folder}/checkpoints/best.ckpt"  # pasted as it is printed: needs no quotes
    started = typed("+experiment=tadt_liif", *tiny, "method.dense_fraction=0", ckpt, "trainer.max_steps=3")
    assert started.code == 0, started.err


@pytest.mark.parametrize("name", ["limit", "profile"])
def test_a_debug_run_is_short(name: str, here: Path, tiny: list[str]) -> None:
    ended = typed("+experiment=tadt_liif", f"+debug={name}", *tiny)
    assert ended.code == 0, ended.err
    if name == "profile":
        assert "run_training_batch" in (ended.folder / "fit-profile.txt").read_text()


def test_overfitting_one_batch_lowers_its_loss(here: Path, tiny: list[str]) -> None:
    easy = ["image_skip=false", "method.learning_rate=0.002"]  # starts from gray, far from the picture
    ended = typed("+experiment=edsr_baseline_liif", "+debug=overfit", *tiny, *easy)
    assert ended.code == 0, ended.err
    with open(ended.folder / "metrics.csv", newline="") as file:
        losses = [float(line["train/loss"]) for line in csv.DictReader(file) if line["train/loss"]]
    assert losses[-1] < 0.4 * losses[0], f"loss of the one batch: {losses}"
