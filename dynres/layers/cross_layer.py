"""Cross-layer attention to a few sampled keys: CLA, and ACLA, which chooses among them (ACLA, Sec. 3.1, Eq. 5-9).

A query is a pixel of a layer's output. From each of n referred maps it samples K keys, bilinearly, around its own
place; offsets and attention weights come from the query alone. All queries, maps and keys are one weighted sum of table
rows (`embedding_bag`), which reads the four pixels around each key and never holds the keys themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.gates import binary_gumbel_softmax, straight_through
from dynres.layers.precision import full_precision
from dynres.layers.widths import check_widths

MaskUnits = Literal["per_key", "one"]
CORNERS_AT_ONCE = 2**22  # of keys, whose numbers and weights are in memory together: 48 MB
CORNERS_IN_CACHE = 2**18  # the same where a CPU needs no gradients: each turn's is as large as the whole table


class Keys(NamedTuple):
    """The n K keys of every query; key k of map l stands at l K + k.

    places: (B, H W, n K, 2) row and column in pixels of the referred map, from 0 to H - 1 and W - 1.
    weights: (B, H W, n K) attention weights; those of a query sum to 1 before masking.
    kept: (B, H W, n K) in {0, 1}, None where all are; with the gradient of the soft mask in training.
    soft: (B, H W, n K) the soft mask in (0, 1), without noise; None without mask units.
    """

    places: Tensor
    weights: Tensor
    kept: Tensor | None
    soft: Tensor | None


class CrossLayerAttention(nn.Module):
    """x + h(y), y_i = sum over l, k of m_lk f_lk(x_i) g_l(map_l(p_i + offset_lk)) (Eq. 5; Eq. 6 with mask units).

    f is a soft-max over the n K keys of a query. Where the paper is silent: g_l and h are 1x1 convolutions, h begins at
    zero, offsets begin as a spiral around the query whatever it is, keys beyond the border are moved onto it, and the
    soft-max is taken before masking (Figure 1), so that kept weights need not sum to 1.

    Args:
        channels: C.
        maps: n, referred maps, the module's own layer among them.
        keys: K, sampled from each map; with mask units, at most.
        adaptive: ACLA's mask units, Eq. 6-9.
        mask_units: "per_key": a 1x1 convolution C -> K for each map, whose k-th output masks the k-th key, which the
            paper's parameter counts suggest; "one": C -> 1, as Eq. 8 reads.
        temperature: tau of Eq. 7.

    Raises:
        ValueError: a width below 1, an unknown option, or a temperature that is not above 0.
    """

    def __init__(
        self,
        channels: int,
        maps: int,
        keys: int,
        adaptive: bool = False,
        mask_units: MaskUnits = "per_key",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_widths("cross-layer attention", channels=channels, maps=maps, keys=keys)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if mask_units not in get_args(MaskUnits):
            raise ValueError(f"mask_units must be one of {', '.join(get_args(MaskUnits))}, got {mask_units!r}")
        self.maps, self.keys, self.temperature = maps, keys, temperature
        self.query = nn.Conv2d(channels, 3 * maps * keys, 1)  # rows, columns and logits, each for n K keys
        self.value = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(maps))
        units = (keys if mask_units == "per_key" else 1) if adaptive else 0
        self.mask = nn.ModuleList(nn.Conv2d(channels, units, 1) for _ in range(maps)) if adaptive else None
        self.output = nn.Conv2d(channels, channels, 1)
        self._initialise()

    def _initialise(self) -> None:
        """Queries that attend evenly to a disc around them, and a module that adds nothing yet."""
        count = self.maps * self.keys
        number = torch.arange(self.keys, dtype=torch.float32)
        angle, radius = number * math.pi * (3 - math.sqrt(5)), number.sqrt()  # a sunflower's seeds: an even disc
        offsets = torch.cat([(radius * angle.sin()).repeat(self.maps), (radius * angle.cos()).repeat(self.maps)])
        assert self.query.bias is not None
        with torch.no_grad():
            self.query.weight[: 2 * count].zero_()
            self.query.bias[: 2 * count].copy_(offsets)
            for parameter in self.output.parameters():
                parameter.zero_()

    def forward(
        self, x: Tensor, maps: Sequence[Tensor], most: float | None = None, presence: Tensor | None = None
    ) -> tuple[Tensor, Keys]:
        """Attend.

        Args:
            x: (B, C, H, W) queries, the output of the module's own layer.
            maps: n of (B, C, H, W), in the order of the layers.
            most: share in [0, 1] of an image's n K H W keys that may be kept at most, those with the highest soft mask
                first; None: whatever the masks keep. Without mask units nothing can be left out.
            presence: (n,) log s_l <= 0 of the referred maps in a search (Eq. 11), which weigh them in the soft-max: at
                s_l = 0 the map might as well not be there.

        Returns:
            (B, C, H, W), and the keys behind it.
        """
        chosen = self.choose(x, maps, most, presence)
        return x + self.output(self._attend(chosen, maps)), chosen

    def choose(
        self, x: Tensor, maps: Sequence[Tensor], most: float | None = None, presence: Tensor | None = None
    ) -> Keys:
        """The keys that `forward` attends to, in full precision."""
        if len(maps) != self.maps:
            raise ValueError(f"this module refers to {self.maps} maps, got {len(maps)}")
        height, width = x.shape[-2:]
        with full_precision(x):
            rows, columns, logits = self._asked(x)
            pixel = torch.arange(height * width, device=x.device)[:, None]
            rows = (pixel.div(width, rounding_mode="floor") + rows).clamp(0, height - 1)
            columns = (pixel.remainder(width) + columns).clamp(0, width - 1)
            places = torch.stack([rows, columns]).movedim(0, -1)  # all rows, then all columns: see `corners`
            if presence is not None:
                logits = logits + presence.repeat_interleave(self.keys)
            weights = logits.softmax(dim=-1)
            if self.mask is None:
                return Keys(places, weights, None, None)
            beta = self._beta(places, maps)
            soft = torch.sigmoid(beta / self.temperature)
            noisy = binary_gumbel_softmax(beta, self.temperature) if self.training else soft.detach()
            kept, ranks = straight_through(noisy), soft.detach()
            if presence is not None and not self.training:
                there = presence.isfinite().to(kept.dtype).repeat_interleave(self.keys)
                kept, ranks = kept * there, ranks * there
            return Keys(places, weights, kept if most is None else _at_most(kept, ranks, most), soft)

    def _asked(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row offsets, column offsets and logits, each (B, H W, n K), of the queries (B, C, H, W)."""
        rows, columns, logits = _rows(self.query, _full(x)).unflatten(2, (3, -1)).unbind(2)
        return rows, columns, logits

    def _beta(self, places: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, H W, n K): what the mask units say of the sampled keys (Eq. 8).

        A mask unit is linear up to its bias, and so is sampling, whose weights sum to 1: units first, samples after.
        """
        assert self.mask is not None
        batch, queries, count, _ = places.shape
        size = (maps[0].shape[-2], maps[0].shape[-1])
        said = torch.stack([_rows(unit, _full(one)) for unit, one in zip(self.mask, maps, strict=True)], dim=1)
        units, flat = said.shape[-1], said.flatten()  # of (B, n, H W, units)
        key = torch.arange(count, device=places.device)
        map_number = (
            key.div(self.keys, rounding_mode="floor") + self.maps * torch.arange(batch, device=key.device)[:, None]
        )
        first = map_number * (size[0] * size[1] * units) + (key % self.keys if units > 1 else 0)  # (B, n K)
        first = first[:, None].expand(-1, queries, -1).flatten(0, 1)
        places, found = places.flatten(0, 1), []
        for some in _spans(places):
            index, shares, steps = corners(places[some], size)
            index = index * units + first[some]
            values = (flat[step * units :].take(index) for step in steps)
            found.append(_total(value * share for value, share in zip(values, shares, strict=True)))
        return torch.cat(found).view(batch, queries, count)

    def _attend(self, chosen: Keys, maps: Sequence[Tensor]) -> Tensor:
        """(B, C, H, W): the weighed sum over keys."""
        batch, _, height, width = maps[0].shape
        values = torch.stack([_rows(value, one) for value, one in zip(self.value, maps, strict=True)])
        table = _full(values.flatten(0, 2))  # (n B H W, C)
        owner = torch.arange(self.maps * self.keys, device=table.device).div(self.keys, rounding_mode="floor")
        first = (owner * batch + torch.arange(batch, device=table.device)[:, None]) * (height * width)  # (B, n K)
        first = first[:, None].expand(-1, height * width, -1).flatten(0, 1)
        kept = None if chosen.kept is None else chosen.kept.flatten(0, 1)
        places, weights = chosen.places.flatten(0, 1), chosen.weights.flatten(0, 1).to(table.dtype)
        with full_precision(table):
            sums = [
                _weighed(table, (height, width), places[q], weights[q], first[q], None if kept is None else kept[q])
                for q in _spans(places)
            ]
        return torch.cat(sums).unflatten(0, (batch, -1)).transpose(1, 2).unflatten(2, (height, width))


def corners(places: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...], tuple[int, ...]]:
    """The four pixels around each place and their bilinear weights, which sum to 1.

    Corners stand apart, not side by side: torch is many times slower on tensors whose last dimension is 2 or 4.

    Args:
        places: (..., 2) row and column in pixels, from 0 to the last.
        size: (H, W) of the map.

    Returns:
        (...) number row * W + column of the first pixel; four (...) weights; by how much the four pixels' numbers are
        above the first's.
    """
    rows, columns = places.unbind(-1)
    row, column = (at.detach().floor().clamp(max=max(n - 2, 0)) for at, n in zip((rows, columns), size, strict=True))
    down, right = rows - row, columns - column
    lower, later = min(1, size[0] - 1) * size[1], min(1, size[1] - 1)
    up, left = 1 - down, 1 - right
    shares = (up * left, up * right, down * left, down * right)
    return row.long() * size[1] + column.long(), shares, (0, later, lower, lower + later)


def highest(soft: Tensor, most: float) -> Tensor:
    """1 at the highest values of each sample, at most the share `most` of them, 0 elsewhere; (B, Q, M) -> the same."""
    flat = soft.flatten(1)
    allowed = torch.zeros_like(flat)
    best = flat.topk(math.floor(most * flat.shape[1] + 1e-9), dim=1, sorted=False).indices
    return allowed.scatter_(1, best, 1.0).view_as(soft)


def _at_most(kept: Tensor, soft: Tensor, most: float) -> Tensor:
    """Those of the kept keys (B, Q, M) whose soft masks are among the highest, the share `most` of all keys."""
    enough = most * kept.shape[1] * kept.shape[2] + 1e-9
    if most >= 1 or not (_traced(kept) or bool((kept.sum((1, 2)) > enough).any())):
        return kept  # ranking all keys takes a fifth of the module's time
    return kept * highest(soft, most)


def _weighed(
    table: Tensor, size: tuple[int, int], places: Tensor, weights: Tensor, first: Tensor, kept: Tensor | None
) -> Tensor:
    """Each query's sum over its keys.

    Args:
        table: (n B H W, C) values.
        size: (H, W).
        places: (Q, M, 2).
        weights: (Q, M).
        first: (Q, M) row of the table at which each key's map begins.
        kept: (Q, M) in {0, 1} or None. If it has no gradient, keys at 0 are not read (but in an exported graph).

    Returns:
        (Q, C).
    """
    if kept is not None and not (kept.requires_grad or _traced(kept)):
        on = kept > 0.5
        chosen = on.flatten().nonzero()[:, 0]
        rows, columns, weights, first = (
            one.flatten().index_select(0, chosen) for one in (*places.unbind(-1), weights, first)
        )
        counts = on.sum(1)
        bags, places = counts.cumsum(0) - counts, torch.stack([rows, columns]).movedim(0, -1)
    else:
        weights, bags = weights if kept is None else weights * kept, None
    index, shares, steps = corners(places, size)
    index, shares = index + first, tuple(share * weights for share in shares)
    if bags is None:
        index = torch.cat([index + step for step in steps], dim=1)
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=torch.cat(shares, dim=1))
    return _total(
        F.embedding_bag(index, table[step:], bags, mode="sum", per_sample_weights=share)
        for step, share in zip(steps, shares, strict=True)
    )


def _traced(x: Tensor) -> bool:
    """Whether nobody can look at its values: on the meta device, and in a graph that is to be exported."""
    return x.is_meta or torch.compiler.is_exporting()


def _total(terms: Iterator[Tensor]) -> Tensor:
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _rows(convolution: nn.Module, image: Tensor) -> Tensor:
    """A 1x1 convolution of (B, C, H, W) -> (B, H W, C'), pixel by pixel in memory."""
    assert isinstance(convolution, nn.Conv2d)
    return F.linear(_tokens(image), convolution.weight.flatten(1), convolution.bias)


def _tokens(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return image.flatten(2).transpose(1, 2)


def _full(x: Tensor) -> Tensor:
    """In float32 at least: of half-precision maps, positions and sums are not."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _spans(places: Tensor) -> Iterator[slice]:
    """Queries (Q, M, 2) some at a time, so that memory, or a CPU's cache, holds the corners of their keys."""
    queries, keys, _ = places.shape
    cached = places.device.type == "cpu" and not torch.is_grad_enabled()
    at_once = CORNERS_IN_CACHE if cached else CORNERS_AT_ONCE
    step = queries if _traced(places) else max(1, at_once // (4 * keys))
    return (slice(start, start + step) for start in range(0, queries, step))
