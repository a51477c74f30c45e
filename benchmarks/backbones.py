"""SwinIR's attention against the manual form, and whether the time of routed networks follows their MACs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.harness import Bench
from benchmarks.rows import Measurement, Point, Results, Row, form, timed_points, timed_row
from dynres.backbones.mstb import MultiScaleTransformer
from dynres.backbones.swinir import SwinIR
from dynres.contracts import Task
from dynres.cost.counter import count_macs

SWINIR: dict[str, tuple[Callable[[], SwinIR], float]] = {
    "classical": (SwinIR, 1.35),
    "lightweight": (lambda: SwinIR(embed_dim=60, depths=(6, 6, 6, 6), out_channels=None), 1.2),
}
FRACTIONS = (0.25, 0.5, 0.75)
BATCH, GROUPS = 16, 4
EXACT = 1e-5


def measurements(bench: Bench) -> list[Measurement]:
    side = 32 if bench.quick else 128
    share = (side / 128) ** 2
    swin = [
        Measurement(f"SwinIR {name}", 2 + share * seconds, functools.partial(_swinir, bench, name, side))
        for name, seconds in (("classical", 36), ("lightweight", 14))
    ]
    routed = [
        Measurement(f"MSTB, batch of {BATCH} at {side}x{side}", seconds, functools.partial(_mixed, bench, side, bar))
        for side, bar, seconds in ((48, 1.10, 6 if bench.quick else 45), (12, 1.25, 3 if bench.quick else 14))
    ]
    tadt = [
        Measurement(f"TADT C={channels}", seconds, functools.partial(_tadt, bench, channels, groups))
        for channels, groups, seconds in ((32, 2, 5 if bench.quick else 10), (224, 8, 4 if bench.quick else 30))
    ]
    return [*swin, *routed, *tadt]


def _swinir(bench: Bench, name: str, side: int) -> Results:
    from tests.reference.attention import plain_attention

    make, bar = SWINIR[name]
    torch.manual_seed(0)
    network = make().eval().to(bench.device)

    @torch.inference_mode()
    def ours(image: Tensor) -> Tensor:
        return network(image, Task()).map

    def plain(image: Tensor) -> Tensor:
        with plain_attention():
            return ours(image)

    large, small = (torch.rand(1, 3, n, n, device=bench.device) for n in (side, 16))
    forms = {"plain": functools.partial(plain, large), "dynres": functools.partial(ours, large)}
    timing = bench.compare(forms, [functools.partial(call, small) for call in (plain, ours)])
    macs = count_macs(functools.partial(ours, torch.rand(1, 3, 16, 16, device=bench.device))) * (side / 16) ** 2
    difference = (timing.results["plain"] - timing.results["dynres"]).abs().max() / timing.results["plain"].abs().max()
    yield timed_row(
        bench,
        timing,
        "backbones",
        f"SwinIR body {side}x{side}, {name}, to manual attention",
        timing.ratio("plain", "dynres"),
        bar=bar,
        error=difference.item(),
        error_bar=EXACT,
        error_of="of the largest output",
        forms=tuple(form(timing, which, macs) for which in forms),
    )


def _mixed(bench: Bench, side: int, bar: float) -> Results:
    """A batch whose samples have as many branches on, and not the same ones."""
    small = {"local_windows": (2, 4, 6), "global_window": 12, "pooled": 3} if side < 48 else {}
    channels, groups = (32, 2) if bench.quick else (224, GROUPS)
    torch.manual_seed(0)
    network = MultiScaleTransformer(channels, groups, **small).eval().to(bench.device)  # type: ignore[arg-type]
    batch = [decisions(BATCH, 4 * groups, fraction) for fraction in FRACTIONS]
    name = f"MSTB, {BATCH} mixed samples of {side}x{side}"
    yield from _routed(bench, network, name, torch.rand(BATCH, 3, side, side), batch, bar)


def _tadt(bench: Bench, channels: int, groups: int) -> Results:
    """One image through a whole network, at 0 to 75 % of its branches."""
    side = 48 if bench.quick else 96
    if bench.quick:
        groups = 2
    torch.manual_seed(0)
    network = MultiScaleTransformer(channels, groups).eval().to(bench.device)
    alone = [spread(4 * groups, fraction) for fraction in (0.0, *FRACTIONS)]
    name = f"TADT C={channels} N={groups}, one image of {side}x{side}"
    yield from _routed(bench, network, name, torch.rand(1, 3, side, side), alone, None)


def decisions(batch: int, units: int, fraction: float) -> Tensor:
    """(B, U) in {0, 1}: every sample has the fraction of all units on, drawn for it alone."""
    random = torch.Generator().manual_seed(round(100 * fraction))
    order = torch.rand(batch, units, generator=random).argsort(dim=1)
    return torch.zeros(batch, units).scatter_(1, order[:, : round(fraction * units)], 1.0)


def spread(units: int, fraction: float) -> Tensor:
    """(1, U) decisions with a fraction of the branches on, each of the four kinds equally often."""
    chosen = torch.zeros(units // 4, 4)
    turns = torch.arange(units // 4)
    for step in range(round(4 * fraction)):
        chosen[turns, (turns + step) % 4] = 1.0
    return chosen.flatten()[None]


def _routed(
    bench: Bench, network: MultiScaleTransformer, name: str, image: Tensor, batches: list[Tensor], bar: float | None
) -> Iterator[Row | Point]:
    """Rows and points of time and MACs over those of the dense network."""
    image = image.to(bench.device)
    cost = network.cost(image.shape[-2], image.shape[-1])
    full = float(cost.full * len(image))

    @torch.inference_mode()
    def extract(gates: Tensor | None) -> Tensor:
        return network.extract(image, gates)

    forms = {"dense": functools.partial(extract, None)}
    macs = {"dense": full}
    for gates in batches:
        label = f"{gates.mean().item():.0%}"
        forms[label] = functools.partial(extract, gates)
        units = torch.tensor(cost.units, dtype=torch.float64)
        macs[label] = float(cost.fixed * len(image) + (gates.double() @ units).sum().item())
    timing = bench.compare(forms, [forms["dense"], *list(forms.values())[1:2]], budget=20.0, least=3)
    points = []
    for label, spent in macs.items():
        ratio, share = 1 / timing.ratio("dense", label), spent / full
        points.append(Point("routing", name, "dynres", share, ratio))
        if label != "dense":
            yield timed_row(
                bench,
                timing,
                "backbones",
                f"{name}, {label} of branches: time over MACs, to dense",
                ratio / share,
                bar=bar,
                sense="at most",
                forms=(form(timing, "dense", full), replace(form(timing, label, spent), name=f"{label} on")),
                note=f"{ratio:.3f} of the time, {share:.3f} of the MACs",
            )
    yield from timed_points(bench, timing, points)
