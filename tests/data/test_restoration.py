from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynres.contracts import EvalSample, PatchBatch
from dynres.data.degradations import Degradation, GaussianNoise, Jpeg, RealWorld, as_jpeg
from dynres.data.images import find_images, is_gray, read_rgb, write_png
from dynres.data.mosaic import Mosaic
from dynres.data.resize import resize
from dynres.data.restoration import RestorationData
from dynres.data.sources import DEMO, DEMO_COLOUR
from dynres.errors import UserError
from dynres.metrics import minimum_side, psnr

Folder = Callable[..., Path]
Noise = Callable[..., np.ndarray]
KINDS: list[Callable[[], Degradation]] = [
    lambda: GaussianNoise([5, 50]),
    lambda: GaussianNoise(25, channels=1),
    lambda: Jpeg([10, 40]),
    lambda: RealWorld(2),
    Mosaic,
]


def data(root: Path, degradation: Degradation | None = None, **options: Any) -> RestorationData:
    given = {"source": "folder", "root": str(root), "patch_size": 16, "batch_size": 4, "repeat": 2, **options}
    return RestorationData(degradation=degradation or GaussianNoise(25), **given)


def at(step: int = 0, rank: int = 0, world: int = 1) -> Any:
    """A trainer, as much of it as data looks at."""
    return SimpleNamespace(
        global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=1, overfit_batches=0
    )


def stream(module: RestorationData, batches: int, trainer: Any = None) -> list[PatchBatch]:
    module.trainer = trainer
    return list(itertools.islice(module.train_dataloader(), batches))


def assert_same(first: list[PatchBatch], second: list[PatchBatch]) -> None:
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        for name, x, y in zip(a._fields, a, b, strict=True):
            assert torch.equal(x, y), f"batch {number}: {name} differs"


def samples_of(module: RestorationData) -> list[EvalSample]:
    return list(module.test_dataloader())


def pixels(planes: torch.Tensor) -> np.ndarray:
    """(1, C, H, W) in [0, 1] -> (H, W, C) in 0..255."""
    return (planes[0].permute(1, 2, 0) * 255).numpy()


# --- The training stream --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_depends_on_seed_and_position_alone(photos: Path, kind: Callable[[], Degradation]) -> None:
    """Not on workers, interruptions or ranks."""
    whole = stream(data(photos, kind()), 4)
    assert_same(whole, stream(data(photos, kind(), workers=2), 4))
    assert_same(whole[2:], stream(data(photos, kind()), 2, at(2)))
    halves = [stream(data(photos, kind()), 4, at(rank=rank, world=2)) for rank in range(2)]
    assert_same(whole, [PatchBatch(*map(torch.cat, zip(*both, strict=True))) for both in zip(*halves, strict=True)])
    assert not torch.equal(whole[0].image, stream(data(photos, kind(), seed=1), 1)[0].image)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_the_shapes_of_its_contract(photos: Path, kind: Callable[[], Degradation]) -> None:
    (batch,) = stream(data(photos, kind()), 1)
    scale, channels = kind().scale, kind().channels
    assert batch.image.shape == (4, channels, 16 // scale, 16 // scale) and batch.target.shape == (4, channels, 16, 16)
    assert batch.scale.tolist() == [scale] * 4 and batch.seed.dtype == torch.int64 and batch.noise.shape == (4,)
    assert {value.dtype for value in (batch.image, batch.target, batch.scale, batch.noise)} == {torch.float32}
    assert 0 <= batch.target.min() < batch.target.max() <= 1
    assert len(set(batch.seed.tolist())) == 4


def test_the_noise_of_a_sample_is_the_one_it_says(photos: Path) -> None:
    (batch,) = stream(data(photos, GaussianNoise([5, 75]), batch_size=32), 1)
    measured = (batch.image - batch.target).flatten(1).std(1)
    torch.testing.assert_close(measured, batch.noise, rtol=0.15, atol=0)
    assert batch.noise.min() < 20 / 255 and batch.noise.max() > 60 / 255


def test_patches_come_in_all_attitudes_and_blocks_of_jpeg_stand_upright(tmp_path: Path, noise: Noise) -> None:
    """The degraded patch is JPEG of the patch as it is shown, not a turned JPEG."""
    for number in range(2):
        write_png(tmp_path / f"{number}.png", noise(20, 20))
    module = data(tmp_path, Jpeg(10), patch_size=20, batch_size=40)
    shown = [np.rot90(side, turns) for side in (noise(20, 20), noise(20, 20)[::-1]) for turns in range(4)]
    expected = [Jpeg(10).clean(np.ascontiguousarray(one), False) for one in shown]
    seen = set()
    (batch,) = stream(module, 1)
    for image, target in zip(batch.image, batch.target, strict=True):
        clean = pixels(target[None]).round().astype(np.uint8)
        seen.add(next(number for number, one in enumerate(expected) if np.array_equal(one, clean)))
        np.testing.assert_allclose(pixels(image[None]), as_jpeg(clean, 10), atol=1e-3)
    assert seen == set(range(8))


@pytest.mark.parametrize(("degradation", "expected"), [(GaussianNoise(0), 200), (Jpeg(100), 200)])
def test_gray_files_are_trained_on_as_they_are(
    tmp_path: Path, noise: Noise, degradation: Degradation, expected: int
) -> None:
    for number in range(2):
        Image.fromarray(np.full((40, 40), 200, np.uint8)).save(tmp_path / f"{number}.png")
    assert is_gray(tmp_path / "0.png")
    module = data(tmp_path, degradation, test=["demo"])
    module.check("fit")
    (batch,) = stream(module, 1)
    assert batch.target.shape[1] == degradation.channels and (batch.target * 255).round().unique().tolist() == [
        expected
    ]


# --- Whole images ---------------------------------------------------------------------------------------------------


def test_a_test_image_is_degraded_at_every_level(photos: Path) -> None:
    samples = samples_of(data(photos, GaussianNoise([0, 50])))
    assert [(s.dataset, s.name, s.label, s.noise) for s in samples] == [
        ("held-out", "03", f"sigma{sigma}", sigma) for sigma in (15, 25, 50)
    ]
    full = read_rgb(find_images(photos)[3])
    for sample in samples:
        assert sample.target is not None and sample.plain is not None
        assert (sample.protocol, sample.plain_name, sample.scale) == ("denoise", "noisy", (1.0, 1.0))
        np.testing.assert_allclose(pixels(sample.target), full, atol=1e-4)
        assert torch.equal(sample.plain, sample.image)
        assert (pixels(sample.image) - full).std() == pytest.approx(sample.noise, rel=0.1)
    noises = [(pixels(s.image) - full).ravel() / s.noise for s in samples]
    assert abs(np.corrcoef(noises)[np.triu_indices(3, 1)]).max() < 0.1, "two levels share their noise"


def test_what_a_test_image_gets_is_its_own_and_the_seeds(photos: Path, folder_of: Folder) -> None:
    """Neither other images, sets, levels nor workers change it."""
    root = folder_of("two", [(40, 40), (40, 40)])
    write_png(root / "01.png", read_rgb(root / "00.png"))

    def images(degradation: Degradation, **options: Any) -> dict[tuple[str, str, str], torch.Tensor]:
        return {(s.dataset, s.name, s.label): s.image for s in samples_of(data(photos, degradation, **options))}

    alone = images(GaussianNoise(25), test=[str(root)])
    among = images(GaussianNoise(25, [50, 25]), test=["held-out", str(root)], workers=2)
    assert all(torch.equal(image, among[key]) for key, image in alone.items())
    first, second = alone.values()
    assert not torch.equal(first, second), "two images of one content share their noise"
    other = images(GaussianNoise(25), test=[str(root)], seed=1)
    assert all(not torch.equal(image, other[key]) for key, image in alone.items())


def test_validation_is_the_centre_of_held_out_images_at_every_level(photos: Path) -> None:
    samples = list(data(photos, Jpeg(10, [10, 40]), val_crop=31).val_dataloader())
    assert [(s.dataset, s.label, s.protocol, s.plain_name) for s in samples] == [
        ("val", "q10", "car", "JPEG"), ("val", "q40", "car", "JPEG")
    ]  # fmt: skip
    centre = Jpeg(10).clean(read_rgb(find_images(photos)[3])[7:38, 7:38], False)
    for sample, quality in zip(samples, (10, 40), strict=True):
        assert sample.target is not None
        np.testing.assert_allclose(pixels(sample.target), centre, atol=1e-4)
        np.testing.assert_allclose(pixels(sample.image), as_jpeg(centre, quality), atol=1e-3)


@pytest.mark.parametrize("scale", [2, 4])
def test_blind_super_resolution_cuts_to_a_multiple_and_shows_the_bicubic_enlargement(
    photos: Path, tmp_path: Path, noise: Noise, scale: int
) -> None:
    write_png(tmp_path / "Set1/HR/a.png", noise(50, 63))
    (sample,) = samples_of(data(photos, RealWorld(scale), test=[str(tmp_path / "Set1")]))
    height, width = 50 // scale * scale, 63 // scale * scale
    assert sample.target is not None
    np.testing.assert_allclose(pixels(sample.target), noise(50, 63)[:height, :width], atol=1e-4)
    low = pixels(sample.image).round().astype(np.uint8)
    assert low.shape == (height // scale, width // scale, 3)
    np.testing.assert_allclose(pixels(sample.plain), resize(low, (height, width), "matlab"), atol=1e-4)
    assert (sample.label, sample.protocol, sample.plain_name, sample.noise) == (f"x{scale}", "denoise", "bicubic", 0)


def test_a_plain_folder_holds_real_photographs_of_blind_super_resolution(photos: Path, folder_of: Folder) -> None:
    root = folder_of("mine", [(9, 7)])
    module = data(photos, RealWorld(2), test=[str(root), "held-out"])
    module.check("test")
    real, made = samples_of(module)
    assert real.target is None and (real.protocol, real.label) == ("real", "x2")
    np.testing.assert_allclose(pixels(real.image), read_rgb(root / "00.png"), atol=1e-4)
    assert real.plain.shape == (1, 3, 18, 14)
    assert made.target is not None and made.protocol == "denoise"
    (clean,) = samples_of(data(photos, GaussianNoise(25), test=[str(folder_of("other", [(20, 20)]))]))
    assert clean.target is not None, "where the size stays, a plain folder is clean images"


def test_images_may_be_few(photos: Path, folder_of: Folder) -> None:
    root = folder_of("three", [(20, 20)] * 3)
    samples = samples_of(data(photos, GaussianNoise(25, [15, 25]), test=[str(root)], test_images=2))
    assert [(s.name, s.label) for s in samples] == [(n, f"sigma{s}") for n in ("00", "01") for s in (15, 25)]


# --- The demo -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degradation", "names"), [(GaussianNoise(25), DEMO_COLOUR), (Jpeg(10), DEMO)])
def test_the_demo_shows_colours_alone_to_those_who_restore_them(degradation: Degradation, names: Any) -> None:
    module = RestorationData("demo", degradation, patch_size=64)
    module.check()
    stems = {part: {name.split(".")[0] for name in files} for part, files in names.items()}
    assert {Path(path).stem for path, _, _ in module._training_pixels().sizes()} == stems["train"]
    assert {s.name for s in module.val_dataloader()} == stems["val"]
    assert {s.name for s in samples_of(module)} == stems["test"]
    files = [*module._training_pixels().sizes(), *((path, 0, 0) for path in module._held_out().images)]
    assert any(is_gray(path) for path, _, _ in files) == (degradation.channels == 1)


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_a_gray_test_image_of_a_colour_task_is_refused(photos: Path, tmp_path: Path, noise: Noise) -> None:
    write_png(tmp_path / "Set2/HR/colour.png", noise(40, 40))
    Image.fromarray(noise(40, 40)[..., 0]).save(tmp_path / "Set2/HR/bridge.png")
    test = {"test": [str(tmp_path / "Set2")]}
    colour: list[Degradation] = [GaussianNoise([15, 50]), Mosaic()]
    for degradation in colour:
        with pytest.raises(UserError, match=r"Set2/HR/bridge.png is gray.* leave it out .*task=denoise_gray") as caught:
            data(photos, degradation, **test).check()
        assert str(caught.value).count("bridge") == 1
    others: list[Degradation] = [GaussianNoise(25, channels=1), Jpeg(10), RealWorld(2)]
    for degradation in others:
        data(photos, degradation, **test).check()


@pytest.mark.parametrize(
    ("degradation", "options", "says"),
    [
        (GaussianNoise(25), {"protocol": "div2k"}, "data.protocol=div2k is for super-resolution"),
        (RealWorld(4), {"patch_size": 30}, "multiple of task.scale=4: take 28"),
        (RealWorld(4), {"patch_size": 2}, "patch_size must be a whole number of at least 4"),
        (GaussianNoise(25), {"patch_size": 16.5}, "patch_size must be a whole number"),
        (GaussianNoise(25), {"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        (GaussianNoise(25), {"test": []}, "data.test is empty"),
        (GaussianNoise(25), {"source": "demos"}, "unknown data source 'demos'"),
        (GaussianNoise(25), {"patch_size": 34}, r"02.png \(33x60, HxW\) is smaller than the 34x34 patch: .*=33"),
        (RealWorld(4), {"patch_size": 36}, "patch_size=32 or lower"),
    ],
)  # fmt: skip
def test_an_impossible_option_is_one_line(
    photos: Path, degradation: Degradation, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        data(photos, degradation, **options).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("degradation", [GaussianNoise(25), Jpeg(10), RealWorld(2), RealWorld(4), Mosaic()])
def test_what_data_lets_pass_the_metrics_can_measure(
    photos: Path, tmp_path: Path, noise: Noise, degradation: Degradation
) -> None:
    """The smallest image that passes the check is measured, and one row less does not pass."""

    def check(height: int) -> RestorationData:
        write_png(tmp_path / "edge/HR/a.png", noise(height, 40))
        module = data(photos, degradation, test=[str(tmp_path / "edge")])
        module.check("test")
        return module

    least = -(-minimum_side(degradation.protocol, 1)[0] // degradation.scale) * degradation.scale
    (sample,) = samples_of(check(least))
    assert sample.target is not None and 0 < psnr(sample.plain, sample.target, sample.protocol, 1) < 100
    with pytest.raises(UserError, match=rf"edge: .*a.png \({least - 1}x40, HxW\) is too small: .* 11x11 at least"):
        check(least - 1)


# --- Published and known figures ------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "expected"), [("McMaster", (25.11, 20.89, 15.37)), ("Kodak24", (24.76, 20.44, 14.87))]
)
def test_noisy_images_measure_as_their_noise_says(
    dynres_data: Path, photos: Path, name: str, expected: tuple[float, ...]
) -> None:
    """10 log10(255^2 / sigma^2) is 24.61, 20.17 and 14.15; rounding to 8 bits clips, which takes noise away."""
    samples = samples_of(data(photos, GaussianNoise([0, 75]), test=[str(dynres_data / "denoise" / name)]))
    for label, value in zip(("sigma15", "sigma25", "sigma50"), expected, strict=True):
        ratios = [psnr(s.plain, s.target, "denoise", 1) for s in samples if s.label == label and s.target is not None]
        assert np.mean(ratios) == pytest.approx(value, abs=0.01)
