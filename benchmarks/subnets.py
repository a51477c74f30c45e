"""AnySR's subnets: whether their time falls with their MACs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import Bench
from benchmarks.rows import Measurement, Point, Row, form, timed_points, timed_row
from dynres.backbones.anysr import AnySR
from dynres.backbones.base import Backbone
from dynres.backbones.edsr import edsr_baseline
from dynres.backbones.rcan import RCAN
from dynres.backbones.rdn import RDN
from dynres.contracts import Task

TOLERANCE = 0.15  # by which the share of the time may exceed the share of the MACs


class Sized(NamedTuple):
    """A network of published size (one for the quick look), and the side of the image that is timed.

    Attributes:
        published: in AnySR's form; others have no bar.
    """

    plain: Callable[[], Backbone]
    quick: Callable[[], Backbone]
    side: int
    widths: list[float]
    published: bool = True


NETWORKS = {
    "EDSR-baseline": Sized(edsr_baseline, lambda: edsr_baseline(blocks=2), 96, [0.5, 0.7, 0.9, 1.0]),
    "RDN": Sized(RDN, lambda: RDN(blocks=1), 48, [0.7, 0.8, 0.9, 1.0]),
    "RCAN": Sized(lambda: RCAN(groups=2), lambda: RCAN(groups=1, blocks=1), 48, [0.5, 0.7, 0.9, 1.0], published=False),
}


def measurements(bench: Bench) -> list[Measurement]:
    seconds = 2 if bench.quick else 25
    return [Measurement(f"AnySR on {name}", seconds, functools.partial(_subnets, bench, name)) for name in NETWORKS]


def network(name: str, quick: bool = False) -> AnySR:
    """With random weights, gates included."""
    sized = NETWORKS[name]
    torch.manual_seed(0)
    return AnySR((sized.quick if quick else sized.plain)(), sized.widths).eval()


def _subnets(bench: Bench, name: str) -> Iterator[Row | Point]:
    """Each subnet to the whole network: its share of the time over its share of the MACs."""
    backbone, side = network(name, bench.quick).to(bench.device), 16 if bench.quick else NETWORKS[name].side
    shares, image = backbone.shares(side, side), torch.rand(1, 3, side, side, device=bench.device)

    @torch.inference_mode()
    def at(budget: float, image: Tensor) -> Tensor:
        return backbone(image, Task(budget=budget)).map

    backbone.cost(16, 16)
    forms = {
        f"width {width:g}": functools.partial(at, share, image)
        for width, share in zip(backbone.widths, shares, strict=True)
    }
    warm_up = [functools.partial(at, share, image[..., :16, :16]) for share in backbone.shares(16, 16)]
    timing = bench.compare(forms, warm_up, budget=60.0, rounds=7, least=3)
    full, points = f"width {backbone.widths[-1]:g}", [Point("subnets", name, "dynres", 1.0, 1.0)]
    for way, share in list(zip(forms, shares, strict=True))[:-1]:
        time = 1 / timing.ratio(full, way)
        points.append(Point("subnets", name, "dynres", share, time))
        yield timed_row(
            bench,
            timing,
            "subnets",
            f"AnySR on {name} {side}x{side}, {way}: share of the time over that of the MACs",
            time / share,
            bar=1 + TOLERANCE if NETWORKS[name].published else None,
            sense="at most",
            forms=tuple(
                form(timing, each, macs * backbone.cost(side, side).full) for each, macs in ((full, 1.0), (way, share))
            ),
            note=f"{share:.3f} of the MACs in {time:.3f} of the time",
        )
    yield from timed_points(bench, timing, points)
