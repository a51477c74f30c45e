"""Published weights through `load_pretrained` and `Restorer.restore`: the PSNR that they are known to give.

The expected figures were measured with the same files and images outside this suite; beside each stands the published
one. Noise of image number n is drawn from numpy's RandomState(n), neither clipped nor rounded; results are rounded to
8 bits. Needs DYNRES_DATA with weights/, denoise/, benchmark/Set5 and car/classic5; minutes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dynres.data.images import find_images
from dynres.interop.weights import load_pretrained
from dynres.layers.colour import ycbcr
from dynres.layers.sampling import bicubic_grid
from dynres.metrics.image import peak_ratio
from dynres.restorer import Restorer

pytestmark = [pytest.mark.data, pytest.mark.timeout(1800)]  # BSD68 takes minutes on one core

TOLERANCE = 0.02  # dB
SIGMA = 25

DENOISING = [  # weights, images, measured, published
    ("dncnn_25", "Set12", 30.448, 30.44),
    ("dncnn_25", "BSD68", 29.223, 29.23),
    ("dncnn_gray_blind", "Set12", 30.378, 30.36),
    ("ffdnet_gray", "Set12", 30.439, 30.43),
    ("dncnn_color_blind", "CBSD68", 31.220, 31.23),
    ("ffdnet_color", "CBSD68", 31.200, 31.21),
]
ENLARGING = [  # weights, scale, measured on Set5, published
    ("vdsr", 2, 37.482, 37.53),
    ("vdsr", 3, 33.639, 33.66),
    ("vdsr", 4, 31.333, 31.35),
    ("dncnn3", 2, 37.504, 37.58),
    ("dncnn3", 3, 33.722, 33.75),
    ("dncnn3", 4, 31.378, 31.40),
    ("srcnn_x3", 3, 32.651, None),  # a third party's training
]
DEBLOCKING = [  # weights, JPEG quality, measured on classic5, published
    ("dncnn3", 10, 29.405, 29.40),
    ("dncnn3", 40, 33.770, 33.77),
]
BICUBIC = {2: 33.649, 3: 30.388, 4: 28.419}  # on Set5, measured as the networks are


def read(path: Path | io.BytesIO) -> Tensor:
    """(1, c, H, W) whole numbers as float32: c = 1 for a gray file, else 3."""
    with Image.open(path) as image:
        pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)[None]


def eight_bits(image: Tensor) -> Tensor:
    """[0, 1] -> whole numbers in 0..255."""
    return (image.double() * 255).round().clamp(0, 255)


def luma(image: Tensor) -> Tensor:
    """(1, 3, H, W) in 0..255 -> (1, 1, H, W) BT.601 Y in 0..255, not rounded."""
    return 255 * ycbcr(image.double() / 255)[:, :1]


def set5(root: Path, scale: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(published low-resolution image in [0, 1], full-size image in 0..255 cut to a multiple of the scale)."""
    folder = root / "benchmark" / "Set5"
    for path in find_images(folder / "HR"):
        full = read(path)
        height, width = (side // scale * scale for side in full.shape[-2:])
        low = read(folder / f"LR_bicubic/X{scale}/{path.stem}x{scale}.png") / 255
        yield low, full[..., :height, :width]


def mean_luma_psnr(root: Path, scale: int, enlarge: Callable[[Tensor], Tensor]) -> float:
    """Of the Y of `enlarge(low)`, against the rounded Y of the original, without a border of `scale` pixels."""
    inner = (..., slice(scale, -scale), slice(scale, -scale))
    pairs = [(enlarge(low), luma(full).round()) for low, full in set5(root, scale)]
    return float(np.mean([peak_ratio(ours[inner], theirs[inner]) for ours, theirs in pairs]))


def load(root: Path, name: str) -> Restorer:
    return load_pretrained(root / "weights" / f"{name}.pth")


@pytest.mark.parametrize(("name", "images", "measured", "published"), DENOISING)
def test_denoising(dynres_data: Path, name: str, images: str, measured: float, published: float) -> None:
    network, ratios = load(dynres_data, name), []
    for index, path in enumerate(find_images(dynres_data / "denoise" / images)):
        clean = read(path)
        drawn = np.random.RandomState(index).normal(0, SIGMA, clean.permute(0, 2, 3, 1).shape)
        noisy = (clean + torch.from_numpy(drawn).permute(0, 3, 1, 2)).float() / 255
        ratios.append(peak_ratio(eight_bits(network.restore(noisy, noise=SIGMA).image), clean.double()))
    assert len(ratios) in (12, 68)
    assert np.mean(ratios) == pytest.approx(measured, abs=TOLERANCE)
    assert abs(np.mean(ratios) - published) < 0.03


@pytest.mark.parametrize(("name", "scale", "measured", "published"), ENLARGING)
def test_enlarging(dynres_data: Path, name: str, scale: int, measured: float, published: float | None) -> None:
    """The Y of the published low-resolution images, given to the network as a gray image."""
    network = load(dynres_data, name)

    def enlarge(low: Tensor) -> Tensor:
        return eight_bits(network.restore(ycbcr(low)[:, :1], scale=scale).image)

    found = mean_luma_psnr(dynres_data, scale, enlarge)
    assert found == pytest.approx(measured, abs=TOLERANCE)
    assert published is None or abs(found - published) < 0.1


@pytest.mark.parametrize(("name", "scale"), [("vdsr", 2), ("srcnn_x3", 3)])
def test_enlarging_a_colour_image(dynres_data: Path, name: str, scale: int) -> None:
    """Its luma restored and its chroma enlarged, rounded to 8 bits: the same PSNR of the luma."""
    network = load(dynres_data, name)
    measured = next(row[2] for row in ENLARGING if row[:2] == (name, scale))
    found = mean_luma_psnr(
        dynres_data, scale, lambda low: luma(eight_bits(network.restore(low, scale=scale).image)).round()
    )
    assert found == pytest.approx(measured, abs=TOLERANCE)


@pytest.mark.parametrize(("name", "quality", "measured", "published"), DEBLOCKING)
def test_deblocking(dynres_data: Path, name: str, quality: int, measured: float, published: float) -> None:
    network, ratios = load(dynres_data, name), []
    for path in find_images(dynres_data / "car" / "classic5"):
        clean, packed = read(path), io.BytesIO()
        Image.fromarray(clean[0, 0].numpy().astype(np.uint8)).save(packed, "JPEG", quality=quality)
        ratios.append(peak_ratio(eight_bits(network.restore(read(packed) / 255).image), clean.double()))
    assert len(ratios) == 5
    assert np.mean(ratios) == pytest.approx(measured, abs=TOLERANCE)
    assert abs(np.mean(ratios) - published) < 0.02


@pytest.mark.parametrize("scale", BICUBIC)
def test_bicubic_is_what_the_networks_start_from(dynres_data: Path, scale: int) -> None:
    def enlarge(low: Tensor) -> Tensor:
        size = (low.shape[-2] * scale, low.shape[-1] * scale)
        return eight_bits(bicubic_grid(ycbcr(low)[:, :1], size))

    assert mean_luma_psnr(dynres_data, scale, enlarge) == pytest.approx(BICUBIC[scale], abs=0.001)


def test_every_weights_file_is_measured(dynres_data: Path) -> None:
    measured = {row[0] for row in (*DENOISING, *ENLARGING, *DEBLOCKING)}
    assert {path.stem for path in (dynres_data / "weights").glob("*.pth")} == measured
