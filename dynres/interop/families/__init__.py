"""Every architecture whose checkpoints are known here; the first that recognises a state dict has it."""

from __future__ import annotations

from collections.abc import Callable

from dynres.interop.families import edsr, implicit
from dynres.interop.family import Family, Node, State

FAMILIES: tuple[Family, ...] = (edsr.FAMILY,)

HEADS: tuple[Callable[[State], Node | None], ...] = implicit.HEADS
