"""Pictures to look at: LR | bicubic | ours | HR, the whole image and its most detailed crop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from dynres.callbacks.common import EvaluationWatcher, save_figure
from dynres.contracts import Evaluation
from dynres.report import Record, record


class Panels(EvaluationWatcher):
    """Writes panels/<dataset>_<label>_<image>.png for the first images of each test set and scale.

    Args:
        count: panels for each test set and scale.
        validation: panels drawn anew at each validation while training runs.
        crop: side of the enlarged crop, in HR pixels (less on a small image).
    """

    def __init__(self, count: int = 1, validation: int = 1, crop: int = 72) -> None:
        super().__init__()
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


def most_detailed(image: Tensor, side: int) -> tuple[int, int]:
    """Top left (row, column) of the side x side square with the largest sum of differences between neighbours.

    Args:
        image: (3, H, W), both sides at least `side`.
    """
    gray = image.float().mean(0)
    detail = F.pad(gray.diff(dim=0).abs(), (0, 0, 0, 1)) + F.pad(gray.diff(dim=1).abs(), (0, 1))
    sums = F.avg_pool2d(detail[None, None], side, stride=max(1, side // 8))[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return row * max(1, side // 8), column * max(1, side // 8)


def pixels(image: Tensor) -> Tensor:
    """(1, 3, H, W) on any device -> (H, W, 3) in [0, 1] on the CPU."""
    return image[0].detach().float().clamp(0, 1).permute(1, 2, 0).cpu()


def draw(evaluation: Evaluation, item: Record, crop: int) -> Figure:
    """Two rows of four: whole images with the crop marked, and the crop enlarged; PSNR in the titles."""
    sample = evaluation.sample
    height, width = sample.target.shape[-2:]
    nearest = F.interpolate(sample.image, size=(height, width), mode="nearest-exact")
    images = [pixels(image) for image in (nearest, sample.plain, evaluation.restoration.image, sample.target)]
    titles = [
        f"LR {item.size[1]}x{item.size[0]}",
        f"bicubic {item.psnr_plain:.2f} dB",
        f"ours {item.psnr:.2f} dB ({item.psnr - item.psnr_plain:+.2f})",
        f"HR {width}x{height}",
    ]
    side = min(crop, height, width)
    top, left = most_detailed(sample.target[0].cpu(), side)
    ratio = min(1.6, max(0.5, height / width))
    figure = Figure(figsize=(12, 3 * ratio + 3.5), layout="constrained")
    axes = figure.subplots(2, 4, height_ratios=[ratio, 1])
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        whole, detail = axes[0, column], axes[1, column]
        whole.imshow(image.numpy(), interpolation="antialiased")
        whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="#ffb000", linewidth=1.5))
        whole.set_title(title, fontsize=11, fontweight="bold" if column == 2 else "normal")
        detail.imshow(image[top : top + side, left : left + side].numpy(), interpolation="nearest")
        for axis in (whole, detail):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("#ffb000" if axis is detail else "0.8")
    figure.suptitle(_caption(item), fontsize=11)
    return figure


def _caption(item: Record) -> str:
    routed = ""
    if item.beta is not None and item.active is not None:
        routed = f", beta {item.beta:.2f}, {item.active:.0%} of branches"
    return f"{item.dataset} {item.image}, {item.label} (PSNR: {item.protocol}), {item.macs / 1e9:.2f} GMACs{routed}"
