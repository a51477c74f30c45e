"""Restorer = backbone + upsampler: the nn.Module that everybody trains, tests and exports."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Exit, Features, Restoration, Routing, Task
from dynres.cost.memory import free_memory
from dynres.errors import UserError
from dynres.layers.colour import LUMA_NOISE, rgb, ycbcr
from dynres.layers.pixels import Pixels
from dynres.layers.sampling import add_enlarged_, bicubic_at, bicubic_grid, spans
from dynres.layers.tiling import tiled
from dynres.nodes import make, unknown
from dynres.pretrained import NETWORK_PACKAGES, Pretrained
from dynres.tiles import check_tile, fitting_tile, merged, tile_plan, tile_sizes
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.same_size import AsImage

MAX_SCALE = 30.0
# Of the memory that is free, what `tile="auto"` counts on: kernels take some for themselves, and so do other programs.
SHARE_OF_FREE = 0.7
PRECISIONS = ("32", "bf16")
ADAPTIVE_REGIONS = 4  # n of FlexIR's Algorithm 2
Watch = Callable[[Iterator[int], int], Iterator[int]]


class Restorer(Pretrained, nn.Module):
    """Images in [0, 1] in, images in [0, 1] out.

    A gray network restores the luma (BT.601, studio range) of a colour image and enlarges its chroma bicubically. A
    network of `same_size` that is asked for a scale works on the bicubic enlargement (SRCNN, VDSR).

    Args:
        backbone: image -> features.
        upsampler: features -> colours.
        image_skip: the network learns the residual to the bicubic enlargement and begins with it. Off in every paper of
            the suite; the demo profile turns it on so that minutes of training show.
        pixels: the range in which the network sees an image and gives colours.

    Raises:
        ValueError: if image_skip is on and the upsampler adds the image itself, as LTE does; or if backbone and
            upsampler work on different numbers of channels.
    """

    _compiled: Callable[[Tensor, Task], Features] | None = None

    def __init__(
        self, backbone: Backbone, upsampler: Upsampler, image_skip: bool = False, pixels: Pixels | None = None
    ) -> None:
        super().__init__()
        if image_skip and upsampler.adds_image:
            raise ValueError(f"image_skip=true would add the image twice: {type(upsampler).__name__} adds it already")
        if backbone.image_channels != upsampler.image_channels:
            raise ValueError(
                f"the backbone reads images of {backbone.image_channels} channels and the upsampler makes "
                f"{upsampler.image_channels}: set image_channels of both to 3 (colour) or 1 (gray)"
            )
        own = backbone.regional or backbone.scale > 1
        if own and not (isinstance(upsampler, AsImage) and upsampler.scale == backbone.scale):
            raise ValueError(
                f"{type(backbone).__name__} ends in the image itself, x{backbone.scale}: use upsampler=as_image"
            )
        pixels = pixels or Pixels()
        if isinstance(pixels.mean, tuple) and len(pixels.mean) not in (1, backbone.image_channels):
            raise ValueError(
                f"pixels.mean has {len(pixels.mean)} numbers and the network sees {backbone.image_channels} "
                "channel(s): give one number, such as pixels.mean=0"
            )
        if image_skip:
            upsampler.zero_output()
        self.backbone, self.upsampler, self.image_skip = backbone, upsampler, image_skip
        self.pixels = pixels

    @classmethod
    def from_description(cls, network: Mapping[str, Any]) -> Self:
        """The network of {"backbone", "upsampler": nodes, "image_skip", "pixels": {"mean", "factor"}}.

        Raises:
            UserError: on a class outside the suite's networks, an unknown option, or a value the network refuses.
        """
        for part, package in zip(("backbone", "upsampler"), NETWORK_PACKAGES, strict=True):
            target = str(network[part].get("_target_"))
            if not target.startswith(f"{package}."):
                raise UserError(f"{part}._target_ must name a class of {package}, got {target}")
        backbone = make(network["backbone"], "backbone")
        if not isinstance(backbone, Backbone):
            raise UserError(f"backbone._target_ {network['backbone']['_target_']} is not a backbone")
        upsampler = make(network["upsampler"], "upsampler", in_channels=backbone.out_channels)
        if not isinstance(upsampler, Upsampler):
            raise UserError(f"upsampler._target_ {network['upsampler']['_target_']} is not an upsampler")
        try:
            skip, pixels = bool(network.get("image_skip", False)), _pixels(network.get("pixels") or {})
            made = cls(backbone, upsampler, skip, pixels)
        except ValueError as error:
            raise UserError(str(error)) from error
        made.description = dict(network)
        return made

    def query(self, image: Tensor, coords: Tensor, cell: Tensor, task: Task) -> tuple[Tensor, Routing | None]:
        """Colours of sampled pixels, for training.

        Args:
            image: (B, 3, H, W) in [0, 1].
            coords: (B, Q, 2) (row, column) in [-1, 1].
            cell: (B, Q, 2) size of an output pixel, (2/H', 2/W').

        Returns:
            colours (B, Q, c), about [0, 1] and not clamped, and the routing behind them; compare with `seen(target)`.
        """
        image = self.seen(image, 1)
        if self.upsampler.same_size:
            image = bicubic_grid(image, _one_size(cell))
        features = self.backbone(_ordered(self.pixels.normal(image)), task)
        colour = self.upsampler.query(features, coords, cell)
        if self.image_skip:
            colour = colour + bicubic_at(features.image, coords)
        return self.pixels.colours(colour, -1), features.routing

    def forward(self, image: Tensor, task: Task) -> tuple[Tensor, Routing | None]:
        """Whole patches for training, (B, c, h, w) in about [0, 1] at one scale, task.scale or the head's own.

        Returns:
            colours (B, c, s h, s w), about [0, 1] and not clamped, and the routing behind them; compare with
            `seen(target, 1)`.
        """
        image = self.seen(image, 1)
        scale = self.upsampler.scale if task.scale is None else float(task.scale[0])
        size = output_size((image.shape[-2], image.shape[-1]), scale, None)
        if self.upsampler.same_size and size != image.shape[-2:]:
            image = bicubic_grid(image, size)
        features = self.backbone(_ordered(self.pixels.normal(image)), task)
        colour = self.upsampler.decode(features, size)
        if self.image_skip:
            colour = colour + bicubic_grid(features.image, size)
        return self.pixels.colours(colour, 1), features.routing

    def seen(self, colours: Tensor, dim: int = -1) -> Tensor:
        """The channels that the network works on, of colours along an axis: all, or the luma for a gray network."""
        if colours.shape[dim] == self.backbone.image_channels:
            return colours
        if self.backbone.image_channels == 3:
            raise ValueError("a colour network needs an image of 3 channels: repeat the gray one")
        return ycbcr(colours, dim).narrow(dim, 0, 1)

    @torch.inference_mode()
    def restore(
        self,
        image: Tensor,
        scale: float | None = None,
        size: tuple[int, int] | None = None,
        budget: float | None = None,
        pointer: int | None = None,
        threshold: float | str | None = None,
        regions: int | None = None,
        tile: int | str | None = None,
        seed: Tensor | None = None,
        watch: Watch | None = None,
        noise: float | None = None,
        precision: int | str = "32",
        compile: bool = False,
    ) -> Restoration:
        """Restore whole images: the one inference entry of the suite.

        Args:
            image: (B, 3, H, W) in [0, 1]; also (B, 1, H, W) for a gray network.
            scale: upscaling factor in [1, 30]; the output is round(H * scale) x round(W * scale). Give it or `size`;
                a network made for one scale takes that by default.
            size: (H', W') of the output.
            budget: fraction in (0, 1] of the backbone's full MACs; None lets the network decide.
            pointer: P, the deepest block that may run, for a network with branches (FlexIR); None: as the budget says.
            threshold: h, for adaptive inference of such a network: a region leaves after the first block whose result
                scores above it (FlexIR, Eq. 8); "auto": as calibrated to the budget (python -m dynres.calibrate); None
                for regular inference.
            regions: into how many regions such a network cuts an image; None: 4 for adaptive inference, else 1.
            tile: side in input pixels of the tiles that the backbone sees, to bound memory; None: the whole image;
                "auto": the whole image if it fits into the memory that is free, else about the largest tiles that do.
                Decisions are taken once, from the whole image. Tiles of an `unbounded` backbone see less than it would.
                A network with regions cuts smaller ones instead, and runs one at a time.
            seed: (B,) int64 that fixes the random gates of each image.
            watch: wraps the iteration over tiles, for a progress bar.
            noise: standard deviation of the image's noise on the scale of 8 bits (25 for sigma 25), for networks that
                must be told.
            precision: "32", or "bf16": backbone and upsampler under autocast to bfloat16. Positions, decisions and the
                image that comes out stay float32. Errors: docs/inference.md.
            compile: run the backbone through torch.compile, which takes a while at first and for each new size, tiles
                included; needs a C++ compiler on a CPU.

        Beyond the backbone's own work, memory holds the image, the features and the output, and some rows of it
        (heads of convolutions: also their own maps at the output's size).

        Raises:
            ValueError: on a scale, size, budget, tile, precision or noise out of range or missing, which it gives.
            UserError: if the backbone cannot be compiled here.
        """
        if scale is None and size is None:
            scale = self.upsampler.scale
        size = output_size((image.shape[-2], image.shape[-1]), scale, size)
        check_budget(budget)
        check_tile(tile)
        check_precision(precision)
        exit = way_out(pointer, threshold, regions)
        self.backbone.check_exit(exit, budget)
        factor = math.sqrt(size[0] * size[1] / (image.shape[-2] * image.shape[-1]))
        level = self._noise(noise, image)
        # As asked: 338 rows at x2.9 become 980, which is x2.8994 of them, and 2.9 is what networks were trained on.
        told = (scale, scale) if scale is not None else (size[0] / image.shape[-2], size[1] / image.shape[-1])
        axes = torch.tensor([told], device=image.device)
        scales = torch.full((len(image),), factor, device=image.device)
        task = Task(scales, budget, seed, noise=level, axes=axes.expand(len(image), -1))
        given, image = image, self.seen(image, 1)
        if self.upsampler.same_size:
            image = bicubic_grid(image, size)
        height, width = image.shape[-2:]
        normal = _ordered(self.pixels.normal(image))
        if tile == "auto":
            tile = self._fitting_tile(normal, size)
        assert not isinstance(tile, str)
        if tile is not None and max(height, width) <= tile:
            tile = None
        if self.backbone.regional:
            task, tile = replace(task, exit=self._within(exit, tile, (height, width), task)), None
        else:
            task = replace(task, routing=self.backbone.route(normal, task))
        with torch.autocast(normal.device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            features = self._extract(normal, task, tile, watch, compile)
            colour = self.upsampler.decode(features, size).float()
        if colour.data_ptr() == features.map.data_ptr():
            colour = colour.clone()  # a head that hands the features on; all else is this call's own, and overwritten
        if self.image_skip:
            add_enlarged_(colour, normal, bicubic_grid)
        out = self.pixels.colours_(colour, 1)
        if given.shape[1] > out.shape[1]:
            out = _with_chroma(out, ycbcr(given)[:, 1:])
        out = out.clamp_(0, 1)
        macs = self._spent(features.routing, task, len(image), (height, width), tile)
        full = self.backbone.cost(height, width).full
        if budget is not None and bool((macs > budget * full * (1 + 1e-9)).any()):
            cause = self._why_more(features.routing, task)
            warnings.warn(
                f"a budget of {budget:g} cannot be met: {macs.max().item() / full:.3f} of the full compute was spent, "
                f"{cause}",
                stacklevel=2,
            )
        return Restoration(out, features.routing, macs, full)

    def _extract(self, image: Tensor, task: Task, tile: int | None, watch: Watch | None, compile: bool) -> Features:
        """The features of a normalised image, whole or tile by tile; the task brings its decisions."""
        backbone = self._compiled_backbone() if compile else self.backbone
        if tile is None:
            return backbone(image, task)
        decided: list[tuple[Routing, int]] = []

        def extract(part: Tensor) -> Tensor:
            features = backbone(part, task)
            if features.routing is not None:
                decided.append((features.routing, part.shape[-2] * part.shape[-1]))
            return features.cropped

        whole = tiled(extract, image, *tile_plan(self.backbone, tile), watch)
        return Features(whole, image, task.routing or (merged(decided) if decided else None))

    def _compiled_backbone(self) -> Callable[[Tensor, Task], Features]:
        """The backbone through torch.compile, kept for the next image; copies and files of this network are without."""
        if self._compiled is None:
            compiled = torch.compile(self.backbone.forward, dynamic=True)

            def extract(image: Tensor, task: Task) -> Features:
                try:
                    return compiled(image, task)
                except torch._dynamo.exc.TorchDynamoException as error:
                    raise UserError(f"compile=true failed: {_in_short(error)}; leave it out") from error

            self._compiled = extract
        return self._compiled

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_compiled"}

    def _fitting_tile(self, image: Tensor, size: tuple[int, int]) -> int | None:
        """`tile="auto"`: what the features and the output will take is set aside first."""
        pixels = image.shape[-2] * image.shape[-1]
        kept = 4 * len(image) * (self.backbone.out_channels * pixels + 2 * 3 * size[0] * size[1])
        room = int(SHARE_OF_FREE * free_memory(image.device)) - kept
        return fitting_tile(self.backbone, (image.shape[-2], image.shape[-1]), len(image), room)

    def _noise(self, noise: float | None, image: Tensor) -> Tensor | None:
        """(B,) in units of what the network sees, or None: noise on R, G and B alike is weaker in their luma."""
        if noise is None:
            if self.backbone.wants_noise:
                raise ValueError(f"{type(self.backbone).__name__} must be told the noise level, such as noise=25")
            return None
        if not 0 <= noise <= 255:
            raise ValueError(f"noise is a standard deviation from 0 to 255, got {noise}")
        luma = image.shape[1] > self.backbone.image_channels
        return torch.full((len(image),), noise / 255 * (LUMA_NOISE if luma else 1.0), device=image.device)

    def check_tile(self, tile: int) -> None:
        """Refuse tiles that leave this backbone no room beside its overlaps, with a ValueError."""
        if self.backbone.regional:
            self._within(Exit(), tile, (1024, 1024), Task())
        else:
            tile_plan(self.backbone, tile)

    def count(self, size: tuple[int, int], exit: Exit) -> None:
        """Count what the backbone costs at (H, W) and in its regions, ahead of a clock around `restore`."""
        for one in {size, *self.backbone.region_sizes(*size, Task(exit=exit))}:
            self.backbone.cost(*one)

    def _within(self, exit: Exit, tile: int | None, size: tuple[int, int], task: Task) -> Exit:
        """The same exit from regions of at most tile x tile pixels, one at a time."""
        if tile is None:
            return exit

        def longest(regions: int) -> int:
            """Side in pixels of the regions."""
            return max(self.backbone.region_sizes(*size, replace(task, exit=replace(exit, regions=regions)))[0])

        finest = math.prod(max(side // self.backbone.size_multiple, 1) for side in size)
        if longest(finest) > tile:
            raise ValueError(f"tile={tile} is too small for this network's regions and their overlaps")
        regions = max(exit.regions, math.prod(-(-side // tile) for side in size))
        while longest(regions) > tile:
            regions += 1
        return replace(exit, regions=regions, at_once=1)

    def _why_more(self, routing: Routing | None, task: Task) -> str:
        """Why more than the budget was spent."""
        adaptive = task.exit is not None and task.exit.threshold is not None
        if adaptive and routing is not None and bool(routing.decisions[:, 1:].any()):
            return "a threshold meets it in the mean of the images that it was calibrated on"
        least = routing is None or not (routing.decisions[:, 1:] if self.backbone.regional else routing.decisions).any()
        cut = "regions" if self.backbone.regional else "tiles"
        return "the least this network can at this size" if least else f"{cut} overlap: larger ones cost less"

    def _spent(
        self, routing: Routing | None, task: Task, batch: int, size: tuple[int, int], tile: int | None
    ) -> Tensor:
        """(B,) MACs of the backbone for images of size (H, W), tiles or regions and their overlaps included."""
        if self.backbone.regional:
            sizes = self.backbone.region_sizes(*size, task)
        else:
            sizes = [size] if tile is None else tile_sizes(*size, tile_plan(self.backbone, tile))
        return self.backbone.spent(routing, batch, sizes, task)


def _pixels(options: Mapping[str, Any]) -> Pixels:
    known = [field.name for field in fields(Pixels)]
    if strangers := [key for key in options if key not in known]:
        raise UserError(unknown(f"pixels.{strangers[0]}", strangers[0], known))
    mean, factor = options.get("mean", Pixels.mean), options.get("factor", Pixels.factor)
    if not isinstance(factor, int | float) or not factor > 0:
        raise UserError(f"pixels.factor must be a number above 0, got {factor}")
    means = mean if isinstance(mean, list | tuple) else [mean]
    if any(not isinstance(value, int | float) for value in means):
        raise UserError(f"pixels.mean must be a number, or one for each channel, got {mean}")
    return Pixels(tuple(mean) if isinstance(mean, list | tuple) else mean, factor)


def _ordered(image: Tensor) -> Tensor:
    """The same image; on a CPU in channels-last memory, as the convolutions after it then go on.

    1.0 to 1.2 x as fast there, in less memory (EDSR, RDN, RCAN, VDSR; transformers are like that anyway). Not measured
    on GPUs.
    """
    return image.contiguous(memory_format=torch.channels_last) if image.device.type == "cpu" else image


def _one_size(cell: Tensor) -> tuple[int, int]:
    """(H', W') of the grid whose pixels have this cell (B, Q, 2)."""
    sizes = (2 / cell).round().long().flatten(0, 1)
    if bool((sizes != sizes[0]).any()):
        raise ValueError("a same-size network trains at one scale at a time: set data.scales to [s, s]")
    return int(sizes[0, 0]), int(sizes[0, 1])


def _with_chroma(luma: Tensor, chroma: Tensor) -> Tensor:
    """(B, 3, H', W') RGB of a luma (B, 1, H', W') and the bicubic enlargement of a chroma (B, 2, h, w)."""
    size = (luma.shape[-2], luma.shape[-1])
    out = luma.new_empty(len(luma), 3, *size)
    for rows in spans(0, size[0], 64):
        out[:, :, rows] = rgb(torch.cat([luma[:, :, rows], bicubic_grid(chroma, size, rows)], dim=1))
    return out


def _in_short(error: BaseException) -> str:
    """One line of what torch says of a failed compilation, without its advice."""
    return " ".join(str(error).partition("Set TORCHDYNAMO")[0].split())[:200]


def output_size(image: tuple[int, int], scale: float | None, size: tuple[int, int] | None) -> tuple[int, int]:
    """(H', W') from exactly one of a scale and a size; refuses scales outside [1, 30], also by axis."""
    if (scale is None) == (size is None):
        raise ValueError(f"give either a scale or a size, got scale={scale} and size={size}")
    if scale is not None:
        if not 1 <= scale <= MAX_SCALE:  # also refuses NaN
            raise ValueError(f"scale must be between 1 and {MAX_SCALE:g}, got {scale}")
        return round(image[0] * scale), round(image[1] * scale)
    assert size is not None
    for have, want, side in zip(image, size, ("height", "width"), strict=True):
        if not have <= want <= have * MAX_SCALE:
            raise ValueError(
                f"output {side} must be between {have} (x1) and {int(have * MAX_SCALE)} (x{MAX_SCALE:g}), got {want}"
            )
    return size


def way_out(pointer: int | None, threshold: float | str | None, regions: int | None) -> Exit:
    """The exit that `restore` is asked for, with the number of regions that None stands for."""
    if regions is None:
        regions = 1 if threshold is None else ADAPTIVE_REGIONS
    return Exit(pointer, threshold, regions)


def check_budget(budget: float | None) -> None:
    """Refuse a budget outside (0, 1]."""
    if budget is not None and not 0 < budget <= 1:
        raise ValueError(f"budget must be in (0, 1], got {budget}: 0.6 means 60 % of the full compute")


def check_precision(precision: int | str) -> None:
    """Refuse what is none of PRECISIONS; 32 may be a number."""
    if str(precision) not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision}")
