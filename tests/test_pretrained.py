"""A network saved as a folder is the network loaded from it; a folder can ask for nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dynres.errors import UserError
from dynres.interop.weights import load_pretrained
from dynres.pretrained import CONFIG, WEIGHTS
from dynres.restorer import Restorer

DESCRIPTION: dict[str, Any] = {
    "backbone": {"_target_": "dynres.backbones.edsr.EDSR", "channels": 4, "blocks": 1, "residual_scale": 0.5},
    "upsampler": {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": 2},
    "image_skip": False,
    "pixels": {"mean": [0.4, 0.5, 0.6], "factor": 255.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    Restorer.from_description(DESCRIPTION).save_pretrained(tmp_path / "net")
    return tmp_path / "net"


@pytest.mark.parametrize("how", [Restorer.from_pretrained, load_pretrained], ids=["from_pretrained", "load_pretrained"])
def test_a_saved_network_comes_back_whole(folder: Path, how: Any) -> None:
    torch.manual_seed(0)
    saved, loaded = Restorer.from_description(DESCRIPTION).eval(), how(str(folder))
    image = torch.rand(1, 3, 6, 5)
    assert torch.equal(loaded.restore(image).image, saved.restore(image).image)
    assert not loaded.training and loaded.pixels == saved.pixels and loaded.description == DESCRIPTION
    assert set(load_file(folder / WEIGHTS)) == set(saved.state_dict())


def test_the_folder_has_a_card_that_names_the_library(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: dynres" in card and "license: mit" in card


def test_a_network_put_together_by_hand_cannot_be_saved(tmp_path: Path) -> None:
    made = Restorer.from_description(DESCRIPTION)
    by_hand = Restorer(made.backbone, made.upsampler)
    with pytest.raises(UserError, match="from_description"):
        by_hand.save_pretrained(tmp_path / "net")


@pytest.mark.parametrize("name", ["nobody/nothing", "no such name", "/nowhere/at/all"])
def test_a_name_that_is_no_folder_and_not_on_the_hub_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is neither a folder here nor a network") as refused:
        Restorer.from_pretrained(name, local_files_only=True)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (CONFIG, None, "config.json is missing"),
        (WEIGHTS, None, "model.safetensors is missing"),
        (CONFIG, b"{", "damaged"),
        (WEIGHTS, b"junk", "damaged"),
        (CONFIG, b"[]", "does not describe its network"),
        (CONFIG, b'{"dynres": {"network": {"backbone": {}}}}', "does not describe its network"),
    ],
)
def test_damaged_folders_are_one_line(folder: Path, file: str, content: bytes | None, message: str) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_pretrained(folder)


def test_weights_that_do_not_fit_their_config_are_refused(folder: Path) -> None:
    content = json.loads((folder / CONFIG).read_text())
    content["dynres"]["network"]["backbone"]["blocks"] = 2
    (folder / CONFIG).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"does not fit its own config\.json"):
        Restorer.from_pretrained(folder)


@pytest.mark.parametrize("how", [Restorer.from_pretrained, load_pretrained])
@pytest.mark.parametrize(
    "harm", [{"_target_": "os.mkdir"}, {"_target_": "dynres.backbones.edsr.os.mkdir"}, {"_target_": "dynres.run.main"}]
)
def test_nothing_is_called_because_a_folder_says_so(
    folder: Path, tmp_path: Path, how: Any, harm: dict[str, Any]
) -> None:
    victim = tmp_path / "victim"
    content = json.loads((folder / CONFIG).read_text())
    network = content["dynres"]["network"]
    harmful = harm | {"_args_": [str(victim)]}
    slimmed = {"_target_": "dynres.backbones.anysr.AnySR", "network": harmful}
    deep = {"_target_": "dynres.backbones.anysr.AnySR", "network": {**network["backbone"], "channels": harmful}}
    for backbone in (harmful, slimmed, deep):
        network["backbone"] = backbone
        (folder / CONFIG).write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"refused.*{harm['_target_']}"):
            how(folder)
        assert not victim.exists()
