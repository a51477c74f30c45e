"""What is left of a network once sizes, noise level and routing are fixed: image in, image out, nothing to decide."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.acla import CrossLayer
from dynres.backbones.anysr import AnySR
from dynres.backbones.base import Backbone
from dynres.backbones.flexir import FlexIR
from dynres.backbones.mstb import BRANCHES, MSTB
from dynres.backbones.tadt import TADT
from dynres.contracts import Features, Routing, Task
from dynres.layers.sampling import Tap, bicubic_grid, bilinear_grid, pixel_centres
from dynres.layers.slimmable import SlimConv2d, SlimLinear, cut_to_subnet
from dynres.layers.transformer import ResidualGroup
from dynres.restorer import Restorer
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.implicit import ImplicitUpsampler, Lifted, Taps


class FixedRestorer(nn.Module):
    """What `Restorer.restore` does to one image of c channels: (1, c, H, W) in [0, 1] -> (1, c, H', W') in [0, 1].

    The network is copied to the CPU, less what never runs.

    Args:
        restorer: the network.
        size: (H, W) of the image.
        output: (H', W') of the result.
        task: what the backbone is asked, as `Restorer.restore` does for that image.
        routing: the decisions of a routed network, (1, U); None for a static one.

    Raises:
        ValueError: decisions for a network none of whose branches can be taken out.
    """

    def __init__(
        self,
        restorer: Restorer,
        size: tuple[int, int],
        output: tuple[int, int],
        task: Task,
        routing: Routing | None,
    ) -> None:
        super().__init__()
        made = copy.deepcopy(restorer).cpu()
        self.backbone = made.backbone if routing is None else decided(made.backbone, routing)
        seen = output if made.upsampler.same_size else size  # a network of its image's size works on the enlargement
        self.enlarge = seen != size
        self.decode = FixedDecode(made.upsampler, seen, output)
        self.output, self.pixels, self.image_skip = output, made.pixels, made.image_skip
        self.task = copy.deepcopy(task)  # its tensors were made in inference mode, which tracing refuses
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        normal = self.pixels.normal(bicubic_grid(image, self.output) if self.enlarge else image)
        features = self.backbone(normal, self.task)
        colour = self.decode(features)
        if self.image_skip:
            colour = colour + bicubic_grid(normal, self.output)
        return self.pixels.colours(colour, 1).clamp(0, 1)


class FixedDecode(nn.Module):
    """`Upsampler.decode` to one size.

    Implicit upsamplers cut their output into chunks at positions that they compute. Here the positions are constants,
    H' + W' numbers, and there is one chunk: a graph would repeat the MLP for each. Every hidden layer is then H' W'
    vectors long at once: 1 GB a million output pixels at a width of 256.
    """

    def __init__(self, upsampler: Upsampler, size: tuple[int, int], output: tuple[int, int]) -> None:
        super().__init__()
        self.upsampler, self.output = upsampler, output
        if isinstance(upsampler, ImplicitUpsampler):
            image = torch.empty(1, upsampler.image_channels, *size)
            cell = upsampler.decode_cell(Features(image, image), output)
            axes = [upsampler.taps(pixel_centres(output[k]), cell[k], size[k]) for k in (0, 1)]
            self.rows, self.columns = _viewed(axes[0], (1, -1, 1)), _viewed(axes[1], (1, 1, -1))
            self.cell = (cell * cell.new_tensor(size))[None]

    def forward(self, features: Features) -> Tensor:
        upsampler = self.upsampler
        if not isinstance(upsampler, ImplicitUpsampler):
            return upsampler.decode(features, self.output)
        lifted = Lifted.of(upsampler.lift(upsampler.padded(features, 0, features.image.shape[-2])), 0)
        colour = upsampler.colours(lifted, self.rows, self.columns, self.cell)
        image = colour.view(1, *self.output, -1).permute(0, 3, 1, 2)
        return image + bilinear_grid(features.image, self.output) if upsampler.adds_image else image


def _viewed(taps: Taps, shape: tuple[int, int, int]) -> Taps:
    return tuple(Tap(tap.pixel.view(shape), tap.offset.view(shape)) for tap in taps)


def decided(backbone: Backbone, routing: Routing) -> Backbone:
    """A routed network without the branches that `routing` bypasses, and without the controller; takes it apart.

    ACLA stays as it is: it chooses keys by what it sees, also in a file.

    Raises:
        ValueError: for a network of another kind.
    """
    if isinstance(backbone, FlexIR):
        return DecidedFlexIR(backbone, int(routing.decisions[0].sum()))
    if isinstance(backbone, CrossLayer):
        return backbone
    if isinstance(backbone, AnySR):
        return DecidedAnySR(backbone, routing)
    if not isinstance(backbone, TADT):
        raise ValueError(f"the branches of {type(backbone).__name__} cannot be taken out one by one")
    return DecidedTADT(backbone, routing.decisions[0].gt(0.5).tolist())


class DecidedFlexIR(Backbone):
    """A FlexIR that ends after a block, on the whole image."""

    def __init__(self, network: FlexIR, pointer: int) -> None:
        super().__init__()
        self.out_channels, self.scale = network.out_channels, network.scale
        self.body = network.truncated(pointer)

    def forward(self, image: Tensor, task: Task) -> Features:
        return self.body(image, Task())


class DecidedAnySR(Backbone):
    """One subnet of an AnySR and its weights alone; what its gates are told is the scale of the task."""

    def __init__(self, network: AnySR, routing: Routing) -> None:
        super().__init__()
        self.out_channels, self.scale = network.out_channels, network.scale
        self.body, self.step = network, int(routing.decisions[0].sum())
        inputs: dict[nn.Module, int] = {}

        def note(layer: nn.Module, given: tuple[Tensor]) -> None:
            inputs[layer] = given[0].shape[1 if isinstance(layer, SlimConv2d) else -1]

        layers = [layer for layer in network.modules() if isinstance(layer, SlimConv2d | SlimLinear)]
        hooks = [layer.register_forward_pre_hook(note) for layer in layers]
        with torch.no_grad():
            network(torch.zeros(1, network.image_channels, 8, 8), Task(noise=torch.zeros(1), routing=routing))
        for hook in hooks:
            hook.remove()
        network.subnet.step = self.step
        for layer in layers:
            cut_to_subnet(layer, inputs[layer])

    def forward(self, image: Tensor, task: Task) -> Features:
        return replace(self.body.run(image, task, self.step), image=image)


class DecidedTADT(Backbone):
    """A TADT whose decisions are made, `on` for each of its 4N units; its parts are `network`'s own."""

    def __init__(self, network: TADT, on: list[bool]) -> None:
        super().__init__()
        self.out_channels = network.out_channels
        self.body = network
        del network.controller
        for index, group in enumerate(network.groups.children()):
            assert isinstance(group, ResidualGroup)
            chosen = [j for j in range(BRANCHES) if on[BRANCHES * index + j]]
            group.blocks = nn.ModuleList(DecidedBlock(block, chosen) for block in group.blocks)

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(self.body.extract(image, None), image)


class DecidedBlock(nn.Module):
    """An MSTB of its chosen branches, and of the columns of the projection that read them (TADT, Eq. 2)."""

    def __init__(self, block: nn.Module, chosen: list[int]) -> None:
        super().__init__()
        assert isinstance(block, MSTB)
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.chosen = chosen
        self.branches = nn.ModuleList(block.branches[j] for j in chosen)
        columns = block.projection.weight.detach().split(block.widths, dim=1)
        empty = block.projection.weight.new_empty(len(block.projection.bias), 0)
        self.columns = nn.Parameter(torch.cat([empty, *(columns[j] for j in chosen)], dim=1))
        self.bias = block.projection.bias

    def forward(self, x: Tensor, routing: object) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if not self.chosen:
            x = x + self.bias
        else:
            parts = self.norm1(x).chunk(BRANCHES, dim=-1)
            outputs = [branch(parts[j]) for j, branch in zip(self.chosen, self.branches, strict=True)]
            x = x + F.linear(torch.cat(outputs, dim=-1), self.columns, self.bias)
        return x + self.mlp(self.norm2(x))
