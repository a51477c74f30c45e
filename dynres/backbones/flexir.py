"""FlexIR: SwinIR's residual groups, each with a branch network that may end there (FlexIR, Sec. 3.1 and 3.3, Fig. 2).

A block (B-RSTB) is a residual group and its branch. The paper does not draw the branch; SwinIR's own tail is the one
with which every parameter and MAC count of its Tables 3 and 4 comes out, and with which the full size is SwinIR.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.backbones.swinir import reach, swin_groups
from dynres.contracts import Cost, Exit, Features, RegionDepths, Routing, Task
from dynres.cost.counter import count_on_meta
from dynres.layers.branch import Branch
from dynres.layers.regions import Box, cut, join, region_boxes
from dynres.layers.sampling import bicubic_grid
from dynres.layers.sharpness import BETA, sharpness
from dynres.layers.transformer import Connection, check_depths, initialise
from dynres.layers.widths import check_widths
from dynres.layers.windows import pad_to_multiple, to_image, to_tokens

ThresholdBase = Literal["first", "previous", "input", "absolute"]
BASES = ("first", "previous", "input", "absolute")


class ExitAt(NamedTuple):
    """What block `number` (from 1) gives: features (B, C, h, w), padding left on, and colours (B, c, s H, s W)."""

    number: int
    features: Tensor
    colours: Tensor


class FlexIR(Backbone):
    """SwinIR that may stop after any block; ends in the image, so use it under AsImage.

    Regular inference runs the first P blocks and branch P. Adaptive inference (a threshold h) restores each region
    after every block, and a region whose score (Eq. 8) exceeds h leaves and costs nothing further (Alg. 2).

    Thresholds are printed as "1.05x" without saying of what. `threshold_base` is what multiplies h: "first", the score
    of the region after block 1, so that 1.00x sends every region through 2 blocks and 1.15x nearly all to the end, as
    the times of Table 5 grow; "previous", after the block before (after block 1, itself); "input", of the degraded
    region, against which restored ones score 1.1 to 1.7 times as much, so that nearly all would leave after block 1;
    "absolute", nothing: h is a score of 8-bit values itself. h = -inf is P = 1, h = inf the last block, whatever it is.

    Args:
        embed_dim, depths, heads, window, mlp_ratio, image_channels, resi_connection, drop_path, mlp_widths,
            head_widths: see SwinIR.
        scale: 1 to restore at the image's own size; 2 or 4 to enlarge with the tail for real images.
        skip: whether the image, or its bicubic enlargement, is added to what a branch gives; None: at scale 1 alone,
            as SwinIR. Branches that enlarge and add begin with zeros.
        tail_width: channels of the tail that enlarges.
        overlap: pixels that neighbouring regions share and are blended over; 0 is the paper's bare partition.
        threshold_base: see above.
        calibration: (fraction of the full MACs, threshold) pairs, ascending, for threshold="auto"; see
            python -m dynres.calibrate.
        pixel_factor: `factor` of the pixels that this network sees (dynres.layers.pixels), for "absolute" scores.

    Raises:
        ValueError: on a width or count below 1, heads that do not divide C, another scale, base or resi_connection, or
            a calibration that does not ascend.
    """

    regional = True

    def __init__(
        self,
        embed_dim: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        heads: int = 6,
        window: int = 8,
        mlp_ratio: float = 2.0,
        image_channels: int = 3,
        scale: int = 1,
        skip: bool | None = None,
        resi_connection: Connection = "1conv",
        drop_path: float = 0.1,
        tail_width: int = 64,
        overlap: int = 16,
        threshold_base: ThresholdBase = "first",
        calibration: Sequence[Sequence[float]] | None = None,
        pixel_factor: float = 1.0,
        mlp_widths: Sequence[int] | None = None,
        head_widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        hidden = round(embed_dim * mlp_ratio)
        check_depths("FlexIR", depths, hidden)
        check_widths("FlexIR", image_channels=image_channels, embed_dim=embed_dim, heads=heads, window=window)
        check_widths("FlexIR", tail_width=tail_width)
        _check_options(scale, overlap, threshold_base, calibration, pixel_factor)
        self.image_channels = self.out_channels = image_channels
        self.embed_dim, self.depths, self.window, self.scale = embed_dim, tuple(depths), window, scale
        self.skip = scale == 1 if skip is None else skip
        self.overlap, self.threshold_base, self.pixel_factor = overlap, threshold_base, pixel_factor
        self.calibration = [(float(point[0]), float(point[1])) for point in calibration or ()]
        self.units = tuple(f"block {number + 1}" for number in range(len(depths)))
        self.size_multiple, self.halo = window, 4 * window
        self.unbounded = reach(depths, window, resi_connection, 1 if scale == 1 else 3) > self.halo
        self.conv_first = nn.Conv2d(image_channels, embed_dim, 3, padding=1)
        self.patch_norm = nn.LayerNorm(embed_dim)
        sizes = (embed_dim, depths, heads, window, hidden, resi_connection, drop_path)
        self.layers = nn.ModuleList(swin_groups(*sizes, mlp_widths, head_widths))
        branches = [Branch(embed_dim, image_channels, scale, resi_connection, tail_width) for _ in depths]
        if self.skip and scale > 1:
            for parameter in (each for branch in branches for each in branch.last.parameters()):
                nn.init.zeros_(parameter)
        self.branches = nn.ModuleList(branches)
        initialise(self)
        self._tails: dict[tuple[int, int], int] = {}

    @property
    def first(self) -> int:
        """The first block that has a branch: 1, but in a truncated network, whose last block alone has one."""
        return len(self.layers) - len(self.branches) + 1

    def exits(self, image: Tensor, upto: int | None = None, detach: bool = False) -> Iterator[ExitAt]:
        """Every block's result in turn, for training; the next block runs when the next result is asked for.

        Args:
            image: (B, c, H, W), of any size.
            upto: the last block; None for all.
            detach: cut the graph between blocks, so that a loss on a result reaches its own block and branch alone,
                and, of block 1, the first convolution and normalisation (Alg. 1, line 16).
        """
        last, start = self._checked(upto), self._start(image)
        shallow, x = self._begin(image)
        for number, block in enumerate(self.layers[:last], 1):
            x = block(x)
            if number >= self.first:
                yield ExitAt(number, to_image(x), self._colours(number, x, shallow, start, image))
            if detach:
                x, shallow = x.detach(), shallow.detach()

    def body(self, image: Tensor, upto: int | None = None) -> Tensor:
        """What comes out of the last block, or of block `upto`, without a branch: (B, C, h, w), padding left on."""
        _, x = self._begin(image)
        for block in self.layers[:upto]:
            x = block(x)
        return to_image(x)

    def truncated(self, pointer: int) -> FlexIR:
        """The first P blocks and branch P alone, whose full size is this network at P; they share their weights."""
        pointer = self._checked(pointer)
        network = copy.copy(self)
        network._modules = dict(self._modules)
        network.layers, network.branches = self.layers[:pointer], nn.ModuleList([self._branch(pointer)])
        network.depths, network.units = self.depths[:pointer], self.units[:pointer]
        network._costs, network._memory, network._tails, network.calibration = {}, {}, {}, []
        return network

    def forward(self, image: Tensor, task: Task) -> Features:
        """Restore (B, c, H, W) as task.exit and task.budget ask; without them, all blocks on the whole image.

        Raises:
            ValueError: a pointer, threshold, number of regions or budget that cannot be, which it gives.
        """
        boxes, pointer, threshold = self._asked(task, image.shape[-2], image.shape[-1])
        parts = cut(image, boxes)
        turns = parts.split((task.exit and task.exit.at_once) or len(parts))
        done = [
            self._regular(part, pointer) if threshold is None else self._adaptive(part, pointer, threshold)
            for part in turns
        ]
        colours, depths = (torch.cat(results) if len(turns) > 1 else results[0] for results in zip(*done, strict=True))
        routing = self._routing(depths.view(len(image), len(boxes)), boxes, image)
        return Features(join(colours, boxes, self.scale), image, routing, self.scale)

    @torch.compiler.disable
    def _routing(self, depths: Tensor, boxes: tuple[Box, ...], image: Tensor) -> Routing:
        ran = depths[..., None] >= torch.arange(1, len(self.layers) + 1, device=depths.device)
        share = ran.sum(dim=1).to(image.dtype) / len(boxes)
        return Routing(share, share, None, self.units, RegionDepths(boxes, depths))

    def _regular(self, image: Tensor, pointer: int) -> tuple[Tensor, Tensor]:
        """Colours of regions (R, c, h, w) after block P, and the depths (R,), all P."""
        shallow, x = self._begin(image)
        for block in self.layers[:pointer]:
            x = block(x)
        colours = self._colours(pointer, x, shallow, self._start(image), image)
        return colours, torch.full((len(image),), pointer, device=image.device)

    def _adaptive(self, image: Tensor, pointer: int, threshold: float) -> tuple[Tensor, Tensor]:
        """Colours of regions (R, c, h, w), each after the first block whose result passes, and how many that took."""
        start, waiting = self._start(image), torch.arange(len(image), device=image.device)
        shallow, x = self._begin(image)
        base = torch.empty(0)
        left: list[tuple[Tensor, Tensor, Tensor]] = []  # regions, their colours and depths
        for number, block in enumerate(self.layers[:pointer], 1):
            x = block(x)
            if number < self.first:
                continue
            colours = self._colours(number, x, shallow, start, image)
            leaves = torch.ones_like(waiting, dtype=torch.bool)
            if number < pointer:
                score = self.score(colours)
                base = self._base(image, score) if number == self.first else base
                leaves = _exceeds(score, threshold, base)
                base = score if self.threshold_base == "previous" else base
            left.append((waiting[leaves], colours[leaves], torch.full_like(waiting[leaves], number)))
            if bool(leaves.all()):
                break
            if bool(leaves.any()):
                stays = ~leaves
                waiting, x, shallow, image, base = (t[stays] for t in (waiting, x, shallow, image, base))
                start = None if start is None else start[stays]
        regions, colours, depths = (torch.cat(parts) for parts in zip(*left, strict=True))
        order = regions.argsort()
        return colours[order], depths[order]

    def score(self, colours: Tensor) -> Tensor:
        """Omega of each of (B, c, h, w) as this network sees them, on the scale of 8-bit values (Eq. 8): (B,)."""
        return sharpness(colours.detach()) * (255 / self.pixel_factor) ** BETA

    def thresholds(self, regions: Tensor) -> Tensor:
        """For each of the regions (R, c, h, w) and blocks but the last, the h below which it leaves: (R, N - 1)."""
        found: list[Tensor] = []
        base = torch.empty(0)
        for at in self.exits(regions, upto=len(self.layers) - 1):
            score = self.score(at.colours)
            base = self._base(regions, score) if at.number == self.first else base
            found.append(torch.where(base > 0, score / base, torch.where(score > 0, math.inf, -math.inf)))
            base = score if self.threshold_base == "previous" else base
        return torch.stack(found, dim=1)

    def _base(self, image: Tensor, first: Tensor) -> Tensor:
        """(R,) what h is multiplied with after the first block, where the score is `first`."""
        if self.threshold_base == "input":
            return self.score(image)
        return torch.ones_like(first) if self.threshold_base == "absolute" else first

    def _begin(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shallow features (B, C, h, w) of the padded image, and the tokens (B, h, w, C) that enter block 1."""
        shallow = self.conv_first(pad_to_multiple(image, self.window))
        return shallow, self.patch_norm(to_tokens(shallow))

    def _start(self, image: Tensor) -> Tensor | None:
        """What branches add their colours to: (B, c, s H, s W), or None."""
        if not self.skip or self.scale == 1:
            return image if self.skip else None
        return bicubic_grid(image, (self.scale * image.shape[-2], self.scale * image.shape[-1]))

    def _colours(self, number: int, x: Tensor, shallow: Tensor, start: Tensor | None, image: Tensor) -> Tensor:
        """(B, c, s H, s W) that block `number` restores from its tokens."""
        colours = self._branch(number)(to_image(x), shallow)
        colours = colours[..., : self.scale * image.shape[-2], : self.scale * image.shape[-1]]
        return colours if start is None else start + colours

    def _branch(self, number: int) -> nn.Module:
        return self.branches[number - self.first]

    def _checked(self, pointer: int | None) -> int:
        """P, or the last block for None."""
        if pointer is None:
            return len(self.layers)
        if type(pointer) is not int or not self.first <= pointer <= len(self.layers):
            raise ValueError(f"pointer must be from {self.first} to {len(self.layers)} for this network, got {pointer}")
        return pointer

    @torch.compiler.disable  # plain Python decides; what runs on regions is compiled
    def _asked(self, task: Task, height: int, width: int) -> tuple[tuple[Box, ...], int, float | None]:
        """Regions, P, and h or None for regular inference."""
        exit = task.exit or Exit()
        boxes, threshold = self.boxes(height, width, exit), exit.threshold
        if len(boxes) < exit.regions:
            warnings.warn(
                f"an image of {height}x{width} pixels is cut into {len(boxes)} regions instead of {exit.regions}: more "
                f"have no room for a window of {self.window} pixels each and overlaps of {self.overlap}",
                stacklevel=2,
            )
        if threshold == "auto":
            return boxes, self._checked(exit.pointer), self._calibrated(task.budget)
        if isinstance(threshold, str) or (threshold is not None and math.isnan(threshold)):
            raise ValueError(f"threshold must be a number or auto, got {threshold}")
        if task.budget is None:
            return boxes, self._checked(exit.pointer), threshold
        if exit.pointer is not None:
            raise ValueError(
                f"give a budget or a pointer, not both: got budget={task.budget} and pointer={exit.pointer}; with "
                f"threshold=auto the budget sets the threshold"
            )
        allowed = task.budget * self.cost(height, width).full / len(boxes)
        macs = self.macs_by_depth((boxes[0].bottom, boxes[0].right), adaptive=threshold is not None)
        fits = [depth for depth in range(self.first, len(macs)) if macs[depth] <= allowed]
        return boxes, max(fits, default=self.first), threshold

    def _calibrated(self, budget: float | None) -> float:
        """The largest threshold whose share of the full MACs is within the budget; -inf below the least known."""
        if budget is None:
            raise ValueError("threshold=auto takes the threshold for a budget: give one, such as budget=0.6")
        if not self.calibration:
            raise ValueError("threshold=auto needs a calibrated network: run python -m dynres.calibrate on it first")
        if budget < self.calibration[0][0]:
            return -math.inf
        for (_, low), (next_share, _) in pairwise(self.calibration):
            if budget < next_share:
                return low
        return self.calibration[-1][1]

    def check_exit(self, exit: Exit, budget: float | None) -> None:
        side = (self.window + self.overlap) * max(exit.regions, 1)  # with room for them
        self._asked(Task(budget=budget, exit=exit), side, side)

    def boxes(self, height: int, width: int, exit: Exit) -> tuple[Box, ...]:
        """The regions into which an image is cut; fewer than asked where it has no room for them."""
        if exit.at_once is not None and exit.at_once < 1:
            raise ValueError(f"at_once must be at least 1 region, got {exit.at_once}")
        return region_boxes(height, width, exit.regions, self.overlap, self.window)

    def region_sizes(self, height: int, width: int, task: Task) -> list[tuple[int, int]]:
        boxes = self.boxes(height, width, task.exit or Exit())
        return [(box.bottom - box.top, box.right - box.left) for box in boxes]

    def cost(self, height: int, width: int) -> Cost:
        """MACs of the first convolution, normalisation and one branch, and of each block (fvcore convention).

        Counted on the meta device; all blocks and one branch are SwinIR. Scores and what is added are not counted.
        """
        if (height, width) not in self._costs:
            h, w = (-(-side // self.window) * self.window for side in (height, width))
            image = torch.empty(1, self.image_channels, h, w, device="meta")
            features = torch.empty(1, self.embed_dim, h, w, device="meta")
            tokens = to_tokens(features)
            head = count_on_meta(self.conv_first, image) + count_on_meta(self.patch_norm, tokens)
            tail = self._tails[height, width] = count_on_meta(self.branches[-1], features, features)
            self._costs[height, width] = Cost(head + tail, tuple(count_on_meta(block, tokens) for block in self.layers))
        return self._costs[height, width]

    def spent(self, routing: Routing | None, batch: int, sizes: Sequence[tuple[int, int]], task: Task) -> Tensor:
        """As `Backbone.spent`, from the depth of each region; adaptive inference pays a branch after every block."""
        if routing is None or routing.regions is None:
            return torch.tensor(float(sum(self.cost(*size).full for size in sizes)), dtype=torch.float64).repeat(batch)
        adaptive = task.exit is not None and task.exit.threshold is not None
        macs = torch.tensor(self.macs_by_depth(sizes[0], adaptive), dtype=torch.float64)
        return macs[routing.regions.depths.cpu()].sum(dim=1)

    def macs_by_depth(self, size: tuple[int, int], adaptive: bool) -> list[int]:
        """MACs of a region of this (height, width) that went through 0, 1, ..., N blocks."""
        cost = self.cost(*size)
        regular = list(accumulate(cost.units, initial=cost.fixed))
        if not adaptive:
            return regular
        return [macs + max(depth - self.first, 0) * self._tails[size] for depth, macs in enumerate(regular)]


def _exceeds(score: Tensor, threshold: float, base: Tensor) -> Tensor:
    """score > h * base, (R,) bool; an infinite h decides alone, also where the base is 0."""
    if math.isinf(threshold):
        return torch.full_like(score, threshold < 0, dtype=torch.bool)
    return score > threshold * base


def _check_options(
    scale: int, overlap: int, base: str, calibration: Sequence[Sequence[float]] | None, pixel_factor: float
) -> None:
    if scale not in (1, 2, 4):
        raise ValueError(f"FlexIR needs a scale of 1, 2 or 4, got {scale}")
    if overlap < 0:
        raise ValueError(f"FlexIR needs an overlap of at least 0 pixels, got {overlap}")
    if base not in BASES:
        raise ValueError(f"threshold_base must be one of {', '.join(BASES)}, got {base!r}")
    if not pixel_factor > 0:
        raise ValueError(f"pixel_factor must be above 0, got {pixel_factor}")
    points = list(calibration or ())
    ascending = all(len(point) == 2 for point in points) and all(
        low[0] < high[0] and low[1] <= high[1] for low, high in pairwise(points)
    )
    if not ascending:
        raise ValueError(f"calibration must be ascending pairs of MACs (a fraction) and threshold, got {points}")
