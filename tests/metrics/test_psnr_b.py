"""PSNR-B (Yim & Bovik, TIP 2011), and the protocols of denoising and of compression artifacts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynres.data.degradations import as_jpeg
from dynres.data.images import find_images, read_rgb
from dynres.metrics import border, minimum_side, psnr, psnr_b, ssim
from dynres.metrics.image import mean_ssim, peak_ratio


def step(height: int, width: int, column: int, size: int = 10) -> Tensor:
    """(1, H, W) uint8: 100, and `size` more from `column` on."""
    image = torch.full((1, height, width), 100, dtype=torch.uint8)
    image[..., column:] += size
    return image


def noisy(seed: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    first = random.integers(0, 256, (1, height, width), dtype=np.uint8)
    second = np.clip(first + random.normal(0, 20, first.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(first), torch.from_numpy(second)


def from_the_paper(x: np.ndarray, y: np.ndarray) -> float:
    """Eq. 9-15 for an (H, W) image x with sides that are multiples of 8, written as they stand."""
    height, width = x.shape
    at_border, elsewhere = [], []
    for row in range(height):
        for column in range(width - 1):
            (at_border if column % 8 == 7 else elsewhere).append((x[row, column] - x[row, column + 1]) ** 2)
    for column in range(width):
        for row in range(height - 1):
            (at_border if row % 8 == 7 else elsewhere).append((x[row, column] - x[row + 1, column]) ** 2)
    assert len(at_border) == height * (width // 8 - 1) + width * (height // 8 - 1)
    d_b, d_bc = np.mean(at_border), np.mean(elsewhere)
    eta = math.log2(8) / math.log2(min(height, width)) if d_b > d_bc else 0
    return 10 * math.log10(255**2 / (np.mean((x - y) ** 2) + eta * (d_b - d_bc)))


@pytest.mark.parametrize(("height", "width", "pairs"), [(16, 16, 32), (16, 32, 80), (19, 20, 19 * 2 + 20 * 2)])
def test_a_step_at_a_border_of_blocks_counts_by_its_share_of_the_borders(height: int, width: int, pairs: int) -> None:
    image = step(height, width, 8)
    effect = math.log2(8) / math.log2(min(height, width)) * height * 100 / pairs
    assert psnr_b(image, image) == pytest.approx(10 * math.log10(255**2 / effect))


@pytest.mark.parametrize("column", [1, 5, 7, 9, 12])
def test_a_step_within_a_block_is_no_blocking(column: int) -> None:
    image, target = step(16, 16, column), step(16, 16, 3)
    assert psnr_b(image, image) == math.inf
    assert psnr_b(image, target) == psnr(image, target, "car", 1)


@given(seed=st.integers(0, 99), rows=st.integers(2, 4), columns=st.integers(2, 4))
def test_psnr_b_is_the_papers(seed: int, rows: int, columns: int) -> None:
    a, b = noisy(seed, 8 * rows, 8 * columns)
    b = torch.from_numpy(as_jpeg(b.permute(1, 2, 0).numpy(), 5)).permute(2, 0, 1)
    x, y = b[0].double().numpy(), a[0].double().numpy()
    assert psnr_b(b, a) == pytest.approx(from_the_paper(x, y), abs=1e-9)
    assert psnr_b(b, a) <= psnr(b, a, "car", 1)


def test_the_blocking_of_the_target_does_not_count() -> None:
    smooth, blocked = step(16, 16, 3), step(16, 16, 8)
    assert psnr_b(smooth, blocked) == psnr(smooth, blocked, "car", 1) > psnr_b(blocked, smooth)


@pytest.mark.parametrize(("protocol", "channels"), [("denoise", 1), ("denoise", 3), ("car", 1)])
def test_the_whole_image_is_measured_as_it_is(protocol: str, channels: int) -> None:
    a, b = (image.expand(channels, -1, -1) for image in noisy(0, 20, 30))
    assert border(protocol, 2) == (0, 0) and minimum_side(protocol, 1.0) == (11, 11)
    assert psnr(a, b, protocol, 1) == peak_ratio(a.double(), b.double())
    assert ssim(a[None] / 255, b[None] / 255, protocol, 1) == mean_ssim(a.double(), b.double())
    corner = b.clone()
    corner[..., 0, 0] ^= 255
    assert psnr(b, corner, protocol, 1) < math.inf


@pytest.mark.parametrize(
    ("protocol", "channels", "says"),
    [
        ("car", 3, "one gray image"),
        ("denoise", 2, "one RGB image .* or one gray image"),
        ("div2k", 1, "one RGB image"),
        ("real", 3, "nothing to measure"),
    ],
)
def test_channels_that_a_protocol_does_not_know_are_refused(protocol: str, channels: int, says: str) -> None:
    image = torch.rand(channels, 40, 40)
    with pytest.raises(ValueError, match=says):
        psnr(image, image, protocol, 2)


def test_a_real_photograph_may_have_any_size() -> None:
    assert minimum_side("real", 4) == (1, 1)


# --- Published figures of JPEG itself, Classic5 ---------------------------------------------------------------------

PSNR = {10: 27.82, 20: 30.12, 30: 31.48, 40: 32.43}
PSNR_B = {10: 25.21, 20: 27.50, 30: 28.94, 40: 29.92}
SSIM = {10: 0.7595, 20: 0.8344, 30: 0.8666, 40: 0.8849}  # RNAN, DRUNet, SwinIR
EVEN_SSIM = {10: 0.7800, 20: 0.8541, 30: 0.8844, 40: 0.9011}  # ARCNN and whoever took its rows over


def even_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of two (H, W) images with an 8x8 window of equal weights."""
    windows = np.lib.stride_tricks.sliding_window_view

    def mean(image: np.ndarray) -> np.ndarray:
        return windows(windows(image, 8, 0).mean(-1), 8, 1).mean(-1)

    c1, c2, a, b = (0.01 * 255) ** 2, (0.03 * 255) ** 2, mean(x), mean(y)
    spread = mean(x * x) - a * a + mean(y * y) - b * b
    return float(((2 * a * b + c1) * (2 * (mean(x * y) - a * b) + c2) / ((a * a + b * b + c1) * (spread + c2))).mean())


@pytest.mark.data
@pytest.mark.parametrize("quality", PSNR)
def test_jpeg_has_its_published_figures(dynres_data: Path, quality: int) -> None:
    """Tables disagree about SSIM alone: older ones weigh the pixels of an 8x8 window evenly."""
    rows = []
    for path in find_images(dynres_data / "car" / "classic5"):
        clean = read_rgb(path)[..., :1]
        spoilt = as_jpeg(clean, quality)
        a, b = (torch.from_numpy(image).permute(2, 0, 1) for image in (spoilt, clean))
        even = even_ssim(clean[..., 0].astype(float), spoilt[..., 0].astype(float))
        rows.append((psnr(a, b, "car", 1), psnr_b(a, b), ssim(a, b, "car", 1), even))
    measured = np.mean(rows, axis=0)
    assert measured[0] == pytest.approx(PSNR[quality], abs=0.006)
    assert measured[1] == pytest.approx(PSNR_B[quality], abs=0.006)
    assert measured[2] == pytest.approx(SSIM[quality], abs=1e-4)
    assert measured[3] == pytest.approx(EVEN_SSIM[quality], abs=1e-4)
