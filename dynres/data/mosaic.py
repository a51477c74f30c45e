"""The Bayer mosaic: each pixel of a camera's sensor sees one colour, and demosaicing restores the other two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynres.data.degradations import Degradation, Random
from dynres.data.images import Pixels
from dynres.errors import UserError

PATTERNS = ("rggb", "bggr", "grbg", "gbrg")


class Mosaic(Degradation):
    """Every pixel keeps one of its colours, the other two become 0 (ACLA, A.2, after RNAN).

    What stands beside the restored image is bilinear demosaicing. Training patches have the pattern's phase too.

    Args:
        pattern: colours of the 2x2 pixels at the top left, row by row; one of PATTERNS.

    Raises:
        UserError: another pattern.
    """

    protocol, plain_name, colour_only, levels = "denoise", "bilinear", True, (0.0,)

    def __init__(self, pattern: str = "rggb") -> None:
        if pattern not in PATTERNS:
            raise UserError(f"task.pattern must be one of {', '.join(PATTERNS)}, got {pattern}")
        self.pattern = pattern

    def label(self, level: float) -> str:
        return self.pattern

    def draw_level(self, random: Random) -> float:
        return self.levels[0]

    def degrade(self, clean: Pixels, level: float, random: Random) -> tuple[NDArray[np.float32], float]:
        return np.where(self._sampled(clean.shape), clean, 0).astype(np.float32) / np.float32(255), 0.0

    def plain(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bilinear: a colour that was not sampled is the mean of its samples among the 8 neighbours (2 or 4 of them, at
        the image's border those that there are). Both sides at least 2."""
        sampled = self._sampled(image.shape)
        return np.where(sampled, image, _around(image) / _around(sampled.astype(np.float32)))

    def _sampled(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """(H, W, 3): whether a colour of a pixel is in the mosaic."""
        colours = np.array(["rgb".index(colour) for colour in self.pattern]).reshape(2, 2)
        rows, columns = (np.arange(side) % 2 for side in shape[:2])
        return colours[np.ix_(rows, columns)][..., None] == np.arange(3)


def _around(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, C): the sum over each pixel and its 8 neighbours, 0 beyond the border."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
