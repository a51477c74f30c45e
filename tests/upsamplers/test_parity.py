"""LIIF, MetaSR and LTE on EDSR-baseline against the authors' own numbers (tests/golden), in both of their forms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dynres.backbones.edsr import edsr_baseline
from dynres.contracts import Features, Task
from dynres.interop.official import from_official, to_official
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.metasr import MetaSR
from tests.golden.fill import Oracle, assert_parity, is_filled, oracle

BUILD: dict[str, Callable[[int], Upsampler]] = {
    "liif_edsr_baseline": LIIF,
    "liif_edsr_baseline_no_cell": partial(LIIF, cell_decode=False),
    "liif_edsr_baseline_no_ensemble": partial(LIIF, local_ensemble=False),
    "liif_edsr_baseline_no_unfold": partial(LIIF, feat_unfold=False),
    "metasr_edsr_baseline": MetaSR,
    "lte_edsr_baseline": LTE,
}
TRAINABLE = {
    "liif_edsr_baseline": 1_567_299,
    "liif_edsr_baseline_no_cell": 1_566_787,
    "liif_edsr_baseline_no_ensemble": 1_567_299,
    "liif_edsr_baseline_no_unfold": 1_436_227,
    "metasr_edsr_baseline": 1_665_536,
    "lte_edsr_baseline": 1_714_243,
}
CASES = [
    (model, case)
    for model in BUILD
    for case in ("query", "grid", "grid_out" if model.startswith("lte") else "grid_int")
]
SIZES = {"grid": (29, 23), "grid_int": (20, 24)}


class Pair(nn.Module):
    """Backbone and upsampler under the names that a Restorer gives them."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.backbone = edsr_baseline()
        self.upsampler = BUILD[model](self.backbone.out_channels)

    def features(self, image: Tensor) -> Features:
        return self.backbone(image, Task())


@pytest.fixture(scope="module")
def filled() -> Callable[[str], tuple[Pair, Oracle]]:
    """Networks with the oracle's weights, built once."""
    made: dict[str, tuple[Pair, Oracle]] = {}

    def get(model: str) -> tuple[Pair, Oracle]:
        if model not in made:
            pair, reference = Pair(model), oracle(model)
            pair.load_state_dict(from_official(reference.weights()))
            made[model] = pair, reference
        return made[model]

    return get


@pytest.mark.parametrize(("model", "case"), CASES)
def test_query_equals_the_authors(filled: Callable, model: str, case: str) -> None:
    pair, reference = filled(model)
    inputs = (reference.array(f"{case}.{name}") for name in ("inp", "coord", "cell"))
    image, coords, cell = inputs
    with torch.no_grad():
        colour = pair.upsampler.query(pair.features(image), coords, cell)
    assert_parity(colour, reference.array(f"{case}.output"), f"{model} {case}")


@pytest.mark.parametrize(("model", "case"), [pair for pair in CASES if pair[1] in SIZES])
def test_decode_equals_the_authors(filled: Callable, model: str, case: str) -> None:
    pair, reference = filled(model)
    with torch.no_grad():
        image = pair.upsampler.decode(pair.features(reference.array(f"{case}.inp")), SIZES[case])
    assert_parity(image.flatten(2).transpose(1, 2), reference.array(f"{case}.output"), f"{model} {case}")


@pytest.mark.parametrize("model", BUILD)
def test_gradient_equals_the_authors(filled: Callable, model: str) -> None:
    pair, reference = filled(model)
    pair.zero_grad()
    image, coords, cell = (reference.array(f"query.{name}") for name in ("inp", "coord", "cell"))
    loss = pair.upsampler.query(pair.features(image), coords, cell).abs().mean()
    loss.backward()
    name = str(reference.arrays["query.grad_name"]).replace("encoder.", "backbone.")
    gradient = pair.get_parameter(name).grad
    assert gradient is not None
    assert loss.item() == pytest.approx(float(reference.arrays["query.loss"]), rel=1e-5)
    expected = float(reference.arrays["query.grad_abs_sum"])
    assert gradient.double().abs().sum().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("model", BUILD)
def test_keys_shapes_and_counts_are_the_authors(model: str) -> None:
    reference, pair = oracle(model), Pair(model)
    exported = {key: tuple(value.shape) for key, value in to_official(pair.state_dict()).items()}
    assert list(exported.items()) == list(reference.keys.items())
    trainable = sum(p.numel() for p in pair.parameters() if p.requires_grad)
    assert trainable == reference.facts["trainable_params"] == TRAINABLE[model]
    assert [key for key in exported if not is_filled(key)] == reference.facts["untouched"]
