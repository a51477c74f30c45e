"""Training patches: a random square in one of eight attitudes, then degraded, so that JPEG's blocks stand upright."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynres.contracts import PatchBatch
from dynres.data.degradations import Degradation
from dynres.data.images import Pixels


class Patch(NamedTuple):
    """One sample: what `PatchBatch` holds of it, as (H, W, c) arrays, the target in 8 bits and sigma for 0..255."""

    image: NDArray[np.float32]
    target: Pixels
    scale: int
    seed: int
    sigma: float


def draw_patch(image: Pixels, gray: bool, side: int, degradation: Degradation, random: np.random.Generator) -> Patch:
    """One sample of an (H, W, 3) image with sides of at least `side` pixels. What is drawn, and in which order, fixes
    the data of every run there has been.

    Args:
        gray: the image's file has one channel.
        side: of the clean patch.
    """
    seed = int(random.integers(2**63 - 1))
    top, left = (int(random.integers(n - side + 1)) for n in image.shape[:2])
    left_right, upside_down, transposed = (random.random(3) < 0.5).tolist()
    patch = image[top : top + side, left : left + side]
    patch = patch[:, ::-1] if left_right else patch
    patch = patch[::-1] if upside_down else patch
    patch = np.ascontiguousarray(patch.transpose(1, 0, 2) if transposed else patch)
    target, degraded, sigma = degradation(patch, gray, degradation.draw_level(random), random)
    return Patch(degraded, target, degradation.scale, seed, sigma)


def patch_batch(patches: Sequence[Patch]) -> PatchBatch:
    """The collate function."""
    images, targets, scales, seeds, sigmas = zip(*patches, strict=True)
    return PatchBatch(
        image=_planes(np.stack(images)),
        target=_planes(np.stack(targets)).float().div_(255),
        scale=torch.tensor(scales, dtype=torch.float32),
        seed=torch.tensor(seeds, dtype=torch.int64),
        noise=torch.tensor(sigmas, dtype=torch.float32) / 255,
    )


def _planes(images: NDArray[np.float32] | NDArray[np.uint8]) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
