"""Training on whole patches: the losses, what the network is told, heads that enlarge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dynres.backbones.dncnn import DnCNN
from dynres.backbones.edsr import EDSR
from dynres.backbones.ffdnet import FFDNet
from dynres.contracts import EvalSample, PatchBatch, Task
from dynres.methods.restoration import RestorationPatches
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle
from dynres.upsamplers.same_size import AsImage, SameSize
from tests.methods.test_base import Record, loader, trainer


def patches(scale: int = 1, channels: int = 3, noise: float = 0.1) -> PatchBatch:
    random = torch.Generator().manual_seed(0)
    target = torch.rand(2, channels, 8 * scale, 8 * scale, generator=random)
    image = torch.rand(2, channels, 8, 8, generator=random)
    return PatchBatch(image, target, torch.full((2,), float(scale)), torch.arange(2), torch.full((2,), noise))


def training(restorer: Restorer, **options: Any) -> RestorationPatches:
    return RestorationPatches(restorer, **({"learning_rate": 1e-3, "milestones": (), "gamma": 1.0} | options))


def first_loss(method: RestorationPatches, batch: PatchBatch) -> float:
    record = Record()
    trainer(1, record).fit(method, loader([batch]))
    return float(record.outputs[0]["loss"])


@pytest.mark.parametrize("loss", ["l1", "l2", "charbonnier"])
def test_the_loss_is_of_whole_patches(loss: str) -> None:
    torch.manual_seed(0)
    restorer, batch = Restorer(DnCNN(4, 3), SameSize(4, skip="subtract")), patches()
    with torch.no_grad():
        features = restorer.backbone(restorer.pixels.normal(batch.image), Task())
        error = restorer.pixels.colours(restorer.upsampler.decode(features, (8, 8)), 1) - batch.target
    expected = {"l1": error.abs(), "l2": error.square(), "charbonnier": (error.square() + 1e-6).sqrt()}[loss].mean()
    assert first_loss(training(restorer, loss=loss), batch) == pytest.approx(expected.item(), rel=1e-5)


def test_a_network_that_must_be_told_the_noise_is_told() -> None:
    torch.manual_seed(0)
    restorer = Restorer(FFDNet(channels=4, layers=3), AsImage(3))
    little, much = (first_loss(training(restorer, learning_rate=1e-12), patches(noise=noise)) for noise in (0.0, 0.3))
    assert little != much


def test_heads_that_enlarge_train_on_larger_targets() -> None:
    torch.manual_seed(0)
    restorer, batch = Restorer(EDSR(4, 1, 1.0), PixelShuffle(4, 2), image_skip=True), patches(scale=2)
    whole, _ = restorer(batch.image, Task(batch.scale))
    assert whole.shape == batch.target.shape
    same = restorer.restore(batch.image, scale=2).image
    torch.testing.assert_close(whole.clamp(0, 1), same, atol=1e-6, rtol=0)
    assert first_loss(training(restorer, loss="l1"), batch) == pytest.approx(F.l1_loss(whole, batch.target).item())


def test_an_image_without_original_is_restored_and_not_measured() -> None:
    method = training(Restorer(DnCNN(4, 3), SameSize(4)))
    image = torch.rand(1, 3, 12, 12)
    sample = EvalSample(image, None, image, (1.0, 1.0), "x1", "Real", "one", "real", torch.zeros(1, dtype=torch.int64))
    found = method.evaluate(sample)
    assert (found.psnr, found.psnr_plain, found.ssim, found.psnr_b) == (None,) * 4
    assert found.restoration.image.shape == image.shape


def test_gray_artifacts_are_measured_with_psnr_b() -> None:
    method = training(Restorer(DnCNN(4, 3, image_channels=1), SameSize(4, image_channels=1)))
    image = torch.rand(1, 1, 24, 24)
    seed = torch.zeros(1, dtype=torch.int64)
    found = method.evaluate(EvalSample(image, image, image, (1.0, 1.0), "q10", "Toy", "one", "car", seed, 0.0, "JPEG"))
    assert found.psnr_b is not None and found.psnr is not None and found.psnr_b <= found.psnr + 1e-9


@pytest.mark.parametrize("options", [{"loss": "l3"}, {"epsilon": 0.0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="loss must be one of l1, l2, charbonnier and epsilon above 0"):
        training(Restorer(DnCNN(4, 3), SameSize(4)), **options)
