"""RDN (LIIF's copy, after yulunzhang/RDN): SFENet, RDBs, GFF, UPNet; no mean shift."""

from __future__ import annotations

from dynres.backbones.rdn import RDN
from dynres.interop.families.edsr import holds_only
from dynres.interop.family import Description, Family, Naming, Node, State, count, network
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle


def extractor(state: State) -> Node | None:
    """SFENet{1,2}, RDBs.N.convs.N.conv.0, RDBs.N.LFF, GFF.{0,1}, and nothing else."""
    blocks, convs = count(state, "RDBs.{}.LFF.weight"), count(state, "RDBs.0.convs.{}.conv.0.weight")
    dense = [f"RDBs.{block}.convs.{conv}.conv.0" for block in range(blocks) for conv in range(convs)]
    fusions = [f"RDBs.{block}.LFF" for block in range(blocks)]
    if not dense or not holds_only(state, "SFENet1", "SFENet2", *dense, *fusions, "GFF.0", "GFF.1"):
        return None
    growth, channels = state["RDBs.0.convs.0.conv.0.weight"].shape[:2]
    return {
        "_target_": "dynres.backbones.rdn.RDN",
        "channels": channels,
        "growth": growth,
        "blocks": blocks,
        "convs": convs,
    }


def whole(state: State) -> Description | None:
    """The extractor and UPNet, if as wide as the features: configuration A's, which is narrower, is not known here."""
    tail = {key: value for key, value in state.items() if key.startswith("UPNet.")}
    backbone = extractor({key: value for key, value in state.items() if key not in tail})
    stages = len(tail) // 2 - 1
    if backbone is None or stages < 1 or not holds_only(tail, *(f"UPNet.{2 * conv}" for conv in range(stages + 1))):
        return None
    scale = 3 if tail["UPNet.0.weight"].shape[0] == 9 * backbone["channels"] else 2**stages
    if backbone["growth"] != backbone["channels"]:
        return None
    upsampler = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": scale}
    return network(backbone, upsampler, 0.0, 255.0)


def naming(restorer: Restorer) -> Naming:
    """The stages and the last convolution of the tail are one sequence."""
    backbone = ((r"(RDBs\.\d+\.convs\.\d+)\.", r"\1.conv.0."),)
    if not isinstance(restorer.upsampler, PixelShuffle):
        return Naming(backbone)
    last = len(restorer.upsampler.stages)
    return Naming(backbone, ((r"stages\.", "UPNet."), (r"last\.", f"UPNet.{last}.")))


FAMILY = Family("RDN", (RDN,), extractor, whole, naming)
