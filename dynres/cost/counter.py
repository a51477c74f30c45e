"""MACs of anything that torch runs, counted at the dispatcher; on the meta device nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Convention = Literal["fvcore", "thop", "all"]
CONVENTIONS: dict[str, str] = {
    "fvcore": "convolution, linear and attention products without bias, those with a key sampled between pixels once; "
    "5 per element of an affine LayerNorm, 1 per input element of an average pool (TADT's tables)",
    "thop": "convolution and linear without bias; a transposed convolution costs by its output elements, attention "
    "products cost nothing; 4 per element of an affine LayerNorm, 3n - 1 per row of n of a softmax; only parameters of "
    "torch.nn's own layers, so no tables of position biases (FlexIR's tables)",
    "all": "convolution, linear and attention products without bias, nothing else",
}


def count_macs(function: Callable[[], object], convention: Convention = "fvcore") -> int:
    """MACs that one call of `function` runs, under a named convention. Kernels that do not run are not counted.

    torch counts 2 operations per multiply-accumulate; every paper of the suite prints multiply-accumulates as "FLOPs".

    Raises:
        ValueError: on an unknown convention.
    """
    _check(convention)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FORMULAS[convention]) as counter:
        function()
    return counter.get_total_flops() // 2


def count_on_meta(module: nn.Module, *inputs: object) -> int:
    """MACs of `module(*inputs)` in evaluation, for inputs on the meta device.

    Its weights are stood in for, nothing is computed, and the modes of its parts are as before.
    """
    stand_ins = {name: tensor.to("meta") for name, tensor in chain(module.named_parameters(), module.named_buffers())}
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode(False):
            return count_macs(lambda: functional_call(module, stand_ins, inputs))
    finally:
        for part, mode in modes:
            part.training = mode


# The layers that thop knows; parameters beside them, such as tables of position biases, it does not see.
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.PReLU)


def count_parameters(module: nn.Module, convention: Convention = "all") -> int:
    """Parameters, trainable or not, each once: under "thop" those that torch.nn's own layers hold, else all.

    Raises:
        ValueError: on an unknown convention.
    """
    _check(convention)
    layers = nn.ModuleList(part for part in module.modules() if isinstance(part, _LAYERS))
    return sum(parameter.numel() for parameter in (layers if convention == "thop" else module).parameters())


def _check(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")


# Twice the MACs of an operator, as torch counts, from the shapes of its arguments.


def _sdpa(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _sdpa_softmax(query: Any, key: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(query[:-1]) * (3 * key[-2] - 1)  # the fused kernels show no softmax


def _softmax(shape: Any, dim: int, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(shape) // shape[dim] * (3 * shape[dim] - 1)


def _layer_norm(per_element: int) -> Callable[..., int]:
    def formula(shape: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * per_element * math.prod(shape)

    return formula


def _mean(shape: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * math.prod(shape)  # global average pooling reaches the dispatcher as a mean


def _convolution(shape: Any, weight: Any, *others: Any, out_shape: Any = None, **__: Any) -> int:
    *_, groups = others
    return 2 * math.prod(out_shape) * (shape[1] // groups) * math.prod(weight[2:])


def _sampled_keys(table: Any, index: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    # A key of cross-layer attention is read from four pixels and counts once, as fvcore counts a bilinear sample.
    return 2 * math.prod(index) * table[1] // 4


def _nothing(*_: Any, **__: Any) -> int:
    return 0


_ATEN = torch.ops.aten
_FUSED_ATTENTION = (
    _ATEN._scaled_dot_product_flash_attention_for_cpu,
    _ATEN._scaled_dot_product_flash_attention,
    _ATEN._scaled_dot_product_efficient_attention,
    _ATEN._scaled_dot_product_cudnn_attention,
)
_CPU_ATTENTION: dict[Any, Any] = {_FUSED_ATTENTION[0]: _sdpa}  # torch's own list lacks it
_SAMPLED_KEYS = dict.fromkeys((_ATEN._embedding_bag, _ATEN._embedding_bag_forward_only), _sampled_keys)
_FORMULAS: dict[str, dict[Any, Any]] = {
    "all": _CPU_ATTENTION | _SAMPLED_KEYS,
    "fvcore": _CPU_ATTENTION | _SAMPLED_KEYS | {_ATEN.native_layer_norm: _layer_norm(5), _ATEN.mean: _mean},
    "thop": {
        _ATEN.convolution: _convolution,
        _ATEN.bmm: _nothing,  # of activations; linear layers reach the dispatcher as mm and addmm
        _ATEN.baddbmm: _nothing,
        _ATEN.native_layer_norm: _layer_norm(4),
        _ATEN._softmax: _softmax,
        _ATEN._safe_softmax: _softmax,
        **dict.fromkeys(_FUSED_ATTENTION, _sdpa_softmax),
    },
}
