"""RCAN (yulunzhang/RCAN; LIIF's copy without tail and without its mean shift)."""

from __future__ import annotations

from functools import partial

from dynres.backbones.rcan import RCAN
from dynres.interop.families import edsr
from dynres.interop.family import Family, Naming, Node, State, count
from dynres.restorer import Restorer


def extractor(state: State) -> Node | None:
    """head.0 and RCAN's body, and nothing else."""
    sizes = body(state)
    if sizes is None or not edsr.holds_only(state, "head.0", *convolutions(sizes)):
        return None
    return {"_target_": "dynres.backbones.rcan.RCAN", **sizes}


def body(state: State) -> dict[str, int] | None:
    """Sizes of a body of residual groups: body.N.body.N.body.{0,2,3.conv_du.0,3.conv_du.2}, body.N.body.last."""
    groups = count(state, "body.{}.body.0.body.3.conv_du.0.weight")
    blocks = count(state, "body.0.body.{}.body.3.conv_du.0.weight")
    if not groups:
        return None
    squeeze, channels = state["body.0.body.0.body.3.conv_du.0.weight"].shape[:2]
    return {"channels": channels, "groups": groups, "blocks": blocks, "reduction": channels // squeeze}


def convolutions(sizes: dict[str, int]) -> list[str]:
    """Names of all convolutions in a body of these sizes."""
    inside = ("body.0", "body.2", "body.3.conv_du.0", "body.3.conv_du.2")
    names = [f"{block}.{conv}" for block in range(sizes["blocks"]) for conv in inside] + [str(sizes["blocks"])]
    return [f"body.{group}.body.{name}" for group in range(sizes["groups"]) for name in names] + [
        f"body.{sizes['groups']}"
    ]


def naming(restorer: Restorer) -> Naming:
    """As EDSR's.

    Raises:
        ValueError: for the extra convolution of TADT's table, which no public code has.
    """
    if "backbone.extra.weight" in restorer.state_dict():
        raise ValueError("RCAN with extra_conv=true has no authors' form: set extra_conv=false")
    return edsr.naming(restorer)


FAMILY = Family("RCAN", (RCAN,), extractor, partial(edsr.whole, extractor=extractor), naming)
