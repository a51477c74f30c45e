"""What every training method shares: optimiser and schedule, whole-image evaluation, reproducible steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from dynres.contracts import EvalSample, Evaluation, PatchBatch, QueryBatch, Routing, Task
from dynres.metrics import psnr, psnr_b, ssim
from dynres.restorer import Restorer, output_size, way_out


class Inference(NamedTuple):
    """How whole images are restored while validating and testing; see `Restorer.restore`."""

    budget: float | None = None
    pointer: int | None = None
    threshold: float | str | None = None
    regions: int | None = None
    tile: int | str | None = None
    precision: int | str = "32"
    compile: bool = False


def elsewhere(inference: Inference) -> Inference:
    """The same for another network, which may have no such tiles, branches or budget."""
    return Inference(tile=None if inference.tile is None else "auto", precision=inference.precision)


class RestorationTraining(LightningModule):
    """Adam with step decay (the LIIF schedule), validation and test on whole images.

    `training_step` of a method returns {"loss", "routing", "scale"} and the evaluation steps return an `Evaluation`:
    this is what callbacks read.

    Attributes:
        batches: what it trains on: "queries" (`QueryBatch`), "patches" (`PatchBatch`) or "any" of the two.

    Args:
        restorer: the network, built.
        learning_rate: Adam's, before the first decay.
        milestones: fractions of the whole training at which the learning rate is multiplied by gamma.
        gamma: decay factor.
        seed: of the run; fixes whatever a step draws from torch's generator.
        inference: options of `Restorer.restore` for validation and test.
    """

    batches = "queries"

    def __init__(
        self,
        restorer: Restorer,
        learning_rate: float,
        milestones: Sequence[float],
        gamma: float,
        seed: int = 0,
        inference: Inference | None = None,
    ) -> None:
        super().__init__()
        if not learning_rate > 0:
            raise ValueError(f"method.learning_rate must be above 0, got {learning_rate}")
        if any(not 0 < m < 1 for m in milestones):
            raise ValueError(f"method.milestones are fractions of the training in (0, 1), got {list(milestones)}")
        self.restorer = restorer
        self.learning_rate, self.milestones, self.gamma = learning_rate, tuple(milestones), gamma
        self.seed, self.inference = seed, inference or Inference()
        self._ready = False

    def prepare(self) -> None:
        """Make and check what training alone needs; see `ready`."""

    def ready(self) -> None:
        """`prepare`, once: before a run writes anything, so that what is refused leaves no trace, or by Lightning."""
        if not self._ready:
            self._ready = True
            self.prepare()

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.ready()

    def about(self) -> str:
        """What is trained, for the first line of a run."""
        return f"{sum(each.numel() for each in self.restorer.parameters()):,} parameters"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameter_groups(), lr=self.initial_rate)
        steps = [max(1, round(fraction * self.scheduled_steps)) for fraction in self.milestones]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, self.gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def initial_rate(self) -> float:
        """The learning rate before the first decay."""
        return self.learning_rate

    @property
    def scheduled_steps(self) -> int:
        """How many steps the schedule of the learning rate is for: the whole training."""
        return int(self.trainer.estimated_stepping_batches)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Adam's parameter groups; a method overrides this to give a part its own learning rate."""
        return [{"params": list(self.restorer.parameters())}]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Whatever a layer draws is a function of (seed, step): a resumed run needs no generator state. The factor keeps
        # the steps of small seeds apart within 32 bits, all that torch's generator on a CPU reads.
        torch.manual_seed((self.seed * 0x9E3779B1 + self.global_step) % 2**32)

    def predicted(
        self, batch: PatchBatch | QueryBatch, restorer: Restorer | None = None
    ) -> tuple[Tensor, Tensor, Routing | None]:
        """Colours of a batch of either kind as the network, or another one, restores it; the true ones; the routing."""
        restorer = restorer or self.restorer
        task = Task(batch.scale, seed=batch.seed, noise=batch.noise)
        if isinstance(batch, QueryBatch):
            prediction, routing = restorer.query(batch.image, batch.coords, batch.cell, task)
            return prediction, restorer.seen(batch.target), routing
        prediction, routing = restorer(batch.image, task)
        return prediction, restorer.seen(batch.target, 1), routing

    def published(
        self, loss: Tensor, parts: dict[str, Tensor], routing: Routing | None, scale: Tensor
    ) -> dict[str, Any]:
        """Log the parts of the loss and hand callbacks what they read."""
        self.log_dict({"train/loss": loss.detach(), **parts}, batch_size=len(scale), sync_dist=True)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return {"loss": loss, "routing": detached(routing), "scale": scale}

    def companions(self) -> dict[str, Restorer]:
        """Networks to be tested beside this one, by name: what it came from. Most methods have none."""
        return {}

    def validation_step(self, sample: EvalSample, batch_idx: int) -> Any:
        evaluation = self.evaluate(sample)
        if evaluation.psnr is not None and evaluation.psnr_plain is not None:
            gain = evaluation.psnr - evaluation.psnr_plain
            self.log("val/psnr", evaluation.psnr, batch_size=1, on_epoch=True, sync_dist=True)
            self.log("val/gain", gain, batch_size=1, on_epoch=True, sync_dist=True)
        return evaluation

    def test_step(self, sample: EvalSample, batch_idx: int) -> Any:
        return self.evaluate(sample)

    def evaluate(
        self, sample: EvalSample, inference: Inference | None = None, restorer: Restorer | None = None
    ) -> Evaluation:
        """Restore one whole image, as asked or as configured, and measure it where its original is known.

        Args:
            restorer: another network to do it, by default as it decides itself; None for the one of this training.
        """
        size = (sample.plain.shape[-2], sample.plain.shape[-1])
        options = inference or (self.inference if restorer is None else elsewhere(self.inference))
        restorer = restorer or self.restorer
        low = (sample.image.shape[-2], sample.image.shape[-1])
        seen = size if restorer.upsampler.same_size else low
        vertical, horizontal = sample.scale
        by_scale = vertical == horizontal and output_size(low, vertical, None) == size
        restorer.count(seen, way_out(options.pointer, options.threshold, options.regions))
        started = _now(sample.image.device)
        restoration = restorer.restore(
            sample.image,
            scale=vertical if by_scale else None,
            size=None if by_scale else size,
            seed=sample.seed,
            noise=sample.noise,
            **options._asdict(),
        )
        milliseconds = 1000 * (_now(sample.image.device) - started)
        if sample.target is None:
            return Evaluation(sample, restoration, None, None, None, milliseconds)
        how = (sample.target, sample.protocol, sample.scale)
        return Evaluation(
            sample,
            restoration,
            psnr=psnr(restoration.image, *how),
            psnr_plain=psnr(sample.plain, *how),
            ssim=ssim(restoration.image, *how),
            milliseconds=milliseconds,
            psnr_b=psnr_b(restoration.image, sample.target) if sample.protocol == "car" else None,
        )


def detached(routing: Routing | None) -> Routing | None:
    """The same decisions without the graph behind them."""
    if routing is None:
        return None
    beta = None if routing.intensity is None else routing.intensity.detach()
    made = replace(routing, decisions=routing.decisions.detach(), probabilities=routing.probabilities.detach())
    return replace(made, intensity=beta)


def _now(device: torch.device) -> float:
    """Seconds, after the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
