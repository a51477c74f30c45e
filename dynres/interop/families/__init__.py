"""Every architecture whose checkpoints are known here; the first that recognises a state dict has it."""

from __future__ import annotations

from dynres.interop.families import (
    anysr,
    arbsr,
    cat,
    drunet,
    edsr,
    han,
    implicit,
    nlsn,
    panet,
    plain,
    rcan,
    rdn,
    rnan,
    san,
    swinir,
)
from dynres.interop.family import Family

FAMILIES: tuple[Family, ...] = (
    edsr.FAMILY, rdn.FAMILY, rcan.FAMILY, arbsr.FAMILY, anysr.FAMILY, han.FAMILY, san.FAMILY,
    *plain.FAMILIES, drunet.FAMILY, nlsn.FAMILY, rnan.FAMILY, *panet.FAMILIES,
    swinir.FAMILY, cat.FAMILY,
)  # fmt: skip

HEADS: tuple[implicit.Head, ...] = implicit.HEADS
