from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from dynres.data.images import find_images, read_rgb
from dynres.data.resize import resize
from dynres.metrics import border, minimum_side, psnr, ssim
from dynres.metrics.image import mean_ssim, peak_ratio

BORDERS = {"div2k": lambda s: math.ceil(s) + 6, "benchmark": lambda s: math.ceil(s)}


def pair(seed: int, height: int = 60, width: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """Two (H, W, 3) uint8 images, the second the first and noise."""
    random = np.random.default_rng(seed)
    first = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return first, np.clip(first + random.normal(0, 25, first.shape), 0, 255).astype(np.uint8)


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def inner(image: np.ndarray, protocol: str, scale: float) -> np.ndarray:
    """What a protocol measures, as (h, w, C) float64, written again from its definition."""
    cut = BORDERS[protocol](scale)
    image = image[cut:-cut, cut:-cut].astype(float)
    if protocol == "div2k":
        return image
    return 16 + (65.481 * image[..., :1] + 128.553 * image[..., 1:2] + 24.966 * image[..., 2:]) / 255


@pytest.mark.parametrize("protocol", ["div2k", "benchmark"])
@given(seed=st.integers(0, 999), scale=st.sampled_from([1, 2, 2.5, 3, 4, 8]))
def test_psnr_and_ssim_agree_with_scikit_image(protocol: str, seed: int, scale: float) -> None:
    a, b = pair(seed)
    x, y = inner(a, protocol, scale), inner(b, protocol, scale)
    expected = peak_signal_noise_ratio(x, y, data_range=255)
    assert psnr(tensor(a), tensor(b), protocol, scale) == pytest.approx(expected, abs=1e-9)
    # scikit-image filters the whole image and crops its mean by 5, which is the valid region of an 11x11 window
    expected = structural_similarity(
        x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    assert ssim(tensor(a), tensor(b), protocol, scale) == pytest.approx(expected, abs=1e-9)


def test_floating_point_images_are_measured_as_the_8_bit_file_they_become() -> None:
    a, b = pair(0)
    wobble = (torch.rand(1, 3, 60, 70) - 0.5) * 0.9
    floating = (tensor(b)[None] + wobble) / 255
    for metric in (psnr, ssim):
        assert metric(tensor(a)[None] / 255, floating, "div2k", 2) == metric(tensor(a), tensor(b), "div2k", 2)


def test_values_outside_0_to_1_count_as_the_nearest_colour() -> None:
    white = torch.ones(3, 60, 60)
    assert psnr(white * 1.5, white, "div2k", 2) == math.inf


@pytest.mark.parametrize("protocol", ["div2k", "benchmark"])
def test_equal_images_are_infinitely_good(protocol: str) -> None:
    a = tensor(pair(0)[0])
    assert psnr(a, a, protocol, 4) == math.inf
    assert ssim(a, a, protocol, 4) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("protocol", ["div2k", "benchmark"])
@pytest.mark.parametrize("scale", [2, 3.3, (2.0, 4.0)])
def test_the_border_does_not_count_and_the_next_pixel_does(protocol: str, scale: float | tuple[float, float]) -> None:
    a = tensor(pair(0)[0])
    rows, columns = border(protocol, scale)
    outside = a.clone()
    outside[:, :rows], outside[:, -rows:], outside[..., :columns], outside[..., -columns:] = 0, 0, 0, 0
    assert psnr(a, outside, protocol, scale) == math.inf
    for at in ((rows, 30), (59 - rows, 30), (30, columns), (30, 69 - columns)):
        changed = a.clone()
        changed[:, at[0], at[1]] ^= 255
        assert psnr(a, changed, protocol, scale) < math.inf, f"a change at {at} was not seen"


def test_white_has_the_luma_of_studio_range() -> None:
    """Black and white differ by 235 - 16, not by 255: 1.32 dB that tell the two luma conventions apart."""
    black, white = torch.zeros(3, 40, 40), torch.ones(3, 40, 40)
    assert psnr(black, white, "benchmark", 2) == pytest.approx(20 * math.log10(255 / 219))
    assert psnr(black, white, "div2k", 2) == pytest.approx(0)


def test_an_image_of_the_minimum_side_is_measured_and_a_smaller_one_refused() -> None:
    for protocol in ("div2k", "benchmark"):
        height, width = minimum_side(protocol, (2.0, 3.5))
        a, b = (tensor(image) for image in pair(0, height, width))
        assert math.isfinite(psnr(a, b, protocol, (2.0, 3.5))) and ssim(a, b, protocol, (2.0, 3.5)) < 1
        with pytest.raises(ValueError, match=f"{height - 1}x{width}.* too small .*{height}x{width}"):
            ssim(a[:, 1:], b[:, 1:], protocol, (2.0, 3.5))


@pytest.mark.parametrize(
    ("a", "b", "protocol", "says"),
    [
        (torch.rand(3, 60, 60), torch.rand(3, 60, 61), "div2k", "different shapes"),
        (torch.rand(2, 3, 60, 60), torch.rand(2, 3, 60, 60), "div2k", "one RGB image"),
        (torch.rand(1, 60, 60), torch.rand(1, 60, 60), "div2k", "one RGB image"),
        (torch.rand(3, 60, 60), torch.full((3, 60, 60), math.nan), "div2k", "NaN"),
        (torch.ones(3, 60, 60, dtype=torch.int32), torch.ones(3, 60, 60, dtype=torch.int32), "div2k", "int32"),
        (torch.rand(3, 60, 60), torch.rand(3, 60, 60), "set5", "unknown protocol 'set5'"),
    ],
)
def test_what_cannot_be_measured_is_refused(a: Tensor, b: Tensor, protocol: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        psnr(a, b, protocol, 2)


# --- Published figures of bicubic interpolation ---------------------------------------------------------------------

PUBLISHED_PSNR = {
    "Set5": {2: 33.66, 3: 30.39, 4: 28.42},
    "Set14": {2: 30.24, 3: 27.55, 4: 26.00},
    "B100": {2: 29.56, 3: 27.21, 4: 25.96},
}
PUBLISHED_SSIM = {2: 0.9299, 3: 0.8682, 4: 0.8104}  # Set5

# What our protocol gives with RGB images, from the published LR images and from our own alike (they are equal).
RGB_PSNR = {
    "Set5": {2: 33.6741, 3: 30.4047, 4: 28.4302},
    "Set14": {2: 30.3263, 3: 27.6336, 4: 26.0914},
    "B100": {2: 29.5605, 3: 27.2097, 4: 25.9620},
}
RGB_SSIM = {2: 0.93029, 3: 0.86891, 4: 0.81114}  # Set5


def luma8(path: Path) -> np.ndarray:
    """(H, W, 1) whole numbers: MATLAB's rgb2ycbcr of an 8-bit image, or the samples of a gray file themselves."""
    from PIL import Image

    with Image.open(path) as image:
        if image.mode == "L":
            return np.asarray(image).astype(float)[..., None]
    return np.floor(inner(np.pad(read_rgb(path), ((1, 1), (1, 1), (0, 0))), "benchmark", 1) + 0.5)


def enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    """Shrunk by `scale` and enlarged again in floating point, no rounding until the end (rows: (H, W, 1))."""
    from dynres.data.resize import taps

    for factor in (1 / scale, float(scale)):
        for axis in (0, 1):
            length = round(image.shape[axis] * factor)
            indices, weights = taps(image.shape[axis], length, factor, "symmetric")
            image = np.moveaxis(np.einsum("ot,ot...->o...", weights, np.moveaxis(image, axis, 0)[indices]), 0, axis)
    return np.clip(np.floor(image + 0.5), 0, 255)


@pytest.mark.data
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", PUBLISHED_PSNR)
def test_bicubic_has_its_published_psnr_when_made_as_the_tables_did(dynres_data: Path, name: str, scale: int) -> None:
    """They resized the 8-bit Y channel alone, in floating point, and measured gray files in their own samples."""
    ratios, similarities = [], []
    for path in find_images(dynres_data / "benchmark" / name / "HR"):
        full = luma8(path)
        full = full[: full.shape[0] // scale * scale, : full.shape[1] // scale * scale]
        x, y = (tensor(image[scale:-scale, scale:-scale]) for image in (enlarged(full, scale), full))
        ratios.append(peak_ratio(x, y))
        similarities.append(mean_ssim(x, y))
    assert np.mean(ratios) == pytest.approx(PUBLISHED_PSNR[name][scale], abs=0.0101)
    if name == "Set5":
        assert np.mean(similarities) == pytest.approx(PUBLISHED_SSIM[scale], abs=0.0001)


@pytest.mark.data
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", RGB_PSNR)
def test_bicubic_of_rgb_images_is_what_docs_say(dynres_data: Path, name: str, scale: int) -> None:
    """From the published LR and from our own. Above the tables by at most 0.02 dB (Y is not rounded), and on Set14 by
    0.09 dB: its gray `bridge` counts as RGB, whose luma has 219 levels for 255."""
    root = dynres_data / "benchmark" / name
    ratios: dict[str, list[float]] = {"published": [], "own": []}
    similarities = []
    for path in find_images(root / "HR"):
        full = read_rgb(path)
        low_size = full.shape[0] // scale, full.shape[1] // scale
        full = full[: low_size[0] * scale, : low_size[1] * scale]
        low = {
            "published": read_rgb(root / f"LR_bicubic/X{scale}/{path.stem}x{scale}.png"),
            "own": resize(full, low_size, "matlab"),
        }
        for kind, image in low.items():
            bicubic = tensor(resize(image, full.shape[:2], "matlab"))
            ratios[kind].append(psnr(bicubic, tensor(full), "benchmark", scale))
        similarities.append(ssim(bicubic, tensor(full), "benchmark", scale))
    for kind, values in ratios.items():
        assert np.mean(values) == pytest.approx(RGB_PSNR[name][scale], abs=1e-4), kind
    if name == "Set5":
        assert np.mean(similarities) == pytest.approx(RGB_SSIM[scale], abs=1e-5)
        assert abs(np.mean(similarities) - PUBLISHED_SSIM[scale]) < 0.001
