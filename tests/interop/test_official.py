"""Names of weights go to the authors' and come back unchanged."""

from __future__ import annotations

import pytest
import torch

from dynres.interop.official import from_official, to_official


def restorer_state() -> dict[str, torch.Tensor]:
    return {
        "backbone.head.0.weight": torch.randn(4, 3, 3, 3),
        "backbone.body.0.body.0.bias": torch.randn(4),
        "upsampler.imnet.layers.0.weight": torch.randn(2, 2),
    }


def test_to_official_and_back_returns_the_same_tensors() -> None:
    state = restorer_state()
    back = from_official(to_official(state))
    assert list(back) == list(state)
    assert all(back[key] is state[key] for key in state)


def test_exported_mean_shift_is_the_identity_and_the_div2k_mean() -> None:
    official = to_official(restorer_state())
    mean = torch.tensor([0.4488, 0.4371, 0.4040])
    assert torch.equal(official["encoder.sub_mean.weight"][:, :, 0, 0], torch.eye(3))
    assert torch.equal(official["encoder.sub_mean.bias"], -mean)
    assert torch.equal(official["encoder.add_mean.bias"], mean)


def test_other_extractors_get_no_mean_shift() -> None:
    official = to_official({"backbone.first.weight": torch.zeros(1), "upsampler.imnet.layers.0.bias": torch.zeros(1)})
    assert list(official) == ["encoder.first.weight", "imnet.layers.0.bias"]


def test_foreign_state_dicts_are_refused_with_their_first_key() -> None:
    with pytest.raises(ValueError, match=r"encoder\.\*.*conv1\.weight"):
        from_official({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="nothing"):
        from_official({})
    with pytest.raises(ValueError, match=r"got encoder\.head"):
        to_official({"encoder.head.0.weight": torch.zeros(1)})
