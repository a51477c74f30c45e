"""A tiny restorer and training method that behave like the real ones, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from dynres.callbacks.checkpoints import Checkpoints
from dynres.callbacks.loggers import CsvLog, MetricsFile
from dynres.checkpoint_io import SafeCheckpointIO
from dynres.contracts import Cost, EvalSample, Evaluation, Restoration, Routing, Task

UNITS = tuple(f"group {group} {branch}" for group in (1, 2) for branch in ("4x4", "8x8", "global"))
SCALES = (2.0, 3.0, 4.0)


class TinyBackbone(nn.Module):
    """Unit u runs where u < 6 beta; beta = softplus(intercept) * scale / 4; unit u costs 100 (u + 1) MACs a pixel."""

    image_channels = 3

    def __init__(self, routed: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.intercept = nn.Parameter(torch.tensor(0.3))
        self.routed = routed

    def route(self, image: Tensor, task: Task) -> Routing | None:
        if not self.routed:
            return None
        assert task.scale is not None
        beta = F.softplus(self.intercept) * task.scale / 4
        probabilities = beta[:, None].clamp(max=1).expand(-1, len(UNITS))
        decisions = (torch.arange(len(UNITS))[None] < len(UNITS) * beta[:, None]).float()
        return Routing(decisions, probabilities, beta, UNITS)

    def cost(self, height: int, width: int) -> Cost:
        units = tuple(100 * (unit + 1) * height * width for unit in range(len(UNITS))) if self.routed else ()
        return Cost(1000 * height * width, units)


class TinyRestorer(nn.Module):
    def __init__(self, routed: bool) -> None:
        super().__init__()
        self.backbone = TinyBackbone(routed)


class Stream(IterableDataset[Tensor]):
    """Endless; number n is a function of n alone, from `first()` on."""

    def __init__(self, first: Callable[[], int]) -> None:
        self.first = first

    def __iter__(self) -> Iterator[Tensor]:
        number = self.first()
        while True:
            yield torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(number))
            number += 1


def photograph(height: int, width: int) -> Tensor:
    """(1, 3, height, width) with smooth and detailed parts."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = 0.5 + 0.4 * torch.sin(60 * rows * columns) * (rows > 0.5) * (columns > 0.4)
    return torch.stack([waves, rows, columns])[None].clamp(0, 1)


def samples(dataset: str = "Toy") -> list[EvalSample]:
    """Two photographs at three scales."""
    found = []
    for scale in SCALES:
        for index, (height, width) in enumerate([(96, 144), (120, 96)]):
            target = photograph(height, width)
            image = F.interpolate(target, scale_factor=1 / scale, mode="area")
            bicubic = F.interpolate(image, size=(height, width), mode="bicubic").clamp(0, 1)
            seed = torch.tensor([index])
            label = f"x{scale:g}"
            found.append(
                EvalSample(image, target, bicubic, (scale, scale), label, dataset, f"photo {index}", "div2k", seed)
            )
    return found


class TinyTraining(LightningModule):
    """Learns to reproduce its input; logs and returns what the real methods do.

    Args:
        routed: a dynamic network, or a static one.
        fail_at: training step that raises, None for never.
    """

    def __init__(self, routed: bool = True, fail_at: int | None = None, error: BaseException | None = None) -> None:
        super().__init__()
        self.restorer = TinyRestorer(routed)
        self.fail_at, self.error = fail_at, error or RuntimeError("the step failed")
        self.seen: list[int] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def training_step(self, batch: Tensor, index: int) -> dict[str, Any]:
        if self.global_step == self.fail_at:
            self.fail_at = None
            raise self.error
        self.seen.append(self.global_step)
        scale = torch.full((len(batch),), 2.0)
        routing = self.restorer.backbone.route(batch, Task(scale=scale))
        loss = F.l1_loss(self.restorer.backbone.conv(batch), batch)
        if routing is not None:
            loss = loss + 0.01 * routing.intensity.mean()
            routing = Routing(routing.decisions, routing.probabilities.detach(), routing.intensity.detach(), UNITS)
        self.log_dict({"train/loss": loss.detach(), "train/l1": loss.detach()}, batch_size=len(batch))
        return {"loss": loss, "routing": routing, "scale": scale}

    def validation_step(self, sample: EvalSample, index: int) -> Evaluation:
        evaluation = self.evaluate(sample)
        self.log("val/psnr", evaluation.psnr, batch_size=1, on_epoch=True)
        return evaluation

    def test_step(self, sample: EvalSample, index: int) -> Evaluation:
        return self.evaluate(sample)

    def evaluate(self, sample: EvalSample) -> Evaluation:
        scale = sample.scale[0]
        backbone = self.restorer.backbone
        routing = backbone.route(sample.image, Task(scale=torch.tensor([scale])))
        cost = backbone.cost(*sample.image.shape[-2:])
        ran = cost.fixed if routing is None else cost.fixed + (routing.decisions[0] * torch.tensor(cost.units)).sum()
        image = 0.8 * sample.target + 0.2 * sample.plain
        restoration = Restoration(image, routing, torch.tensor([float(ran)], dtype=torch.float64), full_macs=cost.full)
        # A number that depends on the weights, so that tests see which weights were evaluated.
        psnr = 40 - 4 * scale + float(backbone.conv.weight.abs().mean())
        return Evaluation(sample, restoration, psnr, 35 - 4 * scale, 0.9, 12.5)


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A Trainer as dynres.run builds it: endless steps, batch-based validation, everything under one folder."""

    def make(*callbacks: Callback, folder: Path = tmp_path, every: int = 4, **options: Any) -> Trainer:
        defaults: dict[str, Any] = {
            "max_steps": 12, "max_epochs": -1, "val_check_interval": 6, "check_val_every_n_epoch": None,
            "log_every_n_steps": 1, "num_sanity_val_steps": 0, "accelerator": "cpu", "enable_model_summary": False,
            "use_distributed_sampler": False, "enable_progress_bar": False, "logger": [CsvLog(folder)],
        }  # fmt: skip
        watchers = [MetricsFile(), *callbacks, Checkpoints(every=every)]
        return Trainer(
            **(defaults | options), callbacks=watchers, default_root_dir=folder, plugins=[SafeCheckpointIO()]
        )

    return make


@pytest.fixture
def fit() -> Callable[..., TinyTraining]:
    """Train a TinyTraining; a resumed one goes on in the stream where it stopped."""

    def run(trainer: Trainer, module: TinyTraining | None = None, ckpt: Path | None = None) -> TinyTraining:
        torch.manual_seed(0)
        module = module or TinyTraining()
        stream = DataLoader(Stream(lambda: 2 * trainer.global_step), batch_size=2)
        trainer.fit(module, stream, loader(), ckpt_path=ckpt)
        return module

    return run


def loader() -> DataLoader[EvalSample]:
    """The samples, one a batch."""
    return DataLoader(samples(), batch_size=None)  # type: ignore[arg-type]


@pytest.fixture
def tiny() -> type[TinyTraining]:
    """The training method, to build with options."""
    return TinyTraining


@pytest.fixture
def check() -> Callable[..., TinyTraining]:
    """Test (or validate) a module on the six samples, as dynres.run does after training, with a trainer of its own."""

    def run(
        *callbacks: Callback, folder: Path, module: TinyTraining | None = None, mode: str = "test", **options: Any
    ) -> Any:
        module = module or TinyTraining()
        trainer = Trainer(
            accelerator="cpu", logger=options.pop("logger", False), enable_checkpointing=False,
            enable_progress_bar=options.pop("enable_progress_bar", False), enable_model_summary=False,
            default_root_dir=folder, callbacks=list(callbacks), plugins=[SafeCheckpointIO()],
        )  # fmt: skip
        getattr(trainer, mode)(module, loader(), verbose=False, **options)
        return module

    return run
