"""How sharp an image is, from the image alone: maximum gradient and variability of gradients (FlexIR, Eq. 6-8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BETA = 0.61  # Eq. 8
# R, G and B in the gray of BT.601, all of whose range is used.
LUMA = (0.299, 0.587, 0.114)


def sharpness(image: Tensor) -> Tensor:
    """Omega = MG^beta VG^(1 - beta), of images (B, c, h, w) -> (B,) float32 >= 0 (Eq. 8).

    Multiplying an image by f multiplies it by f^0.61; adding a colour changes nothing. 0 where all pixels are alike.

    Args:
        image: gray, or RGB, whose luma (BT.601) is taken. Thresholds that people give are for values from 0 to 255.

    Raises:
        ValueError: another number of channels.
    """
    gradient = roberts(gray(image.float()))
    height, width = gradient.shape[-2:]
    border = (min(height, width) + 8) // 16  # B, in all: half of it on each side
    top = left = border // 2
    centre = gradient[:, top : top + height - border, left : left + width - border].flatten(1)
    maximum, minimum = centre.amax(dim=1), centre.amin(dim=1)
    mean = gradient.sum(dim=(1, 2)) / (height * width)
    flat = mean == 0
    variability = (maximum - minimum) / mean.masked_fill(flat, 1.0)
    return maximum**BETA * variability ** (1 - BETA)


def gray(image: Tensor) -> Tensor:
    """(B, 1 or 3, h, w) -> (B, h, w)."""
    if image.shape[1] == 1:
        return image[:, 0]
    if image.shape[1] != 3:
        raise ValueError(f"sharpness is of gray or RGB images, got {image.shape[1]} channels")
    red, green, blue = (share * image[:, channel] for channel, share in enumerate(LUMA))
    return red + green + blue


def roberts(gray: Tensor) -> Tensor:
    """Length of the gradient by the Roberts operator, (B, h, w) -> (B, h, w): the two diagonal differences of 2 x 2.

    The last row and the last column are repeated for it.
    """
    padded = F.pad(gray[:, None], (0, 1, 0, 1), mode="replicate")[:, 0]
    down = padded[:, 1:, 1:] - padded[:, :-1, :-1]
    up = padded[:, 1:, :-1] - padded[:, :-1, 1:]
    return torch.hypot(down, up)
