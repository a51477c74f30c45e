"""Decoders against their papers' plain forms (tests/reference): time, error, memory, growth."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import Bench, Timing
from benchmarks.memory import MB, Peak, peak, peaks
from benchmarks.rows import Form, Measurement, Point, Results, Row, form, timed_points, timed_row
from dynres.contracts import Features
from dynres.cost.counter import count_macs
from dynres.upsamplers.implicit import ImplicitUpsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.lte_fast import LTEFast
from dynres.upsamplers.metasr import MetaSR
from dynres.upsamplers.srno import SRNO
from tests.reference.decoders import plain_decode

CHANNELS = 64
NETWORKS: dict[str, Callable[[int], ImplicitUpsampler]] = {
    "LIIF": LIIF,
    "MetaSR": MetaSR,
    "LTE": LTE,
    "LTE-fast": LTEFast,
    "SRNO": SRNO,
}
PLAIN, OURS, BF16 = "plain", "dynres", "dynres, bf16"
EXACT = 1e-5  # of the largest output
ERROR_OF = "of the largest output"


class Case(NamedTuple):
    """One row: a decoder at a scale, its bar, and about how many seconds a pass of both forms takes."""

    network: str
    scale: float
    bar: float
    seconds: float
    bf16_bar: float | None = None


CASES = (
    Case("LIIF", 2, 3.0, 6, 5.0),
    Case("LIIF", 4, 3.0, 22, 5.0),
    Case("MetaSR", 2, 6.0, 2),
    Case("MetaSR", 3.7, 12.0, 5),
    Case("MetaSR", 4, 18.0, 5),
    Case("MetaSR", 12, 100.0, 42),
    Case("LTE", 4, 1.9, 20),
    Case("LTE-fast", 4, 2.5, 20),
    Case("SRNO", 4, 2.0, 22),
)
GEMM_BAR = 85.0  # percent
BOUNDED = ("LIIF", "MetaSR")
MEMORY_BAR = 100.0  # MB beyond the output
GROWTH = 2.0  # over 9 times the area; one run's allocations differ by a few megabytes from another's
MEMORY_SHARE = 1 / 5  # SRNO's of the plain form's


class Sizes(NamedTuple):
    """Sides of the square feature maps."""

    side: int  # of the rows
    area: tuple[int, ...]  # of the curves over image area, x4; `side` is added
    bounded: tuple[int, int]  # between which memory may not grow, x4: both take more than one band of lifted rows
    scale_side: int  # of the curves over scale
    scales: tuple[float, ...]


FULL = Sizes(128, (32, 64, 96), (128, 384), 48, (1.5, 2.0, 2.7, 4.0, 5.5, 8.0))
QUICK = Sizes(16, (12,), (12, 16), 12, (1.5, 2.0))


class Task(NamedTuple):
    """A decoding whose peak memory is measured."""

    network: str
    plain: bool
    side: int
    scale: float


def measurements(bench: Bench) -> list[Measurement]:
    """Memory first: the rows tell it beside their times."""
    sizes = QUICK if bench.quick else FULL
    share = (sizes.side / FULL.side) ** 2  # of the time at full size
    found: dict[Task, Peak] = {}
    cases = [
        Measurement(
            f"{case.network} decode x{case.scale:g}",
            2 + share * max(12, 2 * case.seconds),
            functools.partial(_case, bench, case, sizes.side, found),
        )
        for case in CASES
    ]
    both_cores = Measurement("LIIF decode x4, 2 threads", 2 + 12 * share, functools.partial(_threaded, bench, sizes))
    growth = [
        Measurement(f"{name} over {axis}", 2 + 18 * share, functools.partial(curve, bench, name, sizes))
        for name in NETWORKS
        for axis, curve in (("image area", _over_area), ("scale", _over_scale))
    ]
    memory = Measurement("peak memory", 8 + 130 * share, functools.partial(_memory, bench, sizes, found))
    return [memory, *cases, *([] if bench.cuda else [both_cores]), *growth]


def decoder(name: str, device: torch.device) -> ImplicitUpsampler:
    torch.manual_seed(0)
    return NETWORKS[name](CHANNELS).eval().to(device)


def random_features(side: int, device: torch.device) -> Features:
    random = torch.Generator().manual_seed(side)
    values = torch.randn(1, CHANNELS, side, side, generator=random), torch.rand(1, 3, side, side, generator=random)
    maps, image = (value.to(device) for value in values)
    return Features(maps, image)


def output_side(side: int, scale: float) -> tuple[int, int]:
    return round(side * scale), round(side * scale)


def decoding(plain: bool, network: ImplicitUpsampler, side: int, scale: float, device: torch.device) -> Tensor:
    """Decode random features of a size in one form or the other."""
    return decodings(network, side, scale, device)[PLAIN if plain else OURS]()


def decodings(
    network: ImplicitUpsampler, side: int, scale: float, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """Both forms on the same features; ours in bfloat16 too, coordinates in float32."""
    features, size = random_features(side, device), output_side(side, scale)

    @torch.inference_mode()
    def plain() -> Tensor:
        return plain_decode(network, features, size)

    @torch.inference_mode()
    def ours() -> Tensor:
        return network.decode(features, size)

    def half() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return ours()

    return {PLAIN: plain, OURS: ours, BF16: half}


def macs(network: ImplicitUpsampler, side: int, scale: float, plain: bool) -> float:
    """Multiply-accumulates of one decoding; the plain form's counted on a small map and scaled by output pixels."""
    size = output_side(side, scale)
    if not plain:
        return network.macs(side, side, size)
    small = 10  # x3.7 is whole there
    counted = count_macs(lambda: decoding(True, network, small, scale, next(network.parameters()).device))
    few = output_side(small, scale)
    return counted * (size[0] * size[1]) / (few[0] * few[1])


def error(result: Tensor, expected: Tensor) -> float:
    """The largest error over the largest output."""
    return ((result.float() - expected).abs().max() / expected.abs().max()).item()


def compared(
    bench: Bench, name: str, side: int, scale: float, forms: tuple[str, ...], **options: object
) -> tuple[ImplicitUpsampler, Timing]:
    network = decoder(name, bench.device)
    calls, small = (decodings(network, n, scale, bench.device) for n in (side, 12))
    some = {name: calls[name] for name in forms}
    half = [BF16] if BF16 in forms else []
    return network, bench.compare(some, [small[name] for name in forms], half=half, **options)  # type: ignore[arg-type]


def _case(bench: Bench, case: Case, side: int, found: dict[Task, Peak]) -> Iterator[Row | Point]:
    what = f"{case.network} decode x{case.scale:g}, {side}x{side}x{CHANNELS} features"
    forms = (PLAIN, OURS) if case.bf16_bar is None else (PLAIN, OURS, BF16)
    network, timing = compared(bench, case.network, side, case.scale, forms)
    spent = {name: macs(network, side, case.scale, name == PLAIN) for name in forms}
    memory = {name: found.get(Task(case.network, name == PLAIN, side, case.scale)) for name in (PLAIN, OURS)}
    most = {name: one and one.most / MB for name, one in memory.items()}
    shown = tuple(form(timing, name, spent[name], most.get(name)) for name in forms)
    for name, bar, bound in ((OURS, case.bar, EXACT), (BF16, case.bf16_bar, None)):
        if bar is None:
            continue
        yield timed_row(
            bench,
            timing,
            "decoders",
            what + (", float32" if name == OURS else ", bfloat16, to plain float32"),
            timing.ratio(PLAIN, name),
            bar=bar,
            error=error(timing.results[name], timing.results[PLAIN]),
            error_bar=bound,
            error_of=ERROR_OF,
            forms=tuple(one for one in shown if one.name in (PLAIN, name)),
        )
    if (case.network, case.scale) == ("LIIF", 4):
        yield _gemm_row(bench, timing, what, spent[OURS])
    side_4 = case.scale == 4
    yield from timed_points(bench, timing, _points(timing, case.network, "area", side**2) if side_4 else ())


def _gemm_row(bench: Bench, timing: Timing, what: str, spent: float) -> Row:
    fraction, cores = timing.gemm_fraction(OURS, spent), timing.cores_of(OURS)
    used = "" if bench.cuda else f"{cores:.2f} cores busy"
    gemm = f"{2 * statistics.median(timing.gemm[torch.float32]) / 1e9:.0f} GFLOP/s"
    return timed_row(
        bench,
        timing,
        "decoders",
        f"{what}: of the rate of a GEMM, {timing.threads} thread{'s' * (timing.threads > 1)}",
        100 * fraction,
        unit="%",
        bar=GEMM_BAR,
        forms=(form(timing, OURS, spent),),
        note=", ".join(filter(None, (f"GEMM {gemm}", used))),
    )


def _threaded(bench: Bench, sizes: Sizes) -> Results:
    """LIIF on both cores, beside a GEMM on both."""
    network, timing = compared(bench, "LIIF", sizes.side, 4, (OURS,), threads=2)
    what = f"LIIF decode x4, {sizes.side}x{sizes.side}x{CHANNELS} features"
    return [_gemm_row(bench, timing, what, network.macs(sizes.side, sizes.side, output_side(sizes.side, 4)))]


def decode_peak(name: str, plain: bool, side: int, scale: float, threads: int, device: torch.device) -> Peak:
    """Peak memory of one decoding; runs in a process of its own."""
    torch.set_num_threads(threads)
    network, which = decoder(name, device), PLAIN if plain else OURS
    small, large = (decodings(network, n, scale, device)[which] for n in (8, side))
    return peak(large, small)


def _memory(bench: Bench, sizes: Sizes, found: dict[Task, Peak]) -> Results:
    """Peak memory of all decodings that a row or a curve tells of, into `found`."""
    forms, sides = (True, False), (*sizes.area, sizes.side)
    curves = [Task(name, plain, side, 4.0) for name in NETWORKS for plain in forms for side in sides]
    rows = [Task(case.network, plain, sizes.side, case.scale) for case in CASES for plain in forms]
    bounded = [Task(name, False, side, 4.0) for name in BOUNDED for side in sizes.bounded]
    tasks = list(dict.fromkeys([*curves, *rows, *bounded]))
    found.update(zip(tasks, peaks(decode_peak, [(*task, bench.threads) for task in tasks], bench.device), strict=True))
    for task, one in found.items():
        if task.scale == 4:
            megabytes = max(1.0, one.most / MB)
            yield Point("memory", task.network, PLAIN if task.plain else OURS, task.side**2, megabytes)
    for name in BOUNDED:
        beyond = {side: found[Task(name, False, side, 4.0)].beyond / MB for side in (*sides, *sizes.bounded)}
        for side, megabytes in sorted(beyond.items()):
            what = f"{name} decode x4 of {side}x{side}: memory beyond the output"
            yield _memory_row(bench, what, megabytes, "MB", MEMORY_BAR)
        first, last = sizes.bounded
        what = f"{name} decode x4: memory beyond the output at {last}x{last} over that at {first}x{first}"
        yield _memory_row(bench, what, beyond[last] / max(beyond[first], 1.0), "x", GROWTH)
    plain, ours = (found[Task("SRNO", plain, sizes.side, 4.0)].most / MB for plain in forms)
    what = f"SRNO decode x4 of {sizes.side}x{sizes.side}: peak memory over the plain form's"
    shown = Form(PLAIN, peak_mb=plain), Form(OURS, peak_mb=ours)
    yield _memory_row(bench, what, ours / plain, "x", MEMORY_SHARE, shown)


def _memory_row(bench: Bench, what: str, value: float, unit: str, bar: float, forms: tuple[Form, ...] = ()) -> Row:
    applies, threads = bench.bars, bench.threads
    return Row("decoders", what, value, unit, bar, "at most", applies=applies, threads=threads, forms=forms)


def _over_area(bench: Bench, name: str, sizes: Sizes) -> Results:
    for side in sizes.area:
        _, timing = compared(bench, name, side, 4, (PLAIN, OURS), budget=1.0, rounds=3, least=1)
        yield from timed_points(bench, timing, _points(timing, name, "area", side**2))


def _over_scale(bench: Bench, name: str, sizes: Sizes) -> Results:
    for scale in sizes.scales:
        _, timing = compared(bench, name, sizes.scale_side, scale, (PLAIN, OURS), budget=1.0, rounds=3, least=1)
        yield from timed_points(bench, timing, _points(timing, name, "scale", scale))


def _points(timing: Timing, name: str, plot: str, x: float) -> list[Point]:
    return [Point(plot, name, which, x, timing.milliseconds(which)) for which in (PLAIN, OURS)]
