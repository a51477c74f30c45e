"""What passes between the rooms: a few small immutable records (docs/architecture.md).

Shape legend, used by every docstring of the package: B batch, C channels, H x W low-resolution size, H' x W' output
size, Q queried pixels, U routing units. Images are float32 RGB in [0, 1] unless a docstring says otherwise.
Records that travel through a DataLoader are NamedTuples (Lightning moves those to a device); the rest are dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class RegionDepths:
    """Where each of R equal, overlapping regions of an image lies, and how many blocks it went through.

    Attributes:
        boxes: R of (top, bottom, left, right) in input pixels, row by row.
        depths: (B, R) int64 from 1.
    """

    boxes: tuple[tuple[int, int, int, int], ...]
    depths: Tensor


@dataclass(frozen=True)
class Routing:
    """What a dynamic network decided for a batch.

    Attributes:
        decisions: (B, U) in {0, 1}; the share in [0, 1] of an image's regions that a unit ran on (FlexIR), or of its
            keys that were kept (ACLA).
        probabilities: (B, U) in [0, 1], the task-aware probability of each unit (TADT, Eq. 3).
        intensity: (B,) TADT's beta >= 0, or None for a method without one.
        units: U names, in the order of the columns.
        regions: how deep each region of the images went, where a network works on regions (FlexIR), or None.
    """

    decisions: Tensor
    probabilities: Tensor
    intensity: Tensor | None
    units: tuple[str, ...]
    regions: RegionDepths | None = None


@dataclass(frozen=True)
class Exit:
    """Where a network with branches (FlexIR) leaves; see `Restorer.restore`.

    Attributes:
        pointer: P from 1, the deepest block that may run; None for all.
        threshold: h of adaptive inference; "auto" for the one calibrated to the budget; None for regular inference.
        regions: into how many regions an image is cut.
        at_once: how many regions run as one batch, to bound memory; None for all of one depth.
    """

    pointer: int | None = None
    threshold: float | str | None = None
    regions: int = 1
    at_once: int | None = None


@dataclass(frozen=True)
class Task:
    """What is asked of the network for a batch.

    Attributes:
        scale: (B,) upscaling factor >= 1 (the geometric mean where the axes differ), or None for same-size restoration.
        budget: fraction in (0, 1] of the backbone's full MACs, or None to let the network decide.
        seed: (B,) int64 that alone fixes the random gates of each sample, or None for all zeros.
        routing: decisions already made (for a tile of a routed image), or None to decide from the image.
        noise: (B,) standard deviation of the noise where pixels are in [0, 1] (sigma / 255), or None if unknown.
        axes: (B, 2) vertical and horizontal upscaling factors, or None where both are `scale`; where a factor was asked
            for, that one and not what whole pixels make of it.
        exit: where a network with branches leaves; None: at its end, or where the budget says.
    """

    scale: Tensor | None = None
    budget: float | None = None
    seed: Tensor | None = None
    routing: Routing | None = None
    noise: Tensor | None = None
    axes: Tensor | None = None
    exit: Exit | None = None


@dataclass(frozen=True)
class Features:
    """What a backbone gives an upsampler.

    Attributes:
        map: (B, C, H, W) features. A windowed network may leave its padding at the bottom and right, for heads that
            convolve them, as its authors do; `cropped` is without.
        image: (B, c, H, W) the normalised input the features came from (LTE adds its bilinear enlargement).
        routing: the decisions behind the map, or None for a static network.
        scale: pixels of the map a pixel of the image, along an axis; above 1 for a network that enlarges by itself.
    """

    map: Tensor
    image: Tensor
    routing: Routing | None = None
    scale: int = 1

    @property
    def cropped(self) -> Tensor:
        """(B, C, s H, s W) features of the image's own height and width."""
        return self.map[..., : self.scale * self.image.shape[-2], : self.scale * self.image.shape[-1]]


@dataclass(frozen=True)
class Cost:
    """MACs of a backbone at one input size: `fixed` + the units that run.

    Attributes:
        fixed: MACs spent whatever is decided.
        units: MACs of each of the U routing units; empty for a static network.
    """

    fixed: int
    units: tuple[int, ...] = ()

    @property
    def full(self) -> int:
        """MACs with every unit on."""
        return self.fixed + sum(self.units)


@dataclass(frozen=True)
class Restoration:
    """What `Restorer.restore` returns.

    Attributes:
        image: (B, 3, H', W') in [0, 1]; (B, 1, H', W') where a gray network was given gray images.
        routing: the decisions, or None for a static network.
        macs: (B,) float64 MACs that the backbone really spent on each image (fvcore convention).
        full_macs: MACs of an image of this size with every unit on and in one piece.
    """

    image: Tensor
    routing: Routing | None
    macs: Tensor
    full_macs: int


class QueryBatch(NamedTuple):
    """A training batch of sampled pixels.

    image (B, 3, H, W); coords (B, Q, 2) (row, column) in [-1, 1]; cell (B, Q, 2) size of an output pixel in the
    same unit (2/H', 2/W'); target (B, Q, 3) in [0, 1]; scale (B,) float32; seed (B,) int64, a pure function of
    (run seed, epoch, sample index); noise (B,) float32 standard deviation of the image's noise, for pixels in [0, 1].
    """

    image: Tensor
    coords: Tensor
    cell: Tensor
    target: Tensor
    scale: Tensor
    seed: Tensor
    noise: Tensor


class PatchBatch(NamedTuple):
    """A training batch of whole patches; c is 3 for colour and 1 for gray tasks.

    image (B, c, h, w), in about [0, 1], not clipped; target (B, c, s h, s w) in [0, 1]; scale (B,) float32, s; seed
    (B,) int64, a pure function of (run seed, epoch, sample index); noise (B,) float32 standard deviation of the image's
    noise, for pixels in [0, 1], 0 where it is not Gaussian.
    """

    image: Tensor
    target: Tensor
    scale: Tensor
    seed: Tensor
    noise: Tensor


class EvalSample(NamedTuple):
    """One whole image to restore and compare; c is 3, or 1 in gray tasks.

    image (1, c, H, W); target (1, c, H', W'), or None where nobody knows it; plain (1, c, H', W'): what there is
    without a network, the exact bicubic enlargement on the 8-bit grid, the degraded image itself or a filled-in mosaic;
    scale (vertical, horizontal); label such as "x2", "x2x3", "sigma25" or "q10"; dataset, name: of test set and image;
    protocol: how PSNR/SSIM crop and convert (dynres.metrics); seed (1,) int64; noise: standard deviation of the image's
    noise on the scale of 8 bits; plain_name: "bicubic", "noisy", "JPEG" or "bilinear".
    """

    image: Tensor
    target: Tensor | None
    plain: Tensor
    scale: tuple[float, float]
    label: str
    dataset: str
    name: str
    protocol: str
    seed: Tensor
    noise: float = 0.0
    plain_name: str = "bicubic"


@dataclass(frozen=True)
class Evaluation:
    """One restored and measured image; what validation and test steps return and callbacks read.

    psnr and psnr_plain (of sample.plain) in dB, ssim, psnr_b in dB (PSNR-B, of the "car" protocol alone), under
    sample.protocol; None where there is no target. milliseconds of wall clock for the whole restoration.
    """

    sample: EvalSample
    restoration: Restoration
    psnr: float | None
    psnr_plain: float | None
    ssim: float | None
    milliseconds: float
    psnr_b: float | None = None
