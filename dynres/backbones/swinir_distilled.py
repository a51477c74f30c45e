"""SwinIR with a distillation token (Kim et al., Lightweight Transformer Super-Resolution, Sec. 3.2.1, Fig. 2; DeiT).

The paper draws a token beside the patch tokens, "input of the STL", and counts 300 parameters for it in a network of
C = 60 and four RSTBs: one C-vector at the patch embedding and one for each RSTB. The rest is read so that nothing else
has parameters, and that an image of any size has one token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.swinir import SwinIR, SwinLayer
from dynres.layers.attention import WindowAttention, attend_in_windows, initial_weights_, masked_biases, position_bias
from dynres.layers.pointwise import in_pieces
from dynres.layers.transformer import Connection, ResidualGroup
from dynres.layers.windows import from_windows, to_image, to_tokens, to_windows, window_order


class SwinIRDistilled(SwinIR):
    """SwinIR whose Swin layers also see, and change, one token of C numbers an image.

    It begins as the first row of `tokens`; before RSTB i, row i is added to it. In a layer it is one more key of every
    window and one more query to every window; what the windows answer is averaged. Norms, projection, MLP, residuals
    and stochastic depth are those of the patch tokens. An RSTB's convolution does not see it, the RSTB's residual does.
    After the last RSTB it has done its work: a head of its own, as DeiT's, would have parameters.

    The mean is over all windows, those of padding too, hence over the image: tiles differ from the whole image.

    Args:
        embed_dim, depths, heads, window, mlp_ratio, image_channels, out_channels, resi_connection, drop_path,
            mlp_widths, head_widths: see SwinIR. The defaults are its lightweight network.

    Raises:
        ValueError: as SwinIR.
    """

    def __init__(
        self,
        embed_dim: int = 60,
        depths: Sequence[int] = (6, 6, 6, 6),
        heads: int = 6,
        window: int = 8,
        mlp_ratio: float = 2.0,
        image_channels: int = 3,
        out_channels: int | None = None,
        resi_connection: Connection = "1conv",
        drop_path: float = 0.1,
        mlp_widths: Sequence[int] | None = None,
        head_widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            embed_dim=embed_dim,
            depths=depths,
            heads=heads,
            window=window,
            mlp_ratio=mlp_ratio,
            image_channels=image_channels,
            out_channels=out_channels,
            resi_connection=resi_connection,
            drop_path=drop_path,
            mlp_widths=mlp_widths,
            head_widths=head_widths,
        )
        self.unbounded = True
        self.tokens = nn.Parameter(torch.empty(1 + len(depths), embed_dim))
        initial_weights_(self.tokens)

    def encode(self, shallow: Tensor, upto: int | None = None) -> Tensor:
        x = self.patch_norm(to_tokens(shallow))
        embedded, *added = self.tokens.unbind()
        token = embedded.expand(len(x), 1, -1)
        for vector, group in zip(added, self.layers[:upto], strict=False):
            assert isinstance(group, ResidualGroup)
            x, token = group_with_token(group, x, token + vector)
        return x


def group_with_token(group: ResidualGroup, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """An RSTB on patch tokens (B, H, W, C) and the distillation token (B, 1, C).

    In its layers they are one sequence (B, H W + 1, C), the token last.
    """
    size = (x.shape[1], x.shape[2])
    sequence = torch.cat([x.flatten(1, 2), token], dim=1)
    for layer in group.blocks:
        assert isinstance(layer, SwinLayer)
        sequence = layer_with_token(layer, sequence, size)
    y, answer = sequence[:, :-1].unflatten(1, size), sequence[:, -1:]
    return x + to_tokens(group.conv(to_image(y))), token + answer


def layer_with_token(layer: SwinLayer, sequence: Tensor, size: tuple[int, int]) -> Tensor:
    """An STL on a sequence of an image of H x W tokens and one more, (B, H W + 1, C) -> the same."""
    normal = layer.norm1(sequence)
    x, answer = attend_with_token(layer.attn, normal[:, :-1].unflatten(1, size), normal[:, -1:])
    attended = in_pieces(layer.proj, torch.cat([x.flatten(1, 2), answer], dim=1))
    sequence = sequence + layer.drop_path(attended)
    return sequence + layer.drop_path(in_pieces(lambda tokens: layer.mlp(layer.norm2(tokens)), sequence))


def attend_with_token(attention: WindowAttention, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Attention in windows, to which a token of the whole image belongs too, without projection.

    No position bias leads to or from the token, and shifted windows at the image's border see it as well.

    Args:
        attention: without pooling.
        x: (B, H, W, C) tokens of whole windows.
        token: (B, 1, C).

    Returns:
        (B, H, W, h w'), of h heads of w' channels, and the mean of what the windows answer the token, (B, 1, h w').
    """
    batch, height, width, _ = x.shape
    biases = masked_biases(position_bias(attention.bias_table, attention.index), attention.window, attention.shift)
    order = window_order(batch, height, width, attention.window, attention.shift, x.device)
    found = []
    for windows, bias in zip(to_windows(x, order, attention.window).split(order.counts), biases, strict=True):
        if len(windows):  # those of each kind come image by image
            each = token.expand(-1, len(windows) // batch, -1).reshape(len(windows), 1, -1)
            row = torch.cat([windows, each], dim=1)[:, None]  # as an image of one window, 1 x (N + 1)
            wider = F.pad(bias, (0, 1, 0, 1))
            found.append(attend_in_windows(row, [wider], (1, row.shape[2]), qkv=attention.qkv)[:, 0])
    attended = torch.cat([each[:, :-1] for each in found])
    answers = torch.cat([each[:, -1].unflatten(0, (batch, -1)) for each in found], dim=1)
    shape = (batch, height, width, attended.shape[-1])
    return from_windows(attended, order, shape), answers.mean(dim=1, keepdim=True)
