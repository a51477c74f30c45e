"""SwinIR without its tail (Liang et al., ICCVW 2021, Fig. 2), and the frame that CAT shares with it.

Tokens are (B, H, W, C). Equal to the authors' code within 2e-5 of the largest output (tests/golden). The classical
network is SwinIR(out_channels=64) under PixelShuffle, the one for real images under NearestConv; the lightweight
network and the denoisers have out_channels=None, under DirectPixelShuffle and SameSize.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.layers.attention import WindowAttention
from dynres.layers.channels import InnerChannels, check_inner_widths
from dynres.layers.pointwise import in_pieces
from dynres.layers.transformer import (
    Connection,
    ResidualGroup,
    TransformerBlock,
    check_depths,
    drop_path_rates,
    initialise,
    residual_convolution,
)
from dynres.layers.widths import check_widths
from dynres.layers.windows import pad_to_multiple, to_image, to_tokens


class SwinLayer(TransformerBlock):
    """Swin Transformer layer (STL, Fig. 2b): attention in windows, every second time in shifted ones."""

    def __init__(
        self, channels: int, heads: int, window: int, shift: int, hidden: int, drop_path: float, width: int | None
    ) -> None:
        super().__init__(channels, hidden, drop_path)
        self.attn = WindowAttention(channels, heads, window, shift=shift, width=width)
        self.proj = nn.Linear(heads * self.attn.width, channels)

    def inner_channels(self) -> Iterator[InnerChannels]:
        yield InnerChannels("msa", self.attn.heads, self.attn.width, self.attn.qkv, self.proj)
        yield from super().inner_channels()

    def attend(self, x: Tensor) -> Tensor:
        return in_pieces(self.proj, self.attn(x))


class ResidualTransformer(Backbone):
    """Shallow convolution; residual groups and a convolution under a long skip; perhaps a narrower end (Fig. 2).

    Args:
        image_channels: of the image.
        embed_dim: C, of the body.
        groups: tokens -> tokens, (B, H, W, C) each.
        resi_connection: "1conv" or "3conv", the convolution after the body.
        out_channels: None for features of C channels; else of a 3x3 convolution and LeakyReLU on top.
    """

    def __init__(
        self,
        image_channels: int,
        embed_dim: int,
        groups: Sequence[nn.Module],
        resi_connection: Connection,
        out_channels: int | None,
    ) -> None:
        super().__init__()
        self.image_channels, self.embed_dim, self.out_channels = image_channels, embed_dim, out_channels or embed_dim
        self.conv_first = nn.Conv2d(image_channels, embed_dim, 3, padding=1)
        self.patch_norm = nn.LayerNorm(embed_dim)
        self.layers = nn.ModuleList(groups)
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_convolution(embed_dim, resi_connection)
        self.conv_before_upsample: nn.Sequential | None = None
        if out_channels is not None:
            check_widths(type(self).__name__, out_channels=out_channels)
            end = nn.Conv2d(embed_dim, out_channels, 3, padding=1)
            self.conv_before_upsample = nn.Sequential(end, nn.LeakyReLU(0.01))
        initialise(self)

    def extract(self, image: Tensor) -> Tensor:
        """(B, c, H, W) of whole windows -> (B, out_channels, H, W)."""
        shallow = self.conv_first(image)
        x = self.conv_after_body(to_image(self.norm(self.encode(shallow)))) + shallow
        return x if self.conv_before_upsample is None else self.conv_before_upsample(x)

    def encode(self, shallow: Tensor, upto: int | None = None) -> Tensor:
        """Output of `conv_first` (B, C, H, W) -> tokens (B, H, W, C) of the groups, or of the first `upto` of them."""
        x = self.patch_norm(to_tokens(shallow))
        for group in self.layers[:upto]:
            x = group(x)
        return x


class SwinIR(ResidualTransformer):
    """Residual groups of Swin Transformer layers (RSTB, Fig. 2a).

    Images are padded by reflection to multiples of the window; the features keep the padding, as the authors' do.

    Args:
        embed_dim: C, divisible by heads.
        depths: layers of each group.
        heads: attention heads of a layer.
        window: side of the attention windows, shifted by half in every second layer.
        mlp_ratio: hidden width of the MLPs over C.
        image_channels: 3 for colour, 1 for gray.
        out_channels: 64 for features through a last convolution and LeakyReLU, as classical and implicit upsamplers
            take them; None for the C channels of the body, as DirectPixelShuffle and SameSize take them.
        resi_connection: convolution at the end of each group and of the body: "1conv", or the slimmer "3conv" of the
            large network for real images.
        drop_path: stochastic depth of the last layer in training; it rises linearly from 0 at the first.
        mlp_widths: hidden channels of each layer's MLP, first to last, instead of C x mlp_ratio; None for all alike.
        head_widths: channels a head of each layer's attention, instead of C / heads (a pruned network, see
            dynres.pruning).

    Raises:
        ValueError: on a width or count below 1, heads that do not divide C, an unknown resi_connection, or another
            number of widths than layers.
    """

    def __init__(
        self,
        embed_dim: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        heads: int = 6,
        window: int = 8,
        mlp_ratio: float = 2.0,
        image_channels: int = 3,
        out_channels: int | None = 64,
        resi_connection: Connection = "1conv",
        drop_path: float = 0.1,
        mlp_widths: Sequence[int] | None = None,
        head_widths: Sequence[int] | None = None,
    ) -> None:
        hidden = round(embed_dim * mlp_ratio)
        check_depths("SwinIR", depths, hidden)
        check_widths("SwinIR", image_channels=image_channels, embed_dim=embed_dim, heads=heads, window=window)
        groups = swin_groups(
            embed_dim, depths, heads, window, hidden, resi_connection, drop_path, mlp_widths, head_widths
        )
        super().__init__(image_channels, embed_dim, groups, resi_connection, out_channels)
        self.depths, self.window, self.size_multiple = tuple(depths), window, window
        self.halo = 4 * window  # as the authors overlap their tiles
        self.unbounded = reach(depths, window, resi_connection, 0 if out_channels is None else 1) > self.halo

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(self.extract(pad_to_multiple(image, self.window)), image)

    def body(self, image: Tensor, upto: int | None = None) -> Tensor:
        """What comes out of the last group, or of group `upto`: (B, c, H, W) -> (B, C, h, w), padding left on."""
        return to_image(self.encode(self.conv_first(pad_to_multiple(image, self.window)), upto))


def swin_groups(
    embed_dim: int,
    depths: Sequence[int],
    heads: int,
    window: int,
    hidden: int,
    resi_connection: Connection,
    drop_path: float,
    mlp_widths: Sequence[int] | None = None,
    head_widths: Sequence[int] | None = None,
) -> list[ResidualGroup]:
    """The residual groups (RSTB) of a network; `hidden` is the width of their MLPs, for the rest see `SwinIR`."""
    count = sum(depths)
    check_inner_widths("a network", count, "layers", mlp_widths=mlp_widths, head_widths=head_widths)
    of_heads: Sequence[int | None] = head_widths or [None] * count
    inner = iter(zip(mlp_widths or [hidden] * count, of_heads, strict=True))
    groups = []
    for rates in drop_path_rates(depths, drop_path):
        layers = []
        for number, rate in enumerate(rates):
            mlp, width = next(inner)
            layers.append(SwinLayer(embed_dim, heads, window, window // 2 if number % 2 else 0, mlp, rate, width))
        groups.append(ResidualGroup(embed_dim, layers, resi_connection))
    return groups


def reach(depths: Sequence[int], window: int, resi_connection: Connection, end: int) -> int:
    """How many pixels away an input still reaches the output, along an axis: windows meet windows.

    Args:
        end: pixels that convolutions behind the one after the body look to each side.
    """
    convolution = 1 if resi_connection == "1conv" else 2
    farthest = 0
    for place in range(window):
        first = place - end - convolution
        last = place + end + convolution
        for depth in reversed(depths):
            first, last = first - convolution, last + convolution
            for layer in reversed(range(depth)):
                shift = window // 2 if layer % 2 else 0
                first = (first - shift) // window * window + shift
                last = (last - shift) // window * window + shift + window - 1
        farthest = max(farthest, place - first + 1, last - place + 1)  # the first convolution
    return farthest
