"""What every feature extractor offers; facts about a network live here, on the network."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dynres.contracts import Cost, Features, Routing, Task
from dynres.cost.counter import count_on_meta


class Backbone(nn.Module, ABC):
    """Normalised image (B, c, H, W) -> Features.

    Attributes:
        out_channels: channels of the feature map.
        image_channels: c, 3 for colour and 1 for gray networks.
        size_multiple: a tile of an image should start at a multiple of this; any image size is accepted.
        halo: input pixels of context beyond which a convolutional network's output cannot change; for attention
            networks, the context after which a tile is indistinguishable from the whole image by eye.
        wants_noise: whether it must be told the noise level (Task.noise).
    """

    out_channels: int
    image_channels: int = 3
    size_multiple: int = 1
    halo: int = 0
    wants_noise: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._costs: dict[tuple[int, int], Cost] = {}

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

    def route(self, image: Tensor, task: Task) -> Routing | None:
        """The decisions `forward` would take for (B, 3, H, W) images, without running the branches; None if static."""
        return None
