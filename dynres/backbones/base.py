"""What every feature extractor offers; facts about a network live here, on the network."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from dynres.contracts import Cost, Features, Routing, Task


class Backbone(nn.Module, ABC):
    """Image (B, 3, H, W), normalised to [-1, 1], -> Features of the same height and width.

    Attributes:
        out_channels: channels of the feature map.
        size_multiple: a tile of an image should start at a multiple of this; any image size is accepted.
        halo: input pixels of context beyond which a convolutional network's output cannot change; for attention
            networks, the context after which a tile is indistinguishable from the whole image by eye.
    """

    out_channels: int
    size_multiple: int = 1
    halo: int = 0

    @abstractmethod
    def forward(self, image: Tensor, task: Task) -> Features:
        """Extract features. Static networks ignore the task and return routing=None."""

    @abstractmethod
    def cost(self, height: int, width: int) -> Cost:
        """MACs for one height x width image by formula (fvcore convention, see dynres.cost)."""

    def route(self, image: Tensor, task: Task) -> Routing | None:
        """The decisions `forward` would take for (B, 3, H, W) images, without running the branches; None if static."""
        return None
