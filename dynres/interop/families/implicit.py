"""Implicit upsamplers: what is left of a LIIF, MetaSR or LTE state dict once its extractor is taken off."""

from __future__ import annotations

from dynres.interop.family import Node, State


def liif(state: State) -> Node | None:
    """imnet.layers.* from [features | 2 coordinates | 2 of the cell] to 3 colours.

    The local ensemble leaves no trace in the weights (on, as in every published model). Widths of 64 channels, the
    extractors' in all published models, tell unfolding (576) and cell (+ 2) apart.
    """
    if set(state) != {f"imnet.layers.{2 * i}.{leaf}" for i in range(len(state) // 2) for leaf in ("weight", "bias")}:
        return None
    hidden, inputs = state["imnet.layers.0.weight"].shape
    if state[f"imnet.layers.{len(state) - 2}.weight"].shape[0] != 3:
        return None
    return {
        "_target_": "dynres.upsamplers.liif.LIIF",
        "hidden": hidden,
        "layers": len(state) // 2 - 1,
        "feat_unfold": inputs >= 64 * 9,
        "cell_decode": inputs % 64 == 4,
    }


def metasr(state: State) -> Node | None:
    """imnet.layers.0 from 3 numbers, imnet.layers.2 to 3 x 9 x C weights."""
    first, last = state.get("imnet.layers.0.weight"), state.get("imnet.layers.2.weight")
    if first is None or last is None or len(state) != 4 or first.shape[1] != 3 or last.shape[0] % 27:
        return None
    return {"_target_": "dynres.upsamplers.metasr.MetaSR", "hidden": first.shape[0]}


def lte(state: State) -> Node | None:
    """coef, freq, phase and an MLP of linear layers."""
    if not {"coef.weight", "freq.weight", "phase.weight", "imnet.layers.0.weight"} <= set(state):
        return None
    return {
        "_target_": "dynres.upsamplers.lte.LTE",
        "hidden_dim": state["coef.weight"].shape[0],
        "layers": sum(key.startswith("imnet.layers.") and key.endswith("weight") for key in state) - 1,
    }


HEADS = (metasr, liif, lte)
