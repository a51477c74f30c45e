"""Heads that restore an image at its own size: denoising, JPEG artifacts, and enlargements that start from bicubic."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.widths import check_widths
from dynres.upsamplers.base import GridUpsampler

Skip = Literal["add", "subtract", "none"]


class SameSize(GridUpsampler):
    """One convolution to colours, and what becomes of the image.

    Args:
        in_channels: C, of the features.
        image_channels: 3 for colour, 1 for gray.
        kernel: side of the convolution.
        bias: of the convolution.
        skip: "add": image + convolution (SwinIR, RNAN, VDSR); "subtract": image - convolution, which then estimates
            the noise (DnCNN, IRCNN); "none": the convolution alone (SRCNN, DRUNet).

    Raises:
        ValueError: a width below 1, an even kernel, or an unknown skip.
    """

    same_size = True

    def __init__(
        self, in_channels: int, image_channels: int = 3, kernel: int = 3, bias: bool = True, skip: Skip = "add"
    ) -> None:
        super().__init__(in_channels, 1, image_channels)
        check_widths("SameSize", in_channels=in_channels, image_channels=image_channels, kernel=kernel)
        if kernel % 2 == 0:
            raise ValueError(f"SameSize needs an odd kernel, got {kernel}")
        if skip not in ("add", "subtract", "none"):
            raise ValueError(f"skip must be add, subtract or none, got {skip!r}")
        self.skip, self.adds_image = skip, skip != "none"
        self.last = nn.Conv2d(in_channels, image_channels, kernel, padding=kernel // 2, bias=bias)

    def forward(self, features: Features) -> Tensor:
        height, width = features.image.shape[-2:]
        colour = self.last(features.map)[..., :height, :width]
        if self.skip == "add":
            return features.image + colour
        return features.image - colour if self.skip == "subtract" else colour

    def zero_output(self) -> None:
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)


class AsImage(GridUpsampler):
    """For a network that ends in the image itself (FFDNet, FlexIR): hands the features on, no parameters.

    Args:
        in_channels: of the features, which are the colours.
        image_channels: 3 for colour, 1 for gray.
        scale: by which the network enlarges; 1 for its image's own size.

    Raises:
        ValueError: if the features are not image_channels wide.
    """

    def __init__(self, in_channels: int, image_channels: int = 3, scale: int = 1) -> None:
        super().__init__(in_channels, scale, image_channels)
        if in_channels != image_channels:
            raise ValueError(f"AsImage needs features of {image_channels} channels, the backbone gives {in_channels}")

    def forward(self, features: Features) -> Tensor:
        return features.map

    def zero_output(self) -> None:
        raise ValueError("image_skip=true needs a head with weights, and AsImage has none: leave it out")
