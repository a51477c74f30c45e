"""Algorithm 1 as the paper writes it: one block after the other, each with an Adam of its own (FlexIR, Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynres.backbones.flexir import FlexIR


def own_parameters(network: FlexIR, block: int) -> list[nn.Parameter]:
    """What block j (from 1) and its branch consist of; block 1 comes with the first convolution and its norm."""
    parts: list[nn.Module] = [network.layers[block - 1], network.branches[block - 1]]
    if block == 1:
        parts += [network.conv_first, network.patch_norm]
    return [parameter for part in parts for parameter in part.parameters()]


def one_batch(
    network: FlexIR,
    scores: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    image: Tensor,
    target: Tensor,
    taught: Tensor,
    active: int,
    alpha: float,
    epsilon: float,
) -> list[Tensor]:
    """Lines 9 to 17: the losses of the active blocks, each of which has made its step.

    The features of all blocks are those before any of the batch's steps: in line 13 block j receives F_{j-1}.
    """
    exits = list(network.exits(image, upto=active, detach=True))
    losses = []
    for block in range(1, active + 1):
        at = exits[block - 1]
        score = scores[block - 1](at.features)
        distilled = (at.features * score - taught).abs().mean()
        restored = torch.sqrt((at.colours - target) ** 2 + epsilon**2).mean()
        loss = (alpha * distilled + (1 - alpha) * restored) * block / sum(range(1, active + 1))
        optimizers[block - 1].zero_grad()
        loss.backward()
        optimizers[block - 1].step()
        losses.append(loss.detach())
    return losses
