"""A training step, EDSR-baseline + LIIF, against the plain form of its upsampler (tests/reference)."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import data
from benchmarks.harness import Bench
from benchmarks.rows import Measurement, Results, form, timed_row
from dynres.backbones.edsr import edsr_baseline
from dynres.contracts import QueryBatch, Task
from dynres.cost.counter import count_macs
from dynres.restorer import Restorer
from dynres.upsamplers.implicit import ImplicitUpsampler
from dynres.upsamplers.liif import LIIF
from tests.reference.decoders import plain_query

Query = Callable[[Restorer, QueryBatch], Tensor]
BARS = {"dynres": 1.35, "dynres, bf16": 3.0}
SAME = 1e-4  # the distance over the norm, for the gradient of the parameter where it is largest


def measurements(bench: Bench) -> list[Measurement]:
    return [Measurement("training step", 5 if bench.quick else 75, functools.partial(_step, bench))]


def plain(restorer: Restorer, batch: QueryBatch) -> Tensor:
    features = restorer.backbone(restorer.pixels.normal(batch.image), Task(batch.scale))
    assert isinstance(restorer.upsampler, ImplicitUpsampler)
    return restorer.pixels.colours(plain_query(restorer.upsampler, features, batch.coords, batch.cell), -1)


def ours(restorer: Restorer, batch: QueryBatch) -> Tensor:
    return restorer.query(batch.image, batch.coords, batch.cell, Task(batch.scale))[0]


def half(restorer: Restorer, batch: QueryBatch) -> Tensor:
    """Ours in bfloat16; coordinates, weights and their gradients stay in float32."""
    with torch.autocast(batch.image.device.type, torch.bfloat16):
        return ours(restorer, batch)


FORMS: dict[str, Query] = {"plain": plain, "dynres": ours, "dynres, bf16": half}


def photographs(samples: int, queries: int, device: torch.device) -> QueryBatch:
    """Random pairs of photographs, scales from 1 to 4: the gradients of noise would cancel, down to rounding errors."""
    with tempfile.TemporaryDirectory() as folder:
        images = data.mosaics(Path(folder), 2, (600, 600))
        whole = data.fast(images, data.BATCH, True, Path(folder))()
    assert isinstance(whole, QueryBatch)
    some = QueryBatch(*(tensor[:samples].to(device) for tensor in whole))
    return some._replace(**{name: getattr(some, name)[:, :queries] for name in ("coords", "cell", "target")})


def gradients(query: Query, restorer: Restorer, batch: QueryBatch, upstream: Tensor) -> list[Tensor]:
    """For every parameter, of the sum of colours times `upstream`.

    Not of the L1 loss itself: where a colour is as good as right, rounding decides the sign of its gradient.
    """
    (query(restorer, batch).float() * upstream).sum().backward()
    found = [parameter.grad for parameter in restorer.parameters() if parameter.grad is not None]
    restorer.zero_grad()
    return found


def _step(bench: Bench) -> Results:
    samples, queries = (2, 64) if bench.quick else (data.BATCH, 2304)
    torch.manual_seed(0)
    network = Restorer(edsr_baseline(), LIIF(64)).to(bench.device)
    batch = photographs(samples, queries, bench.device)
    with torch.no_grad():
        upstream = (ours(network, batch) - batch.target).sign() / batch.target.numel()
    found = {name: gradients(query, network, batch, upstream) for name, query in FORMS.items()}  # and a warm-up

    def step(query: Query, restorer: Restorer, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        F.l1_loss(query(restorer, batch).float(), batch.target).backward()
        optimizer.step()

    forms = {}
    for name, query in FORMS.items():
        own = copy.deepcopy(network)
        forms[name] = functools.partial(step, query, own, torch.optim.Adam(own.parameters(), lr=1e-4))
    timing = bench.compare(forms, budget=30.0, half=["dynres, bf16"])
    macs = {name: 3.0 * count_macs(functools.partial(query, network, batch)) for name, query in FORMS.items()}
    for name, bar in BARS.items():
        distances = zip(found[name], found["plain"], strict=True)
        yield timed_row(
            bench,
            timing,
            "training",
            f"training step EDSR-baseline + LIIF, {samples} patches of 48x48, {queries} queries each"
            + (", bfloat16, to plain float32" if "bf16" in name else ", float32"),
            timing.ratio("plain", name),
            bar=bar,
            error=max(((a - b).norm() / b.norm()).item() for a, b in distances),
            error_bar=SAME if name == "dynres" else None,
            error_of="of the worst parameter's gradient",
            forms=(form(timing, "plain", macs["plain"]), form(timing, name, macs[name])),
            note="MACs: three times the forward pass's",
        )
