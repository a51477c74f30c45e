"""The intensity beta over the scales 1..30, beside the threshold of the penalty (TADT, Eq. 6 and Figure 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer

from dynres.callbacks.common import save_figure, save_table
from dynres.callbacks.wandb_log import Lines
from dynres.contracts import Task

SCALES = tuple(1 + 0.5 * step for step in range(59))  # 1, 1.5 ... 30
LOGGED = (2.0, 4.0, 8.0, 30.0)


class BetaCurve(Callback):
    """Writes beta_curve.csv and beta_curve.png after training and after a test; logs beta/x2 ... at each validation.

    In TADT beta depends on the scale alone, so any image will do to ask for it. A network without beta has no curve.
    """

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for scale, beta in zip(LOGGED, beta_curve(pl_module, LOGGED) or (), strict=False):
            pl_module.log(f"beta/x{scale:g}", beta, rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero or (betas := beta_curve(module, SCALES)) is None:
            return
        limits = [threshold(scale) for scale in SCALES]
        chart = Lines("beta over the scale", "scale", {"beta": (SCALES, betas), "threshold": (SCALES, limits)})
        rows = zip(SCALES, betas, limits, strict=True)
        save_table(trainer, "beta_curve", ["scale", "beta", "threshold"], rows, {"beta": chart})
        save_figure(trainer, draw(SCALES, betas), "beta_curve.png", "beta_curve")


def threshold(scale: float) -> float:
    """0.25 + 0.25 s^0.5: a beta from here on is penalised (Eq. 6)."""
    return 0.25 + 0.25 * scale**0.5


@torch.no_grad()
def beta_curve(module: Any, scales: Sequence[float]) -> list[float] | None:
    """beta at each scale, or None for a network without."""
    backbone = module.restorer.backbone
    image = torch.zeros(len(scales), backbone.image_channels, 48, 48, device=module.device)
    seed = torch.zeros(len(scales), dtype=torch.int64, device=module.device)  # decisions are drawn, and not looked at
    task = Task(scale=torch.tensor(scales, device=module.device, dtype=torch.float32), seed=seed)
    routing = backbone.route(image, task)
    return None if routing is None or routing.intensity is None else routing.intensity.float().tolist()


def draw(scales: Sequence[float], betas: Sequence[float]) -> Figure:
    """beta over the scale, the penalised region shaded."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    limits = [threshold(scale) for scale in scales]
    top = 1.08 * max(*betas, *limits)
    axes.fill_between(scales, limits, top, color="tab:red", alpha=0.06, linewidth=0, label="penalised")
    axes.plot(scales, limits, "--", color="0.4", linewidth=1.2, label=r"threshold $0.25 + 0.25\,\sqrt{s}$")
    axes.plot(scales, betas, color="tab:blue", linewidth=2.2, label=r"$\beta$")
    axes.set_xlim(scales[0], scales[-1])
    axes.set_ylim(0, top)
    axes.set_xticks([1, 2, 4, 6, 8, 12, 18, 24, 30])
    axes.set_xlabel("scale $s$")
    axes.set_ylabel(r"intensity $\beta$")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="best", fontsize=9)
    return figure
