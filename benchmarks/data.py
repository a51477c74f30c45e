"""Training pairs three ways, in one process: from the cache as dynres makes them, and twice in the plain form.

Each function returns a callable that makes `count` random pairs. With `whole` these are batches of 16 with their
sampled pixels (`QueryBatch`), else the two crops alone: the shrunken one float32 in [0, 1], the large one float32 in
the plain form and uint8 in ours. What is done once a run (decoding, the cache) is done before the callable is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from dynres.data.cache import open_cache
from dynres.data.pairs import PairRecipe, draw_square, gathered, generator, joined, query_batch
from dynres.data.shrink import shrunk
from dynres.data.stream import TrainingPairs
from tests.reference import pairs as plain

BATCH = 16
LIIF = PairRecipe(scales=(1.0, 4.0), lr_size=48, queries=2304, aligned=False, downsampling="pillow")


def fast(paths: Sequence[Path], count: int, whole: bool, cache: Path | None = None) -> Callable[[], object]:
    """From the memory-mapped cache (in the folder `cache`, None for the usual one), resized on the CPU."""
    pixels, random = open_cache(paths, cache), generator(0)
    stream = TrainingPairs(pixels, LIIF, repeat=20, seed=0)

    def crops(numbers: range) -> object:
        images = [pixels[n % len(pixels)] for n in numbers]
        patches, sides = joined([draw_square(image, LIIF, random).cut(image) for image in images])
        return shrunk(patches, sides, LIIF.lr_size, LIIF.downsampling).float().div_(255), patches

    def batch(numbers: range) -> object:
        return query_batch(gathered([stream[n] for n in numbers]), LIIF)

    return _batches(batch if whole else crops, count)


def plain_from_memory(paths: Sequence[Path], count: int, whole: bool) -> Callable[[], object]:
    """All images in memory as float tensors, as LIIF's wrapper has them: 12 bytes a pixel."""
    images = [plain.decoded(path) for path in paths]
    return _plain(images, plain.plain_pair_from_memory if whole else plain.plain_crops_from_memory, count, whole)


def plain_from_png(paths: Sequence[Path], count: int, whole: bool) -> Callable[[], object]:
    """The image decoded for every crop."""
    return _plain(paths, plain.plain_pair_from_png if whole else plain.plain_crops_from_png, count, whole)


def _plain(images: Sequence[Any], pair: Callable[..., Any], count: int, whole: bool) -> Callable[[], object]:
    random = generator(0)

    def batch(numbers: range) -> object:
        pairs = [pair(images[n % len(images)], LIIF, random) for n in numbers]
        return default_collate(pairs) if whole else pairs

    return _batches(batch, count)


def _batches(batch: Callable[[range], object], count: int) -> Callable[[], object]:
    """Makes pairs 0 to count - 1, `BATCH` at a time; returns the last batch."""

    def run() -> object:
        made = None
        for first in range(0, count, BATCH):
            made = batch(range(first, min(first + BATCH, count)))
        return made

    return run
