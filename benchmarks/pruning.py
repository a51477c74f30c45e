"""SwinIR made smaller, by pruning and by design: whether its time falls with its MACs, and the sizes of its files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Bench, Timing
from benchmarks.memory import MB
from benchmarks.rows import Measurement, Point, Results, Row, form, timed_points, timed_row
from dynres.contracts import Task
from dynres.pretrained import WEIGHTS
from dynres.pruning import channels_in, cut, fresh_scores, ranked
from dynres.restorer import Restorer

SCOPES = {"mlp": "MLP", "mlp_msa": "MLP and MSA"}
RATES = (0.25, 0.5, 0.75)
SPREAD = 0.1  # standard deviation of the scores: the layers then differ in width
NETWORKS: dict[str, tuple[str, str, Mapping[str, Any]]] = {  # backbone, upsampler, options of the backbone
    "classical": ("swinir.SwinIR", "PixelShuffle", {}),
    "lightweight": (
        "swinir.SwinIR",
        "DirectPixelShuffle",
        {"embed_dim": 60, "depths": [6, 6, 6, 6], "out_channels": None},
    ),
    "lightweight with token": ("swinir_distilled.SwinIRDistilled", "DirectPixelShuffle", {}),
}


def measurements(bench: Bench) -> list[Measurement]:
    plan = []
    for threads in dict.fromkeys([bench.threads, *([] if bench.cuda else [2])]):
        seconds = 2 if bench.quick else 60 / threads
        about = f"{threads} thread{'s' * (threads > 1)}"
        parts: dict[str, Callable[[Bench, int], Results]] = {
            **{f"SwinIR, {title} cut": functools.partial(_pruned, scope=scope) for scope, title in SCOPES.items()},
            "SwinIR lightweight": _lightweight,
        }
        plan += [
            Measurement(f"{name}, {about}", seconds, functools.partial(run, bench, threads))
            for name, run in parts.items()
        ]
    return plan


def network(name: str, quick: bool = False) -> Restorer:
    """SwinIR for x2 with random weights; `quick`: of one group of two layers."""
    backbone, upsampler, options = NETWORKS[name]
    torch.manual_seed(0)
    return Restorer.from_description(
        {
            "backbone": {"_target_": f"dynres.backbones.{backbone}", **options, **({"depths": [2]} if quick else {})},
            "upsampler": {"_target_": f"dynres.upsamplers.pixelshuffle.{upsampler}", "scale": 2},
        }
    ).eval()


def pruned(restorer: Restorer, scope: str, rate: float) -> Restorer:
    """What the global ranking of scores about 1 leaves."""
    channels, random = channels_in(restorer, scope), torch.Generator().manual_seed(0)
    scores = [1 + SPREAD * torch.randn(score.shape, generator=random) for score in fresh_scores(channels)]
    return cut(restorer, channels, ranked(channels, scores, rate), scores).eval()


def file_mb(restorer: Restorer) -> float:
    """The weights as `save_pretrained` writes them."""
    with TemporaryDirectory() as folder:
        restorer.save_pretrained(folder)
        return (Path(folder) / WEIGHTS).stat().st_size / MB


def _pruned(bench: Bench, threads: int, scope: str) -> Iterator[Row | Point]:
    """Each cut to the full network; its bar is the time of the milder cut before it."""
    full = network("classical", bench.quick)
    cuts = {f"{rate:.0%}": pruned(full, scope, rate) for rate in RATES}
    side, timing = _timed(bench, {"full": full, **cuts}, threads)
    curve, bar = f"{SCOPES[scope]}, {timing.threads} thread{'s' * (timing.threads > 1)}", 1.0
    points = [Point("pruning", curve, "dynres", 1.0, 1.0)]
    for name, small in cuts.items():
        what = f"SwinIR {side}x{side}, {name} of {SCOPES[scope]} cut: time, to full"
        yield _row(bench, timing, what, side, ("full", full), (name, small), bar)
        bar = 1 / timing.ratio("full", name)
        points.append(Point("pruning", curve, "dynres", _macs(small, side) / _macs(full, side), bar))
    yield from timed_points(bench, timing, points)


def _lightweight(bench: Bench, threads: int) -> Results:
    """The small network to the classical one, and what the distillation token costs it."""
    networks = {name: network(name, bench.quick) for name in NETWORKS}
    side, timing = _timed(bench, networks, threads)
    (_, plain, token) = networks.items()
    for base, other, bar in ((("classical", networks["classical"]), plain, 1.0), (plain, token, None)):
        what = f"SwinIR {side}x{side}, {other[0]}: time, to {base[0]}"
        yield _row(bench, timing, what, side, base, other, bar)


def _timed(bench: Bench, networks: Mapping[str, Restorer], threads: int) -> tuple[int, Timing]:
    """(side of the image, timing) of the bodies: the tail, a hundredth of the MACs, is cut nowhere."""
    side = 16 if bench.quick else 96
    image = torch.rand(1, 3, side, side, device=bench.device)

    @torch.inference_mode()
    def body(restorer: Restorer, image: Tensor) -> Tensor:
        return restorer.backbone(image, Task()).map

    moved = {name: one.to(bench.device) for name, one in networks.items()}
    forms = {name: functools.partial(body, one, image) for name, one in moved.items()}
    warm_up = [functools.partial(body, one, image[..., :16, :16]) for one in moved.values()]
    return side, bench.compare(forms, warm_up, budget=60.0, rounds=5, least=3, threads=threads)


def _row(
    bench: Bench,
    timing: Timing,
    what: str,
    side: int,
    large: tuple[str, Restorer],
    small: tuple[str, Restorer],
    bar: float | None,
) -> Row:
    """Of the time of `small` over that of `large`, both (name, network)."""
    macs = {name: _macs(one, side) for name, one in (large, small)}
    share, file = macs[small[0]] / macs[large[0]], file_mb(small[1])
    return timed_row(
        bench,
        timing,
        "pruning",
        what,
        1 / timing.ratio(large[0], small[0]),
        bar=bar,
        sense="at most",
        forms=tuple(form(timing, name, count) for name, count in macs.items()),
        note=f"{share:.3f} of the MACs; file of {file:.1f} MB, {file / file_mb(large[1]):.3f}",
    )


def _macs(restorer: Restorer, side: int) -> float:
    return float(restorer.backbone.cost(side, side).full)
