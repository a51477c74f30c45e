"""A training pair from one image: random scale, crop, bicubic, symmetries, sampled pixels (LIIF; TADT, Sec. 4.1).

Every random choice comes from the generator handed in; the generator is a pure function of (seed, epoch, item).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynres.contracts import QueryBatch
from dynres.data.images import Pixels
from dynres.data.resize import Kind, resize


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


def draw_pair(image: Pixels, recipe: PairRecipe, random: np.random.Generator) -> QueryBatch:
    """One sample, without a batch axis: image (3, h, h), coords and cell (Q, 2), target (Q, 3), scale and seed ().

    `image` is (H, W, 3) uint8 with both sides at least `recipe.largest_crop`.
    """
    seed = int(random.integers(2**63 - 1))
    scale = float(random.uniform(*recipe.scales))
    side = crop_side(recipe.lr_size, scale)
    top, left = (int(random.integers(n - side + 1)) for n in image.shape[:2])
    crop = np.ascontiguousarray(image[top : top + side, left : left + side])
    small = resize(crop, (recipe.lr_size, recipe.lr_size), recipe.downsampling)
    symmetry = random.random(3) < 0.5
    crop, small = _turned(crop, symmetry), _turned(small, symmetry)
    rows, columns = _sampled(side, recipe, random)
    return QueryBatch(
        image=to_tensor(small),
        coords=torch.from_numpy(np.stack([(2 * rows + 1) / side - 1, (2 * columns + 1) / side - 1], axis=1)).float(),
        cell=torch.full((len(rows), 2), 2 / side),
        target=torch.from_numpy(crop[rows, columns]).float() / 255,
        scale=torch.tensor(scale, dtype=torch.float32),
        seed=torch.tensor(seed, dtype=torch.int64),
        noise=torch.tensor(0.0),
    )


def to_tensor(image: Pixels) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def _turned(image: Pixels, symmetry: np.ndarray) -> Pixels:
    """Flipped left-right, flipped upside down, transposed: each if its flag is set."""
    if symmetry[0]:
        image = image[:, ::-1]
    if symmetry[1]:
        image = image[::-1]
    return image.transpose(1, 0, 2) if symmetry[2] else image


def _sampled(side: int, recipe: PairRecipe, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of Q distinct pixels of a side x side crop."""
    if recipe.queries is None:
        return np.divmod(np.arange(side * side), side)
    if not recipe.aligned:
        chosen = random.choice(side * side, recipe.queries, replace=False)
        return chosen // side, chosen % side
    block = math.isqrt(recipe.queries)
    top, left = random.integers(side - block + 1, size=2)
    within = np.arange(recipe.queries)
    return top + within // block, left + within % block
