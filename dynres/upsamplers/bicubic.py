"""Plain bicubic enlargement of the image: what every network has to beat."""

from __future__ import annotations

from torch import Tensor

from dynres.contracts import Features
from dynres.layers.sampling import bicubic_at, bicubic_grid, check_coords
from dynres.upsamplers.base import Upsampler


class Bicubic(Upsampler):
    """Ignores the features; a = -0.5, border repeated (dynres.layers.sampling). No parameters, nothing to train.

    Args:
        in_channels: of the features, not used; every upsampler is told.
    """

    adds_image = True

    def __init__(self, in_channels: int) -> None:
        super().__init__()

    def query(self, features: Features, coords: Tensor, cell: Tensor) -> Tensor:
        check_coords(coords, cell)
        return bicubic_at(features.image, coords)

    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        return bicubic_grid(features.image, size)

    def zero_output(self) -> None:
        raise ValueError("bicubic interpolation has no weights to zero")

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        return 0
