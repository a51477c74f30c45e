"""Weights find their network: our checkpoints, a Baseline for TADT, the authors' files; nothing else is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynres.build import build_restorer
from dynres.errors import UserError
from dynres.interop.official import to_official
from dynres.interop.weights import describe, load_pretrained, load_weights
from dynres.restorer import Restorer

STRUCTURE: dict[str, Any] = {
    "channels": 8, "groups": 1, "local_windows": [2, 4, 4], "global_window": 8, "pooled": 4, "heads": 1,
    "out_channels": 4,
}  # fmt: skip
EDSR = {"_target_": "dynres.backbones.edsr.edsr_baseline", "channels": 4, "blocks": 1}
MSTB = {"_target_": "dynres.backbones.mstb.MultiScaleTransformer", **STRUCTURE}
TADT = {"_target_": "dynres.backbones.tadt.TADT", **STRUCTURE, "controller_width": 4}
LIIF = {"_target_": "dynres.upsamplers.liif.LIIF", "hidden": 6, "layers": 1}


def network(backbone: Mapping[str, Any], upsampler: Mapping[str, Any] = LIIF) -> dict[str, Any]:
    return {"backbone": dict(backbone), "upsampler": dict(upsampler), "image_skip": False}


def build(backbone: Mapping[str, Any], seed: int) -> Restorer:
    torch.manual_seed(seed)
    return build_restorer(network(backbone))


def save(path: Path, state: Mapping[str, Tensor], description: Any, **more: Any) -> Path:
    """As a run of this suite does."""
    weights = {f"restorer.{key}": value for key, value in state.items()}
    torch.save({"state_dict": weights, "dynres": {"network": description}, "callbacks": {}, **more}, path)
    return path


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("backbone", [EDSR, MSTB, TADT], ids=["edsr", "mstb", "tadt"])
def test_a_checkpoint_rebuilds_its_network(tmp_path: Path, backbone: dict[str, Any]) -> None:
    """The same weights, the same pictures, in evaluation mode."""
    trained = build(backbone, 1).eval()
    restored = load_pretrained(save(tmp_path / "a.ckpt", trained.state_dict(), network(backbone)))
    assert same(restored.state_dict(), trained.state_dict()) and not restored.training
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(restored.restore(image, scale=2).image, trained.restore(image, scale=2).image)


def test_the_moving_average_is_preferred(tmp_path: Path) -> None:
    trained, average = build(EDSR, 1).state_dict(), build(EDSR, 2).state_dict()
    path = save(tmp_path / "a.ckpt", trained, network(EDSR), callbacks={"Ema": {"weights": average}})
    assert same(load_pretrained(path).state_dict(), average)
    other = build(EDSR, 3)
    load_weights(other, path)
    assert same(other.state_dict(), average)


def test_a_baseline_fills_a_tadt_and_leaves_its_controller_as_it_was(tmp_path: Path) -> None:
    baseline, tadt = build(MSTB, 1).state_dict(), build(TADT, 2)
    before = {key: value.clone() for key, value in tadt.state_dict().items()}
    load_weights(tadt, save(tmp_path / "a.ckpt", baseline, network(MSTB)))
    after = tadt.state_dict()
    controller = {key for key in after if key.startswith("backbone.controller.")}
    assert controller and after.keys() - controller == baseline.keys()
    assert same({k: after[k] for k in controller}, {k: before[k] for k in controller})
    assert same({k: after[k] for k in baseline}, baseline)


def test_half_a_controller_is_refused(tmp_path: Path) -> None:
    state = build(TADT, 1).state_dict()
    state.pop("backbone.controller.linear.bias")
    path = save(tmp_path / "a.ckpt", state, network(TADT))
    with pytest.raises(UserError, match=r"backbone\.controller\.linear\.bias is missing"):
        load_weights(build(TADT, 2), path)


@pytest.mark.parametrize(
    ("held", "wanted", "why"),
    [
        (EDSR, MSTB, "is missing"),
        (EDSR, EDSR | {"blocks": 2}, "is missing"),
        (EDSR | {"blocks": 2}, EDSR, "is missing|has no place|has another shape"),
        (TADT, MSTB, "has no place"),
        (TADT, TADT | {"controller_width": 5}, "has another shape"),
        (MSTB, TADT | {"pooled": 2}, "has another shape"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_both_names(
    tmp_path: Path, held: dict[str, Any], wanted: dict[str, Any], why: str
) -> None:
    path = save(tmp_path / "a.ckpt", build(held, 1).state_dict(), network(held))
    restorer = build(wanted, 2)
    before = {key: value.clone() for key, value in restorer.state_dict().items()}
    with pytest.raises(UserError, match=why) as refused:
        load_weights(restorer, path)
    message = str(refused.value)
    assert str(path) in message and "\n" not in message
    assert describe(network(held)) in message and describe(network(wanted)) in message
    assert same(restorer.state_dict(), before), "a refused file changed the network"


@pytest.mark.parametrize("form", ["of the training scripts", "bare"])
def test_the_authors_files_fill_our_network(tmp_path: Path, form: str) -> None:
    """{"model": {"name", "args", "sd"}} is what LIIF's, MetaSR's and LTE's scripts save."""
    trained = build(EDSR, 1)
    official = to_official(trained)
    content = official if form == "bare" else {"model": {"name": "liif", "args": {}, "sd": official}, "epoch": 3}
    torch.save(content, tmp_path / "liif.pth")
    restorer = build(EDSR, 2)
    load_weights(restorer, tmp_path / "liif.pth")
    assert same(restorer.state_dict(), trained.state_dict())
    assert same(load_pretrained(tmp_path / "liif.pth").state_dict(), trained.state_dict())
    with pytest.raises(UserError, match=r"liif\.pth holds EDSR.*, the configuration asks for MultiScale"):
        load_weights(build(MSTB, 2), tmp_path / "liif.pth")


@pytest.mark.parametrize("content", [{"weights": torch.zeros(1)}, [1, 2], {"model": {"sd": {"conv": torch.zeros(1)}}}])
def test_files_that_hold_no_network_are_refused_by_name(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth holds no network known here"):
        load_pretrained(tmp_path / "other.pth")


@pytest.mark.parametrize("description", [None, {}, {"backbone": EDSR}, {"backbone": EDSR, "upsampler": {"hidden": 3}}])
def test_a_damaged_description_is_one_line(tmp_path: Path, description: Any) -> None:
    path = save(tmp_path / "a.ckpt", build(EDSR, 1).state_dict(), description)
    with pytest.raises(UserError, match=r"a\.ckpt does not describe its network"):
        load_pretrained(path)


class TestNothingIsCalledBecauseAFileSaysSo:
    """The victim is a folder that the file asks to have made."""

    @pytest.mark.parametrize(
        "harm",
        [
            {"_target_": "os.mkdir"},
            {"_target_": "dynres.backbones.edsr.os.mkdir"},
            {"_target_": "dynres.backbones.mstb.torch.hub.os.mkdir"},
            {"_target_": "dynres.backbones.mstb.torch.hub.load"},
            {"_target_": "dynres.run.main"},
        ],
    )
    @pytest.mark.parametrize("part", ["backbone", "upsampler"])
    def test_targets_outside_the_networks_are_refused(self, tmp_path: Path, part: str, harm: dict[str, Any]) -> None:
        victim = tmp_path / "victim"
        description = network(EDSR) | {part: harm | {"_args_": [str(victim)]}}
        path = save(tmp_path / "a.ckpt", build(EDSR, 1).state_dict(), description)
        with pytest.raises(UserError, match=rf"refused.*{harm['_target_']}"):
            load_pretrained(path)
        assert not victim.exists()

    @pytest.mark.parametrize("option", ["channels", "_args_"])
    def test_targets_hidden_in_options_are_refused(self, tmp_path: Path, option: str) -> None:
        victim = tmp_path / "victim"
        harm: Any = {"_target_": "os.mkdir", "_args_": [str(victim)]}
        description = network(EDSR | {option: [harm] if option == "_args_" else harm})
        path = save(tmp_path / "a.ckpt", build(EDSR, 1).state_dict(), description)
        with pytest.raises(UserError, match=r"refused.*os\.mkdir"):
            load_pretrained(path)
        assert not victim.exists() and os.listdir(tmp_path) == ["a.ckpt"]
