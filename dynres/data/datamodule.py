"""Arbitrary-scale super-resolution data: endless training pairs, and whole images for validation and test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dynres.data.base import ImageData, check_whole
from dynres.data.evaluation import EvalImages, Scale
from dynres.data.pairs import Draw, DrawnBatch, PairRecipe, gathered, query_batch
from dynres.data.resize import KINDS, Kind
from dynres.data.stream import MovingScale, TrainingPairs
from dynres.errors import UserError
from dynres.metrics import SR_PROTOCOLS

SMALLEST_SCALE, LARGEST_SCALE = 1.0, 30.0


class SuperResolutionData(ImageData[Draw]):
    """Pairs of low and high resolution; `ImageData` says what all data modules do.

    The training loader yields `DrawnBatch`. The trainer gets a `QueryBatch` through the transfer hooks below, any other
    code through `query_batch`.

    Args:
        source: see ImageData.
        root: see ImageData.
        test: see ImageData.
        protocol: "div2k" or "benchmark" for every test set; None lets each set's layout decide.
        scales: (low, high) of the training scales, s ~ U(low, high) per sample.
        scale_step: None, or by how much the scale, then one for all samples of a batch, grows from batch to batch
            (`MovingScale`); in (0, high - low].
        lr_size: side in pixels of the low-resolution patch.
        queries: sampled pixels per patch, at most round(lr_size * low)^2; None for all, where low = high.
        aligned: sample one square block of neighbouring pixels, not scattered ones; `queries` is a square then.
        downsampling: "pillow" or "matlab" bicubic of training patches.
        repeat: see ImageData.
        halves: see ImageData.
        fraction: see ImageData.
        reduce: see ImageData.
        small: see ImageData.
        batch_size: see ImageData.
        val_images: see ImageData.
        val_scales: numbers or (vertical, horizontal) pairs, in [1, 30].
        val_crop: see ImageData.
        test_scales: as `val_scales`.
        test_downsampling: "matlab" or "pillow", where a test set has no published low-resolution image.
        workers: see ImageData.
        cache: see ImageData.
        seed: see ImageData.
        test_images: see ImageData.

    Raises:
        UserError: a value outside its range; the message says which and what would do.
    """

    batches = "queries"
    collate = staticmethod(gathered)

    def __init__(
        self,
        source: str,
        root: str | None = None,
        test: str | Sequence[str] | None = None,
        protocol: str | None = None,
        scales: Sequence[float] = (1.0, 4.0),
        scale_step: float | None = None,
        lr_size: int = 48,
        queries: int | None = 2304,
        aligned: bool = False,
        downsampling: Kind = "pillow",
        repeat: int = 20,
        halves: bool = False,
        fraction: float = 1.0,
        reduce: int = 1,
        small: str = "refuse",
        batch_size: int = 16,
        val_images: int | None = None,
        val_scales: Sequence[float | Sequence[float]] = (2, 3, 4),
        val_crop: int | None = None,
        test_scales: Sequence[float | Sequence[float]] = (2, 3, 4, 6),
        test_downsampling: Kind = "matlab",
        workers: int = 0,
        cache: str | None = None,
        seed: int = 0,
        test_images: int | None = None,
    ) -> None:
        super().__init__(
            source, root, test, repeat, halves, fraction, reduce, small, batch_size, val_images, val_crop,
            test_images, workers, cache, seed,
        )  # fmt: skip
        self.protocol, self.scale_step = protocol, scale_step
        self.recipe = PairRecipe(_range(scales), lr_size, queries, aligned, downsampling)
        self.val_scales = _pairs("val_scales", val_scales)
        self.test_scales, self.test_downsampling = _pairs("test_scales", test_scales), test_downsampling
        self._check_options()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A training batch becomes a `QueryBatch` on the CPU where the training device may lack float64 (Apple's)."""
        on_device = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return batch if on_device else self._finished(batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Elsewhere on the training device: only the crops and the choices travel."""
        return self._finished(batch)

    def _finished(self, batch: Any) -> Any:
        return query_batch(batch, self.recipe) if isinstance(batch, DrawnBatch) else batch

    def _samples(self) -> TrainingPairs:
        moving = None
        if self.scale_step is not None:
            moving = MovingScale(self.recipe.scales, self.scale_step, self.batch_size, self.seed)
        return TrainingPairs(self._training_pixels(), self.recipe, self.repeat, self.seed, self.parts, moving)

    def _smallest(self) -> tuple[int, str]:
        return self.recipe.largest_crop, "crop"

    def _cure(self, side: int) -> str:
        low, high = self.recipe.scales
        if low == high:
            return f"set data.lr_size={int(side / high)} or lower"
        return f"let data.scales end at {side / self.recipe.lr_size:.4g} or lower"

    def _validation(self) -> EvalImages:
        sets = [self._held_out()]
        return EvalImages(sets, self.val_scales, self.test_downsampling, self.seed, self.val_crop, self.reduce)

    def _tests(self) -> EvalImages:
        return EvalImages(self._test_sets(self.protocol), self.test_scales, self.test_downsampling, self.seed)

    def _check_options(self) -> None:
        recipe = self.recipe
        for name, kind in (("downsampling", recipe.downsampling), ("test_downsampling", self.test_downsampling)):
            if kind not in KINDS:
                raise UserError(f"data.{name} must be one of {', '.join(KINDS)}, got {kind!r}")
        if self.protocol is not None and self.protocol not in SR_PROTOCOLS:
            raise UserError(f"data.protocol must be one of {', '.join(SR_PROTOCOLS)}, or null, got {self.protocol!r}")
        _check_step(self.scale_step, recipe.scales)
        check_whole("lr_size", recipe.lr_size, 1)
        check_whole("queries", recipe.queries, 1)
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


def _range(scales: Sequence[float]) -> Scale:
    if not isinstance(scales, Sequence) or isinstance(scales, str) or len(scales) != 2:
        raise UserError(f"data.scales must be [low, high], got {scales}")
    low, high = (_scale("scales", value) for value in scales)
    if low > high:
        raise UserError(f"data.scales must be [low, high] with low <= high, got {list(scales)}")
    return low, high


def _check_step(step: object, scales: Scale) -> None:
    low, high = scales
    if step is None:
        return
    if low == high:
        raise UserError(
            f"data.scale_step={step} moves the scale along data.scales, and {list(scales)} is one scale: set it to "
            f"null, or use task=assr"
        )
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= high - low:
        raise UserError(
            f"data.scale_step must be null, or above 0 and at most the {high - low:g} of data.scales={list(scales)}, "
            f"got {step}"
        )


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
