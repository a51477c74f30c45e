"""RNAN (yulunzhang/RNAN): denoising, demosaicing and JPEG artifacts at the image's size; super-resolution."""

from __future__ import annotations

from dynres.backbones.rnan import RNAN
from dynres.interop.families.edsr import TAIL, tail_scale
from dynres.interop.family import Description, Family, Naming, Node, State, count, mean_shift, network, value_range
from dynres.layers.pixels import DIV2K_MEAN
from dynres.restorer import Restorer

_MODULES = ((r"low\.", "body_nl_low.0."), (r"body\.(\d+)\.", r"body.\1."), (r"high\.", "body_nl_high.0."))
_PARTS = (
    (r"first\.", "body.0.RA_RB1.0."),
    (r"trunk\.", "body.0.RA_TB.0.body."),
    (r"mask\.before\.", "body.0.RA_MB.0.MB_RB1."),
    (r"mask\.down\.", "body.0.RA_MB.0.MB_Down.0."),
    (r"mask\.small\.", "body.0.RA_MB.0.MB_RB2."),
    (r"mask\.up\.", "body.0.RA_MB.0.MB_Up.0."),
    (r"mask\.after\.", "body.0.RA_MB.0.MB_RB3.0."),
    (r"mask\.conv\.", "body.0.RA_MB.0.MB_1x1conv.0."),
    (r"last\.", "body.0.RA_tail."),
    (r"conv\.", "body.1."),
)
_BACKBONE = tuple((module + part, prefix + name) for module, prefix in _MODULES for part, name in _PARTS)
_BLOCKS = ("RA_RB1.0", "RA_TB.0.body.0", "RA_TB.0.body.1", "RA_tail.0", "RA_tail.1")
_MASK_BLOCKS = ("MB_RB2.0", "MB_RB2.1", "MB_RB3.0")
_MASK_CONVS = ("MB_Down.0", "MB_Up.0", "MB_1x1conv.0")


def extractor(state: State) -> Node | None:
    """None: features alone do not tell whether the head's are added at their end, and nobody published such."""
    return None


def whole(state: State) -> Description | None:
    """Two non-local modules around local ones, and one convolution to colours or EDSR's tail."""
    local = count(state, "body.{}.body.1.weight")
    layers = ["head.0", f"body.{local}", *_module("body_nl_low.0", True), *_module("body_nl_high.0", True)]
    layers += [name for index in range(local) for name in _module(f"body.{index}", False)]
    found = {key for key in state if not key.startswith(("sub_mean.", "add_mean.", "tail."))}
    if found != {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}:
        return None
    if state["head.0.weight"].ndim != 4:
        return None
    channels, image_channels = state["head.0.weight"].shape[:2]
    backbone = {
        "_target_": "dynres.backbones.rnan.RNAN",
        "channels": channels,
        "modules": local + 2,
        "image_channels": image_channels,
    }
    if {key for key in state if key not in found} == {"tail.0.weight", "tail.0.bias"}:
        head = {"_target_": "dynres.upsamplers.same_size.SameSize", "image_channels": image_channels, "skip": "add"}
        return network(backbone | {"long_skip": False}, head, 0.0, 255.0)
    scale = tail_scale(state)
    if scale is None or image_channels != len(DIV2K_MEAN):
        return None
    upsampler = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": scale}
    return network(backbone | {"long_skip": True}, upsampler, DIV2K_MEAN, value_range(state))


def naming(restorer: Restorer) -> Naming:
    """Only the network for super-resolution shifts the mean."""
    assert isinstance(restorer.backbone, RNAN)
    if restorer.backbone.long_skip:
        return Naming(_BACKBONE, TAIL, mean_shift(restorer.pixels.factor))
    return Naming(_BACKBONE, ((r"last\.", "tail.0."),))


def _module(prefix: str, non_local: bool) -> list[str]:
    """The authors' names of a module's convolutions."""
    mask, before = "RA_MB.0", f"MB_RB1.{int(non_local)}"  # the non-local block stands before the mask's first
    blocks = [*_BLOCKS, *(f"{mask}.{name}" for name in (before, *_MASK_BLOCKS))]
    names = [f"{block}.body.{conv}" for block in blocks for conv in (0, 2)]
    names += [f"{mask}.{name}" for name in _MASK_CONVS]
    names += [f"{mask}.MB_RB1.0.{conv}" for conv in ("theta", "phi", "g", "W")] if non_local else []
    return [f"{prefix}.body.1", *(f"{prefix}.body.0.{name}" for name in names)]


FAMILY = Family("RNAN", (RNAN,), extractor, whole, naming)
