"""Pyramid attention: every pixel attends to the 3x3 patches of its image at five sizes.

Mei et al., "Pyramid Attention Networks for Image Restoration" (arXiv 2004.13824), Sec. 3; C channels, L = H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.widths import check_widths

LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6)
SHARPNESS = 10.0
MIN_NORM = 1e-4
PATCH = 3
SCORES_AT_ONCE = 2**25  # 128 MB in float32: what an image of any size holds of its L x 3.3 L scores


class PyramidAttention(nn.Module):
    """r * x + the image put together anew from similar patches of all levels, (B, C, H, W) -> (B, C, H, W).

    It is the input that is scaled, as in the authors' code, not the attention. Levels that would have no pixel are left
    out (an image 1 pixel high has the first level alone).
    The patches of all levels are in memory at once, some 45 times the features: large images want tiles.

    Args:
        channels: C.
        reduction: queries and keys have C / reduction channels.
        residual_scale: r.

    Raises:
        ValueError: if a width is below 1, or reduction is more than channels.
    """

    def __init__(self, channels: int, reduction: int, residual_scale: float) -> None:
        super().__init__()
        check_widths("pyramid attention", channels=channels, reduction=reduction)
        if reduction > channels:
            raise ValueError(f"reduction must be at most channels={channels}, got {reduction}")
        self.residual_scale = residual_scale
        self.query, self.key = (_embedding(channels, channels // reduction) for _ in range(2))
        self.value = _embedding(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        levels = [_resized(x, level) for level in LEVELS if int(level * min(size)) >= 1]
        query = _patches(self.query(x))
        key = torch.cat([_patches(self.key(level)) for level in levels], dim=1)
        value = torch.cat([_patches(self.value(level)) for level in levels], dim=1)
        key = F.normalize(key, dim=-1, eps=MIN_NORM)
        step = query.shape[1] if query.is_meta else max(SCORES_AT_ONCE // (key.shape[0] * key.shape[1]), 1)
        key, value = key[:, None], value[:, None]  # one head: exporters know no attention without that axis
        found = [
            F.scaled_dot_product_attention(some[:, None], key, value, scale=SHARPNESS)[:, 0]
            for some in query.split(step, dim=1)
        ]
        # A pixel lies in 9 patches; the authors divide their sum by 4.
        summed = F.fold(torch.cat(found, dim=1).transpose(1, 2), size, PATCH, padding=PATCH // 2)
        return self.residual_scale * x + summed / 4


def _embedding(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1), nn.PReLU())


def _resized(x: Tensor, level: float) -> Tensor:
    """x at `level` of its size, rounded down; bicubic with a = -0.75, without antialiasing."""
    return x if level == 1 else F.interpolate(x, scale_factor=level, mode="bicubic", align_corners=False)


def _patches(x: Tensor) -> Tensor:
    """(B, c, H, W) -> (B, H W, 9 c): the patch around each pixel, zero beyond the border."""
    return F.unfold(x, PATCH, padding=PATCH // 2).transpose(1, 2)
