"""What the implicit upsamplers (LIIF, MetaSR, LTE, SRNO) share: one function of features and position, called two ways.

LIIF, MetaSR and LTE begin with a map of the features that is linear in a 3x3 neighbourhood (MetaSR's output is bilinear
in it). That part is a convolution, run once per low-resolution pixel ("lifting"), before pixels are looked up; no
tensor of unfolded neighbourhoods exists. The result is the papers' to rounding (tests/golden).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.contracts import Features
from dynres.layers.mlp import MLP
from dynres.layers.sampling import Tap, bilinear_at, bilinear_grid, check_coords, pixel_centres
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

    def at(self, row: Tensor, column: Tensor) -> Tensor:
        """(N, L) entries at row and column indices of the map, which broadcast to (B, ...) with N elements."""
        index = (row - self.first_row) * self.width + column
        image = torch.arange(len(index), device=index.device).view(-1, *[1] * (index.ndim - 1))
        return self.table.index_select(0, (index + image * (self.rows * self.width)).flatten())


class Piece(NamedTuple):
    """What `ImplicitUpsampler.colours` takes for some rows of the output."""

    lifted: Lifted
    rows: Taps
    columns: Taps
    cell: Tensor


class ImplicitUpsampler(Upsampler):
    """Colours that depend on the nearest features and on the position relative to them.

    Where `adds_image` is set, the bilinear enlargement of the image is added to them.
    """

    imnet: MLP  # what is decoded last
    trained_scale: float = math.inf  # `decode` gives no smaller cell, relative to the input, than at this scale
    reach: int = 1  # rows and columns of neighbours that `lift` reads on each side
    lifted_rows: int = 16  # `decode` lifts about so many rows at a time (and one or two twice), which bounds its memory
    chunk_pixels: int = 4096  # output pixels at a time on a CPU: their hidden layers stay in its cache; 32 x on a GPU

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
        lifted = self._lifted(self._padded(features.cropped), 0)
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
        batch, colours = len(features.image), self.colouring(features, size)
        out = features.image.new_empty(batch, 3, *size)
        for piece, part in self.pieces(features, size):
            out[:, :, part] = colours(*piece).view(batch, -1, size[1], 3).permute(0, 3, 1, 2)
        return out + bilinear_grid(features.image, size) if self.adds_image else out

    def colouring(self, features: Features, size: tuple[int, int]) -> Callable[[Lifted, Taps, Taps, Tensor], Tensor]:
        """`colours` for the pieces of one H' x W' image; a subclass first looks there at the image as a whole."""
        return self.colours

    def pieces(self, features: Features, size: tuple[int, int]) -> Iterator[tuple[Piece, slice]]:
        """The H' x W' image from the top, in what bounds `decode`'s memory; each piece with its rows."""
        batch, _, height, width = features.image.shape
        device = features.image.device
        cell = self.decode_cell(features, size)
        rows = self.taps(pixel_centres(size[0], device), cell[0], height)
        columns = _shaped(self.taps(pixel_centres(size[1], device), cell[1], width), (1, 1, -1), batch)
        relative = (cell * cell.new_tensor((height, width)))[None]
        padded = self._padded(features.cropped)
        first, last = rows[0].pixel.tolist(), rows[-1].pixel.tolist()
        chunk = max(1, self.chunk_pixels * (1 if device.type == "cpu" else 32) // (batch * size[1]))
        for band in _spans(0, size[0], max(chunk, self.lifted_rows * size[0] // height)):
            top, bottom = first[band.start], last[band.stop - 1]
            lifted = self._lifted(padded[:, :, top : bottom + 1 + 2 * self.reach], top)
            for part in _spans(band.start, band.stop, chunk):
                some = _shaped(tuple(Tap(tap.pixel[part], tap.offset[part]) for tap in rows), (1, -1, 1), batch)
                yield Piece(lifted, some, columns, relative), part

    def _padded(self, features: Tensor) -> Tensor:
        padded = F.pad(features, (0, 0, self.reach, self.reach)) if self.reach else features
        return padded.contiguous(memory_format=torch.channels_last)  # so that a pixel's channels lie together

    def _lifted(self, padded: Tensor, first_row: int) -> Lifted:
        values = self.lift(padded)
        _, channels, rows, width = values.shape
        return Lifted(values.permute(0, 2, 3, 1).reshape(-1, channels), rows, width, first_row)


def _spans(start: int, stop: int, step: int) -> list[slice]:
    """[start, stop) cut into slices of at most `step`."""
    return [slice(top, min(top + step, stop)) for top in range(start, stop, step)]


def _shaped(taps: Taps, shape: tuple[int, int, int], batch: int) -> Taps:
    """Taps of one axis, viewed as (B, rows, columns) with 1 for the other axis."""
    return tuple(Tap(*(field.view(shape).expand(batch, -1, -1) for field in tap)) for tap in taps)


def offsets(row: Tap, column: Tap) -> Tensor:
    """(N, 2) offsets of the queries from one neighbour."""
    return torch.stack(torch.broadcast_tensors(row.offset, column.offset), dim=-1).view(-1, 2)
