"""DRUNet (UNetRes of cszn/KAIR and cszn/DPIR)."""

from __future__ import annotations

from dynres.backbones.drunet import DRUNet
from dynres.interop.families.plain import check_head, nobodys
from dynres.interop.family import Description, Family, Naming, State, count, network
from dynres.restorer import Restorer

DOWN, UP = ("m_down1", "m_down2", "m_down3"), ("m_up3", "m_up2", "m_up1")


def whole(state: State) -> Description | None:
    """m_head, m_down1 to 3, m_body, m_up3 to 1, m_tail: convolutions without biases."""
    blocks = count(state, "m_body.{}.res.2.weight")
    if not blocks or set(state) != _names(blocks) or any(value.ndim != 4 for value in state.values()):
        return None
    image_channels = state["m_tail.weight"].shape[0]
    first, inputs = state["m_head.weight"].shape[:2]
    if image_channels not in (1, 3) or inputs != image_channels + 1:
        return None
    backbone = {
        "_target_": "dynres.backbones.drunet.DRUNet",
        "channels": [first, *(state[f"{level}.{blocks}.weight"].shape[0] for level in DOWN)],
        "blocks": blocks,
        "image_channels": image_channels,
    }
    head = {"_target_": "dynres.upsamplers.same_size.SameSize", "image_channels": image_channels}
    return network(backbone, head | {"bias": False, "skip": "none"}, 0.0, 1.0)


def naming(restorer: Restorer) -> Naming:
    """The backbone's names are the authors' already."""
    check_head(restorer, "none")
    return Naming(upsampler=((r"last\.", "m_tail."),))


def _names(blocks: int) -> set[str]:
    """All tensors of a network of this depth: a level's blocks stand before its halving and after its doubling."""
    first = dict.fromkeys((*DOWN, "m_body"), 0) | dict.fromkeys(UP, 1)
    inner = {f"{part}.{first[part] + n}.res.{leaf}.weight" for part in first for n in range(blocks) for leaf in (0, 2)}
    resized = {f"{part}.{blocks}.weight" for part in DOWN} | {f"{part}.0.weight" for part in UP}
    return {"m_head.weight", "m_tail.weight"} | inner | resized


FAMILY = Family("DRUNet", (DRUNet,), nobodys, whole, naming)
