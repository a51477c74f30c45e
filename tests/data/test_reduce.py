"""data.reduce: training and validation images at a fraction of their size; test sets as they are. data.small: what is
then smaller than a crop."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynres.build import compose_checked
from dynres.data.base import ImageData
from dynres.data.cache import open_cache
from dynres.data.datamodule import SuperResolutionData
from dynres.data.degradations import Jpeg, RealWorld
from dynres.data.evaluation import sizes
from dynres.data.images import find_images, read_rgb, write_png
from dynres.data.resize import reduced, reduced_size, resize
from dynres.data.restoration import RestorationData
from dynres.errors import UserError
from dynres.nodes import make

Folder = Callable[..., Path]
Noise = Callable[..., np.ndarray]


def queries(root: Path, **options: Any) -> SuperResolutionData:
    return SuperResolutionData(**{
        "source": "folder", "root": str(root), "lr_size": 8, "queries": None, "scales": [2, 2], "batch_size": 4,
        "val_scales": [2], "test_scales": [2], "downsampling": "matlab", **options,
    })  # fmt: skip


def patches(root: Path, **options: Any) -> RestorationData:
    return RestorationData(**{
        "source": "folder", "root": str(root), "degradation": Jpeg(90), "patch_size": 16, "batch_size": 4, **options
    })  # fmt: skip


def training_pixels(module: ImageData[Any]) -> list[np.ndarray]:
    pixels = module._training_pixels()
    return [pixels[index] for index in range(len(pixels))]


def as_pixels(image: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (image[0] * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.fixture
def large(folder_of: Folder) -> Path:
    """Two to train on and the third held out."""
    return folder_of("large", [(150, 203), (202, 151), (160, 190)])


# --- Sizes ----------------------------------------------------------------------------------------------------------


def test_div2k_at_an_eighth_has_the_published_sizes() -> None:
    """Lightweight SwinIR, Sec. 4.2: HR 255x169 and LR 127x84 (width first)."""
    assert reduced_size((1352, 2040), 8) == (169, 255)
    assert sizes((169, 255), (2, 2))[0] == (84, 127)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), by=st.integers(1, 20))
def test_sides_are_rounded_and_never_vanish(height: int, width: int, by: int) -> None:
    for side, small in zip((height, width), reduced_size((height, width), by), strict=True):
        assert small == max(1, int(np.floor(side / by + 0.5)))


@given(height=st.integers(2, 40), width=st.integers(2, 40), by=st.integers(1, 5))
def test_a_reduced_image_is_matlabs_bicubic_of_that_size(height: int, width: int, by: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(reduced(image, by), resize(image, reduced_size(image.shape, by), "matlab"))


# --- What is reduced ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [queries, patches])
def test_training_pixels_are_the_reduced_files(module: Callable[..., ImageData[Any]], large: Path) -> None:
    files = [read_rgb(path) for path in find_images(large)[:2]]
    for found, file in zip(training_pixels(module(large, reduce=4)), files, strict=True):
        np.testing.assert_array_equal(found, resize(file, reduced_size(file.shape, 4), "matlab"))
    for found, file in zip(training_pixels(module(large)), files, strict=True):
        np.testing.assert_array_equal(found, file)


def test_validation_is_reduced_then_cropped_and_tests_are_not(large: Path) -> None:
    file = read_rgb(find_images(large)[2])
    small = reduced(file, 4)  # 40x48 (47.5 rounded up)
    (whole,) = queries(large, reduce=4).val_dataloader()
    np.testing.assert_array_equal(as_pixels(whole.target), small)
    np.testing.assert_array_equal(as_pixels(whole.image), resize(small, (20, 24), "matlab"))
    (cut,) = queries(large, reduce=4, val_crop=32).val_dataloader()
    np.testing.assert_array_equal(as_pixels(cut.target), small[4:36, 8:40])
    (test,) = queries(large, reduce=4).test_dataloader()  # the held-out image again, now as a test image
    np.testing.assert_array_equal(as_pixels(test.target), file)


def test_other_tasks_reduce_before_they_degrade(large: Path) -> None:
    degradation = RealWorld(scale=2)
    file = read_rgb(find_images(large)[2])
    module = patches(large, reduce=4, degradation=degradation, test=["held-out"])
    (held_out,), (test,) = module.val_dataloader(), module.test_dataloader()
    np.testing.assert_array_equal(as_pixels(held_out.target), reduced(file, 4))
    assert held_out.image.shape[-2:] == (20, 24) and test.image.shape[-2:] == (80, 95)
    assert next(iter(module.train_dataloader())).target.shape == (4, 3, 16, 16)


def test_published_low_resolution_images_stay_those_of_the_test_set(large: Path, tmp_path: Path, noise: Noise) -> None:
    write_png(tmp_path / "Set1/HR/a.png", noise(60, 60))
    write_png(tmp_path / "Set1/LR_bicubic/X2/ax2.png", noise(30, 30, 9))
    module = queries(large, reduce=4, test=[str(tmp_path / "Set1")])
    module.check()
    (sample,) = module.test_dataloader()
    np.testing.assert_array_equal(as_pixels(sample.image), noise(30, 30, 9))


@pytest.mark.parametrize("task", ["sr", "assr", "denoise_color", "realsr"])
def test_the_demo_photographs_can_be_reduced(task: str) -> None:
    module = make(compose_checked([f"task={task}", "method=assr", "data.reduce=2", "data.val_crop=null"]).data, "data")
    module.check("fit")
    file, small = read_rgb(module._training_images()[0]), module._training_pixels()[0]
    assert small.shape[:2] == reduced_size(file.shape, 2)
    np.testing.assert_array_equal(small, reduced(file, 2))


# --- The stream -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [queries, patches])
def test_reduced_samples_depend_on_the_seed_alone(module: Callable[..., ImageData[Any]], large: Path) -> None:
    def batches(**options: Any) -> list[Any]:
        one = module(large, reduce=4, **options)
        return [one.on_after_batch_transfer(batch, 0) for batch in itertools.islice(one.train_dataloader(), 3)]

    first, again, other = batches(), batches(workers=2), batches(seed=1)
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(first[0].target, other[0].target)


def test_a_patch_is_cut_out_of_the_reduced_image(large: Path) -> None:
    """As it stands in it, in one of eight attitudes."""
    small = training_pixels(queries(large, reduce=9))[0]  # 17x23
    module = queries(large, reduce=9, fraction=0.5)
    batch = module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
    places = {
        np.ascontiguousarray(turned).tobytes()
        for top in range(small.shape[0] - 15)
        for left in range(small.shape[1] - 15)
        for cut in [small[top : top + 16, left : left + 16]]
        for square in (cut, cut.transpose(1, 0, 2))
        for turned in (square, square[::-1], square[:, ::-1], square[::-1, ::-1])
    }
    for target in batch.target:
        assert (target * 255).round().byte().reshape(16, 16, 3).numpy().tobytes() in places


# --- The cache ------------------------------------------------------------------------------------------------------


def test_the_cache_keeps_each_size_apart(tmp_path: Path, large: Path) -> None:
    paths, folder = find_images(large), tmp_path / "cache"
    for reduce in (1, 4, 8, 4, 1):
        cache = open_cache(paths, folder, reduce)
        for index, path in enumerate(paths):
            np.testing.assert_array_equal(cache[index], reduced(read_rgb(path), reduce))
    files = {path: path.stat().st_ino for path in folder.glob("*.pixels")}
    assert len(files) == 3
    open_cache(paths, folder, 4)
    assert files == {path: path.stat().st_ino for path in folder.glob("*.pixels")}, "it was built twice"


def test_a_changed_file_changes_its_reduced_pixels(tmp_path: Path, large: Path, noise: Noise) -> None:
    paths, folder = find_images(large), tmp_path / "cache"
    open_cache(paths, folder, 4)
    write_png(paths[0], noise(90, 80, 99))
    os.utime(paths[0], (1, 1))
    np.testing.assert_array_equal(open_cache(paths, folder, 4)[0], reduced(noise(90, 80, 99), 4))


# --- Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", [0, -1, 2.5, True, "2", None])
@pytest.mark.parametrize("module", [queries, patches])
def test_what_is_no_whole_number_from_one_on_is_refused(module: Any, large: Path, reduce: Any) -> None:
    with pytest.raises(UserError, match=r"data\.reduce must be a whole number of at least 1, got"):
        module(large, reduce=reduce)


def test_an_image_too_small_after_it_names_the_reductions_that_fit(folder_of: Folder) -> None:
    root = folder_of("mixed", [(200, 203), (95, 300), (240, 240)])
    with pytest.raises(UserError) as caught:
        queries(root, reduce=8).check("fit")
    message = str(caught.value)
    assert "leave it out (data.small=skip), or " in message
    assert "01.png (12x38, HxW, 1/8 of the file's) is smaller than the 16x16 crop" in message
    assert message.endswith("set data.lr_size=6 or lower, or set data.reduce=5 or lower") and "00.png" not in message
    queries(root, reduce=5).check("fit")
    queries(root, reduce=8, lr_size=6).check("fit")
    with pytest.raises(UserError, match=r"smaller than the 16x16 patch: .*patch_size=12 .*data\.reduce=5 or lower$"):
        patches(root, reduce=8).check("fit")


def test_where_no_reduction_would_do_none_is_named(folder_of: Folder) -> None:
    root = folder_of("tiny", [(14, 60), (60, 60)])
    for reduce in (1, 2):
        with pytest.raises(UserError, match=r"or set data\.lr_size=[73] or lower$"):
            queries(root, reduce=reduce).check("fit")


@given(side=st.integers(8, 4000), reduce=st.integers(2, 20), least=st.integers(2, 96))
def test_the_named_reduction_suffices(side: int, reduce: int, least: int) -> None:
    module = SuperResolutionData("demo", reduce=reduce)
    small = reduced_size((side, side), reduce)[0]
    words = module._milder_reduction(small, least)
    if words:
        named = int(words.split("=")[1].split()[0])
        assert all(reduced_size((side, side), by)[0] >= least for by in range(1, named + 1))


def test_a_validation_image_too_small_to_be_measured_after_it_names_it(folder_of: Folder) -> None:
    root = folder_of("held", [(200, 200), (64, 64)])
    queries(root).check("validate")
    with pytest.raises(UserError, match=r"val: .*01\.png \(16x16, HxW\) is too small .*, or set data\.reduce below 4$"):
        queries(root, reduce=4).check("validate")
    queries(root, reduce=4, test=[str(root)]).check("test")


# --- What is left out -----------------------------------------------------------------------------------------------


SMALL = [(200, 203), (95, 300), (240, 240), (300, 95), (94, 94), (210, 201), (250, 250)]  # the last is held out


@pytest.mark.parametrize("module", [queries, patches])
def test_skipped_images_are_those_a_crop_does_not_fit_and_are_told_once(
    module: Callable[..., ImageData[Any]], folder_of: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of("mixed", SMALL)
    kept = module(root, reduce=8, small="skip")
    kept.check("fit")
    next(iter(kept.train_dataloader()))
    square = "crop" if module is queries else "patch"
    assert capsys.readouterr().err == (
        f"data.small=skip: 3 of 6 training images are smaller than the 16x16 {square} and left out: "
        "01.png (12x38, HxW), 03.png (38x12, HxW), 04.png (12x12, HxW)\n"
    )
    expected = [reduced(read_rgb(root / f"{number:02d}.png"), 8) for number in (0, 2, 5)]
    for found, small in zip(training_pixels(kept), expected, strict=True):
        np.testing.assert_array_equal(found, small)


@pytest.mark.parametrize("module", [queries, patches])
def test_samples_are_those_of_a_folder_without_what_is_skipped(
    module: Callable[..., ImageData[Any]], folder_of: Folder
) -> None:
    """In the same order, whatever number of workers loads them."""
    mixed, fitting = folder_of("mixed", SMALL), folder_of("fitting", SMALL)
    for number in (1, 3, 4):
        (fitting / f"{number:02d}.png").unlink()

    def batches(root: Path, **options: Any) -> list[Any]:
        one = module(root, reduce=8, repeat=2, **options)
        return [one.on_after_batch_transfer(batch, 0) for batch in itertools.islice(one.train_dataloader(), 4)]

    plain = batches(fitting)
    for skipped in (batches(mixed, small="skip"), batches(mixed, small="skip", workers=2)):
        for a, b in zip(plain, skipped, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_many_are_counted_and_the_first_five_named(folder_of: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    queries(folder_of("many", [(8, 9)] * 7 + [(40, 40)] * 2), small="skip").check("fit")
    told = capsys.readouterr().err
    assert "7 of 8 training images" in told and told.endswith("04.png (8x9, HxW) and 2 more\n") and "05" not in told


def test_where_every_image_fits_nothing_is_told(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries(large, reduce=4, small="skip").check("fit")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("halves", "left"), [(False, 0), (True, 1)])
def test_too_few_that_fit_are_refused(folder_of: Folder, halves: bool, left: int) -> None:
    root = folder_of("few", [(8, 40)] * 2 + [(40, 40)] * (left + 1))
    with pytest.raises(UserError, match=rf"too few training images, {left}: .*00\.png \(8x40.*01\.png .* or lower$"):
        queries(root, small="skip", halves=halves).check("fit")


@pytest.mark.parametrize("small", ["Skip", "", None, True, ["skip"]])
@pytest.mark.parametrize("module", [queries, patches])
def test_another_word_for_small_images_is_refused(module: Any, large: Path, small: Any) -> None:
    with pytest.raises(UserError, match=r"data\.small must be one of refuse, skip, got"):
        module(large, small=small)


def test_the_papers_profiles_skip_and_reduce() -> None:
    for experiment in ("swinir_kd", "swinir_prune"):
        data = compose_checked([f"+experiment={experiment}", "profile=paper", "data=div2k", "data.root=DIV2K"]).data
        assert (data.reduce, data.fraction, data.small, data.batch_size) == (8, 0.48, "skip", 32)


# --- With a fraction ------------------------------------------------------------------------------------------------


def test_048_of_div2k_is_384_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sec. 4.1: "384 train images"."""
    paths = tuple(Path(f"{number:04d}.png") for number in range(1, 801))
    monkeypatch.setattr("dynres.data.base.training_images", lambda *_: paths)
    chosen = queries(Path(), reduce=8, fraction=0.48)._training_images()
    assert len(chosen) == len(set(chosen)) == 384 and chosen[0] == paths[0]
