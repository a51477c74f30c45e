from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynres.contracts import QueryBatch
from dynres.data.images import write_png
from dynres.data.pairs import PairRecipe, crop_side, draw, gathered, generator, query_batch, to_tensor
from dynres.data.resize import resize
from dynres.data.shrink import shrunk
from dynres.layers.sampling import grid_coords
from tests.reference.pairs import plain_pair_from_memory, plain_pair_from_png

LIIF = PairRecipe(scales=(1.0, 4.0), lr_size=48, queries=2304, aligned=False, downsampling="pillow")
SMALL = PairRecipe(scales=(1.0, 4.0), lr_size=12, queries=100, aligned=False, downsampling="pillow")


def numbered(height: int, width: int) -> np.ndarray:
    """(height, width, 3): every pixel's colour tells its row and column, up to 255 of each."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, (rows * 7 + columns * 13) % 256], axis=2).astype(np.uint8)


def pair_of(image: np.ndarray, recipe: PairRecipe, random: np.random.Generator) -> QueryBatch:
    """One sample, without a batch axis."""
    return QueryBatch(*(value[0] for value in query_batch(gathered([draw(image, recipe, random)]), recipe)))


def assert_same(first: QueryBatch, second: QueryBatch) -> None:
    for name, a, b in zip(first._fields, first, second, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), f"{name} differs"


def side_of(pair: torch.Tensor) -> int:
    return round(2 / float(pair[0, 0]))


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), aligned=st.booleans())
def test_every_queried_pixel_is_a_pixel_of_the_crop_at_its_coordinates(seed: int, aligned: bool) -> None:
    image = numbered(70, 90)
    pair = pair_of(image, dataclasses.replace(SMALL, aligned=aligned), generator(seed))
    side = side_of(pair.cell)
    assert side == crop_side(12, float(pair.scale))
    positions = ((pair.coords.double() + 1) * side - 1) / 2
    rows, columns = positions.round().long().T
    assert (positions - positions.round()).abs().max() < 1e-4, "a coordinate is no pixel centre"
    assert min(rows.min(), columns.min()) >= 0 and max(rows.max(), columns.max()) < side
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 100, "a pixel was drawn twice"
    if aligned:
        assert (rows.max() - rows.min(), columns.max() - columns.min()) == (9, 9)
    # the crop, in one of its 8 attitudes: rows and columns of the image are affine in rows and columns of the crop
    levels = (pair.target * 255).round().double()
    down, across = levels[:, 0], levels[:, 1]
    flipped = any(
        all(len(set((value - sign * axis).tolist())) == 1 for value, axis, sign in ((down, a, s), (across, b, t)))
        for a, b in ((rows, columns), (columns, rows))
        for s in (1, -1)
        for t in (1, -1)
    )
    assert flipped, "the target's colours are not those of one crop, flipped or transposed"


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_the_input_is_the_shrunken_crop_in_the_targets_attitude(seed: int) -> None:
    """With every pixel queried the crop can be put together again, and shrinking it must give the input."""
    image = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    recipe = PairRecipe(scales=(2.0, 2.0), lr_size=10, queries=400, aligned=False, downsampling="matlab")
    pair = pair_of(image, recipe, generator(seed))
    rows, columns = (((pair.coords.double() + 1) * 20 - 1) / 2).round().long().T
    crop = np.zeros((20, 20, 3), np.uint8)
    crop[rows, columns] = (pair.target * 255).round().byte().numpy()
    given_input = (pair.image * 255).round().byte().permute(1, 2, 0).numpy().astype(int)
    # the two passes round one after the other, so a transposed crop may differ by a level
    assert np.abs(given_input - resize(crop, (10, 10), "matlab")).max() <= 1


def test_all_pixels_of_a_patch_come_row_by_row() -> None:
    """What a head of one scale is compared with: the target is the whole patch."""
    recipe = PairRecipe(scales=(3.0, 3.0), lr_size=4, queries=None, aligned=False, downsampling="matlab")
    pair = pair_of(numbered(30, 30), recipe, generator(0))
    torch.testing.assert_close(pair.coords, grid_coords((12, 12)))
    assert torch.equal(pair.cell, torch.full((144, 2), 2 / 12)) and pair.noise.item() == 0
    given = resize((pair.target.view(12, 12, 3) * 255).round().byte().numpy(), (4, 4), "matlab").astype(int)
    assert np.abs(given - (pair.image * 255).round().byte().permute(1, 2, 0).numpy()).max() <= 1


def test_all_eight_attitudes_occur_equally_often() -> None:
    recipe = PairRecipe(scales=(1.0, 1.0), lr_size=4, queries=16, aligned=True, downsampling="pillow")
    image = numbered(4, 4)
    seen = [pair_of(image, recipe, generator(0, n)).image.numpy().tobytes() for n in range(1600)]
    counts = {one: seen.count(one) for one in set(seen)}
    assert len(counts) == 8
    assert min(counts.values()) > 140 and max(counts.values()) < 260, counts.values()  # 200 +- 4.5 standard deviations


def test_scales_are_uniform_over_their_range() -> None:
    image = numbered(60, 60)
    scales = np.sort([float(pair_of(image, SMALL, generator(0, n)).scale) for n in range(2000)])
    distance = np.abs(scales - np.linspace(1, 4, 2000)).max() / 3
    assert distance < 0.04, f"{distance} from the uniform distribution (Kolmogorov's 0.1 % bound is 0.044)"


def test_a_pair_of_the_published_size() -> None:
    pair = pair_of(numbered(200, 240), LIIF, generator(5))
    shapes = {name: tuple(value.shape) for name, value in pair._asdict().items()}
    assert shapes == {
        "image": (3, 48, 48),
        "coords": (2304, 2),
        "cell": (2304, 2),
        "target": (2304, 3),
        "scale": (),
        "seed": (),
        "noise": (),
    }
    assert (pair.seed.dtype, pair.scale.dtype, pair.image.dtype) == (torch.int64, torch.float32, torch.float32)


def test_a_pair_is_a_pure_function_of_its_generator() -> None:
    image = numbered(200, 240)
    first, again, other = (pair_of(image, LIIF, generator(*key)) for key in ((1, 2, 3), (1, 2, 3), (1, 2, 4)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.seed != other.seed and not torch.equal(first.target, other.target)


@pytest.mark.parametrize("at", [(0, 0), (1, 1)])
def test_a_crop_may_reach_every_edge(at: tuple[int, int]) -> None:
    """A crop one pixel smaller than the image starts at 0 or 1, on either axis."""
    recipe = PairRecipe(scales=(1.0, 1.0), lr_size=9, queries=81, aligned=True, downsampling="pillow")
    pairs = [pair_of(numbered(10, 10), recipe, generator(n)) for n in range(60)]
    corners = {tuple((pair.target[:, :2].amin(0) * 255).round().int().tolist()) for pair in pairs}
    assert at in corners, corners


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), aligned=st.booleans())
def test_a_pair_is_the_plain_forms_bit_for_bit(seed: int, aligned: bool) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (70, 61, 3), dtype=np.uint8)
    recipe = dataclasses.replace(SMALL, aligned=aligned)
    assert_same(
        pair_of(image, recipe, generator(seed)), plain_pair_from_memory(to_tensor(image), recipe, generator(seed))
    )


def test_a_pair_of_the_published_size_is_the_plain_forms_from_a_file(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", image)
    for n in range(4):
        plain = plain_pair_from_png(tmp_path / "a.png", LIIF, generator(n))
        assert_same(pair_of(image, LIIF, generator(n)), plain)


def test_all_pixels_at_one_scale_are_the_plain_forms() -> None:
    recipe = PairRecipe(scales=(2.0, 2.0), lr_size=12, queries=None, aligned=False, downsampling="pillow")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for n in range(16):
        plain = plain_pair_from_memory(to_tensor(image), recipe, generator(n))
        assert_same(pair_of(image, recipe, generator(n)), plain)


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("downsampling", ["pillow", "matlab"])
def test_a_sample_is_the_same_in_any_batch_on_any_device(device: str, downsampling: str) -> None:
    recipe = dataclasses.replace(SMALL, downsampling=downsampling)
    image = np.random.default_rng(0).integers(0, 256, (70, 61, 3), dtype=np.uint8)
    draws = [draw(image, recipe, generator(n)) for n in range(12)]
    drawn = gathered(draws)
    moved = drawn._replace(**{key: value.to(device) for key, value in drawn._asdict().items() if key != "sides"})
    alone = [query_batch(gathered([one]), recipe) for one in draws]
    together = QueryBatch(*(value.cpu() for value in query_batch(moved, recipe)))
    assert_same(together, QueryBatch(*map(torch.cat, zip(*alone, strict=True))))
    as_on_a_gpu = shrunk(moved.pixels, moved.sides, 12, recipe.downsampling, together=True).cpu()
    assert torch.equal(as_on_a_gpu, shrunk(drawn.pixels, drawn.sides, 12, recipe.downsampling))
