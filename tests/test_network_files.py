"""A network's file reads beside its paper's figure: it is short, and what two networks share stands once, in layers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "dynres"
FILES = sorted(file for room in ("backbones", "upsamplers") for file in (ROOT / room).glob("*.py"))
LONGEST, BLOCK = 400, 6


def code(file: Path) -> list[str]:
    """Lines as they stand, without what cannot be shared: blank lines, imports, and the parameters of a signature."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not re.match(r"from |import |\w+: .*,$", line)]


def blocks(lines: list[str]) -> Iterator[tuple[str, ...]]:
    """Every run of six lines."""
    return zip(*(lines[start:] for start in range(BLOCK)), strict=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_network_is_read_in_one_go(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_nothing_stands_twice() -> None:
    runs = {file.name: set(blocks(code(file))) for file in FILES}
    twice = {(a, b): next(iter(runs[a] & runs[b])) for a, b in combinations(runs, 2) if runs[a] & runs[b]}
    assert not twice, twice
