"""MACs of anything that torch runs, counted at the dispatcher; on the meta device nothing is computed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

Convention = Literal["fvcore", "all"]
CONVENTIONS: dict[str, str] = {
    "fvcore": "convolution, linear and attention products without bias; 5 per element of an affine LayerNorm, "
    "1 per input element of an average pool (TADT's tables)",
    "all": "convolution, linear and attention products without bias, nothing else",
}


def count_macs(function: Callable[[], object], convention: Convention = "fvcore") -> int:
    """MACs that one call of `function` runs, under a named convention. Kernels that do not run are not counted.

    torch counts 2 operations per multiply-accumulate; every paper of the suite prints multiply-accumulates as "FLOPs".

    Raises:
        ValueError: on an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    mapping: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa}
    if convention == "fvcore":
        mapping |= {torch.ops.aten.native_layer_norm: _layer_norm, torch.ops.aten.mean: _mean}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
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


def count_parameters(module: nn.Module) -> int:
    """All parameters, trainable or not, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _sdpa(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _layer_norm(shape: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * 5 * _elements(shape)


def _mean(shape: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * _elements(shape)  # global average pooling reaches the dispatcher as a mean


def _elements(shape: Any) -> int:
    size = shape.shape if isinstance(shape, Tensor) else shape
    return int(torch.Size(size).numel())
