"""The fill rule reproduces its published check values; without this no parity test means anything."""

from __future__ import annotations

import pytest
import torch

from tests.golden.fill import FOLDER, drawn, oracle, uniform

MODELS = sorted(path.name.removesuffix(".keys.json") for path in FOLDER.glob("*.keys.json"))


def test_fill_rule_gives_the_check_values() -> None:
    weight = drawn("head.0.weight", (64, 3, 3, 3), 1.0).flatten()[:4]
    torch.testing.assert_close(
        weight, torch.tensor([0.029754011, -0.069535099, 0.164439946, -0.0490817204]), rtol=0, atol=1e-9
    )
    bias = drawn("head.0.bias", (64,), 1.0)[:3]
    torch.testing.assert_close(bias, torch.tensor([-0.0134485364, 0.0405679755, -0.00398318563]), rtol=0, atol=1e-9)


def test_input_rule_gives_the_check_values() -> None:
    expected = torch.tensor([[0.636961699, 0.269786716, 0.0409735255], [0.016527636, 0.813270211, 0.912755549]])
    torch.testing.assert_close(uniform((2, 3), 0), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_filled_weights_have_the_stored_signature(model: str) -> None:
    reference = oracle(model)
    total = sum(value.double().abs().sum().item() for value in reference.weights().values())
    assert total == pytest.approx(reference.facts["fill_signature"], rel=1e-9)


def test_the_oracles_stay_small() -> None:
    size = sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file())
    assert size < 3 * 2**20, f"tests/golden holds {size} bytes"
