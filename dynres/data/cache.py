"""Decoded pixels of many images in one memory-mapped file: a random crop then costs microseconds instead of a decode.

Layout: the pixels of every image, one after the other, (H, W, 3) uint8 in C order; then a JSON index; then the index's
length and the magic bytes. The index names each file with its size and modification time, so that a changed image
rebuilds the cache, and the cache's own modification time, so that a damaged cache does too. The file is
written beside its place and moved there whole; readers of an older one keep theirs. Reduced images have a file of
their own, whose name says by how much.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from dynres.data.images import Pixels, read_rgb
from dynres.data.resize import reduced
from dynres.errors import UserError

_MAGIC = b"dynresP1"
_TRAILER = struct.Struct("<q8s")
_NAMED_PROBLEMS = 10


class _Entry(NamedTuple):
    path: str
    bytes: int
    modified: int
    height: int
    width: int
    offset: int


class PixelCache:
    """The images of `paths`, in that order; `cache[i]` is a read-only (H, W, 3) uint8 view of the mapped file."""

    def __init__(self, file: Path, sealed: int, entries: Sequence[_Entry]) -> None:
        self.file, self.sealed, self.entries = file, sealed, list(entries)
        self._mapped: np.memmap | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Pixels:
        if self._mapped is None:
            self._mapped = np.memmap(self.file, dtype=np.uint8, mode="r")
            if self.file.stat().st_mtime_ns != self.sealed:
                raise UserError(f"{self.file} was rebuilt by another run while this one started; start again")
        entry = self.entries[index]
        shape = (entry.height, entry.width, 3)
        return np.ndarray(shape, np.uint8, buffer=self._mapped, offset=entry.offset)

    def __getstate__(self) -> dict[str, Any]:
        """A worker process maps the file itself; a pickled map would carry every pixel."""
        return {**self.__dict__, "_mapped": None}

    def at_least(self, side: int) -> PixelCache:
        """Of the images whose sides both have as many pixels."""
        return PixelCache(self.file, self.sealed, [one for one in self.entries if min(one.height, one.width) >= side])

    def sizes(self) -> list[tuple[str, int, int]]:
        """(path, height, width) of every image."""
        return [(entry.path, entry.height, entry.width) for entry in self.entries]


def cache_folder(folder: str | Path | None = None) -> Path:
    """Where caches live: `folder`, else the environment's DYNRES_CACHE, else ~/.cache/dynres."""
    return Path(folder or os.environ.get("DYNRES_CACHE") or Path.home() / ".cache" / "dynres").expanduser()


def open_cache(paths: Sequence[Path], folder: str | Path | None = None, reduce: int = 1) -> PixelCache:
    """The cache of these images, built if there is none, or if an image or the cache changed since.

    Args:
        paths: the images, in the order of the cache.
        folder: see `cache_folder`.
        reduce: what the cache holds of each is `resize.reduced` by this.

    Raises:
        UserError: naming every image that cannot be read; or a cache folder that cannot be written.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    key = hashlib.sha256("\n".join(map(str, absolute)).encode()).hexdigest()[:16]
    size = "" if reduce == 1 else f"-1by{reduce}"
    file = cache_folder(folder) / f"{absolute[0].parent.name}-{key}{size}.pixels"
    existing = _load(file, absolute)
    if existing is not None:
        return existing
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(file):
            return _load(file, absolute) or _build(file, absolute, reduce)
    except OSError as error:
        raise UserError(
            f"cannot write the image cache in {file.parent}: {error.strerror or error}; free space there, "
            f"or set DYNRES_CACHE to another folder"
        ) from error


def _load(file: Path, paths: Sequence[Path]) -> PixelCache | None:
    """The cache in `file` if it is whole and of these images as they are now."""
    try:
        with file.open("rb") as stream:
            stream.seek(-_TRAILER.size, os.SEEK_END)
            length, magic = _TRAILER.unpack(stream.read())
            if magic != _MAGIC:
                return None
            stream.seek(-_TRAILER.size - length, os.SEEK_END)
            pixels = stream.tell()
            index = json.loads(stream.read(length))
            modified = os.fstat(stream.fileno()).st_mtime_ns
            entries, whole = [_Entry(*row) for row in index["images"]], (index["sealed"], index["pixels"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    if whole != (modified, pixels):
        return None
    now = [(str(path), *_stamp(path)) for path in paths]
    return PixelCache(file, modified, entries) if now == [entry[:3] for entry in entries] else None


def _stamp(path: Path) -> tuple[int, int]:
    """(bytes, modification time in ns); (-1, -1) for a file that is gone."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _build(file: Path, paths: Sequence[Path], reduce: int) -> PixelCache:
    handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            sealed = time.time_ns() // 10**9 * 10**9  # whole seconds: every file system keeps them
            _finish(stream, _write_pixels(stream, paths, reduce), sealed)
        os.utime(part, ns=(sealed, sealed))
        os.replace(part, file)
    finally:
        Path(part).unlink(missing_ok=True)
    built = _load(file, paths)
    if built is None:
        raise UserError(f"an image in {paths[0].parent} changed while it was read; start again")
    return built


def _write_pixels(stream: IO[bytes], paths: Sequence[Path], reduce: int) -> list[_Entry]:
    """Decode every image; all that cannot be read are named together, since a user would rather mend them at once."""
    entries, problems = [], []
    console = Console(stderr=True)
    told = track(
        paths,
        description=f"Decoding {len(paths)} images",
        transient=True,
        console=console,
        disable=not console.is_terminal,
    )
    for path in told:
        size, modified = _stamp(path)
        try:
            image = reduced(read_rgb(path), reduce)
        except UserError as error:
            problems.append(str(error))
            continue
        height, width = image.shape[:2]
        entries.append(_Entry(str(path), size, modified, height, width, stream.tell()))
        stream.write(image.tobytes())
    if problems:
        raise UserError(summary(problems))
    return entries


def _finish(stream: IO[bytes], entries: list[_Entry], sealed: int) -> None:
    index = json.dumps({"pixels": stream.tell(), "sealed": sealed, "images": entries}).encode()
    stream.write(index + _TRAILER.pack(len(index), _MAGIC))
    stream.flush()
    os.fsync(stream.fileno())


def summary(problems: Sequence[str]) -> str:
    """Problems in one line: the first ten in full, and how many more."""
    more = len(problems) - _NAMED_PROBLEMS
    return "; ".join(problems[:_NAMED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _only_builder(file: Path) -> Iterator[None]:
    """Of several processes that need the same cache, one builds and the others wait for it.

    Where the system has no such lock each builds its own, and the last one stays: slower, equally right.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
