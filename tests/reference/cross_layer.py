"""Cross-layer attention as ACLA's paper writes it, a query and a key at a time (Eq. 5-9 without noise, Eq. 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynres.layers.cross_layer import CrossLayerAttention


def plain_attention(module: CrossLayerAttention, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """What the module gives in evaluation for x (B, C, H, W) and n maps of that shape."""
    out = x.clone()
    for sample in range(len(x)):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                y = _attended(module, x[sample], [one[sample] for one in maps], row, column)
                out[sample, :, row, column] += _linear(module.output, y)  # Eq. 2
    return out


def _attended(module: CrossLayerAttention, x: Tensor, maps: Sequence[Tensor], row: int, column: int) -> Tensor:
    """y_i, Eq. 6; Eq. 5 without mask units."""
    _, height, width = x.shape
    count = len(maps) * module.keys
    said = _linear(module.query, x[:, row, column]).tolist()
    scale = sum(math.exp(logit) for logit in said[2 * count :])
    y = torch.zeros_like(x[:, 0, 0])
    for l, referred in enumerate(maps):  # noqa: E741
        for k in range(module.keys):
            number = l * module.keys + k
            p = min(max(row + said[number], 0), height - 1), min(max(column + said[count + number], 0), width - 1)
            key = sampled(referred, *p)
            if module.mask is not None:
                beta = _linear(module.mask[l], key)  # Eq. 8
                m = 1 / (1 + math.exp(-float(beta[k if len(beta) > 1 else 0]) / module.temperature))  # Eq. 7
                if m <= 0.5:  # Eq. 9
                    continue
            y = y + math.exp(said[2 * count + number]) / scale * _linear(module.value[l], key)
    return y


def sampled(image: Tensor, row: float, column: float) -> Tensor:
    """(C, H, W) read between its pixels -> (C,): each pixel weighs by how near it is, along both axes."""
    rows, columns = (torch.arange(side, dtype=torch.double) for side in image.shape[1:])
    near = (1 - (rows - row).abs()).clamp(min=0)[:, None] * (1 - (columns - column).abs()).clamp(min=0)
    return (image * near.to(image.dtype)).sum((1, 2))


def _linear(convolution: nn.Module, pixel: Tensor) -> Tensor:
    """A 1x1 convolution of one pixel (C,)."""
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    return convolution.weight[:, :, 0, 0] @ pixel + convolution.bias
