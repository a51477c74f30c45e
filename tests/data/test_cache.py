from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynres.data.cache import PixelCache, cache_folder, open_cache
from dynres.data.images import find_images, read_rgb, write_png
from dynres.errors import UserError

Folder = Callable[..., Path]
Noise = Callable[..., np.ndarray]
SIZES = [(8, 9), (20, 3), (7, 7)]


def same_pixels(cache: PixelCache, paths: list[Path]) -> None:
    assert len(cache) == len(paths)
    for index, path in enumerate(paths):
        np.testing.assert_array_equal(cache[index], read_rgb(path))


def only_file(folder: Path) -> Path:
    files = list(folder.glob("*.pixels"))
    assert len(files) == 1, files
    return files[0]


def test_the_cache_holds_every_pixel_and_is_used_again(tmp_path: Path, folder_of: Folder) -> None:
    paths = find_images(folder_of("photos", SIZES))
    same_pixels(open_cache(paths, tmp_path / "cache"), paths)
    written = only_file(tmp_path / "cache").stat()
    same_pixels(open_cache(paths, tmp_path / "cache"), paths)
    assert only_file(tmp_path / "cache").stat().st_ino == written.st_ino, "it was built twice"
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".lock", ".pixels"]


def test_a_changed_image_rebuilds_the_cache(tmp_path: Path, folder_of: Folder, noise: Noise) -> None:
    paths = find_images(folder_of("photos", SIZES))
    open_cache(paths, tmp_path / "cache")
    write_png(paths[1], noise(20, 3, 99))
    same_pixels(open_cache(paths, tmp_path / "cache"), paths)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pixel", "index"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, folder_of: Folder, damage: str) -> None:
    paths = find_images(folder_of("photos", SIZES))
    open_cache(paths, tmp_path / "cache")
    file = only_file(tmp_path / "cache")
    whole = file.read_bytes()
    file.write_bytes(
        {
            "cut": whole[:100],
            "empty": b"",
            "text": b"no pixels here, only some words",
            "pixel": bytes([whole[0] ^ 1]) + whole[1:],
            "index": whole.replace(b'"images"', b'"imagos"'),
        }[damage]
    )
    same_pixels(open_cache(paths, tmp_path / "cache"), paths)


def test_all_unreadable_images_are_named_together_and_nothing_is_left(tmp_path: Path, folder_of: Folder) -> None:
    paths = find_images(folder_of("photos", SIZES))
    paths[0].write_text("text")
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    with pytest.raises(UserError) as caught:
        open_cache(paths, tmp_path / "cache")
    message = str(caught.value)
    assert str(paths[0]) in message and str(paths[2]) in message and str(paths[1]) not in message, message
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_long_list_of_problems_stays_readable(tmp_path: Path, folder_of: Folder) -> None:
    paths = find_images(folder_of("photos", [(4, 4)] * 15))
    for path in paths:
        path.write_text("text")
    with pytest.raises(UserError, match="and 5 more"):
        open_cache(paths, tmp_path / "cache")


def test_a_pickled_cache_carries_no_pixels(tmp_path: Path, folder_of: Folder) -> None:
    paths = find_images(folder_of("photos", [(200, 200)]))
    cache = open_cache(paths, tmp_path / "cache")
    same_pixels(cache, paths)
    sent = pickle.dumps(cache)
    assert len(sent) < 2000
    same_pixels(pickle.loads(sent), paths)


def test_a_view_cannot_change_the_cache(tmp_path: Path, folder_of: Folder) -> None:
    cache = open_cache(find_images(folder_of("photos", SIZES)), tmp_path / "cache")
    with pytest.raises(ValueError, match="read-only"):
        cache[0][0, 0] = 1


def test_a_cache_rebuilt_under_a_reader_is_noticed(tmp_path: Path, folder_of: Folder, noise: Noise) -> None:
    paths = find_images(folder_of("photos", SIZES))
    early = open_cache(paths, tmp_path / "cache")
    write_png(paths[0], noise(30, 30))
    os.utime(only_file(tmp_path / "cache"), (1, 1))  # as if built earlier than within this second
    early.sealed = 10**9
    open_cache(paths, tmp_path / "cache")
    with pytest.raises(UserError, match="rebuilt by another run"):
        early[1]


def _open(paths: list[Path], folder: Path) -> int:
    return sum(int(open_cache(paths, folder)[index].sum()) for index in range(len(paths)))


def test_processes_that_build_at_once_all_get_the_right_pixels(tmp_path: Path, folder_of: Folder) -> None:
    paths = find_images(folder_of("photos", [(60, 60)] * 8))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        sums = pool.starmap(_open, [(paths, tmp_path / "cache")] * 3)
    expected = sum(int(read_rgb(path).sum()) for path in paths)
    assert sums == [expected] * 3
    only_file(tmp_path / "cache")


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, folder_of: Folder) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="DYNRES_CACHE") as caught:
        open_cache(find_images(folder_of("photos", SIZES)), tmp_path / "file" / "cache")
    assert str(tmp_path / "file") in str(caught.value)


def test_a_full_disk_is_one_line(tmp_path: Path, folder_of: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; free space there, or set DYNRES_CACHE"):
        open_cache(find_images(folder_of("photos", SIZES)), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*pixels*")) and not list((tmp_path / "cache").glob(".*pixels*"))


def test_the_cache_folder_is_the_given_one_else_the_environments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DYNRES_CACHE", str(tmp_path / "env"))
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
    assert cache_folder() == tmp_path / "env"
    monkeypatch.delenv("DYNRES_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "dynres"
