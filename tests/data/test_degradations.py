from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynres.data.degradations import Degradation, GaussianNoise, Jpeg, RealWorld, as_jpeg
from dynres.data.images import find_images, read_rgb
from dynres.data.resize import resize
from dynres.errors import UserError

Noise = Callable[..., np.ndarray]
SHARP: dict[str, Any] = {  # as good as nothing is done to the image but shrinking it
    "isotropic_width": [0.01, 0.01],
    "anisotropic_width": [0.01, 0.01],
    "halving_probability": 0,
    "nearest_probability": 0,
    "intermediate": [1, 1],
    "noise_sigma": [0, 0],
    "noise_kinds": [1, 0, 0],
    "jpeg_probability": 0,
    "jpeg_quality": [100, 100],
}


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(*colour: int, side: int = 64) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (side, side, 3))


@pytest.mark.parametrize("degradation", [GaussianNoise([0, 50]), Jpeg([10, 40]), RealWorld(2), RealWorld(4)])
def test_a_degradation_is_a_function_of_its_generator(degradation: Degradation, noise: Noise) -> None:
    rgb = noise(40, 48)

    def once(seed: int) -> Any:
        source = random(seed)
        return degradation(rgb, False, degradation.draw_level(source), source)

    first, again, other = once(1), once(1), once(2)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.target, again.target)
    assert first.sigma == again.sigma and not np.array_equal(first.image, other.image)
    assert first.image.dtype == np.float32 and first.target.dtype == np.uint8
    height, width, channels = first.target.shape
    assert (height, width, channels) == (40, 48, degradation.channels)
    assert first.image.shape == (40 // degradation.scale, 48 // degradation.scale, channels)


# --- Gaussian noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_noise_has_its_deviation_and_no_mean_and_is_white(sigma: float, channels: int) -> None:
    degraded = GaussianNoise(sigma, channels=channels)(flat(128, 128, 128, side=200), False, sigma, random())
    noise = degraded.image * 255.0 - degraded.target
    count = noise.size
    assert degraded.sigma == sigma
    assert abs(noise.mean()) < 4 * sigma / count**0.5
    assert noise.std() == pytest.approx(sigma, rel=4 / (2 * count) ** 0.5)
    for shifted in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1], noise[..., :1] * noise[..., -1:]):
        if channels == 3 or shifted.shape != noise.shape:
            assert abs(shifted.mean()) < 5 * sigma**2 / shifted.size**0.5


def test_noise_is_neither_clipped_nor_rounded() -> None:
    image = GaussianNoise(25)(flat(0, 255, 128), False, 25, random()).image
    assert image[..., 0].min() < -0.1 and image[..., 1].max() > 1.1
    assert np.abs(image * 255 - np.round(image * 255)).max() > 0.4


def test_the_level_of_a_range_is_drawn_evenly_and_a_number_is_always_itself() -> None:
    source = random()
    drawn = [GaussianNoise([10, 30]).draw_level(source) for _ in range(400)]
    assert 10 <= min(drawn) < 11 and 29 < max(drawn) <= 30 and abs(np.mean(drawn) - 20) < 1.5
    assert {GaussianNoise(25).draw_level(source) for _ in range(5)} == {25}
    whole = [Jpeg([10, 13]).draw_level(source) for _ in range(100)]
    assert set(whole) == {10, 11, 12, 13}


def test_the_levels_of_tests_and_their_names() -> None:
    def levels(degradation: Degradation) -> list[str]:
        return [degradation.label(level) for level in degradation.levels]

    assert levels(GaussianNoise(25)) == ["sigma25"]
    assert levels(GaussianNoise([0, 75])) == ["sigma15", "sigma25", "sigma50"]
    assert levels(GaussianNoise(25, [12.5, 25, 12.5])) == ["sigma12.5", "sigma25"]
    assert levels(Jpeg(10)) == ["q10"]
    assert levels(Jpeg([10, 40])) == ["q10", "q20", "q30", "q40"]
    assert levels(Jpeg(10, 40)) == ["q40"]
    assert levels(RealWorld(4)) == ["x4"]


def test_gray_is_matlabs() -> None:
    """rgb2gray of MATLAB: 76 for red, 150 for green, 29 for blue; gray stays gray."""
    gray = GaussianNoise(0, channels=1)
    values = {colour: gray.clean(flat(*colour), False)[0, 0, 0] for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))}
    assert list(values.values()) == [76, 150, 29]
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    assert np.array_equal(gray.clean(ramp, False), ramp[..., :1])


@pytest.mark.data
def test_bsd68_is_cbsd68_in_gray(dynres_data: Path) -> None:
    gray = GaussianNoise(0, channels=1)
    colour = sorted(find_images(dynres_data / "denoise" / "CBSD68"), key=lambda path: path.stem)
    for path, expected in zip(colour, find_images(dynres_data / "denoise" / "BSD68"), strict=True):
        np.testing.assert_array_equal(gray.clean(read_rgb(path), False)[..., 0], read_rgb(expected)[..., 0])


# --- JPEG -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 10, 40, 100])
def test_jpeg_is_pillows_round_trip(noise: Noise, quality: int) -> None:
    gray = noise(37, 50)[..., 0]
    file = io.BytesIO()
    Image.fromarray(gray, "L").save(file, format="JPEG", quality=quality)
    degraded = Jpeg(quality)(np.repeat(gray[..., None], 3, axis=2), True, quality, random())
    np.testing.assert_array_equal(np.round(degraded.image[..., 0] * 255), np.asarray(Image.open(file)))
    np.testing.assert_array_equal(degraded.target[..., 0], gray)
    assert degraded.sigma == 0


def test_what_is_compressed_is_studio_luma_of_colours_and_gray_as_it_is() -> None:
    jpeg = Jpeg(10)
    colours = {(0, 0, 0): 16, (255, 255, 255): 235, (255, 0, 0): 81, (0, 255, 0): 145, (0, 0, 255): 41}
    assert {colour: jpeg.clean(flat(*colour), False)[0, 0, 0] for colour in colours} == colours
    assert jpeg.clean(flat(255, 255, 255), True)[0, 0, 0] == 255


# --- Real-world -----------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([2, 4]), rows=st.integers(6, 12), columns=st.integers(6, 12))
def test_any_draw_has_the_size_and_the_grid_of_an_8_bit_image(seed: int, scale: int, rows: int, columns: int) -> None:
    clean = random(seed).integers(0, 256, (scale * rows, scale * columns, 3), dtype=np.uint8)
    image = RealWorld(scale)(clean, False, scale, random(seed)).image
    assert image.shape == (rows, columns, 3)
    assert image.min() >= 0 and image.max() <= 1
    np.testing.assert_allclose(image * 255, np.round(image * 255), atol=1e-4)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("nearest", [0, 1])
def test_with_every_step_off_what_remains_is_the_image_made_smaller(scale: int, nearest: float, noise: Noise) -> None:
    smooth = resize(noise(4, 4), (128, 128), "matlab")
    expected = resize(smooth, (128 // scale, 128 // scale), "matlab").astype(float)
    for seed in range(6):
        degradation = RealWorld(scale, **{**SHARP, "nearest_probability": nearest})
        image = degradation(smooth, False, scale, random(seed)).image * 255.0
        error = np.abs(image - expected).mean()
        assert error < 0.7 * scale, f"{error}: JPEG and another kernel make less, a shift by half a pixel twice as much"


def test_each_option_does_what_it_says(noise: Noise) -> None:
    """One step at a time on an image of one gray, or of noise, everything else off."""
    gray, busy = flat(128, 128, 128), noise(64, 64)

    def run(image: np.ndarray, **options: Any) -> np.ndarray:
        return RealWorld(2, **{**SHARP, **options})(image, False, 2, random(5)).image * 255.0

    assert np.ptp(run(gray)) == 0
    for kinds in ([1, 0, 0], [0, 1, 0], [0, 0, 1]):
        strong, weak = (run(gray, noise_kinds=kinds, noise_sigma=[s, s]).std() for s in (50, 10))
        assert strong > 2 * weak > 0, f"noise of kinds {kinds}: {strong} and {weak}"
    assert np.ptp(run(gray, noise_kinds=[0, 1, 0], noise_sigma=[20, 20]), axis=2).max() == 0, "gray noise has a colour"
    assert np.ptp(run(gray, noise_kinds=[1, 0, 0], noise_sigma=[20, 20]), axis=2).max() > 0, "noise has no colour"
    sharp = run(busy).std()
    for option in ("isotropic_width", "anisotropic_width"):
        assert run(busy, **{option: [3, 3]}).std() < sharp / 2, option
    assert run(busy, isotropic_width=[3, 3], blur_sizes=[1, 1]).std() == sharp, "a kernel of one pixel blurs"
    assert run(busy, intermediate=[8, 8]).std() < sharp / 2
    rough = run(busy, jpeg_quality=[1, 1])
    assert np.abs(rough - run(busy)).mean() > 5


def test_the_correlated_noise_is_within_its_bound() -> None:
    """Its covariance is L^2 U D U' with D <= 1: in no direction more than L, and not alike in all of them."""
    degradation = RealWorld(2, noise_kinds=[0, 0, 1], noise_sigma=[5, 25])
    spreads = []
    for seed in range(5):
        noise = (degradation._noisy(torch.full((1, 3, 80, 80), 0.5), random(seed)) - 0.5)[0].flatten(1) * 255
        spreads.append(torch.linalg.eigvalsh(torch.cov(noise)).clamp(min=0).sqrt())
    assert all(spread[2] < 25 * 1.05 for spread in spreads)
    assert any(spread[0] < spread[2] / 1.5 for spread in spreads)


def test_halving_comes_first_at_scale_4_only(noise: Noise) -> None:
    always, never = ({**SHARP, "halving_probability": p, "intermediate": None} for p in (1, 0))
    for scale, alike in ((2, True), (4, False)):
        images = [RealWorld(scale, **o)(noise(64, 64), False, scale, random(3)).image for o in (always, never)]
        assert np.array_equal(*images) == alike, scale


def test_colour_jpeg_is_pillows(noise: Noise) -> None:
    file, pixels = io.BytesIO(), noise(20, 33)
    Image.fromarray(pixels).save(file, "JPEG", quality=60)
    np.testing.assert_array_equal(as_jpeg(pixels, 60), np.asarray(Image.open(file)))


# --- Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "options", "says"),
    [
        (GaussianNoise, {"sigma": -1}, "task.sigma takes numbers from 0 to 255, got -1"),
        (GaussianNoise, {"sigma": 256}, "got 256"),
        (GaussianNoise, {"sigma": float("nan")}, "got nan"),
        (GaussianNoise, {"sigma": "25"}, "task.sigma"),
        (GaussianNoise, {"sigma": True}, "task.sigma"),
        (GaussianNoise, {"sigma": None}, "task.sigma"),
        (GaussianNoise, {"sigma": [50, 10]}, "low <= high"),
        (GaussianNoise, {"sigma": [1, 2, 3]}, r"\[low, high\]"),
        (GaussianNoise, {"sigma": []}, "task.sigma"),
        (GaussianNoise, {"sigma": 25, "test_sigmas": [25, -5]}, "task.test_sigmas takes numbers from 0 to 255, got -5"),
        (GaussianNoise, {"sigma": 25, "test_sigmas": []}, "task.test_sigmas is empty"),
        (GaussianNoise, {"sigma": 25, "channels": 2}, "channels must be 3"),
        (Jpeg, {"quality": 0}, "task.quality takes whole numbers from 1 to 100, got 0"),
        (Jpeg, {"quality": 101}, "got 101"),
        (Jpeg, {"quality": 10.5}, "whole numbers"),
        (Jpeg, {"quality": [10, 40.5]}, "whole numbers"),
        (Jpeg, {"quality": 10, "test_qualities": [200]}, "task.test_qualities"),
        (RealWorld, {"scale": 3}, "task.scale must be 2 or 4"),
        (RealWorld, {"noise_kinds": [0.5, 0.6, 0.1]}, "sum is 1"),
        (RealWorld, {"noise_kinds": [0.5, 0.5]}, "three probabilities"),
        (RealWorld, {"jpeg_probability": 1.5}, "task.jpeg_probability takes numbers from 0 to 1"),
        (RealWorld, {"jpeg_quality": [95, 30]}, "task.jpeg_quality"),
        (RealWorld, {"isotropic_width": [0, 1]}, "task.isotropic_width"),
        (RealWorld, {"intermediate": 0.5}, "task.intermediate"),
    ],
)
def test_a_value_out_of_range_is_one_line_that_names_the_option(build: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build(**options)
    assert "\n" not in str(caught.value)
