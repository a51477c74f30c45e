"""The endless training stream: sample n of the run is a pure function of (seed, n), whoever loads it and whenever.

Batch b of the run holds samples b * global_batch ... (b + 1) * global_batch - 1, of which each rank takes a contiguous
share. Epoch and position are divmod(n, images * repeat); a run that resumes after b batches goes on at batch b.

The scale of a sample may be its batch's (`MovingScale`), a function of (seed, n div global_batch).

The images may be dealt into parts (two halves, for architecture search): sample n is then of part n mod parts, the
n // parts-th sample of that part, and a share holds its samples of the first part first.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset, Sampler

from dynres.data.cache import PixelCache
from dynres.data.degradations import Degradation
from dynres.data.images import is_gray
from dynres.data.pairs import Draw, PairRecipe, draw, generator
from dynres.data.patches import Patch, draw_patch

Sample = TypeVar("Sample", covariant=True)

SCALE_EPOCH = 500  # batches after which AnySR's authors draw the scale anew: one of their 500 epochs


class TrainingSamples(Dataset[Sample]):
    """Sample number n >= 0 -> its draw; endless, so it has no length.

    Each image appears `repeat` times an epoch, in an order that is drawn anew each epoch. Of several parts each has
    epochs of its own and every parts-th image.
    """

    def __init__(self, pixels: PixelCache, repeat: int, seed: int, parts: int = 1) -> None:
        self.pixels, self.repeat, self.seed, self.parts = pixels, repeat, seed, parts

    def __getitem__(self, n: int) -> Sample:
        turn, part = divmod(n, self.parts)
        images = range(part, len(self.pixels), self.parts)
        epoch, position = divmod(turn, len(images) * self.repeat)
        epoch = epoch * self.parts + part  # no two parts share one
        item = int(_order(self.seed, epoch, len(images) * self.repeat)[position])
        random = generator(self.seed, 1, epoch, item)
        return self.draw(n, images[item % len(images)], random)

    @abstractmethod
    def draw(self, n: int, index: int, random: np.random.Generator) -> Sample:
        """Sample n, of image number `index`."""


@dataclass(frozen=True)
class MovingScale:
    """One scale for all samples of a batch, so that all of them run one subnet (AnySR, the authors' code).

    Every 500 batches it starts from U(low, high); from batch to batch it grows by the step, and beyond `high` it falls
    by high - low.

    Attributes:
        scales: (low, high), low < high.
        step: in (0, high - low].
        batch_size: samples of a batch, over all processes.
        seed: of the run.
    """

    scales: tuple[float, float]
    step: float
    batch_size: int
    seed: int

    def of(self, n: int) -> float:
        """The scale of sample n of the run, in [low, high]."""
        low, high = self.scales
        epoch, moves = divmod(n // self.batch_size, SCALE_EPOCH)
        start = float(generator(self.seed, 4, epoch).uniform(low, high))
        return max(low, high - (high - start - moves * self.step) % (high - low))


class TrainingPairs(TrainingSamples[Draw]):
    """Pairs for super-resolution; `moving` in place of the recipe's scales, or None for a scale for each sample."""

    def __init__(
        self,
        pixels: PixelCache,
        recipe: PairRecipe,
        repeat: int,
        seed: int,
        parts: int = 1,
        moving: MovingScale | None = None,
    ) -> None:
        super().__init__(pixels, repeat, seed, parts)
        self.recipe, self.moving = recipe, moving

    def draw(self, n: int, index: int, random: np.random.Generator) -> Draw:
        recipe = self.recipe
        if self.moving is not None:
            scale = self.moving.of(n)
            recipe = replace(recipe, scales=(scale, scale))
        return draw(self.pixels[index], recipe, random)


class TrainingPatches(TrainingSamples[Patch]):
    """Degraded and clean patches, `side` clean pixels wide."""

    def __init__(
        self, pixels: PixelCache, side: int, degradation: Degradation, repeat: int, seed: int, parts: int = 1
    ) -> None:
        super().__init__(pixels, repeat, seed, parts)
        self.side, self.degradation = side, degradation
        self.gray = [is_gray(path) for path, _, _ in pixels.sizes()]

    def draw(self, n: int, index: int, random: np.random.Generator) -> Patch:
        return draw_patch(self.pixels[index], self.gray[index], self.side, self.degradation, random)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    """(length,) a permutation of an epoch's items."""
    return generator(seed, 0, epoch).permutation(length)


@dataclass(frozen=True)
class Position:
    """Where in the stream a process stands: batches already consumed, and its place among the processes."""

    batch: int = 0
    rank: int = 0
    world: int = 1


class GlobalBatches(Sampler[list[int]]):
    """Endless lists of sample numbers: this rank's share of each global batch, from the present position on.

    The position is asked for when iteration starts, not when the loader is made: only then does a resumed trainer know
    its step. It has no length on purpose; a trainer ends by max_steps.
    """

    def __init__(self, batch_size: int, position: Callable[[], Position], parts: int = 1) -> None:
        """`batch_size`: a multiple of processes and parts together."""
        self.batch_size, self.position, self.parts = batch_size, position, parts

    def __iter__(self) -> Iterator[list[int]]:
        at = self.position()
        share = self.batch_size // at.world
        first = at.batch * self.batch_size + at.rank * share
        while True:
            numbers = range(first, first + share)
            yield [n for part in range(self.parts) for n in numbers[part :: self.parts]]
            first += self.batch_size


def as_is(sample: Any) -> Any:
    """A collate function for samples that are whole batches."""
    return sample
