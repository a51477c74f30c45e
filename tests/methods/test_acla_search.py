"""ACLA's search: whose turn it is, Eq. 12-14, what alpha and lambda do."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from dynres.backbones.acla import CrossLayerEDSR
from dynres.contracts import PatchBatch, Task
from dynres.layers.pixels import Pixels
from dynres.methods.acla_search import AclaSearch
from dynres.restorer import Restorer
from dynres.upsamplers.same_size import SameSize
from tests.methods.test_base import Record, loader, trainer

LAYERS, CHANNELS, KEYS = 3, 4, 2


def search(seed: int = 0, refer_head: bool = False, **options: Any) -> AclaSearch:
    torch.manual_seed(seed)
    backbone = CrossLayerEDSR(CHANNELS, LAYERS, 1.0, "all", keys=KEYS, searched=True, refer_head=refer_head)
    for parameter in backbone.parameters():  # modules that do something from the beginning
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=0.2)
    restorer = Restorer(backbone, SameSize(CHANNELS), pixels=Pixels(0.0, 1.0))
    defaults: dict[str, Any] = {"learning_rate": 1e-3, "weights_only": 0.5}
    return AclaSearch(restorer, **(defaults | options)).train()


def patches(number: int = 0, size: int = 4) -> PatchBatch:
    random = torch.Generator().manual_seed(number)
    clean = torch.rand(size, 3, 8, 8, generator=random)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=random)
    return PatchBatch(noisy, clean, torch.ones(size), torch.arange(size), torch.full((size,), 0.1))


class Snapshots(Record):
    """What every step left."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.states.append(copy.deepcopy(pl_module.restorer.state_dict()))


def fit(method: AclaSearch, steps: int) -> Snapshots:
    seen = Snapshots()
    trainer(steps, seen).fit(method, loader([patches(number) for number in range(steps)]))
    return seen


def test_weights_and_alpha_take_turns_in_the_second_stage() -> None:
    method = search()
    states = [copy.deepcopy(method.restorer.state_dict()), *fit(method, 8).states]
    moved = []
    for before, after in pairwise(states):
        names = {name for name in before if not torch.equal(before[name], after[name])}
        moved.append({"alpha" if name == "backbone.alpha" else "weights" for name in names})
    assert moved == [{"weights"}] * 4 + [{"weights"}, {"alpha"}] * 2


def test_the_two_halves_of_a_batch_serve_the_two() -> None:
    """A half that a step does not use may hold anything."""
    for step, used in ((0, slice(0, 2)), (5, slice(2, 4))):
        method = search()
        batches = [patches(number) for number in range(8)]
        spoilt = PatchBatch(*(field.clone() for field in batches[step]))
        rest = slice(2, 4) if used.start == 0 else slice(0, 2)
        spoilt.image[rest], spoilt.target[rest] = 1e6, math.nan
        batches[step] = spoilt
        trainer(8, Record()).fit(method, loader(batches))
        assert all(bool(tensor.isfinite().all()) for tensor in method.restorer.state_dict().values())


def test_temperature_falls_geometrically_in_the_second_stage() -> None:
    method = search(temperature=(2.0, 0.5))
    seen = fit(method, 8)
    found = [metrics["train/temperature"] for metrics in seen.metrics]
    assert found == pytest.approx([2.0] * 5 + [2 * 0.25 ** (step / 4) for step in (1, 2, 3)], rel=1e-6)


@pytest.mark.parametrize("refer_head", [False, True])
def test_cost_is_eq_12_and_13(refer_head: bool) -> None:
    """Written out as the paper prints it, over every key of every pixel."""
    method = search(refer_head=refer_head)
    supernet, image = method.supernet, patches().image
    features = supernet(image, Task())
    assert features.routing is not None
    decisions = dict(zip(supernet.units, features.routing.decisions.mean(0).tolist(), strict=True))
    pixels, total = 64, 0.0
    for j in range(1, LAYERS + 1):
        cost_j = 0.0
        for layer in ["head"] * refer_head + [str(number) for number in range(1, j + 1)]:
            s_l = 1.0 if layer == "head" else decisions[f"layer {layer} module"]
            m = decisions[f"layer {j} keys@{layer}"]
            for _ in range(KEYS):
                cost_j += s_l * (2 * m * pixels * CHANNELS**2 + 2 * pixels * CHANNELS**2 + 6 * KEYS * pixels * CHANNELS)
        total += decisions[f"layer {j} module"] * cost_j
    assert method.supernet.searched_cost(features.routing, pixels).item() == pytest.approx(total, rel=1e-9)


def test_loss_is_eq_14() -> None:
    for weight in (0.0, 0.7):
        method = search(cost_weight=weight)
        record = Record()
        trainer(1, record).fit(method, loader([patches()]))
        metrics = record.metrics[0]
        expected = metrics["train/mse"] + weight * metrics["train/log_cost"]
        assert record.outputs[0]["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_error_is_of_8_bit_colours() -> None:
    method = search(cost_weight=0.0)
    batch = patches()
    record = Record()
    method.restorer.upsampler.zero_output()
    trainer(1, record).fit(method, loader([batch]))
    expected = (255 * (batch.image[:2] - batch.target[:2])).square().mean().item()
    assert record.outputs[0]["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_the_published_schedule_can_close_every_gate() -> None:
    """Adam moves alpha by at most about its learning rate a step."""
    steps, first = 200_000, 100_000
    turns = range(first + 1, steps, 2)
    rates = [0.5 * (1 + math.cos(math.pi * step / steps)) for step in turns]
    method = search(learning_rate=1e-4)
    assert method.alpha_rate * method.learning_rate * sum(rates) > 3 * method.alpha.max().item()


def test_a_heavy_cost_drops_every_module() -> None:
    method = search(cost_weight=1e4, alpha_rate=1000.0, weights_only=0.0)
    fit(method, 20)
    assert method.supernet.found() == []
    method.supernet.eval()
    image = patches().image
    with torch.no_grad():
        features = method.supernet(image, Task())
        plain = CrossLayerEDSR(CHANNELS, LAYERS, 1.0, []).eval()
        plain.load_state_dict({k: v for k, v in method.supernet.state_dict().items() if k.startswith(("head", "body"))})
        torch.testing.assert_close(features.map, plain(image, Task()).map)
    assert features.routing is not None and not features.routing.decisions.any()


def test_gates_are_drawn_anew_each_step_and_not_at_inference() -> None:
    method = search()
    seen = fit(method, 3)
    strengths = [output["routing"].decisions[0, 0].item() for output in seen.outputs]
    assert len(set(strengths)) == 3 and all(0 < strength < 1 for strength in strengths)
    method.eval()
    with torch.no_grad():
        first, second = (method.supernet(patches().image, Task()) for _ in range(2))
    assert torch.equal(first.map, second.map)
    assert first.routing is not None and set(first.routing.decisions[:, 0].tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cost_weight": -1.0}, "cost_weight"),
        ({"weights_only": 1.0}, "weights_only"),
        ({"alpha_rate": 0.0}, "alpha_rate"),
        ({"temperature": (0.1, 1.0)}, "temperature"),
        ({"temperature": (1.0,)}, "temperature"),
        ({"temperature": 1}, "temperature"),
        ({"temperature": ("a", "b")}, "temperature"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        search(**options)


def test_another_backbone_is_refused() -> None:
    restorer = Restorer(CrossLayerEDSR(CHANNELS, LAYERS, 1.0, [1]), SameSize(CHANNELS))
    with pytest.raises(ValueError, match=r"backbone\.searched=true"):
        AclaSearch(restorer, 1e-3)
