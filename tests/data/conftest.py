"""Small generated images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from dynres.data.images import Pixels, write_png

settings.register_profile("steady", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("steady")


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> Pixels:
    """(height, width, channels) uint8 without any regularity a mistake could hide behind."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., Path]:
    """folder_of("name", sizes) writes 00.png, 01.png, ... of these (height, width) into a new folder."""

    def make(name: str, sizes: list[tuple[int, int]]) -> Path:
        for number, (height, width) in enumerate(sizes):
            write_png(tmp_path / name / f"{number:02d}.png", noise(height, width, number))
        return tmp_path / name

    return make


@pytest.fixture
def photos(folder_of: Callable[..., Path]) -> Path:
    return folder_of("photos", [(40, 50), (50, 40), (33, 60), (45, 45)])


@pytest.fixture(name="noise")
def _noise() -> Callable[..., Pixels]:
    return noise
