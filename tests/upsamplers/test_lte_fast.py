"""LTE-fast: parity with the authors' numbers, and what it has in common with LTE."""

from __future__ import annotations

import pytest
import torch

from dynres.contracts import Features, Task
from dynres.interop.families import HEADS
from dynres.restorer import Restorer
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.lte_fast import LTEFast
from tests.golden.fill import Oracle, assert_parity, oracle
from tests.golden.parity import assert_names, rebuilt

SIZE = (29, 23)


@pytest.fixture(scope="module")
def pair() -> tuple[Restorer, Oracle]:
    """The network that is read off the authors' state dict, with the oracle's weights."""
    return rebuilt("lte_fast_edsr_baseline")


def sent(reference: Oracle, case: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(image, coords (B, Q, 2), cell (B, Q, 2)) of a case that sends a grid of queries with one cell."""
    coords = reference.array(f"{case}.coord").flatten(1, 2)
    return reference.array(f"{case}.inp"), coords, reference.array(f"{case}.cell")[:, None].expand_as(coords)


def test_it_is_recognised_and_exported_by_the_authors_names(pair: tuple[Restorer, Oracle]) -> None:
    restorer, reference = pair
    assert isinstance(restorer.upsampler, LTEFast)
    assert_names(restorer, reference)
    assert sum(p.numel() for p in restorer.parameters()) == reference.facts["trainable_params"] == 1_714_243


def test_query_and_decode_equal_the_authors(pair: tuple[Restorer, Oracle]) -> None:
    restorer, reference = pair
    image, coords, cell = sent(reference, "grid")
    expected = reference.array("grid.output")
    with torch.no_grad():
        features = restorer.backbone(image, Task())
        queried = restorer.upsampler.query(features, coords, cell)
        decoded = restorer.upsampler.decode(features, SIZE)
    assert_parity(queried.transpose(1, 2).unflatten(2, SIZE), expected, "query")
    assert_parity(decoded, expected, "decode")


def test_gradient_equals_the_authors(pair: tuple[Restorer, Oracle]) -> None:
    """To 5e-4: rounding the weights to float32 anew moves it by up to 2e-4 (ReLU's kinks under high frequencies)."""
    restorer, reference = pair
    restorer.zero_grad()
    image, coords, cell = sent(reference, "grid")
    loss = restorer.upsampler.query(restorer.backbone(image, Task()), coords, cell).abs().mean()
    loss.backward()
    name = str(reference.arrays["grid.grad_name"]).replace("encoder.", "backbone.")
    gradient = restorer.get_parameter(name).grad
    assert gradient is not None
    assert loss.item() == pytest.approx(float(reference.arrays["grid.loss"]), rel=1e-5)
    expected = float(reference.arrays["grid.grad_abs_sum"])
    assert gradient.double().abs().sum().item() == pytest.approx(expected, rel=5e-4)


def test_lte_with_its_frequencies_reordered_is_lte_fast() -> None:
    """Channels 0, 2, 4, ... of LTE are the first half here; that is all that differs."""
    torch.manual_seed(0)
    lte, fast = LTE(5, hidden_dim=8, layers=2), LTEFast(5, hidden_dim=8, layers=2)
    state = {key.removeprefix("imnet."): value for key, value in lte.state_dict().items()}
    for leaf in ("weight", "bias"):
        state[f"freq.{leaf}"] = torch.cat([state[f"freq.{leaf}"][0::2], state[f"freq.{leaf}"][1::2]])
    fast.load_state_dict({key: value.view_as(fast.state_dict()[key]) for key, value in state.items()})
    given = Features(torch.randn(2, 5, 6, 7), torch.rand(2, 3, 6, 7))
    assert torch.equal(fast.decode(given, (14, 17)), lte.decode(given, (14, 17)))
    unordered = {key: value.view_as(fast.state_dict()[key]) for key, value in state.items() if "freq" not in key}
    fast.load_state_dict(unordered | {f"freq.{leaf}": lte.get_parameter(f"freq.{leaf}") for leaf in ("weight", "bias")})
    assert not torch.allclose(fast.decode(given, (14, 17)), lte.decode(given, (14, 17)))


@pytest.mark.parametrize("model", ["lte_fast", "srno", "lte", "liif", "metasr"])
def test_a_head_is_recognised_by_one_rule_and_incomplete_by_none(model: str) -> None:
    weights = oracle(f"{model}_edsr_baseline").weights()
    head = {key: value for key, value in weights.items() if not key.startswith("encoder.")}
    assert [rule.__name__ for rule in HEADS if rule(head, 64)] == [model]
    for missing in head:
        rest = {key: value for key, value in head.items() if key != missing}
        assert not any(rule(rest, 64) for rule in HEADS), f"recognised without {missing}"
    assert not any(rule({}, 64) or rule(head | {"other": torch.zeros(1)}, 64) for rule in HEADS)
