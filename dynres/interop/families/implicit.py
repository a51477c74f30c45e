"""Implicit upsamplers: what is left of a state dict of LIIF, MetaSR, LTE or SRNO once its extractor is taken off."""

from __future__ import annotations

from collections.abc import Callable

from dynres.interop.family import Node, State

# The upsampler of a state dict without its extractor, whose features have so many channels; None if it is another's.
Head = Callable[[State, int], Node | None]

GALERKIN = ("qkv_proj", "o_proj1", "o_proj2", "kln", "vln")


def liif(state: State, channels: int) -> Node | None:
    """imnet.layers.* from [features | 2 coordinates | 2 of the cell] to 3 colours.

    The local ensemble leaves no trace in the weights (on, as in every published model).
    """
    mlp = _mlp(state, "imnet.layers")
    if len(mlp) < 2 or not _holds_only(state, *mlp):
        return None
    hidden, inputs = state["imnet.layers.0.weight"].shape
    known = {features + position for features in (channels, channels * 9) for position in (2, 4)}
    if state[f"{mlp[-1]}.weight"].shape[0] != 3 or inputs not in known:
        return None
    return {
        "_target_": "dynres.upsamplers.liif.LIIF",
        "hidden": hidden,
        "layers": len(mlp) - 1,
        "feat_unfold": inputs >= channels * 9,
        "cell_decode": inputs in (channels * 9 + 4, channels + 4),
    }


def metasr(state: State, channels: int) -> Node | None:
    """imnet.layers.0 from 3 numbers, imnet.layers.2 to 3 x 9 x C weights."""
    mlp = _mlp(state, "imnet.layers")
    if len(mlp) != 2 or not _holds_only(state, *mlp):
        return None
    first, last = (state[f"{layer}.weight"] for layer in mlp)
    if first.shape[1] != 3 or last.shape[0] % 27:
        return None
    return {"_target_": "dynres.upsamplers.metasr.MetaSR", "hidden": first.shape[0]}


def lte(state: State, channels: int) -> Node | None:
    """coef, freq, phase and an MLP of linear layers."""
    return _texture(state, "imnet.layers", "dynres.upsamplers.lte.LTE", 2)


def lte_fast(state: State, channels: int) -> Node | None:
    """coef, freq, phase and a stack of 1x1 convolutions."""
    return _texture(state, "layers", "dynres.upsamplers.lte_fast.LTEFast", 4)


def srno(state: State, channels: int) -> Node | None:
    """conv00, the Galerkin blocks conv0 and conv1, fc1 and fc2."""
    blocks = [f"{block}.{name}" for block in ("conv0", "conv1") for name in GALERKIN]
    if not _holds_only(state, "conv00", *blocks, "fc1", "fc2") or state["conv0.kln.weight"].ndim != 3:
        return None
    return {
        "_target_": "dynres.upsamplers.srno.SRNO",
        "width": state["conv00.weight"].shape[0],
        "heads": state["conv0.kln.weight"].shape[0],
    }


def _texture(state: State, name: str, target: str, dimensions: int) -> Node | None:
    """LTE in the form whose MLP has this name and weights of so many dimensions."""
    mlp = _mlp(state, name)
    if len(mlp) < 2 or not _holds_only(state, "coef", "freq", *mlp, alone=("phase.weight",)):
        return None
    if state[f"{mlp[0]}.weight"].ndim != dimensions:
        return None
    return {"_target_": target, "hidden_dim": state["coef.weight"].shape[0], "layers": len(mlp) - 1}


def _mlp(state: State, name: str) -> list[str]:
    """As many names of layers 0, 2, 4, ... as there are weights and biases for."""
    return [f"{name}.{key}" for key in range(0, sum(key.startswith(f"{name}.") for key in state), 2)]


def _holds_only(state: State, *layers: str, alone: tuple[str, ...] = ()) -> bool:
    """Whether its keys are the weight and bias of these layers and the tensors `alone`."""
    return set(state) == {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}.union(alone)


HEADS: tuple[Head, ...] = (metasr, liif, lte, lte_fast, srno)
