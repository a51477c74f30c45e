"""Training pairs in the plain form: as LIIF's published data wrapper makes them, one sample at a time.

Images are whole in memory as float tensors, or decoded for every crop. The crop goes through an 8-bit Pillow image to
be shrunk, and each of its pixels gets a coordinate and a colour before some are drawn. The random choices are those
of `dynres.data.pairs.draw`, in its order, so that both forms give the same sample.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynres.contracts import QueryBatch
from dynres.data.pairs import PairRecipe


def plain_pair_from_memory(image: Tensor, recipe: PairRecipe, random: np.random.Generator) -> QueryBatch:
    """One sample, without a batch axis, of a (3, H, W) image in [0, 1]."""
    seed = int(random.integers(2**63 - 1))
    low, high, scale = plain_crops_from_memory(image, recipe, random)
    flips = random.random(3) < 0.5
    low, high = turned(low, flips), turned(high, flips)
    side = high.shape[-1]
    centres = ((2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1).float()
    coords = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1).view(-1, 2)
    colours = high.contiguous().view(3, -1).T
    if recipe.queries is not None:
        if recipe.aligned:
            block = math.isqrt(recipe.queries)
            top, left = random.integers(side - block + 1, size=2)
            chosen = np.arange(side * side).reshape(side, side)[top : top + block, left : left + block].ravel()
        else:
            chosen = random.choice(side * side, recipe.queries, replace=False)
        coords, colours = coords[chosen], colours[chosen]
    return QueryBatch(
        image=low,
        coords=coords,
        cell=torch.ones_like(coords) * (2 / side),
        target=colours,
        scale=torch.tensor(scale, dtype=torch.float32),
        seed=torch.tensor(seed),
        noise=torch.tensor(0.0),
    )


def plain_pair_from_png(path: Path, recipe: PairRecipe, random: np.random.Generator) -> QueryBatch:
    """The same of an image file, decoded for this one sample."""
    return plain_pair_from_memory(decoded(path), recipe, random)


def plain_crops_from_memory(
    image: Tensor, recipe: PairRecipe, random: np.random.Generator
) -> tuple[Tensor, Tensor, float]:
    """(3, h, h) shrunken crop, (3, side, side) crop, scale."""
    scale = float(random.uniform(*recipe.scales))
    side = round(recipe.lr_size * scale)
    top, left = (int(random.integers(n - side + 1)) for n in image.shape[1:])
    high = image[:, top : top + side, left : left + side]
    picture = Image.fromarray(high.mul(255).byte().permute(1, 2, 0).numpy())
    small = picture.resize((recipe.lr_size, recipe.lr_size), Image.Resampling.BICUBIC)
    return as_tensor(small), high, scale


def plain_crops_from_png(path: Path, recipe: PairRecipe, random: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """The same of an image file, decoded for this one pair."""
    return plain_crops_from_memory(decoded(path), recipe, random)


def decoded(path: Path) -> Tensor:
    """(3, H, W) in [0, 1]."""
    with Image.open(path) as picture:
        return as_tensor(picture.convert("RGB"))


def as_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)


def turned(image: Tensor, flips: np.ndarray) -> Tensor:
    """Flipped left-right, upside down, transposed: each if its flag is set."""
    if flips[0]:
        image = image.flip(-1)
    if flips[1]:
        image = image.flip(-2)
    return image.transpose(-2, -1) if flips[2] else image
