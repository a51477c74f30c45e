"""What a user can get wrong is one line, before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynres.data.datamodule import SuperResolutionData
from dynres.data.evaluation import sizes
from dynres.data.images import write_png
from dynres.errors import UserError
from dynres.metrics import SR_PROTOCOLS, minimum_side, psnr

Folder = Callable[..., Path]
Noise = Callable[..., np.ndarray]
TINY: dict[str, Any] = {
    "lr_size": 8,
    "queries": 16,
    "batch_size": 4,
    "repeat": 2,
    "val_scales": [2],
    "test_scales": [2],
}


def data(root: Path, **options: Any) -> SuperResolutionData:
    return SuperResolutionData(**{"source": "folder", "root": str(root), **TINY, **options})


@pytest.mark.parametrize("scale", [0.5, 0, -2, 31, math.nan, math.inf, "2", None, True, [2], [2, 3, 4], [2, 31]])
@pytest.mark.parametrize("option", ["test_scales", "val_scales"])
def test_a_scale_out_of_range_is_refused(option: str, scale: Any) -> None:
    with pytest.raises(UserError, match=f"data.{option}"):
        SuperResolutionData("demo", **{option: [2, scale]})


@pytest.mark.parametrize("scales", [[0.9, 4], [1, 31], [math.nan, 4], [4, 2], [2], [1, 2, 3], ["1", 4], 3, "14"])
def test_a_training_range_out_of_range_is_refused(scales: Any) -> None:
    with pytest.raises(UserError, match=r"data\.scales"):
        SuperResolutionData("demo", scales=scales)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"source": "demos"}, "unknown data source 'demos'"),
        ({"source": "folder"}, "needs data.root"),
        ({"source": "folder", "root": "/nowhere"}, "no folder at /nowhere"),
        ({"source": "div2k", "root": "/nowhere"}, "DIV2K_train_HR in /nowhere"),
        ({"test": ["/nowhere"]}, "no test set at /nowhere"),
        ({"test": []}, "data.test is empty"),
        ({"test_scales": []}, "test_scales is empty"),
        ({"protocol": "set5"}, "'set5'"),
        ({"protocol": "denoise"}, "one of div2k, benchmark"),
        ({"test_images": 0}, "test_images must be a whole number of at least 1"),
        ({"downsampling": "bilinear"}, "'bilinear'"),
        ({"queries": 2500}, "at most 2304"),
        ({"queries": 2000, "aligned": True}, "take 1936"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed must be"),
        ({"workers": -1}, "workers must be"),
    ],
)
def test_an_impossible_option_is_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        SuperResolutionData(**{"source": "demo", **options}).check()
    assert says in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_an_empty_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image in"):
        data(tmp_path).check()


def test_images_smaller_than_the_crop_are_named_with_the_crop_that_fits(folder_of: Folder) -> None:
    root = folder_of("small", [(60, 60), (20, 40), (60, 60)])
    with pytest.raises(UserError) as caught:
        data(root).check("fit")
    message = str(caught.value)
    assert "01.png (20x40" in message and "32x32 crop" in message and "end at 2.5 or lower" in message, message
    data(root, scales=[1, 2.5]).check("fit")


def test_a_test_image_too_small_for_a_scale_is_named_before_anything_runs(
    photos: Path, tmp_path: Path, noise: Noise
) -> None:
    write_png(tmp_path / "Tiny/HR/ant.png", noise(60, 60))
    data(photos, test=[str(tmp_path / "Tiny")], test_scales=[2, 20]).check("test")
    with pytest.raises(UserError) as caught:
        data(photos, test=[str(tmp_path / "Tiny")], test_scales=[2, 22]).check("test")
    message = str(caught.value)
    assert all(part in message for part in ("Tiny", "ant.png", "scale 22", "44x44", "55x55")), message


def test_a_published_image_of_another_size_is_refused(photos: Path, tmp_path: Path, noise: Noise) -> None:
    write_png(tmp_path / "Set1/HR/a.png", noise(60, 60))
    write_png(tmp_path / "Set1/LR_bicubic/X2/ax2.png", noise(29, 30))
    with pytest.raises(UserError, match=r"ax2.png is 29x30 .* asks for 30x30"):
        data(photos, test=[str(tmp_path / "Set1")]).check("test")


@pytest.mark.parametrize("place", ["photos/00.png", "photos/03.png", "Set1/HR/a.png", "Set1/LR_bicubic/X2/ax2.png"])
def test_an_unreadable_image_anywhere_is_found_before_training(
    photos: Path, tmp_path: Path, noise: Noise, place: str
) -> None:
    write_png(tmp_path / "Set1/HR/a.png", noise(60, 60))
    write_png(tmp_path / "Set1/LR_bicubic/X2/ax2.png", noise(30, 30))
    data(photos, test=[str(tmp_path / "Set1")]).check()
    (tmp_path / place).write_bytes((tmp_path / place).read_bytes()[:500])
    with pytest.raises(UserError, match=f"{Path(place).name} is truncated"):
        data(photos, test=[str(tmp_path / "Set1")]).check()


def test_two_test_sets_of_one_name_are_refused(photos: Path, tmp_path: Path, noise: Noise) -> None:
    for folder in ("a", "b"):
        write_png(tmp_path / folder / "Set1/HR/a.png", noise(60, 60))
    with pytest.raises(UserError, match="two sets of one name"):
        data(photos, test=[str(tmp_path / "a/Set1"), str(tmp_path / "b/Set1")]).check("test")


@pytest.mark.parametrize("protocol", SR_PROTOCOLS)
@pytest.mark.parametrize("scale", [2, 2.5, (3, 5.2)])
def test_what_data_lets_pass_the_metrics_can_measure(
    photos: Path, tmp_path: Path, noise: Noise, protocol: str, scale: Any
) -> None:
    """The smallest image that passes the check is measured, and one row less does not pass."""

    def check(height: int) -> SuperResolutionData:
        write_png(tmp_path / "edge/HR/a.png", noise(height, 60))
        module = data(photos, test=[str(tmp_path / "edge")], test_scales=[scale], protocol=protocol)
        module.check("test")
        return module

    def passes(height: int) -> bool:
        try:
            check(height)
        except UserError:
            return False
        return True

    smallest = next(height for height in range(2, 60) if passes(height))
    (sample,) = check(smallest).test_dataloader()
    assert psnr(sample.plain, sample.target, sample.protocol, sample.scale) < math.inf
    least, (_, one_less) = minimum_side(protocol, sample.scale)[0], sizes((smallest - 1, 60), sample.scale)
    assert sample.target.shape[2] >= least > one_less[0]
