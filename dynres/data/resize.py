"""Exact bicubic resizing of 8-bit images, by name.

`matlab`: MATLAB's `imresize(..., "bicubic")`: a = -0.5, antialiased when it shrinks, the axis with the smaller scale
first (vertical where they agree), rounded to 8 bits after each pass. Beyond the image, `replicate` repeats the edge
pixel (older releases; the published Set5, Set14 and B100 inputs) and `symmetric` mirrors it (newer ones).

`pillow`: what Pillow's BICUBIC gives, the training protocol of LIIF and LTE. Pillow itself computes it.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynres.data.images import Pixels

Kind = Literal["matlab", "pillow"]
Border = Literal["replicate", "symmetric"]
KINDS: tuple[Kind, ...] = ("matlab", "pillow")


def resize(
    image: Pixels,
    size: tuple[int, int],
    kind: Kind,
    border: Border = "replicate",
    scale: tuple[float, float] | None = None,
) -> Pixels:
    """Bicubic resize of an (H, W, C) uint8 image to (height, width, C).

    Args:
        image: any number of channels, each treated alone.
        size: (height, width) of the result, >= 1.
        kind: "matlab" or "pillow".
        border: what lies beyond the image for "matlab"; "pillow" renormalises instead and ignores it.
        scale: (vertical, horizontal) output pixels per input pixel where it is not exactly size / (H, W), as after
            `imresize(image, 3.7)`; the first pixel then keeps its place and the far border moves.

    Raises:
        ValueError: empty size, another image type, an unknown name, or a scale under which "pillow" leaves the image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty (H, W, C) uint8 image, got {image.shape} {image.dtype}")
    if min(size) < 1:
        raise ValueError(f"a resized image needs at least 1x1 pixels, got {size[0]}x{size[1]} (HxW)")
    ratios = scale or (size[0] / image.shape[0], size[1] / image.shape[1])
    if kind == "matlab":
        return _matlab(image, size, ratios, border)
    if kind == "pillow":
        return _pillow(image, size, ratios if scale else None)
    raise ValueError(f"unknown bicubic {kind!r}: known are {', '.join(KINDS)}")


def reduced(image: Pixels, by: int) -> Pixels:
    """An (H, W, C) uint8 image at 1/by of its height and width, by "matlab"; as it is for `by` = 1."""
    return image if by == 1 else resize(image, reduced_size(image.shape, by), "matlab")


def reduced_size(size: tuple[int, ...], by: int) -> tuple[int, int]:
    """(H, W) / by, each rounded, halves up, and at least 1: 1352x2040 by 8 is 169x255."""
    height, width = (max(1, (side + by // 2) // by) for side in size[:2])
    return height, width


def _pillow(image: Pixels, size: tuple[int, int], scale: tuple[float, float] | None) -> Pixels:
    height, width = size
    box = (0.0, 0.0, width / scale[1], height / scale[0]) if scale else None
    if image.shape[2] == 3:
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box))
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.dstack([np.array(one.resize((width, height), Image.Resampling.BICUBIC, box)) for one in planes])


def _matlab(image: Pixels, size: tuple[int, int], scale: tuple[float, float], border: Border) -> Pixels:
    axes = (0, 1) if scale[0] <= scale[1] else (1, 0)
    for axis in axes:
        if size[axis] != image.shape[axis] or scale[axis] != 1:
            image = _matlab_pass(image, axis, size[axis], scale[axis], border)
    return np.ascontiguousarray(image)


def _matlab_pass(image: Pixels, axis: int, length: int, scale: float, border: Border) -> Pixels:
    """One axis, to `length` pixels; MATLAB keeps the result of a pass in the type of the image, hence the rounding."""
    indices, weights = taps(image.shape[axis], length, scale, border)
    rows = np.ascontiguousarray(np.moveaxis(image, axis, 0)).reshape(image.shape[axis], -1)
    total = np.zeros((length, rows.shape[1]))
    for tap in range(indices.shape[1]):
        total += weights[:, tap, None] * rows[indices[:, tap]]
    rounded = np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)
    others = [n for i, n in enumerate(image.shape) if i != axis]
    return np.moveaxis(rounded.reshape(length, *others), 0, axis)


@functools.lru_cache(maxsize=64)
def taps(inputs: int, outputs: int, scale: float, border: Border) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which input pixels make each output pixel and by how much: (outputs, T) indices and weights that sum to 1."""
    stretch = max(1.0, 1 / scale)  # when shrinking, the kernel widens by 1 / scale: the antialiasing
    centre = (np.arange(outputs) + 0.5) / scale - 0.5
    first = np.floor(centre - 2 * stretch).astype(np.int64) + 1
    reach = first[:, None] + np.arange(math.ceil(4 * stretch) + 1)
    weights = cubic((centre[:, None] - reach) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    used = np.any(weights != 0, axis=0)
    return _inside(reach[:, used], inputs, border), np.ascontiguousarray(weights[:, used])


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel with a = -0.5, zero from |x| = 2 on."""
    d = np.abs(x)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d <= 2, far, 0.0))


def _inside(indices: NDArray[np.int64], length: int, border: Border) -> NDArray[np.intp]:
    if border == "replicate":
        return np.clip(indices, 0, length - 1).astype(np.intp)
    if border == "symmetric":
        wrapped = indices % (2 * length)
        return np.where(wrapped < length, wrapped, 2 * length - 1 - wrapped).astype(np.intp)
    raise ValueError(f"unknown border {border!r}: known are replicate, symmetric")
