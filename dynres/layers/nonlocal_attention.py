"""The non-local block: every pixel attends to every pixel (Wang et al., CVPR 2018, Fig. 2, embedded Gaussian form)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.widths import check_widths

SCORES_AT_ONCE = 2**25  # 128 MB in float32: what an image of any size holds of its (H W)^2 scores


class NonLocalBlock(nn.Module):
    """x + W attention(theta(x), phi(x), g(x)) with 1x1 convolutions and unscaled scores, (B, C, H, W) -> the same.

    W begins at zero, so that the block begins as the identity.

    Args:
        channels: C.
        inner: channels of queries theta, keys phi and values g.
        softmax_over: "keys", as in the paper; "queries", as in RNAN's code: each key spreads its value over the image.

    Raises:
        ValueError: a width below 1, or another axis.
    """

    def __init__(self, channels: int, inner: int, softmax_over: Literal["keys", "queries"] = "keys") -> None:
        super().__init__()
        check_widths("non-local block", channels=channels, inner=inner)
        if softmax_over not in ("keys", "queries"):
            raise ValueError(f"softmax_over must be keys or queries, got {softmax_over!r}")
        self.softmax_over = softmax_over
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.W = nn.Conv2d(inner, channels, 1)
        for parameter in self.W.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (conv(x).flatten(2).transpose(1, 2) for conv in (self.theta, self.phi, self.g))
        if self.softmax_over == "keys":
            # Four axes, in order in memory: else torch's CPU takes the form that holds every score.
            q, k, v = (tokens[:, None].contiguous() for tokens in (query, key, value))
            out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0]
        else:
            out = attend_over_queries(query, key, value)
        return x + self.W(out.transpose(1, 2).unflatten(2, x.shape[-2:]))


def attend_over_queries(query: Tensor, key: Tensor, value: Tensor, scores_at_once: int = SCORES_AT_ONCE) -> Tensor:
    """out_i = sum_j v_j exp(q_i . k_j) / sum_n exp(q_n . k_j): attention whose soft-max runs over the queries.

    A key's soft-max needs its own scores alone, so keys are taken some at a time; the result is the same.

    Args:
        query: (B, N, c).
        key: (B, M, c).
        value: (B, M, d).
        scores_at_once: bound on the scores in memory; one key at a time needs B N.

    Returns:
        (B, N, d).
    """
    batch, queries, _ = query.shape
    step = key.shape[1] if key.is_meta else max(scores_at_once // (batch * queries), 1)
    # Thousands of small terms: half precision would lose them.
    out = query.new_zeros(batch, queries, value.shape[-1], dtype=torch.promote_types(query.dtype, torch.float32))
    for start in range(0, key.shape[1], step):
        some = slice(start, start + step)
        weights = (key[:, some] @ query.transpose(1, 2)).softmax(dim=-1)
        out = out + weights.transpose(1, 2) @ value[:, some]
    return out.to(query.dtype)
