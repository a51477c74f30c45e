"""What the implicit upsamplers (LIIF, MetaSR, LTE, SRNO) share: one function of features and position, called two ways.

All begin with maps of the features that are linear in a neighbourhood of at most 3x3 (MetaSR's output is bilinear in
it). That part is a convolution, run once per low-resolution pixel ("lifting"), before pixels are looked up; no tensor
of unfolded neighbourhoods exists. What depends on the row or the column of an output pixel alone is computed H' + W'
times. The result is the papers' to rounding (tests/golden, tests/reference).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.mlp import MLP
from dynres.layers.pointwise import pieces
from dynres.layers.precision import full_precision
from dynres.layers.sampling import (
    Corner,
    Tap,
    add_enlarged_,
    bilinear_at,
    bilinear_grid,
    check_coords,
    ensemble,
    pixel_centres,
    spans,
)
from dynres.upsamplers.base import Upsampler

Taps = tuple[Tap, ...]


@dataclass(frozen=True)
class Lifted:
    """Lifted features of some rows of a batch of maps.

    Attributes:
        table: (B h W, L), pixels row by row, image after image.
        rows, width: h and W.
        first_row: row of the map that the table starts with.
    """

    table: Tensor
    rows: int
    width: int
    first_row: int

    @classmethod
    def of(cls, values: Tensor, first_row: int) -> Lifted:
        """From a map (B, L, h, W); no copy where a pixel's channels lie together in memory."""
        _, channels, rows, width = values.shape
        return cls(values.permute(0, 2, 3, 1).reshape(-1, channels), rows, width, first_row)

    def at(self, row: Tensor, column: Tensor, part: int = 0, parts: int = 1) -> Tensor:
        """(..., L / parts) entries at row and column indices of the map, which broadcast to (B, ...).

        The entries are cut into equal parts, of which one is taken.
        """
        index = (row - self.first_row) * self.width + column
        image = torch.arange(len(index), device=index.device).view(-1, *[1] * (index.ndim - 1))
        index = index + image * (self.rows * self.width)
        table = self.table.view(len(self.table) * parts, -1)
        return table.index_select(0, (index * parts + part).flatten()).view(*index.shape, -1)


class Piece(NamedTuple):
    """What `ImplicitUpsampler.colours` takes for some pixels of the output."""

    lifted: Lifted
    rows: Taps
    columns: Taps
    cell: Tensor


Lift = Callable[[Tensor], Tensor]
Colours = Callable[[Lifted, Taps, Taps, Tensor], Tensor]


class ImplicitUpsampler(Upsampler):
    """Colours that depend on the nearest features and on the position relative to them.

    Where `adds_image` is set, the bilinear enlargement of the image is added to them.
    """

    imnet: MLP  # what is decoded last
    trained_scale: float = math.inf  # `decode` gives no smaller cell, relative to the input, than at this scale
    reach: int = 1  # rows and columns of neighbours that `lift` reads on each side
    # `decode` lifts the rows that hold so many features pixels at a time (and one or two rows twice), and makes so many
    # output pixels at a time and thread: on a CPU their hidden layers stay in its cache; a GPU makes 64 x as many.
    lifted_pixels: int = 8192
    chunk_pixels: int = 1024

    @abstractmethod
    def lift(self, features: Tensor) -> Tensor:
        """(B, C, h + 2 reach, W) features, padded above and below but not at the sides -> (B, L, h, W)."""

    @abstractmethod
    def taps(self, coord: Tensor, cell: Tensor, pixels: int) -> Taps:
        """The pixels of one axis (n long) that queries read, in rising order; coord (...), cell broadcasts to it."""

    @abstractmethod
    def colours(self, lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor) -> Tensor:
        """(N, 3) colours of the N queries to which rows' and columns' tensors broadcast.

        `cell` is relative, (N, 2) or (1, 2): the size of an output pixel where a feature pixel is 2 wide.
        """

    def query(self, features: Features, coords: Tensor, cell: Tensor) -> Tensor:
        check_coords(coords, cell)
        height, width = features.image.shape[-2:]
        rows = self.taps(coords[..., 0], cell[..., 0], height)
        columns = self.taps(coords[..., 1], cell[..., 1], width)
        relative = cell * cell.new_tensor((height, width))
        lifted = Lifted.of(self.lift(self.padded(features, 0, height)), 0)
        colour = self.colours(lifted, rows, columns, relative.reshape(-1, 2)).view(*coords.shape[:2], 3)
        return colour + bilinear_at(features.image, coords) if self.adds_image else colour

    @property
    def last(self) -> nn.Linear:
        """The layer that gives the colours."""
        return self.imnet.last

    def zero_output(self) -> None:
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def decode_cell(self, features: Features, size: tuple[int, int]) -> Tensor:
        """(2,) the cell that `decode` uses for an H' x W' image: a pixel's (2/H', 2/W'), times max(s / trained, 1).

        LTE's and SRNO's authors take one nominal scale for both axes; each axis goes by its own here.
        """
        have = features.image.shape[-2:]
        growth = [max(out / side / self.trained_scale, 1.0) for out, side in zip(size, have, strict=True)]
        cell = torch.tensor([2 / size[0], 2 / size[1]], device=features.image.device)
        return cell * cell.new_tensor(growth)

    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        batch, (lift, colours) = len(features.image), self.colouring(features, size)
        out = features.image.new_empty(batch, 3, *size)
        for piece, rows, columns in self.pieces(features, size, lift):
            there = out[:, :, rows, columns]
            there.copy_(colours(*piece).view(batch, *there.shape[2:], 3).permute(0, 3, 1, 2))
            del piece  # and with the last one of a band its table, before the next is made
        return add_enlarged_(out, features.image, bilinear_grid) if self.adds_image else out

    def colouring(self, features: Features, size: tuple[int, int]) -> tuple[Lift, Colours]:
        """`lift` and `colours` for the pieces of one H' x W' image; SRNO first looks there at the image as a whole."""
        return self.lift, self.colours

    def pieces(self, features: Features, size: tuple[int, int], lift: Lift) -> Iterator[tuple[Piece, slice, slice]]:
        """The H' x W' image from the top, in what bounds `decode`'s memory; each piece with its rows and columns."""
        batch, _, height, width = features.image.shape
        device = features.image.device
        cell = self.decode_cell(features, size)
        rows = self.taps(pixel_centres(size[0], device), cell[0], height)
        columns = self.taps(pixel_centres(size[1], device), cell[1], width)
        relative = (cell * cell.new_tensor((height, width)))[None]
        first, last = rows[0].pixel.tolist(), rows[-1].pixel.tolist()
        caches = torch.get_num_threads() if device.type == "cpu" else 64
        chunk = max(1, self.chunk_pixels * caches // batch)
        together = max(1, chunk // size[1])
        band_rows = max(1, self.lifted_pixels // (batch * width)) * size[0] // height
        for band in spans(0, size[0], max(together, band_rows)):
            bottom = last[band.stop - 1] + 1
            lifted = Lifted.of(lift(self.padded(features, first[band.start], bottom)), first[band.start])
            for down in spans(band.start, band.stop, together):
                for across in spans(0, size[1], chunk):
                    some = _cut(rows, down, (1, -1, 1), batch), _cut(columns, across, (1, 1, -1), batch)
                    yield Piece(lifted, *some, relative), down, across
            del lifted

    def padded(self, features: Features, top: int, bottom: int) -> Tensor:
        """Rows [top - reach, bottom + reach) of the features, zero beyond the map, a pixel's channels together."""
        height, reach = features.image.shape[-2], self.reach
        some = features.cropped[:, :, max(top - reach, 0) : min(bottom + reach, height)]
        beyond = (0, 0, max(reach - top, 0), max(bottom + reach - height, 0))
        return F.pad(some, beyond).contiguous(memory_format=torch.channels_last)


def _cut(taps: Taps, part: slice, shape: tuple[int, int, int], batch: int) -> Taps:
    """Some taps of one axis, viewed as (B, rows, columns) with 1 for the other axis."""
    return tuple(Tap(*(field[part].view(shape).expand(batch, -1, -1) for field in tap)) for tap in taps)


class CornerUpsampler(ImplicitUpsampler):
    """Hidden vectors of an MLP for each of the nearest pixels, blended before its last layer (LIIF, Eq. 4; LTE)."""

    @abstractmethod
    def hidden(self, values: Tensor, corner: Corner, cell: Tensor) -> Tensor:
        """(N, width) before the last layer, from the lifted values (..., L) of the N queries at one corner."""

    def colours(self, lifted: Lifted, rows: Taps, columns: Taps, cell: Tensor) -> Tensor:
        corners = ensemble(rows, columns)
        values = [lifted.at(row.pixel, column.pixel) for row, column, _ in corners]
        return in_turns(self._colours, values, corners, cell)

    def _colours(self, values: Sequence[Tensor], corners: Sequence[Corner], cell: Tensor) -> Tensor:
        pairs = zip(values, corners, strict=True)
        return self.last(blended((self.hidden(some, corner, cell), corner.weight) for some, corner in pairs))


def in_turns(
    colours: Callable[[Sequence[Tensor], Sequence[Corner], Tensor], Tensor],
    values: Sequence[Tensor],
    corners: Sequence[Corner],
    cell: Tensor,
) -> Tensor:
    """colours(values, corners, cell) of queries, for scattered ones (training's) a cache full at a time.

    Args:
        colours: -> (N, 3).
        values: of each corner's pixels, (..., L); looked up for all queries at once, as the gradient of each lookup is
            a table.
        corners: as `ensemble` gives them.
        cell: (N, 2) or (1, 2).
    """
    if corners[0].row.pixel.shape != corners[0].column.pixel.shape:  # a grid, which `decode` has cut
        return colours(values, corners, cell)
    made: list[Tensor] = []
    start = 0
    for some in zip(*(pieces(one.flatten(0, -2)) for one in values), strict=True):
        part = slice(start, start := start + len(some[0]))
        taken = [_taken(corner, part) for corner in corners]
        made.append(colours(some, taken, cell if len(cell) == 1 else cell[part]))
    return torch.cat(made)


def _taken(corner: Corner, part: slice) -> Corner:
    """A corner of some of the scattered queries, in one axis."""
    row, column = (Tap(tap.pixel.flatten()[part], tap.offset.flatten()[part]) for tap in corner[:2])
    return Corner(row, column, corner.weight.flatten()[part])


def placed(values: Tensor, row: Tap, column: Tap, cell: Tensor, weight: Tensor) -> Tensor:
    """(N, L): values (..., L) + weight . [row offset, column offset, cell], the position's share of a linear layer.

    In full precision under autocast too. Where rows and columns make a grid, each is multiplied alone, H' + W' times,
    and the values are overwritten.

    Args:
        values: of the N queries to which the taps broadcast.
        cell: (N, 2) or (1, 2).
        weight: (L, 4), or (L, 2) to leave the cell out.
    """
    offsets, sizes = weight.split([2, weight.shape[1] - 2], dim=1)
    if row.offset.shape == column.offset.shape:
        position = torch.stack([row.offset, column.offset], dim=-1).flatten(0, -2)
        if sizes.shape[1]:
            position = torch.cat([position, cell.expand_as(position)], dim=1)
        with full_precision(values):
            return values.flatten(0, -2) + (position.to(weight.dtype) @ weight.t()).to(values.dtype)
    along = column.offset[..., None] * offsets[:, 1]
    if sizes.shape[1]:
        along = along + cell[:, :1] * sizes[:, 0] + cell[:, 1:] * sizes[:, 1]
    across = row.offset[..., None] * offsets[:, 0]
    return values.add_(across.to(values.dtype)).add_(along.to(values.dtype)).flatten(0, -2)


def blended(corners: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """(N, L), the sum of values (N, L) times their shares (N elements): the local ensemble before its last layer."""
    total: Tensor | None = None
    for values, share in corners:
        share = share.reshape(-1, 1).to(values.dtype)
        total = values * share if total is None else total.addcmul_(values, share)
    assert total is not None
    return total
