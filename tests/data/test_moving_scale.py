"""data.scale_step: one scale for all samples of a batch, which moves along the range (AnySR, the authors' code)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynres.data.datamodule import SuperResolutionData
from dynres.data.pairs import DrawnBatch, PairRecipe, draw, gathered, generator
from dynres.data.stream import SCALE_EPOCH, MovingScale, TrainingPairs
from dynres.errors import UserError
from tests.data.test_datamodule import at

PAPER = {"scales": (1.0, 4.1), "scale_step": 0.1}


def pictures(count: int = 3) -> Any:
    """Images in memory, as much of a `PixelCache` as the stream looks at."""
    return [np.random.default_rng(number).integers(0, 256, (60, 60, 3), dtype=np.uint8) for number in range(count)]


def data(root: Path, **options: Any) -> SuperResolutionData:
    return SuperResolutionData(**{
        "source": "folder", "root": str(root), "lr_size": 8, "queries": 16, "batch_size": 4, "repeat": 2, **options
    })  # fmt: skip


def stream(module: SuperResolutionData, batches: int, trainer: Any = None) -> list[DrawnBatch]:
    module.trainer = trainer
    return list(itertools.islice(module.train_dataloader(), batches))


def by_hand(start: float, batches: int) -> list[float]:
    """Grow by the step after every batch; beyond the upper end, fall by the range's length."""
    scales, scale = [], start
    for _ in range(batches):
        scales.append(scale)
        scale += 0.1
        if scale > 4.1:
            scale -= 3.1
    return scales


@pytest.mark.parametrize("seed", [0, 7])
def test_the_scale_moves_as_the_authors_program_moves_it(seed: int) -> None:
    moving = MovingScale((1.0, 4.1), 0.1, batch_size=4, seed=seed)
    scales = [moving.of(4 * batch) for batch in range(3 * SCALE_EPOCH)]
    starts = [float(generator(seed, 4, epoch).uniform(1.0, 4.1)) for epoch in range(3)]
    assert scales == pytest.approx([scale for start in starts for scale in by_hand(start, SCALE_EPOCH)], abs=1e-9)


def test_starts_are_spread_over_the_range() -> None:
    moving = MovingScale((1.0, 4.1), 0.1, batch_size=1, seed=0)
    starts = np.array([moving.of(SCALE_EPOCH * epoch) for epoch in range(500)])
    assert abs(starts.mean() - 2.55) < 4 * 3.1 / math.sqrt(12 * 500)
    assert starts.min() < 1.05 and starts.max() > 4.05


@given(
    low=st.floats(1, 5),
    length=st.floats(0.01, 20),
    share=st.floats(1e-3, 1),
    size=st.integers(1, 64),
    batch=st.integers(0, 10**6),
    seed=st.integers(0, 2**40),
)
def test_scales_stay_in_the_range_and_a_batch_has_one(
    low: float, length: float, share: float, size: int, batch: int, seed: int
) -> None:
    high = low + length
    moving = MovingScale((low, high), share * (high - low), size, seed)
    first = moving.of(batch * size)
    assert low <= first <= high
    assert {moving.of(batch * size + place) for place in range(size)} == {first}
    if (batch + 1) % SCALE_EPOCH:
        moved = moving.of((batch + 1) * size) - first
        fallen = moving.step - (high - low)
        assert math.isclose(moved, moving.step, abs_tol=1e-9) or math.isclose(moved, fallen, abs_tol=1e-9)


def test_batches_of_a_module_have_one_scale_each_and_crops_of_one_size(photos: Path) -> None:
    batches = stream(data(photos, **PAPER), 40)
    moving = MovingScale((1.0, 4.1), 0.1, 4, seed=0)
    for number, batch in enumerate(batches):
        scale = torch.tensor(moving.of(4 * number))
        assert torch.equal(batch.scale, scale.expand(4)), f"batch {number}: {batch.scale.tolist()}"
        assert set(batch.sides) == {round(8 * moving.of(4 * number))}
    assert len({float(batch.scale[0]) for batch in batches}) == 31, "31 steps of 0.1 are once through the range"


def test_a_batch_needs_no_earlier_ones_and_processes_share_its_scale(photos: Path) -> None:
    whole = stream(data(photos, **PAPER), 6)
    resumed = stream(data(photos, **PAPER), 2, at(step=4))
    for ours, theirs in zip(whole[4:], resumed, strict=True):
        assert torch.equal(ours.scale, theirs.scale) and torch.equal(ours.pixels, theirs.pixels)
    accumulated = stream(data(photos, **PAPER), 2, at(step=2, accumulate=2))
    assert torch.equal(accumulated[0].scale, whole[4].scale)
    for rank in range(2):
        share = stream(data(photos, **PAPER), 6, at(rank=rank, world=2))
        for ours, theirs in zip(whole, share, strict=True):
            assert torch.equal(ours.scale[2 * rank : 2 * rank + 2], theirs.scale)
            assert torch.equal(ours.target[2 * rank : 2 * rank + 2], theirs.target)


def test_halves_of_a_batch_have_its_scale(photos: Path) -> None:
    for batch in stream(data(photos, **PAPER, halves=True), 10):
        assert len(set(batch.scale.tolist())) == 1


def test_without_a_step_every_sample_draws_its_own_as_ever() -> None:
    """Of the sample's own generator, after its seed; nothing of it depends on the batch."""
    recipe = PairRecipe((1.0, 4.0), 8, 16, aligned=False, downsampling="pillow")
    images = pictures()
    samples = TrainingPairs(images, recipe, repeat=2, seed=5)
    for n in range(20):
        epoch, position = divmod(n, 6)
        item = int(generator(5, 0, epoch).permutation(6)[position])
        random = generator(5, 1, epoch, item)
        expected = draw(images[item % 3], recipe, random)
        ours, theirs = gathered([samples[n]]), gathered([expected])
        for name in ours._fields:
            a, b = getattr(ours, name), getattr(theirs, name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name
        again = generator(5, 1, epoch, item)
        again.integers(2**63 - 1)
        assert ours.scale.item() == pytest.approx(float(again.uniform(1.0, 4.0)))


def test_a_moving_scale_leaves_images_and_seeds_as_they_are() -> None:
    recipe = PairRecipe((1.0, 4.1), 8, 16, aligned=False, downsampling="pillow")
    moving = MovingScale(recipe.scales, 0.1, batch_size=2, seed=5)
    own, shared = (TrainingPairs(pictures(), recipe, 2, 5, moving=each) for each in (None, moving))
    assert [own[n].seed for n in range(12)] == [shared[n].seed for n in range(12)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale_step": 0}, "above 0 and at most the 3 of .*got 0"),
        ({"scale_step": -0.1}, "got -0.1"),
        ({"scale_step": 3.5}, "at most the 3 .*got 3.5"),
        ({"scale_step": math.nan}, "got nan"),
        ({"scale_step": True}, "got True"),
        ({"scale_step": "fast"}, "got fast"),
        ({"scale_step": 0.1, "scales": (2.0, 2.0)}, r"\[2.0, 2.0\] is one scale: set it to null, or use task=assr"),
    ],
)
def test_a_step_that_leads_nowhere_is_refused(
    options: dict[str, Any], words: str, folder_of: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=f"data.scale_step.*{words}"):
        data(folder_of("any", [(40, 40)]), **options)
