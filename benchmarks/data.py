"""Training pairs three ways, in one process: from the cache as dynres makes them, and twice in the plain form.

Each function returns a callable that makes `count` random pairs. With `whole` these are batches of 16 with their
sampled pixels (`QueryBatch`), else the two crops alone: the shrunken one float32 in [0, 1], the large one float32 in
the plain form and uint8 in ours. What is done once a run (decoding, the cache) is done before the callable is returned.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate

from benchmarks.harness import Bench, Timing
from benchmarks.rows import Form, Measurement, Results, timed_row
from dynres.data.cache import open_cache
from dynres.data.pairs import PairRecipe, draw_square, gathered, generator, joined, query_batch
from dynres.data.shrink import shrunk
from dynres.data.sources import training_images
from dynres.data.stream import TrainingPairs
from tests.reference import pairs as plain

BATCH = 16
MEMORY_BAR, PNG_BAR = 1.5, 50.0
LIIF = PairRecipe(scales=(1.0, 4.0), lr_size=48, queries=2304, aligned=False, downsampling="pillow")


def measurements(bench: Bench) -> list[Measurement]:
    return [Measurement("training pairs", 4 if bench.quick else 40, functools.partial(_pairs, bench))]


def _pairs(bench: Bench) -> Results:
    """On the CPU whatever the device: this is what a loader's process does."""
    with tempfile.TemporaryDirectory() as folder:
        size = (400, 300) if bench.quick else (2040, 1356)
        images = mosaics(Path(folder), 4, size)
        for whole, what in ((False, "random 48s crops to 48x48 pairs"), (True, "batches of 16 with 2304 queries each")):
            makers = {"plain in memory": plain_from_memory, "decoding PNGs": plain_from_png}
            makers["dynres"] = functools.partial(fast, cache=Path(folder))
            forms = {name: make(images, BATCH, whole) for name, make in makers.items()}
            first = {name: make(images, BATCH, False)() for name, make in makers.items()}
            timing = bench.compare(forms, budget=15.0)
            for name, bar in (("plain in memory", MEMORY_BAR), ("decoding PNGs", PNG_BAR)):
                yield timed_row(
                    bench,
                    timing,
                    "data",
                    f"{what}, s from 1 to 4, {size[0]}x{size[1]} images, to {name}",
                    timing.ratio(name, "dynres"),
                    bar=None if whole else bar,
                    error=None if whole else apart(first["dynres"], first[name]),
                    error_bar=None if whole else 0.0,
                    error_of="in small crops of [0, 1]",
                    forms=tuple(_pair(timing, which) for which in (name, "dynres")),
                    note="milliseconds a pair",
                )


def _pair(timing: Timing, name: str) -> Form:
    return Form(name, timing.milliseconds(name) / BATCH)


def apart(ours: Any, plain: Any) -> float:
    """The largest difference between small crops in [0, 1]: 0 where they are equal bit for bit."""
    return (ours[0] - torch.stack([low for low, _, _ in plain])).abs().max().item()


def mosaics(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """PNGs of DIV2K's size, pieced together from the photographs that scikit-image brings."""
    random, (width, height), made = np.random.default_rng(0), size, []
    photographs = [Image.open(path).convert("RGB") for path in training_images("demo", None)]
    for number in range(count):
        whole = Image.new("RGB", size)
        for top in range(0, height, 300):
            for left in range(0, width, 300):
                photograph = photographs[random.integers(len(photographs))]
                across, down = (int(random.integers(max(1, side - 300))) for side in photograph.size)
                whole.paste(photograph.crop((across, down, across + 300, down + 300)), (left, top))
        made.append(folder / f"mosaic-{number}.png")
        whole.save(made[-1])
    return made


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
