"""What every arbitrary-scale upsampler offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from dynres.contracts import Features


class Upsampler(nn.Module, ABC):
    """Features -> colours in the normalised range [-1, 1], at sampled coordinates or on a whole grid."""

    same_size: ClassVar[bool] = False  # True for heads that restore an image at its own size
    adds_image: ClassVar[bool] = False  # True where the colours already contain an enlargement of the image

    @abstractmethod
    def query(self, features: Features, coords: Tensor, cell: Tensor) -> Tensor:
        """Colours (B, Q, 3) at coords (B, Q, 2) in [-1, 1] (row, column), for output pixels of size cell (B, Q, 2)."""

    @abstractmethod
    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        """The whole (B, 3, H', W') image: what `query` gives at every pixel centre, in bounded memory."""

    @abstractmethod
    def zero_output(self) -> None:
        """Make every colour 0 until training moves it: a network that learns a residual begins with the plain image."""

    @abstractmethod
    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        """MACs to decode one height x width feature map to size (H', W') (fvcore convention)."""
