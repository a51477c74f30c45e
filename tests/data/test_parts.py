"""data.halves and data.fraction: which images a sample may be of."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynres.contracts import PatchBatch, QueryBatch
from dynres.data.base import ImageData
from dynres.data.datamodule import SuperResolutionData
from dynres.data.degradations import Jpeg
from dynres.data.images import find_images, write_png
from dynres.data.restoration import RestorationData
from dynres.data.stream import GlobalBatches, Position, TrainingSamples
from dynres.errors import UserError

Folder = Callable[..., Path]
Batch = QueryBatch | PatchBatch


class Choices(TrainingSamples[tuple[int, int]]):
    """Samples that say which image they are of, and what they drew."""

    def __init__(self, images: int, repeat: int, seed: int = 0, parts: int = 2) -> None:
        super().__init__(range(images), repeat, seed, parts)  # type: ignore[arg-type]  # only its length is looked at

    def draw(self, n: int, index: int, random: np.random.Generator) -> tuple[int, int]:
        return index, int(random.integers(2**62))


def numbers(size: int, at: Position) -> Iterator[list[int]]:
    """The sample numbers of a process' batches."""
    return iter(GlobalBatches(size, lambda: at, parts=2))


def queries(root: Path, **options: Any) -> SuperResolutionData:
    return SuperResolutionData(**{
        "source": "folder", "root": str(root), "lr_size": 8, "queries": 16, "batch_size": 4, "repeat": 2, **options
    })  # fmt: skip


def patches(root: Path, **options: Any) -> RestorationData:
    return RestorationData(**{
        "source": "folder", "root": str(root), "degradation": Jpeg(90), "patch_size": 16, "batch_size": 4, "repeat": 2,
        **options,
    })  # fmt: skip


def at(step: int = 0, rank: int = 0, world: int = 1) -> Any:
    """A trainer, as much of it as data looks at."""
    return SimpleNamespace(
        global_step=step, global_rank=rank, world_size=world, accumulate_grad_batches=1, overfit_batches=0
    )


def stream(module: ImageData[Any], batches: int, trainer: Any = None) -> list[Batch]:
    module.trainer = trainer
    loaded = itertools.islice(module.train_dataloader(), batches)
    return [module.on_after_batch_transfer(batch, 0) for batch in loaded]  # pairs become `QueryBatch` here


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def grays(folder_of: Folder) -> Path:
    """Nine pictures, each of one gray: 0, 20, 40 ... 160. The last is held out."""
    root = folder_of("grays", [(40, 40)] * 9)
    for number, path in enumerate(find_images(root)):
        write_png(path, np.full((40, 40, 3), 20 * number, np.uint8))
    return root


def shown(batch: Batch) -> list[int]:
    """The number of the picture in `grays` that each sample is of."""
    value = batch.target.flatten(1).mean(1) * 255
    studio = (value - 16) * 255 / 219 if isinstance(batch, PatchBatch) else value  # JPEG's target is luma
    return (studio / 20).round().int().tolist()


# --- Halves ---------------------------------------------------------------------------------------------------------


@given(
    images=st.integers(2, 9),
    repeat=st.integers(1, 3),
    half=st.integers(1, 4),
    world=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_halves_of_every_share_show_disjoint_images_equally_often(
    images: int, repeat: int, half: int, world: int, seed: int
) -> None:
    samples, size = Choices(images, repeat, seed), 2 * half * world
    seen: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])  # in the order of the batches
    shares = [numbers(size, Position(0, rank, world)) for rank in range(world)]
    for _ in range(-(-2 * images * repeat // (half * world))):
        for share in shares:
            batch = next(share)
            assert len(batch) == 2 * half
            seen[0].extend(samples[n] for n in batch[:half])
            seen[1].extend(samples[n] for n in batch[half:])
    sets = [{image for image, _ in part} for part in seen]
    assert not sets[0] & sets[1] and sets[0] | sets[1] == set(range(images))
    assert len(set(itertools.chain(*seen))) == len(seen[0]) + len(seen[1]), "two samples drew the same"
    for part, own in zip(seen, sets, strict=True):
        length = len(own) * repeat
        for start in range(0, len(part) - length + 1, length):
            epoch = Counter(image for image, _ in part[start : start + length])
            assert epoch == dict.fromkeys(own, repeat)


@given(half=st.integers(1, 4), world=st.integers(1, 4), batch=st.integers(0, 20))
def test_the_processes_share_what_one_would_have_and_a_batch_needs_no_earlier_ones(
    half: int, world: int, batch: int
) -> None:
    size = 2 * half * world
    alone = next(numbers(size, Position(batch)))
    ranks = [next(numbers(size, Position(batch, rank, world))) for rank in range(world)]
    assert [n for share in ranks for n in share[:half]] == alone[: half * world]
    assert [n for share in ranks for n in share[half:]] == alone[half * world :]
    assert sorted(alone) == list(range(batch * size, (batch + 1) * size))


@pytest.mark.parametrize("module", [queries, patches])
def test_each_half_of_a_batch_is_of_its_own_pictures(module: Callable[..., ImageData[Any]], grays: Path) -> None:
    seen = [shown(batch) for batch in stream(module(grays, halves=True), 12)]
    first, second = ({n for one in seen for n in one[half]} for half in (slice(0, 2), slice(2, 4)))
    assert not first & second and first | second == set(range(8)) and len(first) == len(second) == 4
    without = [shown(batch) for batch in stream(module(grays), 12)]
    assert {n for one in without for n in one[:2]} & {n for one in without for n in one[2:]}


@pytest.mark.parametrize("module", [queries, patches])
def test_halves_depend_on_seed_and_position_alone(module: Callable[..., ImageData[Any]], photos: Path) -> None:
    """Not on workers or interruptions."""
    whole = stream(module(photos, halves=True), 4)
    assert_same(whole, stream(module(photos, halves=True, workers=2), 4))
    assert_same(whole[2:], stream(module(photos, halves=True), 2, at(2)))
    assert not torch.equal(whole[0].seed, stream(module(photos, halves=True, seed=1), 1)[0].seed)


@pytest.mark.parametrize("module", [queries, patches])
def test_a_batch_that_has_no_halves_is_refused(module: Callable[..., ImageData[Any]], photos: Path) -> None:
    with pytest.raises(UserError, match=r"data.batch_size=5 .* with data.halves=true of twice that, 2$"):
        module(photos, halves=True, batch_size=5)
    with pytest.raises(UserError, match=r"data.batch_size=6 .* their number, 2; with data.halves=true .*, 4$"):
        stream(module(photos, halves=True, batch_size=6), 1, at(world=2))
    stream(module(photos, halves=True, batch_size=8), 1, at(world=2))


def test_one_image_has_no_halves(folder_of: Folder) -> None:
    two, many = folder_of("two", [(40, 40)] * 2), folder_of("many", [(40, 40)] * 9)  # one of each is held out
    queries(two).check("fit")
    with pytest.raises(UserError, match=r"at least 2 training images, and data.fraction=1 of 1 is 1"):
        queries(two, halves=True).check("fit")
    with pytest.raises(UserError, match=r"data.fraction=0.1 of 8 is 1"):
        queries(many, halves=True, fraction=0.1).check("fit")


# --- A fraction -----------------------------------------------------------------------------------------------------


def trained_on(module: ImageData[Any]) -> list[str]:
    return [Path(path).stem for path, _, _ in module._training_pixels().sizes()]


def test_a_fraction_of_the_training_images_is_spread_evenly(folder_of: Folder) -> None:
    root = folder_of("many", [(40, 40)] * 21)  # 09 and 19 are held out
    everything = [f"{n:02d}" for n in range(21) if n not in (9, 19)]
    assert trained_on(queries(root)) == trained_on(queries(root, fraction=1)) == everything
    assert trained_on(queries(root, fraction=0.2)) == ["00", "04", "10", "15"]
    assert trained_on(patches(root, fraction=0.0001)) == ["00"]
    assert [sample.name for sample in queries(root, fraction=0.2, val_scales=[1]).val_dataloader()] == ["09", "19"]


@given(images=st.integers(1, 200), fraction=st.floats(0.001, 1))
def test_any_fraction_has_its_share_and_no_gap_far_above_the_others(images: int, fraction: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        paths = [Path(str(number)) for number in range(images)]
        patch.setattr("dynres.data.base.training_images", lambda *_: tuple(paths))
        chosen = [int(path.name) for path in queries(Path(), fraction=fraction)._training_images()]
    assert len(chosen) == max(1, round(fraction * images))
    gaps = np.diff([*chosen, images + chosen[0]])
    assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_a_fraction_is_what_is_shown_and_has_halves(grays: Path) -> None:
    seen = [shown(batch) for batch in stream(patches(grays, fraction=0.5, halves=True), 8)]
    assert {n for one in seen for n in one[:2]} == {0, 4} and {n for one in seen for n in one[2:]} == {2, 6}


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan"), True, "0.5", None])
def test_a_fraction_out_of_range_is_refused(photos: Path, fraction: Any) -> None:
    with pytest.raises(UserError, match=r"data\.fraction must be above 0 and at most 1, got"):
        queries(photos, fraction=fraction)
