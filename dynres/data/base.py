"""What every data module does: sources, checks before anything is built, loaders, its place in the endless stream."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch.utils.data import DataLoader

from dynres.contracts import EvalSample
from dynres.data.cache import PixelCache, open_cache, summary
from dynres.data.evaluation import WholeImages
from dynres.data.sources import ImageSet, default_tests, open_test_set, training_images, validation_set
from dynres.data.stream import GlobalBatches, Position, Sample, TrainingSamples, as_is
from dynres.errors import UserError

STAGES = ("fit", "validate", "test")
SMALL = ("refuse", "skip")
NAMED = 5  # of the images that are left out


class ImageData(pl.LightningDataModule, Generic[Sample]):
    """One data source with its training stream, validation images and test sets.

    What a training sample is depends on (seed, its number in the run) alone: not on workers, ranks or interruptions.
    The training loader is endless; the trainer ends by max_steps. Nothing is read before `check` or a loader needs it.

    Attributes:
        batches: what a method trains on: "queries" (`QueryBatch`) or "patches" (`PatchBatch`).
        collate: a list of training samples -> what the training loader yields.
        colour: whether the demo's gray photographs are left out of training and validation.

    Args:
        source: "demo" (photographs inside scikit-image), "folder" or "div2k".
        root: folder of the images; `demo` needs none.
        test: test sets (or one), by folder or by the names "demo", "div2k", "held-out"; None for the source's own.
        repeat: times each image appears in an epoch of the stream.
        halves: the training images are split in two; the first half of each process' share of a batch shows images of
            one half, its second half images of the other (architecture search, ACLA, Sec. 3).
        fraction: part of the training images that is used, in (0, 1], evenly spread; at least one image.
        reduce: r >= 1, training and validation images are made 1/r of their height and width (`resize.reduced`)
            before anything else happens to them; test sets keep their size.
        small: what happens where training images are smaller than the crop or patch: "refuse", or "skip" to leave these
            images out, those of `fraction` that remain being trained on.
        batch_size: samples of a batch, over all processes together.
        val_images: how many of the held-out images to validate on; None for all.
        val_crop: side of the central square of each validation image; None for the whole image.
        test_images: how many images of each test set to test on; None for all.
        workers: loader processes; any number gives the same batches.
        cache: folder of decoded images; None for DYNRES_CACHE, else ~/.cache/dynres.
        seed: non-negative; together with the sample's number it fixes the sample.

    Raises:
        UserError: a value outside its range; the message says which and what would do.
    """

    batches: str
    collate: Callable[[Sequence[Any]], Any]
    colour: bool = False

    def __init__(
        self,
        source: str,
        root: str | None,
        test: str | Sequence[str] | None,
        repeat: int,
        halves: bool,
        fraction: float,
        reduce: int,
        small: str,
        batch_size: int,
        val_images: int | None,
        val_crop: int | None,
        test_images: int | None,
        workers: int,
        cache: str | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.source, self.root, self.cache = source, root, cache
        self.repeat, self.batch_size, self.workers, self.seed = repeat, batch_size, workers, seed
        self.parts, self.fraction, self.reduce, self.small = 2 if halves else 1, fraction, reduce, small
        self.val_images, self.val_crop, self.test_images = val_images, val_crop, test_images
        for name in ("repeat", "reduce", "batch_size", "val_images", "val_crop", "test_images"):
            check_whole(name, getattr(self, name), 1)
        for name in ("workers", "seed"):
            check_whole(name, getattr(self, name), 0)
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise UserError(f"data.fraction must be above 0 and at most 1, got {fraction}")
        if reduce is None:
            raise UserError("data.reduce must be a whole number of at least 1, got None: 1 leaves images as they are")
        if small not in SMALL:
            raise UserError(f"data.small must be one of {', '.join(SMALL)}, got {small}")
        self._check_batch(processes=1)
        named = [test] if isinstance(test, str) else test
        self.test = list(named) if named is not None else default_tests(source)
        if not self.test:
            raise UserError("data.test is empty: name a test set, or null for the source's own")

    def check(self, stage: str | None = None) -> None:
        """Read everything a stage needs and report what is wrong with it, before a network is built.

        Args:
            stage: "fit" (training and validation images), "validate", "test", or None for all of them.

        Raises:
            UserError: in one line: missing or empty folders, unreadable images, images too small for what is asked.
        """
        if stage not in (None, *STAGES):
            raise ValueError(f"unknown stage {stage!r}: known are {', '.join(STAGES)}")
        training, validation, test = stage in (None, "fit"), stage in (None, "fit", "validate"), stage in (None, "test")
        if training:  # every folder is looked for before any image is decoded
            self._training_images()
        whole = [self._validation()] if validation else []
        whole += [self._tests()] if test else []
        for images in whole:
            images.check()
        if training:
            self._training_pixels(tell=True)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Endless batches, this process' share of each global batch, from the trainer's present step on."""
        return DataLoader(
            self._samples(),
            batch_sampler=GlobalBatches(self.batch_size, self._position, self.parts),
            num_workers=self.workers,
            collate_fn=self.collate,
            generator=_private_random(),
        )

    def val_dataloader(self) -> DataLoader[EvalSample]:
        """Held-out images of the source, one EvalSample at a time."""
        return self._whole_images(self._validation())

    def test_dataloader(self) -> DataLoader[EvalSample]:
        """Every image of every test set at every scale or level, one EvalSample at a time."""
        return self._whole_images(self._tests())

    @abstractmethod
    def _samples(self) -> TrainingSamples[Sample]: ...

    @abstractmethod
    def _smallest(self) -> tuple[int, str]:
        """(side, name) of the square that is cut out of training images."""

    @abstractmethod
    def _cure(self, side: int) -> str:
        """What lets an image of this side be trained on."""

    @abstractmethod
    def _validation(self) -> WholeImages[Any]: ...

    @abstractmethod
    def _tests(self) -> WholeImages[Any]: ...

    def _training_images(self) -> list[Path]:
        images = training_images(self.source, self.root, self.colour)
        count = max(1, round(self.fraction * len(images)))
        if count < self.parts:
            raise UserError(
                f"data.halves=true needs at least 2 training images, and data.fraction={self.fraction:g} of "
                f"{len(images)} is {count}"
            )
        return [images[number * len(images) // count] for number in range(count)]

    def _training_pixels(self, tell: bool = False) -> PixelCache:
        """Of the images that are trained on; `tell` says on stderr which are left out."""
        pixels = open_cache(self._training_images(), self.cache, self.reduce)
        least, square = self._smallest()
        size = "HxW" if self.reduce == 1 else f"HxW, 1/{self.reduce} of the file's"
        small = [(path, height, width) for path, height, width in pixels.sizes() if min(height, width) < least]
        left = len(pixels) - len(small)
        if small and (self.small == "refuse" or left < self.parts):
            way = "leave it out (data.small=skip), or " if self.small == "refuse" else ""
            problems = summary(
                [
                    f"{path} ({height}x{width}, {size}) is smaller than the {least}x{least} {square}: {way}"
                    f"{self._cure(min(height, width))}{self._milder_reduction(min(height, width), least)}"
                    for path, height, width in small
                ]
            )
            raise UserError(problems if way else f"data.small=skip leaves too few training images, {left}: {problems}")
        if small and tell:
            _tell_skipped(small, len(pixels), f"{least}x{least} {square}")
        return pixels.at_least(least)

    def _milder_reduction(self, side: int, least: int) -> str:
        """What data.reduce would leave `least` pixels of an image that it reduced to `side`, if any would."""
        enough = int((side - 0.5) * self.reduce / least)  # of the smallest side that is rounded to this one
        return f", or set data.reduce={enough} or lower" if self.reduce > 1 and enough else ""

    def _held_out(self) -> ImageSet:
        return validation_set(self.source, self.root, self.val_images, self.colour)

    def _test_sets(self, protocol: str | None) -> list[ImageSet]:
        sets = [open_test_set(name, self.source, self.root, protocol, self.colour) for name in self.test]
        names = [one.name for one in sets]
        if len(set(names)) != len(names):
            raise UserError(f"data.test has two sets of one name ({', '.join(names)}): results go by the folder's name")
        return [replace(one, images=one.images[: self.test_images]) for one in sets]

    def _whole_images(self, images: WholeImages[Any]) -> DataLoader[EvalSample]:
        return DataLoader(
            images, batch_size=None, num_workers=self.workers, collate_fn=as_is, generator=_private_random()
        )

    def _position(self) -> Position:
        trainer = self.trainer
        if trainer is None:
            return Position()
        self._check_batch(trainer.world_size)
        overfitting = getattr(trainer, "overfit_batches", 0) > 0  # then the same first batches come again and again
        batch = 0 if overfitting else trainer.global_step * trainer.accumulate_grad_batches
        return Position(batch, trainer.global_rank, trainer.world_size)

    def _check_batch(self, processes: int) -> None:
        if self.batch_size % (processes * self.parts) == 0:
            return
        halves = "" if self.parts == 1 else f"; with data.halves=true of twice that, {2 * processes}"
        raise UserError(
            f"data.batch_size={self.batch_size} is the batch of all processes together and must be a "
            f"multiple of their number, {processes}{halves}"
        )


def check_whole(name: str, value: object, low: int) -> None:
    """Refuse what is neither None nor a whole number from `low` on."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
        raise UserError(f"data.{name} must be a whole number of at least {low}, got {value}")


@rank_zero_only
def _tell_skipped(small: Sequence[tuple[str, int, int]], images: int, square: str) -> None:
    """One line on stderr: how many are left out, and the first few with their sizes."""
    named = ", ".join(f"{Path(path).name} ({height}x{width}, HxW)" for path, height, width in small[:NAMED])
    more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
    print(
        f"data.small=skip: {len(small)} of {images} training images are smaller than the {square} and left out: "
        f"{named}{more}",
        file=sys.stderr,
    )


def _private_random() -> torch.Generator:
    """Random numbers that a loader draws (for its workers) without touching those of the network."""
    return torch.Generator().manual_seed(0)
