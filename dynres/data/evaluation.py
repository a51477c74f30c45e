"""Whole images for validation and test: full size, low resolution and bicubic enlargement at each scale."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dynres.contracts import EvalSample
from dynres.data.cache import summary
from dynres.data.images import Pixels, read_rgb
from dynres.data.pairs import generator, to_tensor
from dynres.data.resize import Kind, resize
from dynres.data.sources import ImageSet
from dynres.errors import UserError
from dynres.metrics import minimum_side

Scale = tuple[float, float]


class EvalImages(Dataset[EvalSample]):
    """Every image of every set at every scale, image by image (so that each file is decoded once in a row)."""

    def __init__(
        self, sets: Sequence[ImageSet], scales: Sequence[Scale], downsampling: Kind, seed: int, crop: int | None = None
    ) -> None:
        """`crop`: side of the central square to use of each image, or None for all of it."""
        self.items = [(one, path, scale) for one in sets for path in one.images for scale in scales]
        self.downsampling, self.seed, self.crop = downsampling, seed, crop

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> EvalSample:
        one, path, scale = self.items[index]
        full = _read(path, self.crop)
        low_size, full_size = sizes(full.shape[:2], scale)
        full = full[: full_size[0], : full_size[1]]
        published = None if self.crop else one.low_resolution(path, scale)
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

    def check(self) -> None:
        """Read every image once, and see that each can be shrunk and measured at each scale.

        Raises:
            UserError: naming the set, the image, the scale and what would do; all problems together.
        """
        problems: list[str] = []
        seen: dict[Path, tuple[int, int] | None] = {}
        for one, path, scale in self.items:
            if path not in seen:
                seen[path] = _checked_size(path, problems)
            size = seen[path]
            if size is not None:
                problems += _problems(one, path, size if self.crop is None else _cropped(size, self.crop), scale)
                problems += [] if self.crop else _published_problems(one, path, size, scale)
        if problems:
            raise UserError(summary(problems))


@functools.lru_cache(maxsize=1)
def _read(path: Path, crop: int | None) -> Pixels:
    """The image, or its central crop x crop square (as much of it as there is)."""
    image = read_rgb(path)
    if crop is None:
        return image
    height, width = _cropped(image.shape[:2], crop)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _cropped(size: tuple[int, ...], crop: int) -> tuple[int, int]:
    return min(size[0], crop), min(size[1], crop)


def _image_seed(seed: int, name: str) -> Tensor:
    """(1,) int64, a pure function of the run's seed and the image's name."""
    drawn = generator(seed, 2, zlib.crc32(name.encode())).integers(2**63 - 1)
    return torch.tensor([int(drawn)], dtype=torch.int64)


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
