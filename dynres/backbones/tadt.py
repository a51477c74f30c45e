"""TADT: the multi-scale backbone steered by the Task-Aware Routing Controller (TADT, Sec. 3.3.2, Fig. 3c)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.backbones.mstb import MultiScaleTransformer
from dynres.contracts import Cost, Features, Routing, Task
from dynres.layers.gates import seeded_uniform, straight_through_bernoulli
from dynres.layers.precision import full_precision

Sampling = Literal["bernoulli", "threshold"]
Intensity = Literal["learned", "constant", "proportional"]
ScaleInput = Literal["scale", "cell"]


class TARC(nn.Module):
    """Routing probabilities from the image (e) and the scale (beta): Eq. 3.

    The paper does not say how beta is kept positive nor where it starts: softplus, and about 1 at every scale, so that
    training begins with (nearly) every branch of the trained Baseline on.

    Args:
        units: 4N routed branches.
        width: channels of the convolutions and of the scale branch; 32 is the width that prints 9.18 M parameters.
        intensity: "learned" as in the paper; for Table 4, "constant" is beta = value, "proportional" is value * s.
        value: 0.5 and 0.25 in Table 4; ignored when learned.
        scale_input: what the scale branch sees: "scale" is s as the paper says; "cell" is 2/s, LIIF's relative cell:
            bounded beyond the trained scales, and a push on small scales moves large ones less instead of more.
    """

    def __init__(self, units: int, width: int, intensity: Intensity, value: float, scale_input: ScaleInput) -> None:
        super().__init__()
        if intensity not in ("learned", "constant", "proportional"):
            raise ValueError(f"intensity must be learned, constant or proportional, got {intensity!r}")
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.linear = nn.Linear(width, units)
        if scale_input not in ("scale", "cell"):
            raise ValueError(f"scale_input must be scale or cell, got {scale_input!r}")
        self.intensity, self.value, self.scale_input = intensity, value, scale_input
        self.scale_branch: nn.Sequential | None = None
        if intensity == "learned":
            last = nn.Linear(width, 1)
            nn.init.normal_(last.weight, std=0.01)
            nn.init.constant_(last.bias, 0.5413)  # softplus(0.5413) = 1
            self.scale_branch = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)

    def forward(self, image: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), (B,) -> p (B, 4N) in [0, 1] and beta (B,) >= 0."""
        e = self.conv2(F.relu(self.conv1(image)))
        e = torch.sigmoid(self.linear(F.adaptive_avg_pool2d(e, 1).flatten(1)))
        beta = self.beta(scale)
        share = e * e.shape[1] / e.sum(dim=1, keepdim=True)
        return (beta[:, None] * share).clamp(max=1.0), beta

    def beta(self, scale: Tensor) -> Tensor:
        """Intensity (B,) of a scale (B,)."""
        if self.scale_branch is None:
            return torch.full_like(scale, self.value) if self.intensity == "constant" else self.value * scale
        seen = 2 / scale if self.scale_input == "cell" else scale
        return F.softplus(self.scale_branch(seen[:, None])).squeeze(1)

    def cost(self, height: int, width: int) -> int:
        """MACs: two convolutions, pooling (1 a value), and the linear maps."""
        channels, units = self.conv1.out_channels, self.linear.out_features
        scale = 2 * channels + channels**2 if self.scale_branch is not None else 0
        return height * width * (27 * channels + 9 * channels**2 + channels) + channels * units + scale


class TADT(MultiScaleTransformer):
    """Task-Aware Dynamic Transformer. Routing unit 4(i - 1) + j is branch j of both blocks of group i.

    Args:
        channels ... head_widths: see MultiScaleTransformer.
        sampling: how decisions are taken at inference when no budget is given: "bernoulli" draws them (Eq. 4; a pure
            function of task.seed), "threshold" takes p >= 0.5. Training always draws.
        controller_width, intensity, intensity_value, scale_input: see TARC.
    """

    def __init__(
        self,
        channels: int = 224,
        groups: int = 8,
        local_windows: Sequence[int] = (4, 8, 16),
        global_window: int = 48,
        pooled: int = 12,
        heads: int = 2,
        mlp_ratio: float = 2.0,
        blocks_per_group: int = 2,
        out_channels: int = 64,
        sampling: Sampling = "bernoulli",
        controller_width: int = 32,
        intensity: Intensity = "learned",
        intensity_value: float = 0.5,
        scale_input: ScaleInput = "scale",
        mlp_widths: Sequence[int] | None = None,
        head_widths: Sequence[int] | None = None,
    ) -> None:
        sizes = (channels, groups, local_windows, global_window, pooled, heads, mlp_ratio, blocks_per_group)
        super().__init__(*sizes, out_channels, mlp_widths, head_widths)
        if sampling not in ("bernoulli", "threshold"):
            raise ValueError(f"sampling must be bernoulli or threshold, got {sampling!r}; a budget is given per call")
        self.sampling = sampling
        names = [f"{m}x{m}" for m in self.local_windows] + ["global"]
        self.units = tuple(f"group {i + 1} {name}" for i in range(len(self.groups)) for name in names)
        self.controller = TARC(len(self.units), controller_width, intensity, intensity_value, scale_input)

    def forward(self, image: Tensor, task: Task) -> Features:
        routing = task.routing or self.route(image, task)
        everything = task.routing is None and task.budget == 1.0
        return Features(self.extract(image, None if everything else routing.decisions), image, routing)

    def route(self, image: Tensor, task: Task) -> Routing:
        """Decide from the image (B, 3, H, W) and task.scale; a budget overrides the sampling."""
        if task.scale is None:
            raise ValueError("TADT routes by the upscaling factor: Task.scale is missing")
        with full_precision(image):  # rounding moves no branch
            probability, beta = self.controller(image, task.scale.to(image.dtype))
        if task.budget is not None:
            decisions = self._fit(probability, task.budget, *image.shape[-2:])
        elif self.training or self.sampling == "bernoulli":
            seed = torch.zeros_like(task.scale, dtype=torch.int64) if task.seed is None else task.seed
            decisions = straight_through_bernoulli(probability, seeded_uniform(seed, len(self.units)))
        else:
            decisions = (probability >= 0.5).to(probability.dtype)
        return Routing(decisions, probability, beta, self.units)

    def _fit(self, probability: Tensor, budget: float, height: int, width: int) -> Tensor:
        """The most probable branches, in order, whose MACs fit into budget x the full MACs; (B, 4N) in {0, 1}."""
        if budget == 1.0:
            return torch.ones_like(probability, requires_grad=False)
        cost = self.cost(height, width)
        decisions = torch.zeros_like(probability, requires_grad=False)
        for sample, order in enumerate(probability.detach().argsort(dim=1, descending=True, stable=True).tolist()):
            left = budget * cost.full - cost.fixed
            for unit in order:
                if cost.units[unit] <= left:
                    left -= cost.units[unit]
                    decisions[sample, unit] = 1.0
        return decisions

    def cost(self, height: int, width: int) -> Cost:
        body = super().cost(height, width)
        return Cost(body.fixed + self.controller.cost(height, width), body.units)
