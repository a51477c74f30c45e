"""Running text of notes and captions: plain words, with code between backticks."""

from __future__ import annotations

import re
from collections.abc import Iterator


def spans(text: str) -> Iterator[tuple[str, bool]]:
    """(piece, is it code) of one line; a backtick without a partner is a plain character."""
    for place, piece in enumerate(re.split(r"`([^`]+)`", " ".join(text.split()))):
        if piece:
            yield piece, place % 2 == 1
