"""Cross-layer non-local attention: every pixel attends to every pixel of several layers (ACLA, Eq. 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dynres.layers.nonlocal_attention import SCORES_AT_ONCE
from dynres.layers.widths import check_widths


class CrossLayerNonLocal(nn.Module):
    """x + h(attention of theta(x) to the phi_l, g_l of all referred maps l) with 1x1 convolutions and unscaled scores.

    One soft-max runs over all pixels of all maps (ACLA, Eq. 1-3: the vanilla cross-layer design, "CLNL" of Table 4);
    for one map it is `NonLocalBlock`. h begins at zero, so that the module begins as the identity. Memory grows with
    the pixels, not with their pairs, in training too.

    Args:
        channels: C.
        maps: n, how many maps are referred to.
        inner: channels of queries theta, keys phi and values g. ACLA does not say; C / 2 is the non-local paper's,
            and C comes nearer to the parameters and FLOPs of Table 4.

    Raises:
        ValueError: a width or count below 1, or another number of maps.
    """

    def __init__(self, channels: int, maps: int, inner: int) -> None:
        super().__init__()
        check_widths("cross-layer non-local attention", channels=channels, maps=maps, inner=inner)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi, self.g = (nn.ModuleList(nn.Conv2d(channels, inner, 1) for _ in range(maps)) for _ in range(2))
        self.h = nn.Conv2d(inner, channels, 1)
        for parameter in self.h.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, C, H, W) and n maps of B samples and C channels, of any size -> (B, C, H, W)."""
        if len(maps) != len(self.phi):
            raise ValueError(f"this cross-layer attention refers to {len(self.phi)} maps, got {len(maps)}")
        query = to_heads(self.theta(x))
        key, value = (
            torch.cat([to_heads(conv(map)) for conv, map in zip(convs, maps, strict=True)], dim=2)
            for convs in (self.phi, self.g)
        )
        step = queries_at_once(query, key)
        out = torch.cat([recomputed(_attend, some, key, value) for some in query.split(step, dim=2)], dim=2)
        return x + self.h(from_heads(out, x))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)


def to_heads(projected: Tensor, heads: int = 1) -> Tensor:
    """(B, heads * d, H, W) -> (B, heads, H W, d), contiguous: torch's fused attention of a CPU takes nothing else.

    Never in half precision: over the pieces in which queries are taken, gradients of keys and values add up.
    """
    tokens = projected.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32)).contiguous()


def from_heads(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, heads, H W, d) -> (B, heads * d, H, W), of the size and precision of `like`."""
    return tokens.to(like.dtype).transpose(2, 3).flatten(1, 2).unflatten(2, like.shape[-2:])


def queries_at_once(query: Tensor, key: Tensor) -> int:
    """How many queries of (B, heads, N, d) may meet all keys of (B, heads, M, d) in one piece, at least one."""
    queries = max(SCORES_AT_ONCE // key.shape[:3].numel(), 1)
    # Nothing is computed there: few pieces, each of as many queries as dynres.cost.memory takes for a table of pairs.
    return max(queries, query.shape[2] // 8) if query.is_meta else queries


def recomputed(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    """function(*inputs); what it holds on the way is not kept for the gradient, but computed again when that comes.

    All that the gradient goes to must be among the inputs. Nothing in it may be random.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
