"""Plain stacks of convolutions: DnCNN, IRCNN, FFDNet (cszn/KAIR, cszn/DnCNN), VDSR and SRCNN.

In KAIR's files a network is `model.N`, with N counting convolutions, normalisations and ReLUs. Which network it is
shows in the first and last convolution: they read and write the image's channels in DnCNN, IRCNN and VDSR, four times
as many in FFDNet. IRCNN has seven of them, which no published DnCNN has. VDSR has nothing that a DnCNN lacks; only the
sign of what they estimate differs, so it has to be named.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dynres.backbones.dncnn import DnCNN
from dynres.backbones.ffdnet import FFDNet
from dynres.backbones.ircnn import DILATIONS, IRCNN
from dynres.backbones.srcnn import SRCNN
from dynres.backbones.vdsr import VDSR
from dynres.interop.family import Description, Family, Naming, Node, State, network
from dynres.restorer import Restorer
from dynres.upsamplers.base import GridUpsampler
from dynres.upsamplers.same_size import SameSize, Skip

COUNTER = ".num_batches_tracked"  # older files have none


def nobodys(state: State) -> None:
    """These networks were never published as extractors under an implicit upsampler, or need to be named."""


def dncnn(state: State) -> Description | None:
    """A plain stack, or one with batch normalisation."""
    plain = _stack(state)
    if plain is None:
        return _normalised(state, "model", bias=True) or _normalised(state, "dncnn", bias=False)
    channels, layers, inputs, outputs = plain
    if inputs != outputs or inputs not in (1, 3) or layers == len(DILATIONS) + 1:
        return None
    return _network(_dncnn(channels, layers, inputs), skip="subtract")


def vdsr(state: State) -> Description | None:
    """The VDSR in a state dict that is known to be one: by itself it reads as a DnCNN without batch normalisation."""
    plain = _stack(state)
    if plain is None or plain[2] != plain[3] or plain[2] not in (1, 3):
        return None
    channels, layers, image_channels, _ = plain
    options = {"channels": channels, "layers": layers, "image_channels": image_channels}
    return _network({"_target_": "dynres.backbones.vdsr.VDSR"} | options, skip="add")


def ircnn(state: State) -> Description | None:
    """A plain stack of seven convolutions."""
    plain = _stack(state)
    if plain is None or plain[1] != len(DILATIONS) + 1 or plain[2] != plain[3] or plain[2] not in (1, 3):
        return None
    options = {"channels": plain[0], "image_channels": plain[2]}
    return _network({"_target_": "dynres.backbones.ircnn.IRCNN"} | options, skip="subtract")


def ffdnet(state: State) -> Description | None:
    """A plain stack from 4c + 1 channels to 4c."""
    plain = _stack(state)
    if plain is None or plain[2] != plain[3] + 1 or plain[3] not in (4, 12):
        return None
    channels, layers, _, shuffled = plain
    options = {"channels": channels, "layers": layers, "image_channels": shuffled // 4}
    head = {"_target_": "dynres.upsamplers.same_size.AsImage", "image_channels": shuffled // 4}
    return network({"_target_": "dynres.backbones.ffdnet.FFDNet"} | options, head, 0.0, 1.0)


def srcnn(state: State) -> Description | None:
    """conv1, conv2, conv3, the sizes of their kernels read off their shapes."""
    if set(state) != {f"conv{n}.{leaf}" for n in (1, 2, 3) for leaf in ("weight", "bias")}:
        return None
    shapes = [tuple(state[f"conv{n}.weight"].shape) for n in (1, 2, 3)]
    if any(len(shape) != 4 or shape[2] != shape[3] or shape[2] % 2 == 0 for shape in shapes):
        return None
    (channels, inputs, patch, _), (mapped, second, mapping, _), (outputs, third, kernel, _) = shapes
    if (second, third, outputs) != (channels, mapped, inputs) or inputs not in (1, 3):
        return None
    backbone = {
        "_target_": "dynres.backbones.srcnn.SRCNN",
        "channels": channels,
        "mapped_channels": mapped,
        "patch_kernel": patch,
        "mapping_kernel": mapping,
        "image_channels": inputs,
    }
    return _network(backbone, skip="none", kernel=kernel)


def dncnn_names(restorer: Restorer) -> Naming:
    """`model.N`; in the DnCNN repository's own code, which leaves the biases to its normalisations, `dncnn.N`."""
    assert isinstance(restorer.backbone, DnCNN)
    own = any(isinstance(layer, nn.Conv2d) and layer.bias is None for layer in restorer.backbone.body)
    return _numbered(restorer, "subtract", "dncnn" if own else "model")


def vdsr_names(restorer: Restorer) -> Naming:
    """`model.N`, as its weights were converted from the authors' MATLAB files."""
    return _numbered(restorer, "add")


def ircnn_names(restorer: Restorer) -> Naming:
    """`model.N`."""
    return _numbered(restorer, "subtract")


def ffdnet_names(restorer: Restorer) -> Naming:
    """`model.N`; all of it is in the backbone."""
    return Naming(backbone=((r"body\.", "model."),))


def srcnn_names(restorer: Restorer) -> Naming:
    """conv1 and conv2 are the authors' already; the head is conv3."""
    check_head(restorer, "none")
    return Naming(upsampler=((r"last\.", "conv3."),))


def _stack(state: State) -> tuple[int, int, int, int] | None:
    """(width, layers, channels in, channels out) of 3x3 convolutions with biases: `model.0`, `model.2` and so on."""
    numbers = range(0, len(state), 2)
    if len(numbers) < 2 or set(state) != {f"model.{n}.{leaf}" for n in numbers for leaf in ("weight", "bias")}:
        return None
    found = _chained([tuple(state[f"model.{n}.weight"].shape) for n in numbers])
    return None if found is None else (found[0], len(numbers), *found[1:])


def _normalised(state: State, prefix: str, bias: bool) -> Description | None:
    """A DnCNN of convolution 0, then of convolutions 2, 5, 8, ... and normalisations 3, 6, 9, ..."""
    norms = sum(key.endswith(".running_var") for key in state)
    convolutions = [0, *range(2, 3 * norms + 3, 3)]
    biased = convolutions if bias else [0]
    names = {f"{prefix}.{n}.weight" for n in convolutions} | {f"{prefix}.{n}.bias" for n in biased}
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        names |= {f"{prefix}.{n}.{leaf}" for n in range(3, 3 * norms + 3, 3)}
    if not norms or {key for key in state if not key.endswith(COUNTER)} != names:
        return None
    found = _chained([tuple(state[f"{prefix}.{n}.weight"].shape) for n in convolutions])
    if found is None or found[1] != found[2] or found[1] not in (1, 3):
        return None
    # The share of the newest batch leaves no trace in the weights: 0.9 in KAIR, 0.95 in the DnCNN repository.
    options = {"batch_norm": True, "bias": bias, "momentum": 0.9 if bias else 0.95}
    return _network(_dncnn(found[0], norms + 2, found[1]) | options, skip="subtract", bias=bias)


def _chained(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int] | None:
    """(width, channels in, channels out) of 3x3 convolutions that follow each other, all of one width between them."""
    if any(len(shape) != 4 or shape[2:] != (3, 3) for shape in shapes):
        return None
    (width, inputs), (outputs, last) = shapes[0][:2], shapes[-1][:2]
    chained = last == width and all(shape[:2] == (width, width) for shape in shapes[1:-1])
    return (width, inputs, outputs) if chained else None


def _dncnn(channels: int, layers: int, image_channels: int) -> Node:
    return {
        "_target_": "dynres.backbones.dncnn.DnCNN",
        "channels": channels,
        "layers": layers,
        "image_channels": image_channels,
    }


def _network(backbone: Node, skip: Skip, kernel: int = 3, bias: bool = True) -> Description:
    """Under one convolution, with pixels in [0, 1]."""
    head = {"_target_": "dynres.upsamplers.same_size.SameSize", "image_channels": backbone["image_channels"]}
    return network(backbone, head | {"kernel": kernel, "bias": bias, "skip": skip}, 0.0, 1.0)


def _numbered(restorer: Restorer, skip: Skip, prefix: str = "model") -> Naming:
    """`body.N` and, as the last number, the head."""
    check_head(restorer, skip)
    assert isinstance(restorer.backbone, DnCNN | VDSR | IRCNN)
    last = len(restorer.backbone.body)
    return Naming(((r"body\.", f"{prefix}."),), ((r"last\.", f"{prefix}.{last}."),))


def check_head(restorer: Restorer, skip: Skip) -> None:
    """Refuse a whole-image head that is not the authors': under their names it would be taken for theirs."""
    head = restorer.upsampler
    found = f"SameSize(skip={head.skip})" if isinstance(head, SameSize) else type(head).__name__
    if isinstance(head, GridUpsampler) and found != f"SameSize(skip={skip})":
        name = type(restorer.backbone).__name__
        raise ValueError(f"{name} has an authors' form only under SameSize(skip={skip}), and this one is under {found}")


FAMILIES = (
    Family("DnCNN", (DnCNN,), nobodys, dncnn, dncnn_names),
    Family("VDSR", (VDSR,), nobodys, nobodys, vdsr_names, vdsr),
    Family("IRCNN", (IRCNN,), nobodys, ircnn, ircnn_names),
    Family("FFDNet", (FFDNet,), nobodys, ffdnet, ffdnet_names),
    Family("SRCNN", (SRCNN,), nobodys, srcnn, srcnn_names),
)
