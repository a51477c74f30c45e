"""Meta-SR: a magnification-arbitrary network for super-resolution (Hu et al., CVPR 2019), in LIIF's re-implementation.

Keys match `imnet.*` of that code; equal to it within 2e-5 of the largest output (tests/golden).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.mlp import MLP
from dynres.layers.precision import full_precision
from dynres.layers.sampling import NUDGE, Corner, Tap, ensemble, nearest_index, spans
from dynres.layers.widths import check_widths
from dynres.upsamplers.implicit import ImplicitUpsampler, Lifted, Taps, in_turns, placed


class MetaSR(ImplicitUpsampler):
    """A small MLP predicts, from the position and the scale, the filter that each output pixel applies.

    The filter is the MLP's second layer W applied to its hidden vector v, and the colour is (features . W) . v: the
    product features . W is lifted (see ImplicitUpsampler), and no filter is written out but at whole factors, where few
    serve all pixels.

    Args:
        in_channels: C, of the features.
        hidden: width of the MLP.

    Raises:
        ValueError: if a width is below 1.
    """

    def __init__(self, in_channels: int, hidden: int = 256) -> None:
        super().__init__()
        check_widths("MetaSR", in_channels=in_channels, hidden=hidden)
        self.in_channels, self.hidden = in_channels, hidden
        self.imnet = MLP(3, [hidden], 9 * in_channels * 3)

    def lift(self, features: Tensor) -> Tensor:
        """(B, 3 (hidden + 1), h, W): for each colour, features . W for every hidden unit and for W's bias.

        Entry 3 u + k of the MLP's output is the filter's weight for unfolded channel u and colour k.
        """
        last = self.imnet.layers[-1]
        assert isinstance(last, nn.Linear)
        both = torch.cat([last.weight, last.bias[:, None]], dim=1)  # (9 C * 3, hidden + 1)
        kernel = both.unflatten(0, (self.in_channels, 3, 3, 3)).permute(3, 4, 0, 1, 2)  # colour, unit, C, 3, 3
        return F.conv2d(features, kernel.flatten(0, 1), padding=(0, 1))

    def taps(self, coord: Tensor, cell: Tensor, pixels: int) -> Taps:
        """The pixel under the top-left corner of the output pixel; offset in [0, 1) from its own top-left corner."""
        corner = coord - cell / 2
        index = nearest_index((corner + NUDGE).clamp(NUDGE - 1, 1 - NUDGE), pixels)
        left = (2 * index).to(coord.dtype) / pixels - 1
        return (Tap(index, (corner - left) * (pixels / 2)),)

    def colours(self, lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor) -> Tensor:
        corners = ensemble(rows, columns)  # one
        return in_turns(self._colours, [lifted.at(rows[0].pixel, columns[0].pixel)], corners, cell)

    def _colours(self, values: Sequence[Tensor], corners: Sequence[Corner], cell: Tensor) -> Tensor:
        (row, column, _), first = corners[0], self.imnet.first
        # the third input is the inverse scale, half a cell, of the vertical axis alone, as in the original
        weight = F.pad(first.weight * first.weight.new_tensor([1, 1, 0.5]), (0, 1))
        constant = first.bias.expand(*values[0].shape[:-1], -1).clone()
        unit = F.relu_(placed(constant, row, column, cell, weight))
        parts, bias = values[0].flatten(0, -2).unflatten(1, (3, -1)).split([self.hidden, 1], dim=2)
        return (parts * unit[:, None].to(parts.dtype)).sum(-1) + bias[:, :, 0]

    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        factors = _whole_factors((features.image.shape[-2], features.image.shape[-1]), size)
        return super().decode(features, size) if factors is None else self._repeated(features, factors)

    def _repeated(self, features: Features, factors: tuple[int, int]) -> Tensor:
        """`decode` at whole factors, where the filters of one feature pixel are those of every other.

        A convolution with three of them for each place in a pixel, and a shuffle, some rows at a time.
        """
        batch, _, height, width = features.image.shape
        down, right = factors
        device = features.image.device
        exact = self.imnet.first.weight.dtype
        places = torch.cartesian_prod(*(torch.arange(n, device=device, dtype=exact) / n for n in factors))
        with full_precision(places):  # places and scales lose their meaning in half precision
            filters = self.imnet(torch.cat([places, places.new_full((len(places), 1), 1 / down)], dim=1))
        kernel = filters.unflatten(1, (self.in_channels, 3, 3, 3)).permute(0, 4, 1, 2, 3).flatten(0, 1)
        out = features.image.new_empty(batch, 3, height * down, width * right)
        together = max(1, self.lifted_pixels // (batch * width * max(1, down * right // 4)))
        for band in spans(0, height, together):
            colours = F.conv2d(self.padded(features, band.start, band.stop), kernel, padding=(0, 1))
            colours = colours.unflatten(1, (down, right, 3)).permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)
            out[:, :, band.start * down : band.stop * down] = colours
        return out

    def macs(self, height: int, width: int, size: tuple[int, int]) -> int:
        """MACs of the form that runs: filters once a place at whole factors, else features lifted once a pixel."""
        if (factors := _whole_factors((height, width), size)) is not None:
            filter_bank = 27 * self.in_channels * factors[0] * factors[1]
            return filter_bank * (height * width + self.hidden) + 3 * self.hidden * factors[0] * factors[1]
        outputs = 3 * (self.hidden + 1)
        return height * width * 9 * self.in_channels * outputs + 3 * self.hidden * size[0] * size[1]


def _whole_factors(have: tuple[int, int], want: tuple[int, int]) -> tuple[int, int] | None:
    """By what whole numbers both axes grow, or None."""
    if want[0] % have[0] or want[1] % have[1]:
        return None
    return want[0] // have[0], want[1] // have[1]
