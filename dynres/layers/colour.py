"""RGB and the studio-range YCbCr of BT.601, which gray networks are run on when they meet a colour image."""

from __future__ import annotations

import torch
from torch import Tensor

# Rows Y, Cb, Cr for R'G'B' in [0, 1]; Y takes 16 to 235, Cb and Cr 16 to 240, over 255 (ITU-R BT.601).
_FORWARD = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_OFFSET = (16.0, 128.0, 128.0)


def ycbcr(rgb: Tensor, dim: int = 1) -> Tensor:
    """RGB in [0, 1] along an axis of 3 -> Y, Cb, Cr in [16/255, 240/255], the same shape."""
    matrix, offset = _constants(rgb)
    return ((rgb.movedim(dim, -1) @ matrix.t() + offset) / 255).movedim(-1, dim)


def rgb(ycbcr: Tensor, dim: int = 1) -> Tensor:
    """Inverse of `ycbcr`."""
    matrix, offset = _constants(ycbcr)
    return ((255 * ycbcr.movedim(dim, -1) - offset) @ torch.linalg.inv(matrix).t()).movedim(-1, dim)


def _constants(like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_tensor(_FORWARD), like.new_tensor(_OFFSET)
