"""What spoils a clean image: Gaussian noise, JPEG, and the blind mixture of BSRGAN, each a function of a generator.

Images here are (H, W, C) arrays: uint8 when clean, float32 with white at 1 when degraded. Options bear the names that
they have in `conf/task`, and so do the messages about them.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dynres.data.images import Pixels
from dynres.data.resize import resize
from dynres.errors import UserError

Random = np.random.Generator
Numbers = float | Sequence[float]

# MATLAB's rgb2gray: the row of Y in the inverse of NTSC's YIQ matrix. The row sums to 1, so that gray stays as it is.
_GRAY = np.array([0.298936021293776, 0.587043074451121, 0.114020904255103])
# Luma of BT.601 for R, G, B in 0..255; with 16 added it takes 16 to 235.
_STUDIO_LUMA = np.array([65.481, 128.553, 24.966]) / 255


class Degraded(NamedTuple):
    """target (H, W, c) uint8; image (H / s, W / s, c) in about [0, 1]; sigma of its noise for pixels in 0..255."""

    target: Pixels
    image: NDArray[np.float32]
    sigma: float


class Degradation(ABC):
    """A way to spoil images, at a level.

    Attributes:
        scale: how many times the degraded image is smaller.
        channels: 3 for colour, 1 for gray.
        protocol: how restored images are measured (dynres.metrics).
        plain_name: what `plain` gives is called where it stands beside the restored image.
        colour_only: whether a test image stored in gray belongs to another task.
        levels: those of the tests.
    """

    scale: int = 1
    channels: int = 3
    protocol: str
    plain_name: str
    colour_only: bool = False
    levels: tuple[float, ...]

    @abstractmethod
    def label(self, level: float) -> str:
        """What tables call a level."""

    @abstractmethod
    def draw_level(self, random: Random) -> float:
        """A level for training."""

    def clean(self, rgb: Pixels, gray: bool) -> Pixels:
        """(H, W, 3) -> (H, W, channels): what a perfect restoration would give. `gray`: the file has one channel."""
        return rgb

    @abstractmethod
    def degrade(self, clean: Pixels, level: float, random: Random) -> tuple[NDArray[np.float32], float]:
        """(H, W, channels), sides multiples of `scale` -> (image, sigma) as in `Degraded`."""

    def plain(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """A degraded image -> (H, W, channels): what there is without a network, at the clean image's size.

        The degraded image itself, or MATLAB's bicubic enlargement on the 8-bit grid of one made smaller.
        """
        if self.scale == 1:
            return image
        pixels, size = (image * 255).round().astype(np.uint8), [self.scale * side for side in image.shape[:2]]
        return resize(pixels, (size[0], size[1]), "matlab").astype(np.float32) / np.float32(255)

    def __call__(self, rgb: Pixels, gray: bool, level: float, random: Random) -> Degraded:
        clean = self.clean(rgb, gray)
        return Degraded(clean, *self.degrade(clean, level, random))


class GaussianNoise(Degradation):
    """White Gaussian noise, neither rounded nor clipped (the usual synthetic denoising, as in DnCNN and SwinIR).

    Args:
        sigma: standard deviation for pixels in 0..255, from 0 to 255; or [low, high], drawn evenly for each sample.
        test_sigmas: one or several; None for `sigma`, or 15, 25 and 50 where that is a range.
        channels: 3, or 1: MATLAB's rgb2gray, rounded (BSD68 is CBSD68 so converted), is restored.

    Raises:
        UserError: a value out of range.
    """

    protocol, plain_name = "denoise", "noisy"

    def __init__(self, sigma: Numbers, test_sigmas: Numbers | None = None, channels: int = 3) -> None:
        self.sigma = _span("sigma", sigma, 0, 255)
        self.levels = _levels("test_sigmas", test_sigmas, self.sigma, (15, 25, 50), 0, 255)
        if channels not in (1, 3):
            raise UserError(f"data.degradation.channels must be 3 (colour) or 1 (gray), got {channels}")
        self.channels, self.colour_only = channels, channels == 3

    def label(self, level: float) -> str:
        return f"sigma{level:g}"

    def draw_level(self, random: Random) -> float:
        return float(random.uniform(*self.sigma))

    def clean(self, rgb: Pixels, gray: bool) -> Pixels:
        return rgb if self.channels == 3 else np.floor(rgb @ _GRAY + 0.5).astype(np.uint8)[..., None]

    def degrade(self, clean: Pixels, level: float, random: Random) -> tuple[NDArray[np.float32], float]:
        noise = random.standard_normal(clean.shape, np.float32) * np.float32(level)
        return ((clean + noise) / 255).astype(np.float32), level


class Jpeg(Degradation):
    """JPEG of gray images, by libjpeg as Pillow calls it.

    Of a colour image the luma of BT.601 in studio range, rounded, is compressed and restored, as SwinIR does for LIVE1;
    a gray file's own samples are (Classic5).

    Args:
        quality: whole, 1 to 100; or [low, high], drawn evenly for each sample.
        test_qualities: one or several; None for `quality`, or 10, 20, 30 and 40 where that is a range.

    Raises:
        UserError: a value out of range.
    """

    channels, protocol, plain_name = 1, "car", "JPEG"

    def __init__(self, quality: int | Sequence[int], test_qualities: int | Sequence[int] | None = None) -> None:
        self.quality = _span("quality", quality, 1, 100, whole=True)
        self.levels = _levels("test_qualities", test_qualities, self.quality, (10, 20, 30, 40), 1, 100, whole=True)

    def label(self, level: float) -> str:
        return f"q{level:g}"

    def draw_level(self, random: Random) -> float:
        return _drawn_whole(self.quality, random)

    def clean(self, rgb: Pixels, gray: bool) -> Pixels:
        return rgb[..., :1] if gray else np.floor(16.5 + rgb @ _STUDIO_LUMA).astype(np.uint8)[..., None]

    def degrade(self, clean: Pixels, level: float, random: Random) -> tuple[NDArray[np.float32], float]:
        return as_jpeg(clean, int(level)).astype(np.float32) / np.float32(255), 0.0


class RealWorld(Degradation):
    """Blind degradations in random order, in the manner of BSRGAN (Zhang et al., ICCV 2021, Sec. 3).

    Shuffled: an isotropic and an anisotropic Gaussian blur, a reduction to a random size and one to the final size (in
    this order), Gaussian noise, JPEG. JPEG of the final size ends it, so that pixels are clipped and of 8 bits. The
    paper's camera noise (its reverse and forward ISP) is left out. None stands for the paper's values at this scale.

    Args:
        scale: 2 or 4.
        blur_sizes: [low, high] sides of the kernels, in pixels, drawn evenly from the odd numbers between.
        isotropic_width: [low, high] standard deviation of the first blur; None: [0.1, 2 + 0.2 scale].
        anisotropic_width: [low, high] of either axis of the second one; None: [0.5, 4 + scale].
        halving_probability: at scale 4, of halving the image first and going on as for scale 2.
        nearest_probability: of reducing by taking every scale-th pixel of a blurred image, at once to the final size.
        intermediate: [low, high] how many times smaller the reduction is otherwise; None: [1, 2 scale].
        noise_sigma: [low, high] of the noise for pixels in 0..255.
        noise_kinds: probabilities of noise alone in each channel, the same in all, and correlated between them.
        jpeg_probability: of the JPEG before the last.
        jpeg_quality: [low, high] of both.

    Raises:
        UserError: a value out of range.
    """

    protocol, plain_name = "denoise", "bicubic"

    def __init__(
        self,
        scale: int = 2,
        blur_sizes: Sequence[int] = (7, 21),
        isotropic_width: Sequence[float] | None = None,
        anisotropic_width: Sequence[float] | None = None,
        halving_probability: float = 0.25,
        nearest_probability: float = 0.25,
        intermediate: Sequence[float] | None = None,
        noise_sigma: Sequence[float] = (1, 25),
        noise_kinds: Sequence[float] = (0.4, 0.4, 0.2),
        jpeg_probability: float = 0.75,
        jpeg_quality: Sequence[int] = (30, 95),
    ) -> None:
        if type(scale) is not int or scale not in (2, 4):
            raise UserError(f"task.scale must be 2 or 4 for blind super-resolution, got {scale}")
        from kornia.filters import filter2d  # for this degradation alone it is imported; here, before workers start

        self._filter = filter2d
        self.scale, self.levels = scale, (float(scale),)
        self.blur_sizes = _span("blur_sizes", blur_sizes, 1, 99, whole=True)
        self.isotropic_width = _optional_span("isotropic_width", isotropic_width, 0.01, 50)
        self.anisotropic_width = _optional_span("anisotropic_width", anisotropic_width, 0.01, 50)
        self.halving_probability = _number("halving_probability", halving_probability, 0, 1)
        self.nearest_probability = _number("nearest_probability", nearest_probability, 0, 1)
        self.intermediate = _optional_span("intermediate", intermediate, 1, 16)
        self.noise_sigma = _span("noise_sigma", noise_sigma, 0, 255)
        self.noise_kinds = [_number("noise_kinds", kind, 0, 1) for kind in _listed(noise_kinds)]
        if len(self.noise_kinds) != 3 or not math.isclose(sum(self.noise_kinds), 1):
            raise UserError(f"task.noise_kinds must be three probabilities whose sum is 1, got {noise_kinds}")
        self.jpeg_probability = _number("jpeg_probability", jpeg_probability, 0, 1)
        self.jpeg_quality = _span("jpeg_quality", jpeg_quality, 1, 100, whole=True)

    def label(self, level: float) -> str:
        return f"x{level:g}"

    def draw_level(self, random: Random) -> float:
        return self.levels[0]

    def degrade(self, clean: Pixels, level: float, random: Random) -> tuple[NDArray[np.float32], float]:
        size = clean.shape[0] // self.scale, clean.shape[1] // self.scale
        image, left = _tensor(clean), self.scale  # left: how many times smaller the image has to become
        if self.scale == 4 and random.random() < self.halving_probability:
            image, left = _resized(image, (2 * size[0], 2 * size[1]), random), 2
        steps = [
            lambda x: self._isotropic(x, left, random),
            lambda x: self._anisotropic(x, left, random),
            lambda x: self._reduced(x, left, random),
            lambda x: _resized(x, size, random),
            lambda x: self._noisy(x, random),
            lambda x: self._compressed(x, random) if random.random() < self.jpeg_probability else x,
        ]
        order = random.permutation(len(steps)).tolist()
        first, second = sorted((order.index(2), order.index(3)))
        order[first], order[second] = 2, 3
        for step in order:
            image = steps[step](image)
        return self._compressed(image, random)[0].permute(1, 2, 0).contiguous().numpy(), 0.0

    def _isotropic(self, image: Tensor, left: int, random: Random) -> Tensor:
        width = random.uniform(*(self.isotropic_width or (0.1, 2 + 0.2 * left)))
        return self._blurred(image, self._side(random), (width, width))

    def _anisotropic(self, image: Tensor, left: int, random: Random) -> Tensor:
        low, high = self.anisotropic_width or (0.5, 4 + left)
        widths = random.uniform(low, high), random.uniform(low, high)
        return self._blurred(image, self._side(random), widths, angle=random.uniform(0, math.pi))

    def _side(self, random: Random) -> int:
        low, high = (int(side) // 2 for side in self.blur_sizes)
        return 2 * int(random.integers(low, high + 1)) + 1

    def _reduced(self, image: Tensor, left: int, random: Random) -> Tensor:
        """D_nearest, whose blur looks (s - 1) / 2 pixels ahead, where the pixels to come have their centres; or the
        first half of D_down-up (Sec. 3.2)."""
        if random.random() < self.nearest_probability:
            width = random.uniform(0.1, 0.6 * left)
            return self._blurred(image, 21, (width, width), ahead=(left - 1) / 2)[..., ::left, ::left]
        times = random.uniform(*(self.intermediate or (1, 2 * left)))
        return _resized(image, (round(image.shape[2] / times), round(image.shape[3] / times)), random)

    def _blurred(
        self, image: Tensor, side: int, widths: tuple[float, float], angle: float = 0.0, ahead: float = 0.0
    ) -> Tensor:
        """Filtered with a Gaussian of these standard deviations along two axes, turned by an angle in radians.

        The kernel has at most side x side pixels: as many as mirroring the image at its border allows.
        """
        reach = min(side // 2, image.shape[2] - 1, image.shape[3] - 1)
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] - ahead
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        exponent = (along / widths[0]) ** 2 / 2 + (across / widths[1]) ** 2 / 2
        kernel = np.exp(exponent.min() - exponent)  # the largest is 1, also where a narrow one lies between pixels
        return self._filter(image, torch.from_numpy(kernel / kernel.sum()).float()[None], border_type="reflect")

    def _noisy(self, image: Tensor, random: Random) -> Tensor:
        """Gaussian noise of three kinds (Sec. 3.3).

        The correlated one has the covariance L^2 U D U': L is the largest sigma, D diagonal with values in [0, 1] and U
        orthogonal, both random.
        """
        kind = int(random.choice(3, p=self.noise_kinds))
        mixed = np.eye(3) * random.uniform(*self.noise_sigma)
        if kind == 2:
            axes = np.linalg.qr(random.standard_normal((3, 3)))[0]
            mixed = axes * np.sqrt(random.random(3)) * self.noise_sigma[1]
        white = random.standard_normal((1, 1 if kind == 1 else 3, *image.shape[2:]), np.float32)
        noise = torch.einsum(
            "cd,bdhw->bchw", torch.from_numpy(mixed / 255).float(), torch.from_numpy(white).expand_as(image)
        )
        return (image + noise).clamp(0, 1)

    def _compressed(self, image: Tensor, random: Random) -> Tensor:
        pixels = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        return _tensor(as_jpeg(pixels, _drawn_whole(self.jpeg_quality, random)))


def as_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """(H, W, C) compressed and decoded again by Pillow; C is 1, or 3 with its default subsampling (4:2:0)."""
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file)).reshape(pixels.shape)


def _tensor(pixels: Pixels) -> Tensor:
    """(H, W, C) uint8 -> (1, C, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255


def _resized(image: Tensor, size: tuple[int, int], random: Random) -> Tensor:
    mode = ("bilinear", "bicubic", "area")[int(random.integers(3))]
    size = max(size[0], 1), max(size[1], 1)
    return F.interpolate(image, size, mode=mode, antialias=mode != "area").clamp(0, 1)


def _number(name: str, value: object, low: float, high: float, whole: bool = False) -> float:
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise UserError(f"task.{name} takes {'whole ' if whole else ''}numbers from {low:g} to {high:g}, got {value}")
    return float(value)


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _span(name: str, value: object, low: float, high: float, whole: bool = False) -> tuple[float, float]:
    """A number or [low, high] -> (low, high)."""
    numbers = [_number(name, end, low, high, whole) for end in _listed(value)]
    if len(numbers) not in (1, 2) or numbers[0] > numbers[-1]:
        raise UserError(f"task.{name} must be a number or [low, high] with low <= high, got {value}")
    return numbers[0], numbers[-1]


def _optional_span(name: str, value: object, low: float, high: float) -> tuple[float, float] | None:
    return None if value is None else _span(name, value, low, high)


def _levels(
    name: str,
    given: object,
    training: tuple[float, float],
    usual: tuple[float, ...],
    low: float,
    high: float,
    whole: bool = False,
) -> tuple[float, ...]:
    """The levels to test at, without repetition."""
    if given is None:
        return usual if training[0] < training[1] else training[:1]
    levels = tuple(dict.fromkeys(_number(name, level, low, high, whole) for level in _listed(given)))
    if not levels:
        raise UserError(f"task.{name} is empty: give at least one, or null")
    return levels


def _drawn_whole(span: tuple[float, float], random: Random) -> int:
    return int(random.integers(int(span[0]), int(span[1]) + 1))
