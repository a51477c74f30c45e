"""Image sets found by the papers' names; networks in files, and the rows and levels that they may stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dynres.build import build_restorer, compose_checked, network_description
from dynres.data.images import write_png
from dynres.errors import UserError
from dynres.interop.official import recognise, to_official
from dynres.tables.catalogue import Catalogue, Weights, identity, weights_below

DARK = np.zeros((8, 8, 3), np.uint8)


def images(folder: Path, count: int) -> Path:
    for number in range(count):
        write_png(folder / f"{number}.png", DARK)
    return folder


def described(*overrides: str) -> dict[str, object]:
    return network_description(compose_checked(["profile=paper", *overrides]))


# ----------------------------------------------------------------------------------------------------------- images


def test_sets_are_found_up_to_two_folders_down_and_counted(tmp_path: Path) -> None:
    images(tmp_path / "Set5" / "HR", 5)
    images(tmp_path / "car" / "Classic5", 5)
    images(tmp_path / "sr" / "benchmark" / "Urban100" / "HR", 10)
    images(tmp_path / "one" / "two" / "three" / "Set14", 14)
    images(tmp_path / "denoise" / "McMaster18", 18)
    images(tmp_path / "photos", 3)
    found = Catalogue(tmp_path)
    assert found.sets.keys() == {"Set5", "classic5", "Urban100", "McMaster"}
    assert found.note("Set5") == "" and found.note("classic5") == "" and found.note("McMaster") == ""
    assert found.note("Urban100") == "10 of 100 images" and not found.sets["Urban100"].complete
    assert found.note("Set14") == "Set14 is not in DATA" and found.get("Set14") is None
    assert found.get("Classic5") is found.get("classic5")
    assert "Urban100 (10 of 100 images)" in str(found)


def test_of_two_folders_of_a_name_the_complete_one_is_taken(tmp_path: Path) -> None:
    images(tmp_path / "Set5", 2)
    whole = images(tmp_path / "benchmark" / "Set5", 5)
    (tmp_path / "LIVE1").mkdir()  # nothing in it
    found = Catalogue(tmp_path)
    assert found.sets["Set5"].folder == whole and found.sets.keys() == {"Set5"}


def test_div2k_is_a_test_set_and_training_images(tmp_path: Path) -> None:
    images(tmp_path / "images" / "DIV2K_train_HR", 3)
    images(tmp_path / "images" / "DIV2K_valid_HR", 100)
    images(tmp_path / "DF2K_BSD_WED", 3)
    found = Catalogue(tmp_path)
    assert found.sets["DIV2K"].folder == tmp_path / "images" and found.sets["DIV2K"].complete
    assert found.training_folder("DIV2K") == tmp_path / "images"
    assert found.training_folder("DIV2K_train_HR") == tmp_path / "images" / "DIV2K_train_HR"
    assert found.training_folder("DF2K_BSD_WED") == tmp_path / "DF2K_BSD_WED"
    with pytest.raises(UserError, match=r"no training images DF2K_OST .*it holds .*DIV2K"):
        found.training_folder("DF2K_OST")


def test_a_folder_without_known_sets_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    images(tmp_path / "holidays", 2)
    with pytest.raises(UserError, match=r"holds no image set known here: looked for folders named Set5, .*Set12 in it"):
        Catalogue(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        Catalogue(tmp_path / "nowhere")


# ---------------------------------------------------------------------------------------------------------- weights

SR = ("task=sr", "task.scale=3", "method=assr")
CAR = ("task=car", "method=restoration")


@pytest.mark.parametrize(
    "overrides",
    [
        (*SR, "backbone=srcnn", "upsampler=same_size", "upsampler.kernel=5", "upsampler.skip=none"),
        (*SR, "backbone=edsr_baseline", "upsampler=pixelshuffle"),
        (*SR, "backbone=swinir_lightweight", "upsampler=pixelshuffle_direct"),
        (*CAR, "backbone=dncnn", "backbone.layers=20", "upsampler=same_size", "upsampler.skip=subtract"),
        ("task=denoise_color", "method=restoration", "backbone=ffdnet", "upsampler=as_image"),
        ("backbone=edsr_baseline", "upsampler=liif", "method=assr"),
    ],
)
def test_what_is_recognised_in_an_authors_file_is_the_recipes_network(overrides: tuple[str, ...]) -> None:
    ours = described(*overrides)
    with torch.device("meta"):
        restorer = build_restorer(ours)
    theirs = recognise(to_official(restorer))
    assert theirs is not None and identity(theirs) == identity(ours)


def test_networks_of_other_scales_and_options_are_others_and_pixels_do_not_matter() -> None:
    network = (*SR, "backbone=edsr_baseline", "upsampler=pixelshuffle")
    assert identity(described(*network)) == identity(described(*network, "pixels.factor=255"))
    others = (["task.scale=2"], ["backbone.channels=32"], ["image_skip=true"], ["upsampler=pixelshuffle_direct"])
    assert len({identity(described(*network, *other)) for other in ([], *others)}) == 5


@pytest.mark.parametrize(
    ("name", "task", "level", "rank"),
    [
        ("srcnn_x3.pth", "sr", "x3", 3), ("srcnn_x3.pth", "sr", "x2", 0), ("srcnn_x3.pth", "car", "q10", 0),
        ("RCAN_BIX2.pt", "sr", "x2", 3), ("edsr_x2-1bc95232.pt", "sr", "x2", 3), ("edsr_x2-1bc95232.pt", "sr", "x4", 0),
        ("001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth", "sr", "x4", 3), ("003_realSR_BSRGAN_x4.pth", "sr", "x4", 0),
        ("vdsr.pth", "sr", "x4", 1), ("dncnn3.pth", "car", "q40", 1), ("dncnn3.pth", "denoise_gray", "sigma25", 1),
        ("dncnn_gray_blind.pth", "denoise_gray", "sigma25", 2), ("dncnn_gray_blind.pth", "car", "q40", 0),
        ("dncnn_25.pth", "denoise_gray", "sigma25", 3), ("dncnn_25.pth", "denoise_gray", "sigma50", 0),
        ("005_colorDN_SwinIR-M_noise15.pth", "denoise_color", "sigma15", 3),
        ("005_colorDN_SwinIR-M_noise15.pth", "denoise_color", "sigma50", 0),
        ("006_CAR_SwinIR-M_jpeg10.pth", "car", "q10", 3), ("006_CAR_SwinIR-M_jpeg10.pth", "denoise_gray", "sigma10", 0),
        ("006_CAR_SwinIR-M_jpeg10.pth", "car", "q40", 0), ("rnan_demosaic.pt", "demosaic", "grbg", 2),
    ],
)  # fmt: skip
def test_the_name_of_an_authors_file_says_what_it_is_for(name: str, task: str, level: str, rank: int) -> None:
    assert Weights(Path(name), {}).rank(task, level) == rank


@pytest.mark.parametrize(
    ("trained", "task", "level", "rank"),
    [
        ({"name": "sr", "scale": 3}, "sr", "x3", 3), ({"name": "sr", "scale": 3}, "sr", "x2", 0),
        ({"name": "assr", "scale": None}, "assr", "x12", 3), ({"name": "assr", "scale": None}, "sr", "x2", 0),
        ({"name": "denoise_gray", "sigma": [0, 55]}, "denoise_gray", "sigma50", 3),
        ({"name": "denoise_gray", "sigma": [0, 55]}, "denoise_gray", "sigma70", 0),
        ({"name": "car", "quality": 10}, "car", "q10", 3),
        ({"name": "demosaic", "pattern": "rggb"}, "demosaic", "grbg", 0),
    ],
)  # fmt: skip
def test_a_runs_file_is_for_what_it_was_trained_for_whatever_it_is_called(
    trained: dict[str, object], task: str, level: str, rank: int
) -> None:
    assert Weights(Path("x4_noise15.ckpt"), {}, trained).rank(task, level) == rank


def test_a_file_may_be_called_after_a_row() -> None:
    assert Weights(Path("dncnn3.pth"), {}).called("DnCNN-3") and Weights(Path("DnCNN-3_jpeg.pth"), {}).called("DnCNN-3")
    assert not Weights(Path("dncnn_gray_blind.pth"), {}).called("DnCNN-3")


def test_networks_that_only_a_run_can_have_are_not_taken_from_authors_files() -> None:
    """A pruned network's recipe builds the network before the cut, a student's is that of every weight of its loss."""
    recipe = ("+experiment=swinir_prune", "task.scale=2")
    cfg = compose_checked(["profile=paper", *recipe])
    network = network_description(cfg)
    assert not Weights(Path("classicalSR_x2.pth"), network).holds(recipe, cfg, network)
    plain = (*SR, "task.scale=2", "backbone=swinir", "upsampler=pixelshuffle")
    cfg = compose_checked(["profile=paper", *plain])
    assert Weights(Path("classicalSR_x2.pth"), network).holds(plain, cfg, network_description(cfg))


def test_a_file_in_its_runs_folder_stands_for_the_row_that_was_so_trained() -> None:
    network = described("+experiment=tadt_liif")
    ours = compose_checked(["profile=paper", "+experiment=tadt_liif"])
    ours.experiment_name = "tadt_liif"
    mine = Weights(Path("runs/a/checkpoints/last.ckpt"), network, {"name": "assr"}, "tadt_liif", ours)
    assert mine.holds(["+experiment=tadt_liif"], ours, network)
    other = compose_checked(["profile=paper", "+experiment=tadt_liif_no_beta_loss"])
    assert not mine.holds(["+experiment=tadt_liif_no_beta_loss"], other, network)
    moved = Weights(Path("tadt.ckpt"), network, {"name": "assr"}, "tadt_liif")
    assert moved.holds(["+experiment=tadt_liif"], ours, network)
    assert not moved.holds(["+experiment=tadt_liif_no_beta_loss"], other, network)


def test_every_file_is_read_or_named(tmp_path: Path) -> None:
    restorer = build_restorer(
        described(*CAR, "backbone=dncnn", "backbone.channels=4", "upsampler=same_size", "upsampler.skip=subtract")
    )
    torch.save(to_official(restorer), tmp_path / "dncnn.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    run = tmp_path / "run" / "checkpoints"
    run.mkdir(parents=True)
    about = {
        "format": 1,
        "network": restorer.description,
        "experiment": "dncnn",
        "task": {"name": "car", "quality": 10},
    }
    state = {f"restorer.{key}": value for key, value in restorer.state_dict().items()}
    for name in ("best.ckpt", "last.ckpt"):
        torch.save({"state_dict": state, "dynres": about}, run / name)
    OmegaConf.save(OmegaConf.create({"method": {}}), tmp_path / "run" / "config.yaml")
    restorer.save_pretrained(tmp_path / "net")
    found, refused = weights_below(tmp_path)
    assert [one.path.relative_to(tmp_path.resolve()).as_posix() for one in found] == [
        "dncnn.pth",
        "net",
        "run/checkpoints/last.ckpt",
    ]
    assert len({identity(one.network) for one in found}) == 1
    assert found[2].task == {"name": "car", "quality": 10} and found[2].config is not None and found[0].task is None
    assert len(refused) == 1 and "broken.pth" in refused[0]
    with pytest.raises(UserError, match="holds no weights"):
        weights_below(images(tmp_path / "pictures", 1))
