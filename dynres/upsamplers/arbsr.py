"""Scale-aware upsampling: the tail of ArbSR (Wang et al., ICCV 2021) for any scale, also a different one by axis.

Names match the authors' `sa_upsample.*`, and `last` is their `tail.1`; equal to their code within 2e-5 of the largest
output (tests/golden).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.precision import full_precision
from dynres.layers.sampling import check_coords, nearest_index
from dynres.layers.widths import check_widths
from dynres.upsamplers.base import Upsampler

ROUTING_WIDTH = 64
BAND_PIXELS = 32_768  # output pixels of a batch at a time, which bounds the memory of `decode`
FLOOR_SHIFT = 1e-3  # before rounding down: a position that should be whole may be a little less


class ArbSRUpsampler(Upsampler):
    """Each output pixel samples the features where it is told to, through a filter mixed for it, then 3x3 to colours.

    Where it lies between the pixels of the input, and the scale, give the offset of its sample and the weights of
    the experts. The filter of 1x1 is C -> C / 8 -> C under a skip.

    Args:
        in_channels: C, of the features; at least 8.
        experts: filters that are mixed.
        align_corners: sample where the authors' PyTorch did (before 1.3), which their results rest on; false: where
            their code samples with a current one.

    Raises:
        ValueError: if a width is below 1, or C below 8.
    """

    def __init__(self, in_channels: int, experts: int = 4, align_corners: bool = True) -> None:
        super().__init__()
        check_widths("ArbSRUpsampler", in_channels=in_channels, experts=experts)
        if in_channels < 8:
            raise ValueError(f"ArbSRUpsampler squeezes to an eighth and needs at least 8 channels, got {in_channels}")
        squeeze = in_channels // 8
        self.experts, self.align_corners = experts, align_corners
        self.weight_compress = _pool(experts, in_channels, squeeze)
        self.weight_expand = _pool(experts, squeeze, in_channels)
        self.body = nn.Sequential(
            nn.Conv2d(4, ROUTING_WIDTH, 1), nn.ReLU(), nn.Conv2d(ROUTING_WIDTH, ROUTING_WIDTH, 1), nn.ReLU()
        )
        self.routing = nn.Sequential(nn.Conv2d(ROUTING_WIDTH, experts, 1), nn.Sigmoid())
        self.offset = nn.Conv2d(ROUTING_WIDTH, 2, 1)
        self.last = nn.Conv2d(in_channels, self.image_channels, 3, padding=1)

    def query(self, features: Features, coords: Tensor, cell: Tensor) -> Tensor:
        """Colours of the pixels that the coordinates lie in; the whole grid of their cell is made for them.

        Raises:
            ValueError: if the cells of one image differ.
        """
        check_coords(coords, cell)
        if bool((cell != cell[:, :1]).any()):
            raise ValueError("ArbSRUpsampler makes whole grids: all queries of an image must have one cell")
        colours = []
        for index, (height, width) in enumerate((2 / cell[:, 0]).round().long().tolist()):
            one = Features(features.cropped[index : index + 1], features.image[index : index + 1])
            pixel = nearest_index(coords[index, :, 0], height) * width + nearest_index(coords[index, :, 1], width)
            colours.append(self.decode(one, (height, width))[0].flatten(1).index_select(1, pixel).t())
        return torch.stack(colours)

    def decode(self, features: Features, size: tuple[int, int], scale: tuple[float, float] | None = None) -> Tensor:
        """The whole (B, c, H', W') image, in bands of rows.

        Args:
            scale: vertical and horizontal; None for the ratios of the sizes, which rounding to whole pixels may have
                moved away from the nominal scale.
        """
        x = features.cropped.to(features.image.dtype)  # positions lose their meaning in half precision
        if scale is None:
            scale = size[0] / x.shape[-2], size[1] / x.shape[-1]
        (rows, row_offsets), (columns, column_offsets) = (
            _positions(*axis, x) for axis in zip(size, scale, strict=True)
        )
        step = max(2, BAND_PIXELS // (len(x) * size[1]))
        beyond = x.new_zeros(len(x), x.shape[1], 1, size[1])  # what the last convolution sees above and below
        held, colours = beyond, []
        for top in range(0, size[0], step):
            band = slice(top, top + step)
            with full_precision(x):
                where = self._described(row_offsets[band], column_offsets, scale)
                offset = self.offset(where)[0]
            adapted = self._adapted(x, rows[band], columns, where, offset)
            held = torch.cat([held, adapted, *([beyond] if band.stop >= size[0] else [])], dim=2)
            colours.append(F.conv2d(held, self.last.weight, self.last.bias, padding=(0, 1)))
            held = held[:, :, -2:]
        return torch.cat(colours, dim=2).to(x.dtype)

    def zero_output(self) -> None:
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        per_pixel = sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Conv2d))
        return size[0] * size[1] * (per_pixel + self.weight_compress.numel() + self.weight_expand.numel())

    def _described(self, rows: Tensor, columns: Tensor, scale: tuple[float, float]) -> Tensor:
        """(1, 64, h, W') embedding of what is known of each output pixel: its scales and its place between pixels."""
        inputs = [
            rows.new_tensor(1 / scale[1]).expand(len(rows), len(columns)),
            rows.new_tensor(1 / scale[0]).expand(len(rows), len(columns)),
            rows[:, None].expand(-1, len(columns)),
            columns.expand(len(rows), -1),
        ]
        return self.body(torch.stack(inputs)[None])

    def _adapted(self, x: Tensor, rows: Tensor, columns: Tensor, where: Tensor, offset: Tensor) -> Tensor:
        """(B, C, h, W') features of output pixels at rows and columns of the map, moved by (2, h, W') and filtered."""
        down, across = rows[:, None] + offset[1], columns + offset[0]
        grid = torch.stack([self._normal(across, x.shape[-1]), self._normal(down, x.shape[-2])], dim=-1)
        sampled = F.grid_sample(x, grid.expand(len(x), -1, -1, -1), padding_mode="zeros", align_corners=False)
        # A mixture of linear maps is the mixture of their results: no pixel's own matrix is written out.
        share = self.routing(where)[:, :, None]  # (1, experts, 1, h, W')
        squeezed = F.conv2d(sampled, self.weight_compress.flatten(0, 1)).unflatten(1, (self.experts, -1))
        mixed = (squeezed * share).sum(1, keepdim=True) * share
        expand = self.weight_expand.transpose(0, 1).flatten(1, 2)
        return sampled + F.conv2d(mixed.flatten(1, 2), expand)

    def _normal(self, position: Tensor, pixels: int) -> Tensor:
        """Position in pixels (0 is the first centre) -> grid_sample's coordinate, corners not aligned.

        The authors divide by n - 1, which is right for aligned corners; read as not aligned it reaches beyond the map.
        """
        if self.align_corners:
            return (2 * position + 1) / pixels - 1
        return 2 * position / max(pixels - 1, 1) - 1


def _positions(pixels: int, scale: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) positions of n output pixels on the input, and their offsets from the centre of the input pixel they lie in.

    In input pixels; 0 is the first centre, offsets are in [-0.5, 0.5).
    """
    edge = (torch.arange(pixels, dtype=torch.float64) + 0.5) / scale
    offset = edge - (edge + FLOOR_SHIFT).floor() - 0.5
    return (edge - 0.5).to(like), offset.to(like)


def _pool(experts: int, inputs: int, outputs: int) -> nn.Parameter:
    """(experts, outputs, inputs, 1, 1) fresh filters."""
    return nn.Parameter(torch.stack([nn.Conv2d(inputs, outputs, 1).weight.detach() for _ in range(experts)]))
