"""Pictures to look at: the whole image and its most detailed crop.

LR | bicubic | ours | HR where a network enlarges, noisy | ours | clean at an image's own size; without the last where
there is no ground truth. One column more shows how deep a network went in each region (FlexIR).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from dynres.callbacks.common import EvaluationWatcher, save_figure
from dynres.callbacks.depths import draw_counts, draw_map
from dynres.contracts import Evaluation, RegionDepths
from dynres.report import Record, gain, record

MARK = "#ffb000"


class Panels(EvaluationWatcher):
    """Writes panels/<dataset>_<label>_<image>.png for the first images of each test set and label.

    Args:
        count: panels for each test set and label.
        validation: panels drawn anew at each validation while training runs.
        crop: side of the enlarged crop, in output pixels (less on a small image).
    """

    def __init__(self, count: int = 1, validation: int = 1, crop: int = 72) -> None:
        super().__init__()
        check_pictures(min(count, validation), crop)
        self.count, self.validation, self.crop = count, validation, crop

    def watch(self, trainer: Trainer, evaluation: Evaluation, item: Record) -> None:
        seen = sum((other.dataset, other.label) == (item.dataset, item.label) for other in self.records)
        if seen <= self.count:
            self._save(trainer, evaluation, item, f"panels/{item.dataset}_{item.label}_{seen}")

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        """Each panel was written as its image came."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        inside_fit = trainer.state.fn == "fit" and not trainer.sanity_checking
        if inside_fit and batch_idx < self.validation and isinstance(outputs, Evaluation):
            self._save(trainer, outputs, record(outputs), f"panels/validation_{batch_idx + 1}")

    def _save(self, trainer: Trainer, evaluation: Evaluation, item: Record, key: str) -> None:
        if trainer.is_global_zero:
            name = re.sub(r"[^\w.-]+", "-", f"{item.dataset}_{item.label}_{item.image}")
            save_figure(trainer, draw(evaluation, item, self.crop), f"panels/{name}.png", key)


def check_pictures(count: int, crop: int) -> None:
    """Refuse fewer pictures than none, or a crop of no pixel, with a ValueError."""
    if count < 0 or crop < 1:
        raise ValueError(f"the number of pictures must be at least 0 and crop at least 1 pixel, got {count} and {crop}")


def most_detailed(image: Tensor, side: int) -> tuple[int, int]:
    """Top left (row, column) of the side x side square with the largest sum of differences between neighbours.

    Args:
        image: (c, H, W), both sides at least `side`.
    """
    gray = image.float().mean(0)
    detail = F.pad(gray.diff(dim=0).abs(), (0, 0, 0, 1)) + F.pad(gray.diff(dim=1).abs(), (0, 1))
    sums = F.avg_pool2d(detail[None, None], side, stride=max(1, side // 8))[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return row * max(1, side // 8), column * max(1, side // 8)


def pixels(image: Tensor) -> Tensor:
    """(1, c, H, W) on any device -> (H, W, 3) in [0, 1] on the CPU, gray images in three equal channels."""
    return image[0].detach().float().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).cpu()


def columns(evaluation: Evaluation, item: Record) -> list[tuple[str, Tensor]]:
    """Title and image (H', W', 3) of each column, PSNR in the titles where it is known."""
    sample, restored = evaluation.sample, evaluation.restoration.image
    size, (low_height, low_width) = restored.shape[-2:], item.size
    same_size, blind = size == sample.image.shape[-2:], sample.target is None
    plain = "input" if same_size and blind else item.plain
    found = [(plain + _db(item.psnr_plain), pixels(sample.plain))]
    if not same_size:
        nearest = F.interpolate(sample.image, size=size, mode="nearest-exact")
        found.insert(0, (f"LR {low_width}x{low_height}", pixels(nearest)))
    more = gain(item.psnr, item.psnr_plain)
    found.append((f"ours{_db(item.psnr)}" + ("" if more is None else f" ({more:+.2f})"), pixels(restored)))
    if sample.target is not None:
        found.append((f"{'clean' if same_size else 'HR'} {size[1]}x{size[0]}", pixels(sample.target)))
    return found


def _db(psnr: float | None) -> str:
    return "" if psnr is None else f" {psnr:.2f} dB"


def draw(evaluation: Evaluation, item: Record, crop: int, other: tuple[str, Evaluation] | None = None) -> Figure:
    """Two rows: whole images with the crop marked, and the crop enlarged; the depths of more than one region last.

    Args:
        other: name and result of another network, drawn after ours.
    """
    sample, restoration = evaluation.sample, evaluation.restoration
    height, width = restoration.image.shape[-2:]
    shown = columns(evaluation, item)
    if other is not None:
        after = 1 + next(number for number, (title, _) in enumerate(shown) if title.startswith("ours"))
        shown.insert(after, (other[0] + _db(other[1].psnr), pixels(other[1].restoration.image)))
    regions = None if restoration.routing is None else restoration.routing.regions
    mapped = regions is not None and len(regions.boxes) > 1
    side = min(crop, height, width)
    # The same crop whatever the network, also where there is no target.
    top, left = most_detailed((sample.plain if sample.target is None else sample.target)[0].cpu(), side)
    ratio = min(1.6, max(0.5, height / width))
    figure = Figure(figsize=(3 * (len(shown) + mapped), 3 * ratio + 3.5), layout="constrained")
    axes = figure.subplots(2, len(shown) + mapped, height_ratios=[ratio, 1])
    for (title, image), whole, detail in zip(shown, *axes[:, : len(shown)], strict=True):
        whole.imshow(image.numpy(), interpolation="antialiased")
        whole.set_title(title, fontsize=11, fontweight="bold" if title.startswith("ours") else "normal")
        _frame(whole, "0.8")
        whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=MARK, linewidth=1.5))
        detail.imshow(image[top : top + side, left : left + side].numpy(), interpolation="nearest")
        _frame(detail, MARK)
    if regions is not None and mapped:
        factor = (height / item.size[0], width / item.size[1])
        draw_map(axes[0, -1], pixels(restoration.image), regions, len(item.units), factor)
        axes[0, -1].set_title("depth of each region", fontsize=11)
        _frame(axes[0, -1], "0.8")
        draw_counts(axes[1, -1], regions, len(item.units))
    figure.suptitle(textwrap.fill(_caption(item, regions), 30 * axes.shape[1]), fontsize=11)
    return figure


def _frame(axes: Axes, colour: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(colour)


def _caption(item: Record, regions: RegionDepths | None) -> str:
    routed = ""
    if regions is not None:
        routed = f", mean depth {regions.depths[0].double().mean():.1f} blocks"
    elif item.beta is not None and item.active is not None:
        routed = f", beta {item.beta:.2f}, {item.active:.0%} of branches"
    measured = "" if item.psnr is None else f" (PSNR: {item.protocol})"
    return f"{item.dataset} {item.image}, {item.label}{measured}, {item.macs / 1e9:.2f} GMACs{routed}"
