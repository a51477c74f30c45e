"""The range in which a network sees an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # colour, of images in [0, 1]


@dataclass(frozen=True)
class Pixels:
    """What a network sees of an image x in [0, 1]: (x - mean) * factor. The default is LIIF's [-1, 1].

    Attributes:
        mean: one number, or one a channel (DIV2K's mean colour in the classical networks).
        factor: 2 for [-1, 1]; 255 for networks trained on 8-bit values.
    """

    mean: float | tuple[float, ...] = 0.5
    factor: float = 2.0

    def normal(self, image: Tensor) -> Tensor:
        """(B, c, H, W) in [0, 1] -> what the network sees."""
        return (image - self._mean(image, 1)) * self.factor

    def colours(self, normal: Tensor, dim: int) -> Tensor:
        """The way back, for colours along an axis."""
        return normal * (1 / self.factor) + self._mean(normal, dim)

    def colours_(self, normal: Tensor, dim: int) -> Tensor:
        """`colours` in place."""
        return normal.mul_(1 / self.factor).add_(self._mean(normal, dim))

    def _mean(self, like: Tensor, dim: int) -> Tensor:
        mean = torch.as_tensor(self.mean, dtype=like.dtype, device=like.device).reshape(-1)
        return mean.view([-1 if axis == dim % like.ndim else 1 for axis in range(like.ndim)])
