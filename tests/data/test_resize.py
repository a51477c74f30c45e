from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynres.data.images import find_images, read_rgb
from dynres.data.resize import Border, Kind, resize

Noise = Callable[..., np.ndarray]
side = st.integers(1, 40)


def naive_matlab(image: np.ndarray, size: tuple[int, int], border: Border) -> np.ndarray:
    """imresize's arithmetic for one channel, one output pixel at a time, as its documentation words it."""
    order = sorted((0, 1), key=lambda axis: size[axis] / image.shape[axis])
    for axis in order:
        rows = np.moveaxis(image, axis, 0)
        scale = size[axis] / rows.shape[0]
        width = 4 / min(scale, 1)
        result = np.zeros((size[axis], rows.shape[1]), np.uint8)
        for i in range(size[axis]):
            u = (i + 1) / scale + 0.5 * (1 - 1 / scale)
            taps = np.arange(math.floor(u - width / 2), math.floor(u - width / 2) + math.ceil(width) + 2)
            d = np.abs(min(scale, 1) * (u - taps))
            kernel = np.where(
                d <= 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d <= 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0)
            )
            mirrored = [*range(rows.shape[0]), *reversed(range(rows.shape[0]))]
            at = [
                mirrored[(t - 1) % len(mirrored)] if border == "symmetric" else min(max(t, 1), rows.shape[0]) - 1
                for t in taps
            ]
            value = (kernel / kernel.sum()) @ rows[at].astype(float)
            result[i] = np.clip(np.floor(value + 0.5), 0, 255)
        image = np.moveaxis(result, 0, axis)
    return image


@pytest.mark.parametrize("border", ["replicate", "symmetric"])
@given(height=side, width=side, rows=side, columns=side, seed=st.integers(0, 99))
def test_matlab_bicubic_is_the_documented_sum(
    border: Border, height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 1), dtype=np.uint8)
    ours = resize(image, (rows, columns), "matlab", border)[..., 0].astype(int)
    difference = np.abs(ours - naive_matlab(image[..., 0], (rows, columns), border))
    # the order of the sum may move a value that lies on a rounding tie, and what the second pass makes of it
    differing = int((difference > 0).sum())
    assert difference.max() <= 1 and differing <= 8 + 0.02 * difference.size, f"max {difference.max()}, {differing}"


@given(height=side, width=side, rows=side, columns=side, channels=st.integers(1, 5), seed=st.integers(0, 99))
def test_pillow_bicubic_is_pillows_on_every_channel(
    height: int, width: int, rows: int, columns: int, channels: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    ours = resize(image, (rows, columns), "pillow")
    for channel in range(channels):
        plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
        expected = np.asarray(plane.resize((columns, rows), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(ours[..., channel], expected)


def test_pillow_bicubic_has_not_changed_since_this_was_written() -> None:
    """Training data must be the same next year: a new Pillow that resizes otherwise should be noticed here."""
    image = (np.add.outer(np.arange(157) ** 2, 7 * np.arange(131))[..., None] * [1, 3, 5] % 256).astype(np.uint8)
    found = {size: zlib.crc32(resize(image, size, "pillow").tobytes()) for size in ((48, 48), (200, 61))}
    assert found == PILLOW_CHECKSUMS


PILLOW_CHECKSUMS = {(48, 48): 2426481494, (200, 61): 629217912}


@pytest.mark.parametrize("kind", ["matlab", "pillow"])
@given(value=st.integers(0, 255), height=side, width=side, rows=side, columns=side)
def test_a_flat_image_stays_flat(kind: Kind, value: int, height: int, width: int, rows: int, columns: int) -> None:
    flat = np.full((height, width, 3), value, np.uint8)
    np.testing.assert_array_equal(resize(flat, (rows, columns), kind), np.full((rows, columns, 3), value))


@pytest.mark.parametrize("kind", ["matlab", "pillow"])
@given(height=side, width=side, rows=side, columns=side, seed=st.integers(0, 99))
def test_resizing_the_mirrored_image_mirrors_the_result(
    kind: Kind, height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    straight = resize(image, (rows, columns), kind)[::-1, ::-1].astype(int)
    mirrored = resize(np.ascontiguousarray(image[::-1, ::-1]), (rows, columns), kind)
    assert np.abs(straight - mirrored).max() <= 1  # one level where the sum's order decides a tie


def test_same_size_is_the_image_itself(noise: Noise) -> None:
    for kind in ("matlab", "pillow"):
        np.testing.assert_array_equal(resize(noise(13, 17), (13, 17), kind), noise(13, 17))


def test_matlab_bicubic_agrees_with_torch_away_from_the_border(noise: Noise) -> None:
    image = noise(96, 80)
    ours = resize(image, (24, 20), "matlab").astype(float)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    theirs = torch.nn.functional.interpolate(tensor, (24, 20), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    error = np.abs(ours - theirs.numpy())[3:-3, 3:-3].max()
    assert error <= 1.3, f"{error} levels apart, where rounding twice explains 1.3"


def test_a_real_scale_may_differ_from_the_ratio_of_the_sizes(noise: Noise) -> None:
    """imresize(image, 1.7) of 10 pixels gives ceil(17.0) pixels at scale 1.7; at 1.75 it gives 18 at scale 1.75."""
    image = noise(10, 10)
    for kind in ("matlab", "pillow"):
        same = resize(image, (17, 17), kind, scale=(1.7, 1.7))
        np.testing.assert_array_equal(same, resize(image, (17, 17), kind))
    stretched = resize(image, (18, 18), "matlab", scale=(1.75, 1.75))
    assert not np.array_equal(stretched, resize(image, (18, 18), "matlab"))


@pytest.mark.parametrize(
    ("size", "kind", "says"), [((0, 4), "matlab", "at least 1x1"), ((4, 4), "cubic", "unknown bicubic")]
)
def test_an_impossible_resize_is_refused(noise: Noise, size: tuple[int, int], kind: Kind, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resize(noise(8, 8), size, kind)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "folder", "border", "scales"),
    [
        ("Set5", "LR_bicubic", "replicate", (2, 3, 4)),
        ("Set14", "LR_bicubic", "replicate", (2, 3, 4)),
        ("B100", "LR_bicubic", "replicate", (2, 3, 4)),
        ("Set5", "LR_bicubic_symmetric", "symmetric", (2, 3, 4)),
    ],
)
def test_published_low_resolution_images_are_reproduced_exactly(
    dynres_data: Path, name: str, folder: str, border: Border, scales: tuple[int, ...]
) -> None:
    root = dynres_data / "benchmark" / name
    worst = {}
    for path in find_images(root / "HR"):
        for s in scales:
            full = read_rgb(path)
            height, width = full.shape[0] // s, full.shape[1] // s
            ours = resize(full[: height * s, : width * s], (height, width), "matlab", border)
            published = read_rgb(root / folder / f"X{s}" / f"{path.stem}x{s}.png")
            worst[path.stem, s] = int(np.abs(ours.astype(int) - published).max())
    assert max(worst.values()) == 0, {key: value for key, value in worst.items() if value}
