"""Training pairs: random scale, crop, bicubic, symmetries, sampled pixels (LIIF; TADT, Sec. 4.1), in two halves.

`draw` makes every random choice and cuts the crop out, in a loader; its generator is a pure function of (seed, epoch,
item). `query_batch` does the arithmetic, for a batch, on the device where the batch lies: no choice is left to it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynres.contracts import QueryBatch
from dynres.data.images import Pixels
from dynres.data.resize import Kind
from dynres.data.shrink import shrunk


@dataclass(frozen=True)
class PairRecipe:
    """How a pair is drawn.

    Attributes:
        scales: (low, high), s ~ U(low, high) for each sample alone.
        lr_size: side of the low-resolution patch; the crop's side is round(lr_size * s).
        queries: pixels of the crop that are sampled, without replacement; None for all, row by row.
        aligned: sample one square block of neighbouring pixels instead of scattered ones.
        downsampling: which bicubic shrinks the crop.
    """

    scales: tuple[float, float]
    lr_size: int
    queries: int | None
    aligned: bool
    downsampling: Kind

    @property
    def smallest_crop(self) -> int:
        """Side in pixels of the crop at the lowest scale."""
        return crop_side(self.lr_size, self.scales[0])

    @property
    def largest_crop(self) -> int:
        """Side in pixels of the crop at the highest scale: no training image may be smaller."""
        return crop_side(self.lr_size, self.scales[1])


def crop_side(lr_size: int, scale: float) -> int:
    """round(lr_size * scale), ties to even."""
    return round(lr_size * scale)


def generator(seed: int, *position: int) -> np.random.Generator:
    """The random numbers of one place in the run: a pure function of non-negative integers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *position))))


class Draw(NamedTuple):
    """One sample without its low-resolution image.

    crop (side, side, 3) uint8 as it was cut; attitude from 0 to 7 in which the pair is shown (`_unturned`); coords
    (Q, 2) float32 and target (Q, 3) uint8 of the sampled pixels of the turned crop; scale; seed of the sample's gates.
    """

    crop: Pixels
    attitude: int
    coords: NDArray[np.float32]
    target: NDArray[np.uint8]
    scale: float
    seed: int


class DrawnBatch(NamedTuple):
    """What a training loader yields and what goes to the device: B draws.

    pixels (P, 3) uint8, the crops one after the other, each row by row, and their sides, which stay on the host;
    attitude (B,) int64; coords (B, Q, 2) float32; target (B, Q, 3) uint8; scale (B,) float32; seed (B,) int64.
    """

    pixels: Tensor
    sides: tuple[int, ...]
    attitude: Tensor
    coords: Tensor
    target: Tensor
    scale: Tensor
    seed: Tensor


class Square(NamedTuple):
    """Where a crop lies in its image, in pixels, and the scale it was drawn for."""

    top: int
    left: int
    side: int
    scale: float

    def cut(self, image: Pixels) -> Pixels:
        """(side, side, 3), a view."""
        return image[self.top : self.top + self.side, self.left : self.left + self.side]


def draw_square(image: Pixels, recipe: PairRecipe, random: np.random.Generator) -> Square:
    """A random square of a random scale in an (H, W, 3) image, both sides at least `recipe.largest_crop`."""
    scale = float(random.uniform(*recipe.scales))
    side = crop_side(recipe.lr_size, scale)
    top, left = (int(random.integers(n - side + 1)) for n in image.shape[:2])
    return Square(top, left, side, scale)


def draw(image: Pixels, recipe: PairRecipe, random: np.random.Generator) -> Draw:
    """One sample of a uint8 image. What is drawn, and in which order, fixes the data of every run there has been."""
    seed = int(random.integers(2**63 - 1))
    square = draw_square(image, recipe, random)
    left_right, upside_down, transposed = (random.random(3) < 0.5).tolist()
    attitude = left_right + 2 * upside_down + 4 * transposed
    chosen = _chosen(square.side, recipe, random)
    row = chosen // square.side
    column = chosen - square.side * row
    crop, centres = np.ascontiguousarray(square.cut(image)), _centres(square.side)
    return Draw(
        crop,
        attitude,
        coords=np.stack([centres.take(row), centres.take(column)], axis=1),
        target=crop.reshape(-1, 3).take(_unturned(square.side, attitude, row, column), axis=0),
        scale=square.scale,
        seed=seed,
    )


def gathered(draws: Sequence[Draw]) -> DrawnBatch:
    """The collate function."""
    crops, attitudes, coords, targets, scales, seeds = zip(*draws, strict=True)
    return DrawnBatch(
        *joined(crops),
        attitude=torch.tensor(attitudes),
        coords=torch.from_numpy(np.stack(coords)),
        target=torch.from_numpy(np.stack(targets)),
        scale=torch.tensor(scales, dtype=torch.float32),
        seed=torch.tensor(seeds, dtype=torch.int64),
    )


def joined(crops: Sequence[Pixels]) -> tuple[Tensor, tuple[int, ...]]:
    """Square crops -> (P, 3) uint8 with one after the other, each row by row; and their sides."""
    sides = tuple(map(len, crops))
    pixels = np.empty((sum(side**2 for side in sides), 3), np.uint8)
    parts = np.split(pixels, np.cumsum(np.square(sides))[:-1])
    for part, crop in zip(parts, crops, strict=True):
        part.reshape(crop.shape)[:] = crop
    return torch.from_numpy(pixels), sides


def query_batch(drawn: DrawnBatch, recipe: PairRecipe) -> QueryBatch:
    """The training batch, on the device of `drawn.pixels`: the same bits on every device that has float64."""
    queries = drawn.target.shape[1]
    small = shrunk(drawn.pixels, drawn.sides, recipe.lr_size, recipe.downsampling).float().div_(255)
    turned = _attitudes(recipe.lr_size, small.device)[drawn.attitude]
    cell = torch.tensor([2 / side for side in drawn.sides], dtype=torch.float32, device=small.device)
    return QueryBatch(
        image=small.flatten(2).gather(2, turned[:, None].expand(-1, 3, -1)).view(small.shape),
        coords=drawn.coords,
        cell=cell[:, None, None].repeat(1, queries, 2),
        target=drawn.target.float().div_(255),
        scale=drawn.scale,
        seed=drawn.seed,
        noise=torch.zeros_like(drawn.scale),
    )


def to_tensor(image: Pixels) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def _unturned(side: int, attitude: int, row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.intp]:
    """Where pixels of the turned square lie in the square as it was cut, numbered row by row.

    An attitude is the sum of 1 if the square is flipped left-right, 2 if then upside down, 4 if then transposed.
    """
    if attitude & 4:
        row, column = column, row
    if attitude & 2:
        row = side - 1 - row
    if attitude & 1:
        column = side - 1 - column
    return row * side + column


@functools.lru_cache(maxsize=8)
def _attitudes(side: int, device: torch.device) -> Tensor:
    """(8, side^2) for each attitude: `_unturned` of all pixels, row by row."""
    row, column = np.divmod(np.arange(side * side), side)
    return torch.from_numpy(np.stack([_unturned(side, attitude, row, column) for attitude in range(8)])).to(device)


@functools.lru_cache(maxsize=2048)
def _centres(side: int) -> NDArray[np.float32]:
    """(side,) coordinates in [-1, 1] of the centres of a row of pixels."""
    return ((2 * np.arange(side) + 1) / side - 1).astype(np.float32)


def _chosen(side: int, recipe: PairRecipe, random: np.random.Generator) -> np.ndarray:
    """(Q,) distinct pixels of a side x side crop."""
    if recipe.queries is None:
        return np.arange(side * side)
    if not recipe.aligned:
        return random.choice(side * side, recipe.queries, replace=False)
    block = math.isqrt(recipe.queries)
    top, left = random.integers(side - block + 1, size=2)
    row, column = np.divmod(np.arange(recipe.queries), block)
    return (top + row) * side + left + column
