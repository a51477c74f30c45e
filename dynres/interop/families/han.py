"""HAN (wwlCape/HAN): RCAN's body and the two attentions."""

from __future__ import annotations

from functools import partial

from dynres.backbones.han import HAN
from dynres.interop.families import edsr, rcan
from dynres.interop.family import Family, Node, State

_SCALES = ("la.gamma", "csa.gamma")


def extractor(state: State) -> Node | None:
    """RCAN's extractor with la.gamma, csa.{gamma,conv}, last_conv and last."""
    sizes = rcan.body(state)
    if sizes is None:
        return None
    layers = ["head.0", *rcan.convolutions(sizes), "csa.conv", "last_conv", "last"]
    if not edsr.holds_only(state, *layers, alone=_SCALES):
        return None
    return {"_target_": "dynres.backbones.han.HAN", **sizes}


FAMILY = Family("HAN", (HAN,), extractor, partial(edsr.whole, extractor=extractor), edsr.naming)
