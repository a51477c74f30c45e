"""PSNR, SSIM and PSNR-B of two whole images, cropped and converted as each protocol's tables are.

Both images are first rounded to 8 bits (what a saved PNG holds) and everything after is float64.

- `div2k`: RGB. A border of ceil(scale) + 6 pixels is left out (LIIF's evaluation, which knows whole scales only).
  SSIM, which those tables do not print, is the mean over the three channels.
- `benchmark`: luma of BT.601 in studio range (16 to 235 of 255), not rounded again; border of ceil(scale) pixels.
- `denoise`: the whole image, RGB or gray, as it is.
- `car` (compression artifacts): the whole gray image as it is; these tables print PSNR-B too.
- `real`: photographs of which nobody knows the truth; nothing can be measured.

Along each axis the border follows that axis' own scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
SIGMA = 1.5
BLOCK = 8  # side of JPEG's blocks


class _Protocol(NamedTuple):
    extra_border: int | None  # beyond ceil(scale); None: the whole image
    channels: tuple[int, ...]
    convert: Callable[[Tensor], Tensor]


def _luma(rgb: Tensor) -> Tensor:
    """(3, H, W) in 0..255 -> (1, H, W) BT.601 luma in 16..235."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=rgb.dtype, device=rgb.device) / 255
    return 16 + torch.einsum("c,chw->hw", weights, rgb)[None]


def _all_channels(image: Tensor) -> Tensor:
    return image


_PROTOCOLS = {
    "div2k": _Protocol(6, (3,), _all_channels),
    "benchmark": _Protocol(0, (3,), _luma),
    "denoise": _Protocol(None, (3, 1), _all_channels),
    "car": _Protocol(None, (1,), _all_channels),
    "real": _Protocol(None, (3,), _all_channels),
}
PROTOCOLS = tuple(_PROTOCOLS)
SR_PROTOCOLS = ("div2k", "benchmark")  # those between which a super-resolution test may choose


def psnr(a: Tensor, b: Tensor, protocol: str, scale: float | tuple[float, float]) -> float:
    """Peak signal-to-noise ratio in dB, peak 255; inf for equal images.

    Args:
        a: (3, H, W) or (1, 3, H, W), floating point in [0, 1] (values outside are clipped) or uint8; one channel
            under "car", and one or three under "denoise".
        b: the same shape as `a`.
        protocol: one of PROTOCOLS but "real".
        scale: upscaling factor >= 1, one number or (vertical, horizontal).

    Raises:
        ValueError: unknown protocol or "real", shapes that differ, or an image smaller than `minimum_side`.
    """
    return peak_ratio(*_prepared(a, b, protocol, scale))


def ssim(a: Tensor, b: Tensor, protocol: str, scale: float | tuple[float, float]) -> float:
    """Structural similarity (Wang et al., TIP 2004) as MATLAB's original computes it; 1 for equal images.

    Arguments and errors as `psnr`.
    """
    return mean_ssim(*_prepared(a, b, protocol, scale))


def psnr_b(restored: Tensor, target: Tensor) -> float:
    """PSNR-B in dB, peak 255: the blocking effect of `restored` counts as error (Yim & Bovik, TIP 2011, Eq. 9-15).

    Args:
        restored: (1, H, W) or (1, 1, H, W) gray, as `psnr` under "car"; JPEG's blocks of 8 start at its first pixel.
        target: the same shape.

    Raises:
        ValueError: as `psnr` under "car".
    """
    x, y = _prepared(restored, target, "car", 1)
    error = (x - y).square().mean().item() + blocking_effect(x)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def blocking_effect(image: Tensor) -> float:
    """How much stronger neighbours differ across borders of 8x8 blocks than elsewhere; 0 where they do not.

    eta (D_B - D_Bc): mean squared differences of the neighbours across borders and of the others, and
    eta = log2(8) / log2(min(H, W)). The paper counts the borders of sizes that are multiples of 8; at others its
    count is no whole number, and the pairs that there are count here.

    Args:
        image: (1, H, W) float64 in 0..255, both sides above 8.
    """
    squares = image.diff(dim=1).square().mT, image.diff(dim=2).square()  # of neighbours along the last axis
    everywhere = torch.cat([square.flatten() for square in squares])
    across = torch.cat([square[..., BLOCK - 1 :: BLOCK].flatten() for square in squares])
    within = (everywhere.sum() - across.sum()) / (len(everywhere) - len(across))
    return max(0.0, (across.mean() - within).item()) * math.log2(BLOCK) / math.log2(min(image.shape[1:]))


def peak_ratio(x: Tensor, y: Tensor) -> float:
    """PSNR in dB of two (C, h, w) float64 images in 0..255, every pixel counted."""
    error = (x - y).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def mean_ssim(x: Tensor, y: Tensor) -> float:
    """Mean SSIM over the channels of two (C, h, w) float64 images in 0..255, h and w at least 11.

    11x11 Gaussian window of sigma 1.5, its valid region only, K1 = 0.01, K2 = 0.03.
    """
    x, y = x[:, None], y[:, None]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x.square()
    variance_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean().item()


def border(protocol: str, scale: float | tuple[float, float]) -> tuple[int, int]:
    """Pixels left out on each side, (rows above and below, columns left and right)."""
    if protocol not in _PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}: known are {', '.join(_PROTOCOLS)}")
    vertical, horizontal = scale if isinstance(scale, tuple) else (scale, scale)
    extra = _PROTOCOLS[protocol].extra_border
    if extra is None:
        return 0, 0
    return math.ceil(vertical) + extra, math.ceil(horizontal) + extra


def minimum_side(protocol: str, scale: float | tuple[float, float]) -> tuple[int, int]:
    """The smallest (height, width) of a full-size image that can be measured: the border and one SSIM window."""
    if protocol == "real":
        return 1, 1
    rows, columns = border(protocol, scale)
    return 2 * rows + WINDOW, 2 * columns + WINDOW


def _prepared(a: Tensor, b: Tensor, protocol: str, scale: float | tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Both images as (C, h, w) float64 in 0..255: 8 bits, without the border, in the protocol's channels."""
    if protocol == "real":
        raise ValueError("the truth about a real photograph is not known: nothing to measure")
    if a.shape != b.shape:
        raise ValueError(f"images of different shapes cannot be compared: {tuple(a.shape)} and {tuple(b.shape)}")
    (rows, columns), least = border(protocol, scale), minimum_side(protocol, scale)
    height, width = a.shape[-2:]
    if height < least[0] or width < least[1]:
        raise ValueError(
            f"an image of {height}x{width} (HxW) is too small for the {protocol} protocol at scale "
            f"{scale}: it needs {least[0]}x{least[1]}"
        )
    _, channels, convert = _PROTOCOLS[protocol]
    x, y = (
        convert(_eight_bits(image, channels)[:, rows : height - rows, columns : width - columns]) for image in (a, b)
    )
    return x, y


def _eight_bits(image: Tensor, channels: tuple[int, ...]) -> Tensor:
    """(C, H, W) or (1, C, H, W) -> (C, H, W) float64 holding whole numbers in 0..255; C is one of `channels`."""
    shape = tuple(image.shape)
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] not in channels:
        known = " or ".join(f"one {'RGB' if c == 3 else 'gray'} image ({c}, H, W), (1, {c}, H, W)" for c in channels)
        raise ValueError(f"expected {known}, got {shape}")
    if image.dtype == torch.uint8:
        return image.double()
    if not image.is_floating_point():
        raise ValueError(f"expected uint8 or floating point in [0, 1], got {image.dtype}")
    if not torch.isfinite(image).all():
        raise ValueError("the image holds NaN or infinity: nothing to measure")
    return (image.double().clamp(0, 1) * 255).round()


def _blur(image: Tensor) -> Tensor:
    """(C, 1, h, w) -> (C, 1, h - 10, w - 10), Gaussian window, one axis after the other."""
    offsets = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * SIGMA**2))
    window = window / window.sum()
    return F.conv2d(F.conv2d(image, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
