"""What every feature extractor offers; facts about a network live here, on the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynres.contracts import Cost, Exit, Features, Routing, Task
from dynres.cost.counter import count_on_meta
from dynres.cost.memory import peak_on_meta
from dynres.layers.channels import Cuttable, InnerChannels, Slimmable, SlimPart


class Backbone(nn.Module, ABC):
    """Normalised image (B, c, H, W) -> Features.

    Attributes:
        out_channels: channels of the feature map.
        image_channels: c, 3 for colour and 1 for gray networks.
        size_multiple: a tile of an image should start at a multiple of this; any image size is accepted.
        halo: input pixels of context that tiles have at a cut: the receptive field, beyond which nothing changes the
            output, so that tiles give the whole image; of an `unbounded` network, what its authors leave, or what they
            trained on, after which a tile is indistinguishable by eye.
        unbounded: whether pixels farther than `halo` change the output: attention over the image or a mean of it, or a
            receptive field of hundreds of pixels. Tiles then differ a little from the whole image.
        wants_noise: whether it must be told the noise level (Task.noise).
        scale: pixels of the features a pixel of the image, along an axis; above 1 where the network itself enlarges.
        regional: whether it cuts images into regions and may leave early (Task.exit).
    """

    out_channels: int
    image_channels: int = 3
    size_multiple: int = 1
    halo: int = 0
    unbounded: bool = False
    wants_noise: bool = False
    scale: int = 1
    regional: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._costs: dict[tuple[int, int], Cost] = {}
        self._memory: dict[tuple[int, int], int] = {}

    @abstractmethod
    def forward(self, image: Tensor, task: Task) -> Features:
        """Extract features. Static networks ignore the task and return routing=None."""

    def cost(self, height: int, width: int) -> Cost:
        """MACs for one height x width image (fvcore convention, see dynres.cost).

        A static network is counted once a size, on the meta device; a routed one overrides this with its formula.
        """
        if (height, width) not in self._costs:
            image = torch.empty(1, self.image_channels, height, width, device="meta")
            noise = torch.empty(1, device="meta") if self.wants_noise else None
            self._costs[height, width] = Cost(count_on_meta(self, image, Task(noise=noise)))
        return self._costs[height, width]

    def check_exit(self, exit: Exit, budget: float | None) -> None:
        """Refuse a way out that this network does not have, with a ValueError."""
        if exit != Exit():
            raise ValueError(
                f"pointer, threshold and regions are for a network with branches (flexir); {type(self).__name__} has "
                f"none: leave them out"
            )

    def region_sizes(self, height: int, width: int, task: Task) -> list[tuple[int, int]]:
        """(height, width) of each region into which `forward` cuts an image; the whole image if it is not regional."""
        return [(height, width)]

    def spent(self, routing: Routing | None, batch: int, sizes: Sequence[tuple[int, int]], task: Task) -> Tensor:
        """MACs that `forward` ran on each image of a batch: (B,) float64, on the CPU.

        Args:
            routing: what it decided; None for a static network.
            batch: B.
            sizes: (height, width) of every tile or region of an image.
            task: what was asked.
        """
        costs = [self.cost(*size) for size in sizes]
        if routing is None:
            return torch.full((batch,), float(sum(cost.full for cost in costs)), dtype=torch.float64)
        fixed = torch.tensor(float(sum(cost.fixed for cost in costs)), dtype=torch.float64)
        units = torch.tensor([cost.units for cost in costs], dtype=torch.float64).sum(dim=0)
        return fixed + routing.decisions.cpu().double() @ units

    def inner_channels(self) -> list[InnerChannels]:
        """What can be cut inside its blocks, each kind in the order of its option for widths; of most, nothing."""
        blocks = [part for part in self.modules() if part is not self and isinstance(part, Cuttable)]
        return [inner for block in blocks for inner in block.inner_channels()]

    def slim_parts(self) -> list[SlimPart]:
        """What can run on fewer channels (AnySR): of its residual blocks, and its MLPs; of some networks, nothing."""
        blocks = [part for part in self.modules() if part is not self and isinstance(part, Slimmable)]
        mlps = [SlimPart((inner.into,), (inner.out,), None) for inner in self.inner_channels() if inner.kind == "mlp"]
        return [slim for block in blocks for slim in block.slim_parts()] + mlps

    def memory(self, height: int, width: int) -> int:
        """Bytes that `forward` of one height x width image in float32 holds at most, every unit on, but the weights.

        Counted on the meta device; within a factor of 2 of what a CPU takes (tests/test_restore_options.py).
        """
        if (height, width) not in self._memory:
            image = torch.empty(1, self.image_channels, height, width, device="meta")
            one = torch.ones(1, device="meta")
            task = Task(scale=one, budget=1.0, noise=one if self.wants_noise else None)
            image = image.contiguous(memory_format=torch.channels_last)
            self._memory[height, width] = peak_on_meta(self, height * width, image, task)
        return self._memory[height, width]

    def route(self, image: Tensor, task: Task) -> Routing | None:
        """The decisions `forward` would take for (B, 3, H, W) images, without running the branches; None if static."""
        return None


def axes_of(image: Tensor, task: Task) -> Tensor:
    """(B, 2) vertical and horizontal scale that a network is told: `Task.axes`, `Task.scale` for both, or 1."""
    if task.axes is not None:
        return task.axes
    if task.scale is not None:
        return task.scale[:, None].expand(-1, 2)
    return torch.ones(len(image), 2, device=image.device)
