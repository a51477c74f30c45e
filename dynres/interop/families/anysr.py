"""AnySR's EDSR and RDN (CrispyFeSo4/AnySR), published under SRNO."""

from __future__ import annotations

from typing import Any

from dynres.backbones.anysr import AnySR, MeanShift
from dynres.backbones.edsr import EDSR
from dynres.backbones.rdn import RDN
from dynres.interop.families.edsr import SHIFT, holds_only
from dynres.interop.family import Description, Family, Naming, Node, State, count, mean_shift
from dynres.restorer import Restorer
from dynres.upsamplers.implicit import ImplicitUpsampler

_BACKBONE = (
    (r"network\.(body\.\d+)\.body\.0\.gate\.", r"\1."),
    (r"network\.(body\.\d+)\.body\.0\.", r"\1.conv1."),
    (r"network\.(body\.\d+)\.body\.2\.", r"\1.conv2."),
    (r"network\.(RDBs\.\d+)\.LFF\.gate\.", r"\1."),
    (r"network\.(RDBs\.\d+\.convs\.\d+)\.", r"\1.conv.0."),
    (r"network\.", ""),
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
        ValueError: a network or a form of it that no public code has.
    """
    backbone = restorer.backbone
    assert isinstance(backbone, AnySR)
    network, head = backbone.network, type(restorer.upsampler).__name__
    plain = isinstance(network, EDSR) and network.body[0].residual_scale == 1
    if not plain and not isinstance(network, RDN):
        raise ValueError("AnySR has an authors' form only of edsr_baseline and rdn")
    if not isinstance(restorer.upsampler, ImplicitUpsampler):
        raise ValueError(f"AnySR has an authors' form only under srno, liif, metasr or lte, not under {head}")
    if not any(".gate." in key for key in backbone.state_dict()) or not isinstance(backbone.sub_mean, MeanShift):
        raise ValueError("AnySR has an authors' form only with backbone.enhanced=true backbone.mean_shift=true")
    back = {key: value for key, value in mean_shift().items() if key.startswith("add_mean.")}
    return Naming(_BACKBONE, constants=back)


def _edsr(state: State) -> Node | None:
    """head.0, body.N.{conv1,conv2,fc1,fc2} and body.last."""
    blocks = count(state, "body.{}.fc1.weight")
    parts = [f"body.{block}.{part}" for block in range(blocks) for part in ("conv1", "conv2", *_GATE)]
    if not blocks or not holds_only(state, "head.0", *parts, f"body.{blocks}"):
        return None
    sizes = {"channels": state["head.0.weight"].shape[0], "blocks": blocks, "residual_scale": 1.0}
    return _published([0.5, 0.7, 0.9, 1.0], {"_target_": "dynres.backbones.edsr.EDSR", **sizes})


def _rdn(state: State) -> Node | None:
    """RDN's names, and RDBs.N.{fc1,fc2}."""
    blocks, convs = count(state, "RDBs.{}.fc1.weight"), count(state, "RDBs.0.convs.{}.conv.0.weight")
    inside = [*(f"convs.{conv}.conv.0" for conv in range(convs)), "LFF", *_GATE]
    parts = [f"RDBs.{block}.{part}" for block in range(blocks) for part in inside]
    if not blocks or not convs or not holds_only(state, "SFENet1", "SFENet2", *parts, "GFF.0", "GFF.1"):
        return None
    growth, channels = state["RDBs.0.convs.0.conv.0.weight"].shape[:2]
    sizes = {"channels": channels, "growth": growth, "blocks": blocks, "convs": convs}
    return _published([0.7, 0.8, 0.9, 1.0], {"_target_": "dynres.backbones.rdn.RDN", **sizes})


def _published(widths: list[float], network: dict[str, Any]) -> Node:
    options = {"widths": widths, "scale_groups": [1.7, 2.5, 3.2], "rule": "official", "mean_shift": True}
    return {"_target_": "dynres.backbones.anysr.AnySR", "network": network, **options}


FAMILY = Family("AnySR", (AnySR,), extractor, whole, naming)
