"""Arbitrary-scale super-resolution data: endless training pairs, and whole images for validation and test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from dynres.contracts import EvalSample
from dynres.data.cache import PixelCache, open_cache, summary
from dynres.data.evaluation import EvalImages, Scale
from dynres.data.pairs import Draw, DrawnBatch, PairRecipe, gathered, query_batch
from dynres.data.resize import KINDS, Kind
from dynres.data.sources import default_tests, open_test_set, training_images, validation_set
from dynres.data.stream import GlobalBatches, Position, TrainingPairs, as_is
from dynres.errors import UserError
from dynres.metrics import PROTOCOLS

SMALLEST_SCALE, LARGEST_SCALE = 1.0, 30.0
STAGES = ("fit", "validate", "test")


class SuperResolutionData(pl.LightningDataModule):
    """One data source with its training stream, validation images and test sets.

    What a training sample is depends on (seed, its number in the run) alone: not on workers, ranks or interruptions.
    The training loader is endless; the trainer ends by max_steps. Nothing is read before `check` or a loader needs it.

    Args:
        source: "demo" (photographs inside scikit-image), "folder" or "div2k".
        root: folder of the images; `demo` needs none.
        test: test sets (or one), by folder or by the names "demo", "div2k", "held-out"; None for the source's own.
        protocol: "div2k" or "benchmark" for every test set; None lets each set's layout decide.
        scales: (low, high) of the training scales, s ~ U(low, high) per sample.
        lr_size: side in pixels of the low-resolution patch.
        queries: sampled pixels per patch, at most round(lr_size * low)^2; None for all, where low = high.
        aligned: sample one square block of neighbouring pixels, not scattered ones; `queries` is a square then.
        downsampling: "pillow" or "matlab" bicubic of training patches.
        repeat: times each image appears in an epoch of the stream.
        batch_size: samples of a batch, over all processes together.
        val_images: how many of the held-out images to validate on; None for all.
        val_scales: numbers or (vertical, horizontal) pairs, in [1, 30].
        val_crop: side of the central square of each validation image; None for the whole image.
        test_scales: as `val_scales`.
        test_downsampling: "matlab" or "pillow", where a test set has no published low-resolution image.
        workers: loader processes; any number gives the same batches.
        cache: folder of decoded images; None for DYNRES_CACHE, else ~/.cache/dynres.
        seed: non-negative; together with the sample's number it fixes the sample.

    Raises:
        UserError: a value outside its range; the message says which and what would do.
    """

    def __init__(
        self,
        source: str,
        root: str | None = None,
        test: str | Sequence[str] | None = None,
        protocol: str | None = None,
        scales: Sequence[float] = (1.0, 4.0),
        lr_size: int = 48,
        queries: int | None = 2304,
        aligned: bool = False,
        downsampling: Kind = "pillow",
        repeat: int = 20,
        batch_size: int = 16,
        val_images: int | None = None,
        val_scales: Sequence[float | Sequence[float]] = (2, 3, 4),
        val_crop: int | None = None,
        test_scales: Sequence[float | Sequence[float]] = (2, 3, 4, 6),
        test_downsampling: Kind = "matlab",
        workers: int = 0,
        cache: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.root, self.protocol, self.cache = source, root, protocol, cache
        self.recipe = PairRecipe(_range(scales), lr_size, queries, aligned, downsampling)
        self.repeat, self.batch_size, self.workers, self.seed = repeat, batch_size, workers, seed
        self.val_images, self.val_crop = val_images, val_crop
        self.val_scales = _pairs("val_scales", val_scales)
        self.test_scales, self.test_downsampling = _pairs("test_scales", test_scales), test_downsampling
        named = [test] if isinstance(test, str) else test
        self.test = list(named) if named is not None else default_tests(source)
        if not self.test:
            raise UserError("data.test is empty: name a test set, or null for the source's own")
        self._check_options()

    def check(self, stage: str | None = None) -> None:
        """Read everything a stage needs and report what is wrong with it, before a network is built.

        Args:
            stage: "fit" (training and validation images), "validate", "test", or None for all of them.

        Raises:
            UserError: in one line: missing or empty folders, unreadable images, images too small for crop or scale.
        """
        if stage not in (None, *STAGES):
            raise ValueError(f"unknown stage {stage!r}: known are {', '.join(STAGES)}")
        training, validation, test = stage in (None, "fit"), stage in (None, "fit", "validate"), stage in (None, "test")
        if training:
            training_images(self.source, self.root)  # every folder is looked for before any image is decoded
        whole = [self._validation()] if validation else []
        whole += [self._tests()] if test else []
        for images in whole:
            images.check()
        if training:
            self._training_pixels()

    def train_dataloader(self) -> DataLoader[Draw]:
        """Endless `DrawnBatch` of this process' share of each global batch, from the trainer's present step on.

        The trainer gets a `QueryBatch` through the transfer hooks below; any other code through `query_batch`.
        """
        pairs = TrainingPairs(self._training_pixels(), self.recipe, self.repeat, self.seed)
        return DataLoader(
            pairs,
            batch_sampler=GlobalBatches(self.batch_size, self._position),
            num_workers=self.workers,
            collate_fn=gathered,
            generator=_private_random(),
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A training batch becomes a `QueryBatch` on the CPU where the training device may lack float64 (Apple's)."""
        on_device = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return batch if on_device else self._finished(batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Elsewhere on the training device: only the crops and the choices travel."""
        return self._finished(batch)

    def _finished(self, batch: Any) -> Any:
        return query_batch(batch, self.recipe) if isinstance(batch, DrawnBatch) else batch

    def val_dataloader(self) -> DataLoader[EvalSample]:
        """Held-out images of the source, one EvalSample at a time, protocol "div2k"."""
        return self._whole_images(self._validation())

    def test_dataloader(self) -> DataLoader[EvalSample]:
        """Every image of every test set at every scale, one EvalSample at a time."""
        return self._whole_images(self._tests())

    def _training_pixels(self) -> PixelCache:
        pixels = open_cache(training_images(self.source, self.root), self.cache)
        least = self.recipe.largest_crop
        small = [
            f"{path} ({height}x{width}, HxW) is smaller than the {least}x{least} crop: leave it out, or let "
            f"data.scales end at {min(height, width) / self.recipe.lr_size:.4g} or lower"
            for path, height, width in pixels.sizes()
            if min(height, width) < least
        ]
        if small:
            raise UserError(summary(small))
        return pixels

    def _validation(self) -> EvalImages:
        held_out = validation_set(self.source, self.root, self.val_images)
        return EvalImages([held_out], self.val_scales, self.test_downsampling, self.seed, self.val_crop)

    def _tests(self) -> EvalImages:
        sets = [open_test_set(name, self.source, self.root, self.protocol) for name in self.test]
        names = [one.name for one in sets]
        if len(set(names)) != len(names):
            raise UserError(f"data.test has two sets of one name ({', '.join(names)}): results go by the folder's name")
        return EvalImages(sets, self.test_scales, self.test_downsampling, self.seed)

    def _whole_images(self, images: EvalImages) -> DataLoader[EvalSample]:
        return DataLoader(
            images, batch_size=None, num_workers=self.workers, collate_fn=as_is, generator=_private_random()
        )

    def _position(self) -> Position:
        trainer = self.trainer
        if trainer is None:
            return Position()
        share, rest = divmod(self.batch_size, trainer.world_size)
        if rest or share == 0:
            raise UserError(
                f"data.batch_size={self.batch_size} is the batch of all processes together and must be a "
                f"multiple of their number, {trainer.world_size}"
            )
        overfitting = getattr(trainer, "overfit_batches", 0) > 0  # then the same first batches come again and again
        batch = 0 if overfitting else trainer.global_step * trainer.accumulate_grad_batches
        return Position(batch, trainer.global_rank, trainer.world_size)

    def _check_options(self) -> None:
        recipe = self.recipe
        for name, kind in (("downsampling", recipe.downsampling), ("test_downsampling", self.test_downsampling)):
            if kind not in KINDS:
                raise UserError(f"data.{name} must be one of {', '.join(KINDS)}, got {kind!r}")
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise UserError(f"data.protocol must be one of {', '.join(PROTOCOLS)}, or null, got {self.protocol!r}")
        least = {
            "lr_size": 1,
            "queries": 1,
            "repeat": 1,
            "batch_size": 1,
            "workers": 0,
            "seed": 0,
            "val_images": 1,
            "val_crop": 1,
        }
        values: dict[str, Any] = {**vars(recipe), **vars(self)}
        for name, low in least.items():
            value = values[name]
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise UserError(f"data.{name} must be a whole number of at least {low}, got {value}")
        if recipe.queries is None:
            if recipe.smallest_crop != recipe.largest_crop:
                raise UserError(
                    f"data.queries=null takes every pixel of a patch, which must then have one size: data.scales="
                    f"{list(recipe.scales)} has several; give a number, or task=sr"
                )
            return
        if recipe.queries > recipe.smallest_crop**2:
            raise UserError(
                f"data.queries={recipe.queries} pixels cannot be drawn from the {recipe.smallest_crop}x"
                f"{recipe.smallest_crop} crop of lr_size {recipe.lr_size} at scale {recipe.scales[0]:g}: "
                f"take at most {recipe.smallest_crop**2}"
            )
        if recipe.aligned and math.isqrt(recipe.queries) ** 2 != recipe.queries:
            raise UserError(
                f"data.aligned samples a square block and data.queries={recipe.queries} is no square: "
                f"take {math.isqrt(recipe.queries) ** 2}"
            )


def _private_random() -> torch.Generator:
    """Random numbers that a loader draws (for its workers) without touching those of the network."""
    return torch.Generator().manual_seed(0)


def _range(scales: Sequence[float]) -> Scale:
    if not isinstance(scales, Sequence) or isinstance(scales, str) or len(scales) != 2:
        raise UserError(f"data.scales must be [low, high], got {scales}")
    low, high = (_scale("scales", value) for value in scales)
    if low > high:
        raise UserError(f"data.scales must be [low, high] with low <= high, got {list(scales)}")
    return low, high


def _pairs(name: str, scales: float | Sequence[float | Sequence[float]]) -> list[Scale]:
    """Numbers or pairs (or one number) -> (vertical, horizontal) pairs, without repetition."""
    pairs: list[Scale] = []
    for given in scales if isinstance(scales, Sequence) and not isinstance(scales, str) else [scales]:
        both = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given, given]
        if len(both) != 2:
            raise UserError(f"data.{name} takes numbers or [vertical, horizontal] pairs, got {given}")
        pairs.append((_scale(name, both[0]), _scale(name, both[1])))
    if not pairs:
        raise UserError(f"data.{name} is empty: give at least one scale")
    return list(dict.fromkeys(pairs))


def _scale(name: str, value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not SMALLEST_SCALE <= float(value) <= LARGEST_SCALE:  # type: ignore[arg-type]
        raise UserError(f"data.{name} takes scales from {SMALLEST_SCALE:g} to {LARGEST_SCALE:g}, got {value}")
    return float(value)  # type: ignore[arg-type]
