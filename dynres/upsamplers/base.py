"""What every upsampler offers: colours from features, at any scale or on one grid."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.cost.counter import count_on_meta
from dynres.layers.sampling import check_coords, nearest_index


class Upsampler(nn.Module, ABC):
    """Features -> colours in the network's normalised range, at sampled coordinates or on a whole grid.

    Attributes:
        scale: the one factor it enlarges by, or None for any.
        same_size: True for heads that restore an image at its own size (then `scale` is 1).
        adds_image: True where the colours already contain the image or an enlargement of it.
        image_channels: c, of the colours.
    """

    scale: int | None = None
    same_size: bool = False
    adds_image: bool = False
    image_channels: int = 3

    @abstractmethod
    def query(self, features: Features, coords: Tensor, cell: Tensor) -> Tensor:
        """Colours (B, Q, c) at coords (B, Q, 2) in [-1, 1] (row, column), for output pixels of size cell (B, Q, 2)."""

    @abstractmethod
    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        """The whole (B, c, H', W') image: what `query` gives at every pixel centre, in bounded memory."""

    @abstractmethod
    def zero_output(self) -> None:
        """Make every colour 0 until training moves it: a network that learns a residual begins with the plain image."""

    @abstractmethod
    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        """MACs to decode one height x width feature map to size (H', W') (fvcore convention)."""


class GridUpsampler(Upsampler):
    """A head of convolutions, which gives whole images at one scale; `query` picks pixels of them.

    Args:
        in_channels: of the features.
        scale: s, a whole number; 1 for restoration at the image's own size.
        image_channels: 3 for colour, 1 for gray.
    """

    scale: int

    def __init__(self, in_channels: int, scale: int, image_channels: int) -> None:
        super().__init__()
        self.in_channels, self.scale, self.image_channels = in_channels, scale, image_channels
        self.same_size = scale == 1

    @abstractmethod
    def forward(self, features: Features) -> Tensor:
        """(B, c, s h, s w) colours of the whole h x w map; what lies beyond the image is cropped by the caller."""

    def query(self, features: Features, coords: Tensor, cell: Tensor) -> Tensor:
        check_coords(coords, cell)
        height, width = (self.scale * side for side in features.image.shape[-2:])
        if not torch.allclose(cell, cell.new_tensor((2 / height, 2 / width)), rtol=1e-4):
            raise ValueError(f"a x{self.scale} head has pixels of one size, and the queries are for another scale")
        image = self.decode(features, (height, width))
        index = nearest_index(coords[..., 0], height) * width + nearest_index(coords[..., 1], width)
        return image.flatten(2).gather(2, index[:, None].expand(-1, self.image_channels, -1)).transpose(1, 2)

    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        height, width = (self.scale * side for side in features.image.shape[-2:])
        if size != (height, width):
            raise ValueError(
                f"this network was made for x{self.scale} and gives {height}x{width} pixels here, not {size[0]}x"
                f"{size[1]}: ask for scale {self.scale}, or take a network for any scale"
            )
        return self(features)[..., :height, :width]

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        features = torch.empty(1, self.in_channels, height, width, device="meta")
        image = torch.empty(1, self.image_channels, height, width, device="meta")
        return count_on_meta(self, Features(features, image))
