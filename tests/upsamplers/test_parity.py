"""LIIF, MetaSR and LTE on EDSR-baseline against the authors' own numbers (tests/golden), in both of their forms.

The networks are built from the official state dicts alone; what these do not tell is set as the oracle has it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dynres.contracts import Features, Task
from dynres.interop.official import official_names, to_official
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF
from tests.golden.fill import Oracle, assert_parity, is_filled
from tests.golden.parity import rebuilt

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
    for model in TRAINABLE
    for case in ("query", "grid", "grid_out" if model.startswith("lte") else "grid_int")
]
SIZES = {"grid": (29, 23), "grid_int": (20, 24)}
Filled = Callable[[str], tuple[Restorer, Oracle]]


@pytest.fixture(scope="module")
def filled() -> Filled:
    """Networks with the oracle's weights, built once."""
    made: dict[str, tuple[Restorer, Oracle]] = {}

    def get(model: str) -> tuple[Restorer, Oracle]:
        if model not in made:
            restorer, reference = rebuilt(model)
            if model.endswith("no_ensemble"):
                weights, restorer.upsampler = restorer.upsampler.state_dict(), LIIF(64, local_ensemble=False)
                restorer.upsampler.load_state_dict(weights)
            made[model] = restorer, reference
        return made[model]

    return get


def features(restorer: Restorer, reference: Oracle, case: str) -> Features:
    """Of an input that is stored as the network sees it, in [-1, 1]."""
    return restorer.backbone(reference.array(f"{case}.inp"), Task())


@pytest.mark.parametrize(("model", "case"), CASES)
def test_query_equals_the_authors(filled: Filled, model: str, case: str) -> None:
    restorer, reference = filled(model)
    coords, cell = (reference.array(f"{case}.{name}") for name in ("coord", "cell"))
    with torch.no_grad():
        colour = restorer.upsampler.query(features(restorer, reference, case), coords, cell)
    assert_parity(colour, reference.array(f"{case}.output"), f"{model} {case}")


@pytest.mark.parametrize(("model", "case"), [pair for pair in CASES if pair[1] in SIZES])
def test_decode_equals_the_authors(filled: Filled, model: str, case: str) -> None:
    restorer, reference = filled(model)
    with torch.no_grad():
        image = restorer.upsampler.decode(features(restorer, reference, case), SIZES[case])
    assert_parity(image.flatten(2).transpose(1, 2), reference.array(f"{case}.output"), f"{model} {case}")


@pytest.mark.parametrize("model", TRAINABLE)
def test_gradient_equals_the_authors(filled: Filled, model: str) -> None:
    restorer, reference = filled(model)
    restorer.zero_grad()
    coords, cell = (reference.array(f"query.{name}") for name in ("coord", "cell"))
    loss = restorer.upsampler.query(features(restorer, reference, "query"), coords, cell).abs().mean()
    loss.backward()
    ours = {theirs: key for key, theirs in official_names(restorer).items()}
    gradient = restorer.get_parameter(ours[str(reference.arrays["query.grad_name"])]).grad
    assert gradient is not None
    assert loss.item() == pytest.approx(float(reference.arrays["query.loss"]), rel=1e-5)
    expected = float(reference.arrays["query.grad_abs_sum"])
    assert gradient.double().abs().sum().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("model", TRAINABLE)
def test_keys_shapes_and_counts_are_the_authors(filled: Filled, model: str) -> None:
    restorer, reference = filled(model)
    exported = {key: tuple(value.shape) for key, value in to_official(restorer).items()}
    assert list(exported.items()) == list(reference.keys.items())
    trainable = sum(p.numel() for p in restorer.parameters() if p.requires_grad)
    assert trainable == reference.facts["trainable_params"] == TRAINABLE[model]
    assert [key for key in exported if not is_filled(key)] == reference.facts["untouched"]
