"""Whole images for validation and test: shrunk at each scale, or degraded at each level."""

from __future__ import annotations

import functools
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dynres.contracts import EvalSample
from dynres.data.cache import summary
from dynres.data.degradations import Degradation
from dynres.data.images import Pixels, is_gray, read_rgb
from dynres.data.pairs import generator, to_tensor
from dynres.data.resize import Kind, reduced, reduced_size, resize
from dynres.data.sources import ImageSet
from dynres.errors import UserError
from dynres.metrics import minimum_side

Scale = tuple[float, float]


Level = TypeVar("Level", float, Scale)


class WholeImages(Dataset[EvalSample], Generic[Level]):
    """Every image of every set at every level, image by image (so that each file is decoded once in a row)."""

    def __init__(
        self, sets: Sequence[ImageSet], levels: Sequence[Level], seed: int, crop: int | None, reduce: int
    ) -> None:
        """
        Args:
            sets: what to restore.
            levels: scales, or what a degradation draws from.
            seed: of whatever is drawn for an image.
            crop: side of the central square to use of each image, or None for all of it.
            reduce: each image is first made 1/reduce of its height and width.
        """
        self.items: list[tuple[ImageSet, Path, Level]] = [
            (one, path, level) for one in sets for path in one.images for level in levels
        ]
        self.seed, self.crop, self.reduce = seed, crop, reduce

    def __len__(self) -> int:
        return len(self.items)

    def check(self) -> None:
        """Read every image once, and see that each can be spoilt and measured at each level.

        Raises:
            UserError: naming the set, the image, the level and what would do; all problems together.
        """
        problems: list[str] = []
        seen: dict[Path, tuple[int, int] | None] = {}
        for one, path, level in self.items:
            if path not in seen:
                seen[path] = _checked_size(path, problems)
            size = seen[path]
            if size is not None:
                milder = "" if self.reduce == 1 else f", or set data.reduce below {self.reduce}"
                found = self.problems(one, path, reduced_size(size, self.reduce), level)
                problems += [line + milder for line in found]
        if problems:
            raise UserError(summary(list(dict.fromkeys(problems))))

    @abstractmethod
    def problems(self, one: ImageSet, path: Path, size: tuple[int, int], level: Level) -> list[str]:
        """What keeps an image of this whole size (H, W), after its reduction, from being used at a level."""


class EvalImages(WholeImages[Scale]):
    """Images shrunk at each scale, or as their set publishes them."""

    def __init__(
        self,
        sets: Sequence[ImageSet],
        scales: Sequence[Scale],
        downsampling: Kind,
        seed: int,
        crop: int | None = None,
        reduce: int = 1,
    ) -> None:
        super().__init__(sets, scales, seed, crop, reduce)
        self.downsampling = downsampling

    def __getitem__(self, index: int) -> EvalSample:
        one, path, scale = self.items[index]
        full = _read(path, self.crop, self.reduce)
        low_size, full_size = sizes(full.shape[:2], scale)
        full = full[: full_size[0], : full_size[1]]
        published = one.low_resolution(path, scale) if self._whole() else None
        low = read_rgb(published) if published else resize(full, low_size, self.downsampling)
        return EvalSample(
            image=to_tensor(low)[None],
            target=to_tensor(full)[None],
            plain=to_tensor(resize(low, full_size, "matlab"))[None],
            scale=scale,
            label=label(scale),
            dataset=one.name,
            name=path.stem,
            protocol=one.protocol,
            seed=_image_seed(self.seed, f"{one.name}/{path.stem}"),
        )

    def problems(self, one: ImageSet, path: Path, size: tuple[int, int], level: Scale) -> list[str]:
        if self._whole():
            return _problems(one, path, size, level) + _published_problems(one, path, size, level)
        return _problems(one, path, _cropped(size, self.crop), level)

    def _whole(self) -> bool:
        """Whether images are as their files, so that published low-resolution ones belong to them."""
        return self.crop is None and self.reduce == 1


class DegradedImages(WholeImages[float]):
    """Images degraded at each level; what is drawn is a pure function of (seed, set's name, image's name, level).

    Plain folders of a degradation that makes images smaller are real photographs: nothing is known but what they show.
    """

    def __init__(
        self,
        sets: Sequence[ImageSet],
        degradation: Degradation,
        seed: int,
        crop: int | None = None,
        reduce: int = 1,
        refuse_gray: bool = False,
    ) -> None:
        """`refuse_gray`: where the restoration is measured, a gray file among colour ones is a mistake."""
        super().__init__(sets, degradation.levels, seed, crop, reduce)
        self.degradation, self.refuse_gray = degradation, refuse_gray

    def __getitem__(self, index: int) -> EvalSample:
        one, path, level = self.items[index]
        scale, level_label = float(self.degradation.scale), self.degradation.label(level)
        full, name = _read(path, self.crop, self.reduce), f"{one.name}/{path.stem}"
        target, sigma = None, 0.0
        if self._is_real(one):
            image = full.astype(np.float32) / np.float32(255)
        else:
            height, width = sizes(full.shape[:2], (scale, scale))[1]
            random = _random(self.seed, 3, f"{name}/{level_label}")
            target, image, sigma = self.degradation(full[:height, :width], is_gray(path), level, random)
        return EvalSample(
            image=_planes(image),
            target=None if target is None else to_tensor(target)[None],
            plain=_planes(self.degradation.plain(image)),
            scale=(scale, scale),
            label=level_label,
            dataset=one.name,
            name=path.stem,
            protocol="real" if target is None else self.degradation.protocol,
            seed=_image_seed(self.seed, name),
            noise=sigma,
            plain_name=self.degradation.plain_name,
        )

    def problems(self, one: ImageSet, path: Path, size: tuple[int, int], level: float) -> list[str]:
        if self._is_real(one):
            return []
        if self.refuse_gray and is_gray(path):
            return [
                f"{one.name}: {path} is gray, and this task restores colours: leave it out (noise of gray images is "
                f"task=denoise_gray)"
            ]
        scale, protocol = float(self.degradation.scale), self.degradation.protocol
        size = _cropped(size, self.crop)
        full, least = sizes(size, (scale, scale))[1], minimum_side(protocol, scale)
        if full[0] >= least[0] and full[1] >= least[1]:
            return []
        return [
            f"{one.name}: {path} ({size[0]}x{size[1]}, HxW) is too small: the {protocol} protocol measures "
            f"{least[0]}x{least[1]} at least; leave it out"
        ]

    def _is_real(self, one: ImageSet) -> bool:
        return one.plain and self.degradation.scale > 1


def _planes(image: NDArray[np.float32]) -> Tensor:
    """(H, W, c) -> (1, c, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


@functools.lru_cache(maxsize=1)
def _read(path: Path, crop: int | None, reduce: int) -> Pixels:
    """The reduced image, or its central crop x crop square (as much of it as there is)."""
    image = reduced(read_rgb(path), reduce)
    if crop is None:
        return image
    height, width = _cropped(image.shape[:2], crop)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _cropped(size: tuple[int, ...], crop: int | None) -> tuple[int, int]:
    height, width = (side if crop is None else min(side, crop) for side in size[:2])
    return height, width


def _image_seed(seed: int, name: str) -> Tensor:
    """(1,) int64, a pure function of the run's seed and the image's name."""
    return torch.tensor([int(_random(seed, 2, name).integers(2**63 - 1))], dtype=torch.int64)


def _random(seed: int, purpose: int, name: str) -> np.random.Generator:
    return generator(seed, purpose, zlib.crc32(name.encode()))


def _checked_size(path: Path, problems: list[str]) -> tuple[int, int] | None:
    try:
        height, width = read_rgb(path).shape[:2]
    except UserError as error:
        problems.append(str(error))
        return None
    return height, width


def _problems(one: ImageSet, path: Path, size: tuple[int, int], scale: Scale) -> list[str]:
    (low, full), least = sizes(size, scale), minimum_side(one.protocol, scale)
    if min(low) >= 1 and full[0] >= least[0] and full[1] >= least[1]:
        return []
    return [
        f"{one.name}: {path} ({size[0]}x{size[1]}, HxW) is too small for scale {label(scale)[1:]}: cut to fit it "
        f"is {full[0]}x{full[1]}, and the {one.protocol} protocol measures {least[0]}x{least[1]} at least; leave "
        f"out the image or the scale"
    ]


def _published_problems(one: ImageSet, path: Path, size: tuple[int, int], scale: Scale) -> list[str]:
    published = one.low_resolution(path, scale)
    if published is None:
        return []
    try:
        found, expected = read_rgb(published).shape[:2], sizes(size, scale)[0]
    except UserError as error:
        return [str(error)]
    if found == expected:
        return []
    return [
        f"{published} is {found[0]}x{found[1]} (HxW), but {path} at scale {label(scale)[1:]} asks for "
        f"{expected[0]}x{expected[1]}"
    ]


def sizes(full: tuple[int, ...], scale: Scale) -> tuple[tuple[int, int], tuple[int, int]]:
    """((h, w), (H', W')): h = floor(H / s), H' = round(h s), each axis with its scale: to a multiple for whole s."""
    low = [int(n / s + 1e-9) for n, s in zip(full, scale, strict=True)]
    high = [round(n * s) for n, s in zip(low, scale, strict=True)]
    return (low[0], low[1]), (high[0], high[1])


def label(scale: Scale) -> str:
    """ "x2", "x2.5", or "x2x3" where the axes differ."""
    vertical, horizontal = scale
    return f"x{vertical:g}" if vertical == horizontal else f"x{vertical:g}x{horizontal:g}"
