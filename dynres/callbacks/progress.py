"""How far a run is: a live bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from dynres.contracts import Evaluation


class Meter:
    """Time left, from what this process has done so far (validations included, since those will come again).

    Args:
        total: steps in all.
        start: steps already done by earlier processes.
        clock: seconds, monotonic.
    """

    def __init__(self, total: float, start: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.start, self.clock = total, start, clock
        self.began = clock()

    def left(self, done: int) -> float:
        """Seconds until `total`; inf before the first step, or where the total is not known."""
        if done <= self.start or not math.isfinite(self.total):
            return math.inf
        return (self.clock() - self.began) / (done - self.start) * (self.total - done)


class Sparse:
    """Decides when a log file deserves a line: after 5 % of the work or a minute, but never within 5 seconds.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.at, self.share = clock, clock(), 0.0

    def __call__(self, share: float) -> bool:
        """Whether to write, `share` in [0, 1] of the work being done; always at 1."""
        waited = self.clock() - self.at
        write = share >= 1 or (waited >= 5 and (share - self.share >= 0.05 or waited >= 60))
        if write:
            self.at, self.share = self.clock(), share
        return write


def duration(seconds: float) -> str:
    """75 -> "1:15", 4000 -> "1:06:40", not finite -> "-:--"."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class RunProgress(ProgressBar):
    """Training steps with loss, validation PSNR and time left; images of validation and test.

    Args:
        live: draw a bar; by default where stderr is a terminal. Otherwise plain lines go there (see `Sparse`).
    """

    def __init__(self, live: bool | None = None) -> None:
        super().__init__()
        self.live = sys.stderr.isatty() if live is None else live
        self._enabled = True
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._sparse: dict[str, Sparse] = {}
        self._meter = Meter(math.inf)
        self._images = self._total_images = 0
        self._images_meter = Meter(math.inf)

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.console.print(*args)
        else:
            print(*args, **kwargs)

    # training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else math.inf
        self._meter = Meter(total, trainer.global_step)
        self._begin("train", total, trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, total = trainer.global_step, self._meter.total
        if not self._enabled or not self._wants("train", step / total):
            return
        parts = [f"step {step}" + (f"/{total:.0f}" if math.isfinite(total) else "")]
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            parts.append(f"loss {float(loss):.4f}")
        if (psnr := trainer.callback_metrics.get("val/psnr")) is not None:
            parts.append(f"val {float(psnr):.2f} dB")
        self._show("train", step, total, "  ".join(parts), self._meter.left(step))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    # validation and test: one image a batch

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._start_images("validate", counts)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._image("validate", outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end("validate")
        if trainer.state.fn == "validate":
            self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_images("test", trainer.num_test_batches)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._image("test", outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def _start_images(self, name: str, counts: Any) -> None:
        total = sum(counts) if isinstance(counts, list) else counts
        self._images, self._total_images = 0, int(total) if math.isfinite(total) else 0
        self._images_meter = Meter(total)
        self._begin(name, total, 0)

    def _image(self, name: str, outputs: Any) -> None:
        self._images += 1
        share = self._images / max(1, self._total_images)
        if not self._enabled or not self._wants(name, share):
            return
        text = f"image {self._images}/{self._total_images}"
        if isinstance(outputs, Evaluation):
            text += f"  {outputs.sample.dataset} {outputs.sample.label}"
            text += "" if outputs.psnr is None else f"  {outputs.psnr:.2f} dB"
        self._show(name, self._images, self._total_images, text, self._images_meter.left(self._images))

    # drawing

    def _begin(self, name: str, total: float, done: int) -> None:
        if not self._enabled:
            return
        self._sparse[name] = Sparse()
        if self.live:
            if self._bar is None:
                columns = (TextColumn("{task.description:8}"), BarColumn(30), TextColumn("{task.fields[text]}"))
                self._bar = Progress(SpinnerColumn(), *columns, console=Console(stderr=True), refresh_per_second=4)
                self._bar.start()
            limit = total if math.isfinite(total) else None
            self._tasks[name] = self._bar.add_task(name, total=limit, completed=done, text="")

    def _wants(self, name: str, share: float) -> bool:
        return name in self._tasks if self.live else self._sparse[name](share)

    def _show(self, name: str, done: float, total: float, text: str, left: float) -> None:
        text = f"{text}  {duration(left)} left" if done < total else text
        if self._bar is not None:
            self._bar.update(self._tasks[name], completed=done, text=text)
        else:
            print(f"{name}: {text}", file=sys.stderr, flush=True)

    def _end(self, name: str) -> None:
        if self._bar is not None and name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._tasks = None, {}
