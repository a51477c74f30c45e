"""Data for restoring what a degradation spoilt: denoising, JPEG artifacts, demosaicing, blind super-resolution."""

from __future__ import annotations

from collections.abc import Sequence

from dynres.data.base import ImageData, check_whole
from dynres.data.degradations import Degradation
from dynres.data.evaluation import DegradedImages
from dynres.data.patches import Patch, patch_batch
from dynres.data.stream import TrainingPatches
from dynres.errors import UserError


class RestorationData(ImageData[Patch]):
    """Degraded and clean patches, and whole images at each level; `ImageData` says what all data modules do.

    The training loader yields `PatchBatch`. Gray files count as RGB with equal channels where colours are restored; as
    test images for the noise of colours they are refused, since tables of gray images are others.

    Args:
        source: see ImageData.
        degradation: what spoils the images (dynres.data.degradations).
        root: see ImageData.
        test: see ImageData. Plain folders are real photographs, without a target, if the degradation makes images
            smaller; folders with `HR` inside and the names are clean images, to be degraded.
        protocol: None; the degradation says how restored images are measured.
        patch_size: side of the clean patch in pixels, a multiple of the degradation's scale.
        repeat: see ImageData.
        halves: see ImageData.
        fraction: see ImageData.
        reduce: see ImageData.
        small: see ImageData.
        batch_size: see ImageData.
        val_images: see ImageData.
        val_crop: see ImageData.
        test_images: see ImageData.
        workers: see ImageData.
        cache: see ImageData.
        seed: see ImageData.

    Raises:
        UserError: a value outside its range; the message says which and what would do.
    """

    batches = "patches"
    collate = staticmethod(patch_batch)

    def __init__(
        self,
        source: str,
        degradation: Degradation,
        root: str | None = None,
        test: str | Sequence[str] | None = None,
        protocol: str | None = None,
        patch_size: int = 128,
        repeat: int = 20,
        halves: bool = False,
        fraction: float = 1.0,
        reduce: int = 1,
        small: str = "refuse",
        batch_size: int = 16,
        val_images: int | None = None,
        val_crop: int | None = None,
        test_images: int | None = None,
        workers: int = 0,
        cache: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            source, root, test, repeat, halves, fraction, reduce, small, batch_size, val_images, val_crop,
            test_images, workers, cache, seed,
        )  # fmt: skip
        self.degradation, self.patch_size = degradation, patch_size
        self.colour = degradation.channels == 3
        if protocol is not None:
            raise UserError(
                f"data.protocol={protocol} is for super-resolution: this task measures by the "
                f"{degradation.protocol} protocol, leave it out"
            )
        scale = degradation.scale
        check_whole("patch_size", patch_size, scale)
        if patch_size % scale:
            raise UserError(
                f"data.patch_size={patch_size} must be a multiple of task.scale={scale}: take "
                f"{patch_size // scale * scale}"
            )

    def _samples(self) -> TrainingPatches:
        return TrainingPatches(
            self._training_pixels(), self.patch_size, self.degradation, self.repeat, self.seed, self.parts
        )

    def _smallest(self) -> tuple[int, str]:
        return self.patch_size, "patch"

    def _cure(self, side: int) -> str:
        return f"set data.patch_size={side // self.degradation.scale * self.degradation.scale} or lower"

    def _validation(self) -> DegradedImages:
        return DegradedImages([self._held_out()], self.degradation, self.seed, self.val_crop, self.reduce)

    def _tests(self) -> DegradedImages:
        sets = self._test_sets(protocol=None)
        return DegradedImages(sets, self.degradation, self.seed, refuse_gray=self.degradation.colour_only)
