"""AnySR's EDSR and RDN (CrispyFeSo4/AnySR), published under SRNO."""

from __future__ import annotations

from dynres.backbones.anysr import AnyEDSR, AnyRDN, AnySR
from dynres.interop.families.edsr import SHIFT, holds_only
from dynres.interop.family import Description, Family, Naming, Node, State, count, mean_shift
from dynres.restorer import Restorer
from dynres.upsamplers.implicit import ImplicitUpsampler

_BACKBONE = (
    (r"((?:body|RDBs)\.\d+)\.gate\.", r"\1."),
    (r"(RDBs\.\d+\.convs\.\d+)\.", r"\1.conv.0."),
)
_GATE = ("fc1", "fc2")


def extractor(state: State) -> Node | None:
    """Either network with its gates and its mean shift, which is part of it, and nothing else.

    Widths, scale groups and rule leave no trace in the weights: they are the published ones.
    """
    if not state.keys() >= SHIFT:
        return None
    return _edsr(state) or _rdn(state)


def whole(state: State) -> Description | None:
    """Never published with a tail."""
    return None


def naming(restorer: Restorer) -> Naming:
    """The shift back is a constant: their code never calls it.

    Raises:
        ValueError: without the gates, or under a head of convolutions: no public code has that.
    """
    backbone = restorer.backbone
    assert isinstance(backbone, AnySR)
    if not isinstance(restorer.upsampler, ImplicitUpsampler):
        head = type(restorer.upsampler).__name__
        raise ValueError(f"{type(backbone).__name__} has an authors' form only under upsampler=srno, not under {head}")
    if not any(".gate." in key for key in backbone.state_dict()):
        raise ValueError(f"{type(backbone).__name__} with enhanced=false has no authors' form: set enhanced=true")
    back = {key: value for key, value in mean_shift().items() if key.startswith("add_mean.")}
    return Naming(_BACKBONE, constants=back)


def _edsr(state: State) -> Node | None:
    """head.0, body.N.{conv1,conv2,fc1,fc2} and body.last."""
    blocks = count(state, "body.{}.fc1.weight")
    parts = [f"body.{block}.{part}" for block in range(blocks) for part in ("conv1", "conv2", *_GATE)]
    if not blocks or not holds_only(state, "head.0", *parts, f"body.{blocks}"):
        return None
    return {
        "_target_": "dynres.backbones.anysr.AnyEDSR",
        "channels": state["head.0.weight"].shape[0],
        "blocks": blocks,
    }


def _rdn(state: State) -> Node | None:
    """RDN's names, and RDBs.N.{fc1,fc2}."""
    blocks, convs = count(state, "RDBs.{}.fc1.weight"), count(state, "RDBs.0.convs.{}.conv.0.weight")
    inside = [*(f"convs.{conv}.conv.0" for conv in range(convs)), "LFF", *_GATE]
    parts = [f"RDBs.{block}.{part}" for block in range(blocks) for part in inside]
    if not blocks or not convs or not holds_only(state, "SFENet1", "SFENet2", *parts, "GFF.0", "GFF.1"):
        return None
    growth, channels = state["RDBs.0.convs.0.conv.0.weight"].shape[:2]
    return {
        "_target_": "dynres.backbones.anysr.AnyRDN",
        "channels": channels,
        "growth": growth,
        "blocks": blocks,
        "convs": convs,
    }


FAMILY = Family("AnySR", (AnyEDSR, AnyRDN), extractor, whole, naming)
