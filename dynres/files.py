"""Files that are either whole or absent: a killed or failed write leaves the previous version in place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the name once it is whole and on the disk.

    The temporary name is fixed, so that what a killed process leaves behind is overwritten by the next one.

    Raises:
        OSError: what writing raised; the temporary file is removed and `path` is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by `text` (UTF-8), atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
