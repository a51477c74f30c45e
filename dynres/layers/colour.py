"""RGB and the studio-range YCbCr of BT.601, which gray networks are run on when they meet a colour image.

Element by element, so that autocast leaves it in full precision: in bfloat16 a colour would be off by several levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Matrix = list[list[float]]

# Rows Y, Cb, Cr for R'G'B' in [0, 1]; Y takes 16 to 235, Cb and Cr 16 to 240, over 255 (ITU-R BT.601).
_FORWARD = [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
_INVERSE: Matrix = torch.linalg.inv(torch.tensor(_FORWARD, dtype=torch.float64)).tolist()
_OFFSET = [16.0, 128.0, 128.0]
# Standard deviation of Y's noise over that of independent noise on R, G and B: 0.574.
LUMA_NOISE = sum(weight**2 for weight in _FORWARD[0]) ** 0.5 / 255


def ycbcr(rgb: Tensor, dim: int = 1) -> Tensor:
    """RGB in [0, 1] along an axis of 3 -> Y in [16/255, 235/255], Cb and Cr in [16/255, 240/255], the same shape.

    Raises:
        ValueError: if the axis has another length.
    """
    mixed = _mixed(_channels(rgb, dim), _FORWARD)
    return torch.stack([(value + offset) / 255 for value, offset in zip(mixed, _OFFSET, strict=True)], dim)


def rgb(ycbcr: Tensor, dim: int = 1) -> Tensor:
    """Inverse of `ycbcr`; outside [0, 1] where no colour has these values.

    Raises:
        ValueError: if the axis has another length.
    """
    shifted = [255 * value - offset for value, offset in zip(_channels(ycbcr, dim), _OFFSET, strict=True)]
    return torch.stack(_mixed(shifted, _INVERSE), dim)


def _channels(colours: Tensor, dim: int) -> tuple[Tensor, ...]:
    if colours.shape[dim] != 3:
        raise ValueError(f"colours need 3 channels, axis {dim} of {tuple(colours.shape)} has {colours.shape[dim]}")
    return colours.unbind(dim)


def _mixed(channels: Sequence[Tensor], matrix: Matrix) -> list[Tensor]:
    """The three weighted sums of the three channels."""
    first, second, third = channels
    return [a * first + b * second + c * third for a, b, c in matrix]
