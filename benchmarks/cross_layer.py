"""Cross-layer attention: growth beside attention to every pixel, time over the keys that are kept, sums over keys."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Bench
from benchmarks.memory import MB, Peak, peak, peaks
from benchmarks.rows import Measurement, Point, Results, Row, form, timed_points, timed_row
from dynres.cost.counter import count_macs, count_on_meta
from dynres.layers.cross_layer import CrossLayerAttention, Keys, _spans, _weighed
from dynres.layers.cross_layer_dense import CrossLayerNonLocal
from dynres.layers.nonlocal_attention import NonLocalBlock

CHANNELS, MAPS = 64, 3
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "non-local": lambda: NonLocalBlock(CHANNELS, CHANNELS),
    "CLNL": lambda: CrossLayerNonLocal(CHANNELS, MAPS, CHANNELS),
    "CLA, K=8": lambda: CrossLayerAttention(CHANNELS, MAPS, 8),
    "ACLA, K=16": lambda: CrossLayerAttention(CHANNELS, MAPS, 16, adaptive=True),
}
GROWTH = 6.0  # in time over 4 times the pixels of a module that attends to a few keys; larger maps leave the caches
SECONDS = {"non-local": 30, "CLNL": 60, "CLA, K=8": 10, "ACLA, K=16": 15}
LONG = 10**9  # scores, above which a module runs in one round
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0)  # of the keys; all come first
EXACT = 1e-5
ERROR_OF = "of the largest output"


class Sizes(NamedTuple):
    """Sides of the square maps."""

    growth: tuple[int, ...]
    side: int  # of the rest: ACLA's tables count FLOPs at 48x48
    channels: tuple[int, ...]  # of the sums over keys


FULL = Sizes((48, 96, 192), 48, (64, 256))
QUICK = Sizes((8, 16), 8, (16,))


def measurements(bench: Bench) -> list[Measurement]:
    """Memory first: the rows tell it beside their times."""
    sizes = QUICK if bench.quick else FULL
    found: dict[tuple[str, int], Peak] = {}
    plan: list[tuple[str, float, Callable[[], Results]]] = [
        ("cross-layer attention, peak memory", 90, functools.partial(_memory, bench, sizes, found)),
        *(
            (f"{name} over pixels", SECONDS[name], functools.partial(_growth, bench, name, sizes, found))
            for name in NETWORKS
        ),
        *(
            (f"ACLA, K={keys}, over kept keys", 25, functools.partial(_kept, bench, keys, sizes.side))
            for keys in (16, 64)
        ),
        *((f"sums over keys, C={c}", 25, functools.partial(_sums, bench, c, sizes.side)) for c in sizes.channels),
    ]
    return [Measurement(name, 2 if bench.quick else seconds, run) for name, seconds, run in plan]


def network(name: str, device: torch.device | str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval().to(device)


def random_maps(channels: int, side: int, device: torch.device | str) -> list[Tensor]:
    """n maps; the last is what asks."""
    random = torch.Generator().manual_seed(side)
    return [torch.randn(1, channels, side, side, generator=random).to(device) for _ in range(MAPS)]


@torch.inference_mode()
def attended(module: nn.Module, maps: list[Tensor]) -> Tensor:
    """What any of NETWORKS makes of its maps."""
    if isinstance(module, NonLocalBlock):
        return module(maps[-1])
    found = module(maps[-1], maps)
    return found[0] if isinstance(module, CrossLayerAttention) else found


def attended_peak(name: str, side: int, threads: int, device: torch.device) -> Peak:
    """Peak memory of one call; runs in a process of its own."""
    torch.set_num_threads(threads)
    module = network(name, device)
    small, large = (functools.partial(attended, module, random_maps(CHANNELS, n, device)) for n in (8, side))
    return peak(large, small)


def _memory(bench: Bench, sizes: Sizes, found: dict[tuple[str, int], Peak]) -> Results:
    """Peak memory of every network at every size, into `found`."""
    tasks = [(name, side) for name in NETWORKS for side in sizes.growth]
    found.update(
        zip(tasks, peaks(attended_peak, [(*task, bench.threads) for task in tasks], bench.device), strict=True)
    )
    for (name, side), one in found.items():
        yield Point("growth", "peak MB beyond the inputs", name, side**2, max(1.0, one.most / MB))


def _growth(bench: Bench, name: str, sizes: Sizes, found: dict[tuple[str, int], Peak]) -> Iterator[Row | Point]:
    """A row for each size, to the size before."""
    module = network(name, bench.device)
    quadratic = not isinstance(module, CrossLayerAttention)
    for before, side in zip(sizes.growth, sizes.growth[1:], strict=False):
        what = f"{name}, {before}x{before} -> {side}x{side} (pairs: the two sizes): time"
        calls = {n: functools.partial(attended, module, random_maps(CHANNELS, n, bench.device)) for n in (before, side)}
        once = quadratic and side**4 > LONG
        timing = bench.compare(
            {str(n): call for n, call in calls.items()},
            [calls[before]],
            rounds=1 if once else 7,
            least=1 if once else 2,
        )
        macs = {n: _macs(module, n) for n in calls}
        memory = {n: max(1.0, found[name, n].most / MB) for n in calls}
        yield timed_row(
            bench,
            timing,
            "cross_layer",
            what,
            timing.ratio(str(side), str(before)),
            bar=None if quadratic else GROWTH,
            sense="at most",
            forms=tuple(form(timing, str(n), macs[n], memory[n]) for n in calls),
            note=f"MACs x{macs[side] / macs[before]:.3g}, memory x{memory[side] / memory[before]:.3g}",
        )
        points = [Point("growth", "ms", name, n**2, timing.milliseconds(str(n))) for n in calls]
        yield from timed_points(bench, timing, points if side == sizes.growth[1] else points[1:])


def _macs(module: nn.Module, side: int) -> float:
    maps = random_maps(CHANNELS, side, "meta")
    return float(count_on_meta(module, maps[-1], *([] if isinstance(module, NonLocalBlock) else [maps])))


def keeping_modules(keys: int, maps: Sequence[Tensor]) -> dict[float, CrossLayerAttention]:
    """ACLA whose masks keep each of SHARES of the keys that these maps give: alike but for the biases of the masks."""
    torch.manual_seed(0)
    module = CrossLayerAttention(CHANNELS, MAPS, keys, adaptive=True).to(maps[0].device).eval()
    nn.init.normal_(module.output.weight)  # which begins at zero and would hide errors
    with torch.no_grad():
        soft = module.choose(maps[-1], maps).soft
        assert soft is not None
        ranked = F.pad(soft.logit().flatten().sort(descending=True).values, (0, 1), value=-100.0)
    made = {}
    for share in SHARES:
        made[share] = copy.deepcopy(module)
        for unit in made[share].mask or ():
            assert isinstance(unit, nn.Conv2d) and unit.bias is not None
            unit.bias.data -= ranked[round(share * soft.numel())]  # those above it stay
    return made


def masked(keys: Keys) -> Keys:
    """Masks that weigh: every key is read, also those that count nothing."""
    assert keys.kept is not None
    return keys._replace(weights=keys.weights * keys.kept, kept=None)


def _kept(bench: Bench, keys: int, side: int) -> Iterator[Row | Point]:
    """The module, and its sum over keys alone, at every share of keys, and with masks instead of fewer keys."""
    maps = random_maps(CHANNELS, side, bench.device)
    modules = keeping_modules(keys, maps)
    half = modules[0.5]

    def whole(share: float) -> Tensor:
        return modules[share](maps[-1], maps)[0]

    def whole_masked() -> Tensor:
        return maps[-1] + half.output(half._attend(masked(half.choose(maps[-1], maps)), maps))

    def aggregation(chosen: Keys) -> Tensor:
        return half._attend(chosen, maps)

    with torch.inference_mode():
        chosen = {share: module.choose(maps[-1], maps) for share, module in modules.items()}
        forms: dict[str, Callable[[], Tensor]] = {"module, masked": whole_masked}
        forms["aggregation, masked"] = functools.partial(aggregation, masked(chosen[0.5]))
        for share in SHARES:
            forms[f"module, {share:.1%}"] = functools.partial(whole, share)
            forms[f"aggregation, {share:.1%}"] = functools.partial(aggregation, chosen[share])
        macs = {name: float(count_macs(call)) for name, call in forms.items()}
        timing = bench.compare(forms, budget=20.0, least=3)
    points = []
    for part in ("module", "aggregation"):
        dense, all_masked = f"{part}, {SHARES[0]:.1%}", f"{part}, masked"
        panel, what = f"{part}, K={keys}", f"ACLA {part}, K={keys}, {side}x{side}x{CHANNELS}"
        for share in SHARES:
            name = f"{part}, {share:.1%}"
            time, spent = 1 / timing.ratio(dense, name), macs[name] / macs[dense]
            points += [
                Point("keys", panel, "time, gathered", share, time),
                Point("keys", panel, "time, masked", share, 1 / timing.ratio(dense, all_masked)),
                Point("keys", panel, "MACs", share, spent),
            ]
            if share == SHARES[0]:
                continue
            shown = (form(timing, dense, macs[dense]), replace(form(timing, name, macs[name]), name=f"{share:.1%}"))
            yield timed_row(
                bench,
                timing,
                "cross_layer",
                f"{what}, {share:.1%} of keys: time, to all keys",
                time,
                sense="at most",
                forms=shown,
                note=f"{spent:.3f} of the MACs; {timing.ratio(all_masked, name):.2f} times faster than masking",
            )
        error = _error(timing.results[f"{part}, 50.0%"], timing.results[all_masked])
        yield timed_row(
            bench,
            timing,
            "cross_layer",
            f"{what}, 50.0% of keys, to masking",
            timing.ratio(all_masked, f"{part}, 50.0%"),
            bar=1.0,
            error=error,
            error_bar=EXACT,
            error_of=ERROR_OF,
            forms=(form(timing, all_masked, macs[all_masked]), form(timing, f"{part}, 50.0%", macs[f"{part}, 50.0%"])),
        )
    yield from timed_points(bench, timing, points)


class Sum(NamedTuple):
    """What a weighted sum over the keys of one image takes; one map after the other, K keys of each."""

    values: Tensor  # (n, C, H, W)
    places: Tensor  # (H W, n K, 2) row and column in pixels
    weights: Tensor  # (H W, n K)


def random_sum(channels: int, side: int, keys: int, device: torch.device) -> Sum:
    """Keys a few pixels around each query, inside the border: on it, a place has two gradients."""
    random = torch.Generator().manual_seed(side)
    values = torch.randn(MAPS, channels, side, side, generator=random)
    axis = torch.arange(side, dtype=torch.float32)
    queries = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 1, 2)
    places = queries + 2 * torch.randn(side**2, MAPS * keys, 2, generator=random)
    weights = torch.randn(side**2, MAPS * keys, generator=random).softmax(dim=-1)
    leaves = (values, places.clamp(0.01, side - 1.01), weights)
    return Sum(*(leaf.to(device).requires_grad_() for leaf in leaves))


def plain_sum(given: Sum) -> Tensor:
    """(H W, C): each map sampled at its keys, the samples weighed and added up."""
    side, maps = given.values.shape[-1], len(given.values)
    grids = (2 * given.places / (side - 1) - 1).flip(-1).unflatten(1, (maps, -1)).transpose(0, 1)  # (n, H W, K, 2)
    samples = F.grid_sample(given.values, grids, "bilinear", padding_mode="border", align_corners=True)
    weights = given.weights.unflatten(1, (maps, -1)).transpose(0, 1)  # (n, H W, K)
    return (samples * weights[:, None]).sum(dim=(0, 3)).T


def our_sum(given: Sum) -> Tensor:
    """The same as CrossLayerAttention makes it."""
    maps, channels, height, width = given.values.shape
    table = given.values.permute(0, 2, 3, 1).reshape(-1, channels)
    keys = given.weights.shape[1]
    owner = torch.arange(keys, device=table.device).div(keys // maps, rounding_mode="floor")
    first = (owner * height * width).expand(len(given.weights), -1)
    return torch.cat(
        [
            _weighed(table, (height, width), given.places[q], given.weights[q], first[q], None)
            for q in _spans(given.places)
        ]
    )


def _sums(bench: Bench, channels: int, side: int) -> Results:
    """Forward, and forward with backward to values, places and weights."""
    keys = 8
    given = random_sum(channels, side, keys, bench.device)
    upstream = torch.randn(side**2, channels, generator=torch.Generator().manual_seed(1)).to(bench.device)

    def forward(function: Callable[[Sum], Tensor]) -> Tensor:
        with torch.no_grad():
            return function(given)

    def both(function: Callable[[Sum], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(given), given, upstream)

    for pass_, call, error_of in (
        ("forward", forward, ERROR_OF),
        ("forward and backward", both, "of the largest gradient"),
    ):
        forms = {"plain": functools.partial(call, plain_sum), "dynres": functools.partial(call, our_sum)}
        timing = bench.compare(forms, list(forms.values()))
        ours, plain = (_listed(timing.results[name]) for name in ("dynres", "plain"))
        yield timed_row(
            bench,
            timing,
            "cross_layer",
            f"sum over {MAPS} x {keys} keys, {side}x{side}x{channels}, {pass_}: to grid_sample",
            timing.ratio("plain", "dynres"),
            bar=1.0,
            error=max(_error(a, b) for a, b in zip(ours, plain, strict=True)),
            error_bar=1e-4,
            error_of=error_of,
            forms=tuple(form(timing, name) for name in forms),
        )


def _listed(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _error(result: Tensor, expected: Tensor) -> float:
    """The largest error over the largest value."""
    return ((result - expected).abs().max() / expected.abs().max()).item()
