"""Files of AnySR's authors: recognised, loaded with the mean shift that they trained, and written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynres.backbones.anysr import AnySR
from dynres.backbones.base import Backbone
from dynres.backbones.edsr import EDSR
from dynres.backbones.rcan import RCAN
from dynres.backbones.rdn import RDN
from dynres.contracts import Task
from dynres.errors import UserError
from dynres.interop import __main__ as command
from dynres.interop.families import anysr
from dynres.interop.official import naming, recognise, to_official
from dynres.interop.weights import load_pretrained, load_weights
from dynres.restorer import Restorer
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.pixelshuffle import PixelShuffle
from dynres.upsamplers.srno import SRNO

PLAIN: dict[str, Callable[[], Backbone]] = {"EDSR": lambda: EDSR(8, 2, 1.0), "RDN": lambda: RDN(8, 6, 2, 4)}
WIDTHS = {"EDSR": [0.5, 0.7, 0.9, 1.0], "RDN": [0.7, 0.8, 0.9, 1.0]}
SIZES = {
    "EDSR": {"_target_": "dynres.backbones.edsr.EDSR", "channels": 8, "blocks": 2, "residual_scale": 1.0},
    "RDN": {"_target_": "dynres.backbones.rdn.RDN", "channels": 8, "growth": 6, "blocks": 2, "convs": 4},
}
HEADS: dict[str, Callable[[], Upsampler]] = {"SRNO": lambda: SRNO(8, 8, 2), "LIIF": lambda: LIIF(8, 6, 1)}


def network(name: str, **options: Any) -> AnySR:
    return AnySR(PLAIN[name](), **{"widths": WIDTHS[name], "rule": "official", "mean_shift": True} | options)


def state_of(name: str, head: str = "SRNO") -> dict[str, Tensor]:
    """A file of the authors, mean shift trained."""
    torch.manual_seed(0)
    state = to_official(Restorer(network(name), HEADS[head]()))
    return state | {key: value + torch.randn_like(value) for key, value in state.items() if "sub_mean" in key}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", PLAIN)
def test_a_file_of_theirs_is_loaded_and_written_as_it_is(name: str, head: str, tmp_path: Path) -> None:
    """As their training saves it; what they trained by mistake, too."""
    state = state_of(name, head)
    torch.save({"model": {"name": "srno", "args": {}, "sd": state}, "epoch": 1000}, tmp_path / "epoch-last.pth")
    loaded = load_pretrained(tmp_path / "epoch-last.pth")
    assert isinstance(loaded.backbone, AnySR) and type(loaded.backbone.network).__name__ == name
    assert type(loaded.upsampler).__name__ == head
    written = to_official(loaded)
    assert written.keys() == state.keys() and all(torch.equal(written[key], state[key]) for key in state)
    shift, image = loaded.backbone.get_submodule("sub_mean"), torch.rand(1, 3, 4, 5)
    assert not torch.allclose(shift(image), image - torch.tensor([0.4488, 0.4371, 0.4040])[:, None, None])
    with torch.no_grad():
        assert loaded.backbone(image, Task(torch.tensor([2.0]))).routing.decisions.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", PLAIN)
def test_the_sizes_are_read_off_the_names(name: str) -> None:
    found = recognise(state_of(name))
    assert found is not None
    assert found["backbone"] == {
        "_target_": "dynres.backbones.anysr.AnySR",
        "network": SIZES[name],
        "widths": WIDTHS[name],
        "scale_groups": [1.7, 2.5, 3.2],
        "rule": "official",
        "mean_shift": True,
    }
    assert found["pixels"] == {"mean": 0.5, "factor": 2.0}


@pytest.mark.parametrize("name", PLAIN)
def test_a_tensor_more_or_less_is_not_theirs(name: str) -> None:
    state = {k.removeprefix("encoder."): v for k, v in state_of(name).items() if k.startswith("encoder.")}
    assert anysr.extractor(state) is not None
    for key in state:
        assert anysr.extractor({other: value for other, value in state.items() if other != key}) is None, key
    assert anysr.extractor({**state, "tail.weight": torch.zeros(1)}) is None


def test_names_are_the_authors() -> None:
    assert {key.split("body.0.")[1] for key in state_of("EDSR") if "body.0." in key} == {
        f"{layer}.{leaf}" for layer in ("conv1", "conv2", "fc1", "fc2") for leaf in ("weight", "bias")
    }
    inside = {key.split("RDBs.1.")[1] for key in state_of("RDN") if "RDBs.1." in key}
    assert {"convs.3.conv.0.weight", "LFF.bias", "fc1.weight", "fc2.bias"} <= inside and len(inside) == 14


@pytest.mark.parametrize("name", PLAIN)
def test_networks_that_they_do_not_have_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match="AnySR has an authors' form only under srno, liif, metasr or lte, not under Pixel"
    ):
        naming(Restorer(network(name), PixelShuffle(8, 2)))
    for option in ("enhanced", "mean_shift"):
        with pytest.raises(ValueError, match=r"only with backbone\.enhanced=true backbone\.mean_shift=true"):
            naming(Restorer(network(name, **{option: False}), SRNO(8, 8, 2)))


@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("name", [*PLAIN, "RCAN"])
def test_a_plain_network_is_a_start(name: str, official: bool, tmp_path: Path) -> None:
    """Its authors' file or ours: the gates stay as they begin, everything else is the file's."""
    torch.manual_seed(1)
    plain = {**PLAIN, "RCAN": lambda: RCAN(8, 1, 1, 4)}[name]
    start = Restorer(plain(), SRNO(8, 8, 2))
    node = recognise(to_official(start)) or {}
    if official:
        torch.save(to_official(start), tmp_path / "start.pth")
    else:
        Restorer.from_description(node).save_pretrained(tmp_path / "start.pth")
        start = load_pretrained(tmp_path / "start.pth")
    restorer = Restorer(AnySR(plain(), enhanced=True), SRNO(8, 8, 2))
    gates = {key: value.clone() for key, value in restorer.state_dict().items() if ".gate." in key}
    load_weights(restorer, tmp_path / "start.pth")
    found = restorer.state_dict()
    assert all(torch.equal(found[key], value) for key, value in gates.items()) and (gates or name == "none")
    for key, value in start.state_dict().items():
        assert torch.equal(found[key.replace("backbone.", "backbone.network.")], value), key


def test_a_start_of_another_size_or_network_is_refused(tmp_path: Path) -> None:
    torch.save(to_official(Restorer(EDSR(8, 3, 1.0), SRNO(8, 8, 2))), tmp_path / "start.pth")
    for plain in (EDSR(8, 2, 1.0), RDN(8, 6, 2, 4)):
        with pytest.raises(
            UserError, match=r"start\.pth holds EDSR\(channels=8, blocks=3.*choose the matching backbone"
        ):
            load_weights(Restorer(AnySR(plain), SRNO(8, 8, 2)), tmp_path / "start.pth")


@pytest.mark.parametrize(
    "options", [{"rule": "nearest_group"}, {"widths": [0.2, 0.7, 0.8, 1.0]}, {"scale_groups": [1.2, 3, 3.9]}]
)
def test_what_names_do_not_hold_is_not_written_by_them(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file would be read back with the published widths, groups and rule."""
    state = state_of("EDSR")
    for key in state:  # gates that matter
        state[key] = torch.randn(state[key].shape) * 0.2 if "fc" in key else state[key]
    torch.save({"model": {"sd": state}}, tmp_path / "theirs.pth")
    node = recognise(state) or {}
    node["backbone"] = node["backbone"] | options
    restorer = Restorer.from_description(node)
    load_weights(restorer, tmp_path / "theirs.pth")
    restorer.save_pretrained(tmp_path / "ours")
    monkeypatch.setattr(sys, "argv", ["interop", str(tmp_path / "ours"), "--official", str(tmp_path / "out.pth")])
    with pytest.raises(SystemExit):
        command.main()
    assert "would be read back as another network" in capsys.readouterr().err and not (tmp_path / "out.pth").exists()


def test_a_plain_network_is_no_result(tmp_path: Path) -> None:
    torch.save(to_official(Restorer(EDSR(8, 2, 1.0), SRNO(8, 8, 2))), tmp_path / "start.pth")
    with pytest.raises(UserError, match="a start for AnySR whose gates and subnets are not trained"):
        load_weights(Restorer(network("EDSR"), SRNO(8, 8, 2)), tmp_path / "start.pth", start=False)


def test_other_widths_than_the_files_are_told(tmp_path: Path) -> None:
    torch.save(state_of("EDSR"), tmp_path / "theirs.pth")
    with pytest.warns(
        UserWarning, match=r"trained for backbone\.widths=\[0\.5, 0\.7, 0\.9, 1\.0\], the conf.*\[0\.4, 0\.7"
    ):
        load_weights(Restorer(network("EDSR", widths=[0.4, 0.7, 0.9, 1.0]), SRNO(8, 8, 2)), tmp_path / "theirs.pth")


def test_only_edsr_baseline_and_rdn_were_published() -> None:
    for plain in (RCAN(8, 1, 1, 4), EDSR(8, 2, 0.1)):
        with pytest.raises(ValueError, match="only of edsr_baseline and rdn"):
            naming(Restorer(AnySR(plain, mean_shift=True), SRNO(8, 8, 2)))
