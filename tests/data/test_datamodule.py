from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from dynres.contracts import EvalSample, QueryBatch
from dynres.data.datamodule import SuperResolutionData
from dynres.data.evaluation import label, sizes
from dynres.data.images import find_images, read_rgb, write_png
from dynres.data.pairs import DrawnBatch, query_batch
from dynres.data.resize import resize
from dynres.data.sources import DEMO
from dynres.errors import UserError

Folder = Callable[..., Path]
Noise = Callable[..., np.ndarray]
TINY: dict[str, Any] = {
    "lr_size": 8,
    "queries": 16,
    "batch_size": 4,
    "repeat": 2,
    "val_scales": [2],
    "test_scales": [2],
}


def data(root: Path, **options: Any) -> SuperResolutionData:
    return SuperResolutionData(**{"source": "folder", "root": str(root), **TINY, **options})


def at(step: int = 0, rank: int = 0, world: int = 1, accumulate: int = 1) -> Any:
    """A trainer, as much of it as data looks at."""
    return SimpleNamespace(
        global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=accumulate, overfit_batches=0
    )


def stream(module: SuperResolutionData, batches: int, trainer: Any = None) -> list[QueryBatch]:
    module.trainer = trainer
    return [query_batch(drawn, module.recipe) for drawn in itertools.islice(module.train_dataloader(), batches)]


def assert_same(first: list[QueryBatch], second: list[QueryBatch]) -> None:
    assert len(first) == len(second)
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        for name, x, y in zip(a._fields, a, b, strict=True):
            assert torch.equal(x, y), f"batch {number}: {name} differs"


# --- The training stream --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_batches(photos: Path, workers: int) -> None:
    assert_same(stream(data(photos), 5), stream(data(photos, workers=workers), 5))


@pytest.mark.parametrize(("step", "accumulate"), [(3, 1), (2, 3)])
def test_a_stream_resumed_at_a_step_is_the_rest_of_the_stream(photos: Path, step: int, accumulate: int) -> None:
    start = step * accumulate
    whole = stream(data(photos), start + 4)
    assert_same(whole[start:], stream(data(photos), 4, at(step, accumulate=accumulate)))


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_share_each_global_batch(photos: Path, world: int) -> None:
    whole = stream(data(photos), 3)
    shares = [stream(data(photos), 3, at(rank=rank, world=world)) for rank in range(world)]
    joined = [QueryBatch(*map(torch.cat, zip(*batch, strict=True))) for batch in zip(*shares, strict=True)]
    assert_same(whole, joined)


def test_the_stream_is_a_function_of_the_seed(photos: Path) -> None:
    assert_same(stream(data(photos, seed=7), 2), stream(data(photos, seed=7), 2))
    assert not torch.equal(stream(data(photos, seed=7), 1)[0].seed, stream(data(photos, seed=8), 1)[0].seed)


def test_every_image_appears_as_often_an_epoch_and_no_sample_twice(photos: Path) -> None:
    """3 training images x repeat 2, batches of 2: 3 batches an epoch. Images are told apart by their flat colour."""
    for number, path in enumerate(find_images(photos)):
        write_png(path, np.full((40, 40, 3), 10 * number, np.uint8))
    epochs = [stream(data(photos, batch_size=6), 3)[epoch] for epoch in range(3)]
    shown = [(batch.image[:, 0, 0, 0] * 25.5).round().int().tolist() for batch in epochs]
    assert all(sorted(colours) == [0, 0, 1, 1, 2, 2] for colours in shown), shown
    assert len({tuple(colours) for colours in shown}) > 1, "every epoch has the same order"
    assert len(set(torch.cat([batch.seed for batch in epochs]).tolist())) == 18


def test_loading_does_not_touch_the_networks_random_numbers(photos: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    stream(data(photos, workers=1), 2)
    list(data(photos).val_dataloader())
    assert torch.equal(torch.rand(4), expected)


def test_a_batch_that_ranks_cannot_share_is_refused(photos: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size=4 .* multiple of their number, 3"):
        stream(data(photos), 1, at(world=3))


class Seen(pl.LightningModule):
    """Remembers which samples it was shown."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)  # every instance starts from the same weights
        self.weight, self.seen, self.evaluated = nn.Linear(1, 1), list[Tensor](), list[EvalSample]()
        self.first: QueryBatch | None = None

    def training_step(self, batch: QueryBatch, _index: int) -> Tensor:
        self.first = self.first or batch
        self.seen.append(batch.seed.clone())
        return self.weight(batch.scale[:, None]).square().mean()

    def validation_step(self, sample: EvalSample, _index: int) -> None:
        self.evaluated.append(sample)

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def trainer(tmp_path: Path, steps: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"limit_val_batches": 0},
        {"val_check_interval": 2, "check_val_every_n_epoch": None},
        {"limit_val_batches": 0, "accumulate_grad_batches": 2},
    ],
)
def test_a_resumed_lightning_run_is_shown_what_the_uninterrupted_one_was(
    photos: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, begun, resumed = Seen(), Seen(), Seen()
    trainer(tmp_path, 7, **options).fit(whole, datamodule=data(photos))
    first = trainer(tmp_path, 3, **options)
    first.fit(begun, datamodule=data(photos))
    first.save_checkpoint(tmp_path / "a.ckpt")
    last = trainer(tmp_path, 7, **options)
    last.fit(resumed, datamodule=data(photos), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(torch.stack(whole.seen), torch.stack(begun.seen + resumed.seen))
    assert torch.equal(whole.weight.weight, resumed.weight.weight)


def test_epochs_cut_by_the_trainer_go_on_in_the_stream(photos: Path, tmp_path: Path) -> None:
    cut, whole = Seen(), Seen()
    trainer(tmp_path, 6, limit_train_batches=2, limit_val_batches=0).fit(cut, datamodule=data(photos))
    trainer(tmp_path, 6, limit_val_batches=0).fit(whole, datamodule=data(photos))
    assert torch.equal(torch.stack(cut.seen), torch.stack(whole.seen))


def test_overfitting_one_batch_shows_one_batch(photos: Path, tmp_path: Path) -> None:
    model = Seen()
    trainer(tmp_path, 4, overfit_batches=1, limit_val_batches=0).fit(model, datamodule=data(photos))
    assert len(model.seen) == 4
    assert all(torch.equal(model.seen[0], later) for later in model.seen)


def test_training_is_given_what_the_stream_holds(photos: Path, tmp_path: Path) -> None:
    model = Seen()
    trainer(tmp_path, 1, limit_val_batches=0).fit(model, datamodule=data(photos))
    assert model.first is not None
    assert_same([model.first], stream(data(photos), 1))


@pytest.mark.parametrize(("device", "before"), [("cpu", True), ("mps", True), ("cuda", False)])
def test_low_resolution_images_are_made_on_a_gpu_or_before_the_transfer(
    photos: Path, device: str, before: bool
) -> None:
    """Apple's GPUs have no float64; to the others only crops and choices travel."""
    module = data(photos)
    drawn, expected = next(iter(module.train_dataloader())), stream(data(photos), 1)
    module.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))  # type: ignore[assignment]
    moved = module.on_before_batch_transfer(drawn, 0)
    assert isinstance(moved, QueryBatch if before else DrawnBatch)
    assert_same([module.on_after_batch_transfer(moved, 0)], expected)
    (sample, *_) = module.val_dataloader()
    assert module.on_after_batch_transfer(module.on_before_batch_transfer(sample, 0), 0) is sample


def test_a_batch_on_another_device_becomes_the_training_batch_there(photos: Path) -> None:
    """On torch's device without numbers: any step that left it, or waited for one of its values, would fail."""
    module = data(photos)
    drawn = next(iter(module.train_dataloader()))
    moved = move_data_to_device(drawn, torch.device("meta"))
    assert isinstance(moved, DrawnBatch) and moved.sides == drawn.sides
    batch, expected = query_batch(moved, module.recipe), query_batch(drawn, module.recipe)
    assert {value.device.type for value in batch} == {"meta"}
    assert [(v.shape, v.dtype) for v in batch] == [(v.shape, v.dtype) for v in expected]


# --- Whole images ---------------------------------------------------------------------------------------------------


def test_lightning_hands_over_whole_samples(photos: Path, tmp_path: Path) -> None:
    model = Seen()
    trainer(tmp_path, 1).test(model, datamodule=data(photos, test_scales=[2, [2, 3]]), verbose=False)
    (first, second) = model.evaluated
    assert (first.label, first.dataset, first.name) == ("x2", "held-out", "03")
    assert (second.label, second.scale) == ("x2x3", (2.0, 3.0))
    assert first.image.shape == (1, 3, 22, 22) and first.target.shape == first.plain.shape == (1, 3, 44, 44)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), scale=st.floats(1, 30))
def test_the_full_size_is_the_low_size_scaled_and_fits(height: int, width: int, scale: float) -> None:
    (h, w), (full_h, full_w) = sizes((height, width), (scale, scale))
    assert (full_h, full_w) == (round(h * scale), round(w * scale))
    assert height - scale - 1 < full_h <= height and width - scale - 1 < full_w <= width


@given(size=st.integers(1, 3000), scale=st.integers(1, 30))
def test_a_whole_scale_crops_to_its_multiple(size: int, scale: int) -> None:
    assert sizes((size, size), (float(scale), float(scale)))[1][0] == size - size % scale


def test_the_label_of_a_scale() -> None:
    assert [label(s) for s in ((2.0, 2.0), (2.5, 2.5), (2.0, 3.0))] == ["x2", "x2.5", "x2x3"]


def test_a_sample_is_the_cropped_image_shrunk_and_enlarged(photos: Path) -> None:
    full = read_rgb(find_images(photos)[3])
    for scale, low in ((3.0, 15), (2.5, 18), (3.7, 12)):
        (sample,) = data(photos, test_scales=[scale]).test_dataloader()
        side = round(low * scale)
        small = resize(full[:side, :side], (low, low), "matlab")
        for name, expected in (
            ("target", full[:side, :side]),
            ("image", small),
            ("plain", resize(small, (side, side), "matlab")),
        ):
            got = (getattr(sample, name)[0].permute(1, 2, 0) * 255).numpy()
            np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=f"{name} at {scale}")


def test_a_benchmark_uses_its_published_low_resolution_images_and_makes_the_others(
    photos: Path, tmp_path: Path, noise: Noise
) -> None:
    write_png(tmp_path / "Set2/HR/bird.png", noise(50, 60))
    published = noise(25, 30, 9)
    write_png(tmp_path / "Set2/LR_bicubic/X2/birdx2.png", published)
    two, three = data(photos, test=[str(tmp_path / "Set2")], test_scales=[2, 3]).test_dataloader()
    assert (two.dataset, two.name, two.protocol) == ("Set2", "bird", "benchmark")
    np.testing.assert_allclose((two.image[0].permute(1, 2, 0) * 255).numpy(), published, atol=1e-4)
    assert three.image.shape == (1, 3, 16, 20)


def test_test_sets_are_told_by_their_layout(photos: Path, tmp_path: Path, noise: Noise) -> None:
    for name in ("Set1/HR/a.png", "mine/a.png", "DIV/DIV2K_valid_HR/0801.png", "DIV/DIV2K_train_HR/0001.png"):
        write_png(tmp_path / name, noise(60, 60))
    sets = [str(tmp_path / name) for name in ("Set1", "mine", "DIV")]
    samples = list(data(photos, test=[*sets, "held-out"]).test_dataloader())
    assert [(s.dataset, s.name, s.protocol) for s in samples] == [
        ("Set1", "a", "benchmark"),
        ("mine", "a", "div2k"),
        ("DIV2K", "0801", "div2k"),
        ("held-out", "03", "div2k"),
    ]
    samples = list(data(tmp_path / "DIV", source="div2k", protocol="benchmark").test_dataloader())
    assert [(s.dataset, s.protocol) for s in samples] == [("DIV2K", "benchmark")]


def test_validation_images_are_held_out(folder_of: Folder) -> None:
    root = folder_of("many", [(40, 40)] * 23)
    module = data(root, val_scales=[1])
    held_out = {sample.name for sample in module.val_dataloader()}
    assert held_out == {"09", "19"}
    trained = {Path(path).stem for path, _, _ in module._training_pixels().sizes()}
    assert len(trained) == 21 and not trained & held_out
    assert [sample.name for sample in data(root, val_images=1).val_dataloader()] == ["09"]


def test_validation_may_use_the_centre_of_each_image(photos: Path) -> None:
    (sample,) = data(photos, val_crop=31).val_dataloader()
    centre = read_rgb(find_images(photos)[3])[7:37, 7:37]
    np.testing.assert_allclose((sample.target[0].permute(1, 2, 0) * 255).numpy(), centre, atol=1e-4)


def test_the_seed_of_an_image_is_its_own_and_the_runs(photos: Path, folder_of: Folder) -> None:
    root = str(folder_of("two", [(40, 40), (40, 40)]))

    def seeds(**options: Any) -> list[int]:
        return [int(s.seed) for s in data(photos, test=[root], test_scales=[1, 2], **options).test_dataloader()]

    first = seeds()
    assert first[0] == first[1] != first[2] == first[3]
    assert first == seeds(workers=2) and not set(first) & set(seeds(seed=1))


def test_one_set_and_one_scale_need_no_brackets(photos: Path) -> None:
    (sample,) = data(photos, test="held-out", test_scales=2.5).test_dataloader()
    assert (sample.dataset, sample.label) == ("held-out", "x2.5")


# --- The demo -------------------------------------------------------------------------------------------------------


def test_the_demo_needs_no_download_and_keeps_its_test_photographs_apart() -> None:
    module = SuperResolutionData("demo", val_scales=[4], test_scales=[4])
    module.check()
    names = {part: {name.split(".")[0] for name in files} for part, files in DEMO.items()}
    assert {s.name for s in module.test_dataloader()} == names["test"]
    assert {s.name for s in module.val_dataloader()} == names["val"]
    assert {Path(path).stem for path, _, _ in module._training_pixels().sizes()} == names["train"]
    assert not names["train"] & names["test"] | names["train"] & names["val"] | names["val"] & names["test"]
    assert len(names["test"]) >= 3
