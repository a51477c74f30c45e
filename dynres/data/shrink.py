"""Many square crops resized to one size at once, on the device they lie on, in Pillow's or MATLAB's arithmetic.

An axis is resized by a matrix product in float64. The weights are multiples of 2^-22 (Pillow's own fixed point) or
2^-43, the pixels whole numbers below 256: every sum of such products is a float64 without rounding. So neither order
nor device nor BLAS changes a bit, and the result of a crop does not depend on what it is batched with.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynres.data.resize import Kind, cubic, taps


def shrunk(pixels: Tensor, sides: Sequence[int], size: int, kind: Kind, together: bool | None = None) -> Tensor:
    """Square crops of any sides -> (B, 3, size, size) float64, whole numbers from 0 to 255.

    "pillow" is Pillow's uint8 result bit for bit. "matlab" is `resize`'s but for values on a rounding tie (x.5), which
    the order of the sum decides there: none at whole scales up to 4, else at most one level in a vanishing share.

    Args:
        pixels: (P, 3) uint8, the crops one after the other, each row by row; P is the sum of sides^2.
        sides: of the B crops.
        size: side of the results.
        kind: which bicubic.
        together: one product for all crops, padded to the largest: few kernels, for a GPU. Else crop by crop with the
            matrix cut to its bands: few operations, for a CPU. None lets the device decide.
    """
    # Pillow resizes the horizontal axis first, MATLAB the vertical one where both scales agree.
    order = (2, 0, 1) if kind == "pillow" else (2, 1, 0)
    squares = pixels.split([side * side for side in sides])
    crops = [square.view(side, side, 3).permute(order) for square, side in zip(squares, sides, strict=True)]
    if pixels.device.type != "cpu" if together is None else together:
        weights = [_matrix(side, size, kind, pixels.device) for side in sides]
        padded = torch.zeros(len(sides), 3, max(sides), max(sides), dtype=torch.float64, device=pixels.device)
        for plane, crop, side in zip(padded, crops, sides, strict=True):
            plane[:, :side, :side] = crop
        result = _both_axes(padded, torch.nn.utils.rnn.pad_sequence(weights, batch_first=True).mT, 0)
    else:
        planes = (crop[None].to(torch.float64, memory_format=torch.contiguous_format) for crop in crops)
        bands = (_bands(side, size, kind) for side in sides)
        result = torch.cat([_both_axes(plane, *band) for plane, band in zip(planes, bands, strict=True)])
    return result.permute(0, 3, 1, 2) if kind == "pillow" else result.permute(0, 3, 2, 1)


def _both_axes(planes: Tensor, weights: Tensor, step: int) -> Tensor:
    """(B, 3, S, S) -> (B, size, size, 3): the last axis is resized first, then the one before it."""
    batch, _, side, _ = planes.shape
    once = _last_axis(planes.view(batch, 3 * side, side), weights, step)
    twice = _last_axis(once.view(batch, -1, side), weights, step)
    return twice.view(batch, twice.shape[1], -1, 3)


def _last_axis(lines: Tensor, weights: Tensor, step: int) -> Tensor:
    """(B, R, S) contiguous lines -> (B, size, R): each resized and rounded to 8 bits; the resized axis comes first.

    `weights` is (B * bands, size / bands, L); band j reads the L pixels of a line from j * step on.
    """
    batch, rows, side = lines.shape
    count, _, length = weights.shape
    windows = lines.as_strided((batch, count // batch, length, rows), (rows * side, step, 1, side))
    total = torch.bmm(weights, windows.flatten(0, 1))
    return total.add_(0.5).floor_().clamp_(0, 255).view(batch, -1, rows)


@functools.lru_cache(maxsize=512)
def _matrix(side: int, size: int, kind: Kind, device: torch.device) -> Tensor:
    """(side, size) on the device."""
    return torch.from_numpy(_weights(side, size, kind).T.copy()).to(device)


@functools.lru_cache(maxsize=512)
def _bands(side: int, size: int, kind: Kind) -> tuple[Tensor, int]:
    """The matrix without most of its zeros: (bands, size / bands, L) weights; band j starts at column j * step."""
    weights = _weights(side, size, kind)
    bands = next(n for n in (4, 3, 2, 1) if size % n == 0)
    blocks = np.split(weights, bands)
    used = [np.flatnonzero(block.any(axis=0)) for block in blocks]
    step = next(
        step
        for step in range(side // bands, -1, -1)
        if all(j * step <= u[0] and u[-1] < side - (bands - 1 - j) * step for j, u in enumerate(used))
    )
    length = side - (bands - 1) * step
    cut = [block[:, j * step : j * step + length] for j, block in enumerate(blocks)]
    return torch.from_numpy(np.stack(cut)), step


def _weights(side: int, size: int, kind: Kind) -> NDArray[np.float64]:
    """(size, side): how much of each input pixel is in each output pixel; multiples of 2^-22 or 2^-43."""
    if kind == "pillow":
        return _pillow_weights(side, size)
    indices, weights = taps(side, size, size / side, "replicate")
    dense = np.zeros((size, side))
    np.add.at(dense, (np.arange(size)[:, None], indices), weights)
    return np.round(dense * 2**43) / 2**43


def _pillow_weights(side: int, size: int) -> NDArray[np.float64]:
    """Pillow's BICUBIC (a = -0.5, support 2 * max(1, side / size), cut at the border and renormalised), to 22 bits."""
    scale = side / size
    stretch = max(scale, 1.0)
    centre = (np.arange(size)[:, None] + 0.5) * scale
    first = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
    last = np.minimum((centre + 2 * stretch + 0.5).astype(int), side)
    pixel = np.arange(side)
    kernel = np.where((first <= pixel) & (pixel < last), cubic((pixel - centre + 0.5) / stretch), 0.0)
    kernel /= np.add.accumulate(kernel, axis=1)[:, -1:]  # summed in Pillow's order
    return np.copysign(np.floor(np.abs(kernel) * 2**22 + 0.5), kernel) / 2**22
