"""Files of networks' authors where a user would put them: ckpt= of a run, upscale, and the command that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dynres import upscale
from dynres.data.images import write_png
from dynres.interop import __main__ as interop
from dynres.interop.family import network
from dynres.interop.official import to_official
from dynres.layers.pixels import DIV2K_MEAN
from dynres.restorer import Restorer

from .conftest import scene, typed

EDSR: dict[str, Any] = {"_target_": "dynres.backbones.edsr.EDSR", "channels": 8, "blocks": 2, "residual_scale": 1.0}
X2: dict[str, Any] = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": 2}
FFDNET: dict[str, Any] = {
    "_target_": "dynres.backbones.ffdnet.FFDNet", "channels": 8, "layers": 4, "image_channels": 1,
}  # fmt: skip
AS_IMAGE: dict[str, Any] = {"_target_": "dynres.upsamplers.same_size.AsImage", "image_channels": 1}


def restorer(backbone: dict[str, Any], upsampler: dict[str, Any], mean: Any = 0.0, factor: float = 1.0) -> Restorer:
    torch.manual_seed(0)
    return Restorer.from_description(network(backbone, upsampler, mean, factor)).eval()


@pytest.fixture
def edsr(tmp_path: Path) -> Path:
    """EDSR x2 as BasicSR would save it."""
    path = tmp_path / "EDSR_x2.pth"
    torch.save({"params_ema": to_official(restorer(EDSR, X2, DIV2K_MEAN, 255.0)), "params": {}}, path)
    return path


@pytest.fixture
def ffdnet(tmp_path: Path) -> Path:
    path = tmp_path / "ffdnet_gray.pth"
    torch.save(to_official(restorer(FFDNET, AS_IMAGE)), path)
    return path


def test_a_run_tests_an_authors_file_as_it_is(edsr: Path, here: Path, tiny: list[str]) -> None:
    ended = typed("mode=test", "network=ckpt", f"ckpt={edsr}", "task=sr", "method=assr", *tiny)
    assert ended.code == 0, ended.err
    found = json.loads((ended.folder / "summary.json").read_text())
    own = restorer(EDSR, X2, DIV2K_MEAN, 255.0)
    assert found["params"] == sum(p.numel() for p in own.parameters())
    assert list(found["metrics"]["held-out"]) == ["x2"] and found["experiment"] == "EDSR_x2"
    config = (ended.folder / "config.yaml").read_text()
    assert "dynres.backbones.edsr.EDSR" in config and "factor: 255.0" in config


def test_training_goes_on_from_an_authors_file(edsr: Path, here: Path, tiny: list[str]) -> None:
    ended = typed("network=ckpt", f"ckpt={edsr}", "task=sr", "method=assr", *tiny, "image_skip=false")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["network=ckpt"], "give ckpt=PATH"),
        (["network=other"], "network must be config or ckpt"),
        (["network=ckpt", "ckpt={edsr}", "task=sr", "backbone=rdn"], "leave out backbone=rdn"),
        (["network=ckpt", "ckpt={edsr}", "task=sr", "pixels.factor=1"], "leave out pixels.factor=1"),
        (["network=ckpt", "ckpt={edsr}"], "task=sr task.scale=2"),
        (["backbone=edsr_baseline", "upsampler=liif", "ckpt={edsr}", "mode=test"], "holds EDSR(channels=8, blocks=2"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: list[str], words: str, edsr: Path, here: Path, tiny: list[str]
) -> None:
    ended = typed("method=assr", *(argument.format(edsr=edsr) for argument in arguments), *tiny)
    assert ended.code == 2 and words in ended.err and ended.err.count("\n") == 1, ended.err


def test_upscale_takes_the_files_own_scale(edsr: Path, here: Path) -> None:
    write_png(here / "a.png", scene(20, 24))
    ended = typed("a.png", "--ckpt", str(edsr), "-o", "out", main=upscale.main)
    assert ended.code == 0, ended.err
    given = torch.from_numpy(scene(20, 24)).permute(2, 0, 1)[None] / 255
    expected = restorer(EDSR, X2, DIV2K_MEAN, 255.0).restore(given).image[0].mul(255).round().byte()
    assert np.array_equal(np.asarray(Image.open(here / "out" / "a_x2.png")), expected.permute(1, 2, 0).numpy())
    refused = typed("a.png", "--scale", "3", "--ckpt", str(edsr), "-o", "out", main=upscale.main)
    assert refused.code == 2 and "a.png: this network was made for x2" in refused.err


def test_upscale_asks_for_the_noise_and_restores_gray_and_colour(ffdnet: Path, here: Path) -> None:
    colour = scene(20, 24)
    gray = np.repeat(colour[..., :1], 3, axis=2)
    write_png(here / "in" / "gray.png", gray)
    write_png(here / "in" / "colour.png", colour)
    refused = typed("in", "--ckpt", str(ffdnet), "-o", "out", main=upscale.main)
    assert refused.code == 2 and "--noise 25" in refused.err
    ended = typed("in", "--ckpt", str(ffdnet), "--noise", "25", "-o", "out", main=upscale.main)
    assert ended.code == 0, ended.err
    expected = restorer(FFDNET, AS_IMAGE).restore(torch.from_numpy(gray[None, ..., 0])[None] / 255, noise=25).image
    written = np.asarray(Image.open(here / "out" / "gray_restored.png"))
    assert np.array_equal(written[..., 0], expected[0, 0].mul(255).round().byte().numpy())
    assert (here / "out" / "colour_restored.png").is_file()


def test_any_scale_networks_want_a_scale(trained: Any, here: Path) -> None:
    write_png(here / "a.png", scene(20, 24))
    last = str(trained.folder / "checkpoints" / "last.ckpt")
    ended = typed("a.png", "--ckpt", last, "-o", "out", main=upscale.main)
    assert ended.code == 2 and "give --scale" in ended.err


def test_the_command_shows_a_file_and_writes_its_other_forms(edsr: Path, here: Path) -> None:
    ended = typed(str(edsr), "--official", "back.pth", "--folder", "net", main=interop.main)
    assert ended.code == 0, ended.err
    for word in ("EDSR", "channels: 8", "blocks: 2", "scale: 2", "255"):
        assert word in ended.out
    before, after = torch.load(edsr, weights_only=True)["params_ema"], torch.load("back.pth", weights_only=True)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert typed("net", main=interop.main).code == 0


def test_one_of_several_networks_in_a_file_is_chosen_by_name(here: Path) -> None:
    """IRCNN's released files hold one network for each noise level."""
    ircnn = {"_target_": "dynres.backbones.ircnn.IRCNN", "channels": 8, "image_channels": 1}
    head = {"_target_": "dynres.upsamplers.same_size.SameSize", "image_channels": 1, "skip": "subtract"}
    states = [to_official(restorer(ircnn, head)) for _ in range(3)]
    for number, state in enumerate(states):
        state["model.0.bias"] = torch.full_like(state["model.0.bias"], number)
    torch.save({str(number): state for number, state in enumerate(states)}, "ircnn_gray.pth")
    refused = typed("ircnn_gray.pth", main=interop.main)
    assert refused.code == 2 and "holds 3 networks" in refused.err and "0 ... 2" in refused.err
    assert typed("ircnn_gray.pth", "--part", "7", main=interop.main).code == 2
    ended = typed("ircnn_gray.pth", "--part", "1", "--official", "one.pth", main=interop.main)
    assert ended.code == 0, ended.err
    written = torch.load("one.pth", weights_only=True)
    assert all(torch.equal(written[key], states[1][key]) for key in states[1])
    assert "leave out part" in typed("one.pth", "--part", "1", main=interop.main).err


@pytest.mark.parametrize("content", [{"weights": torch.zeros(1)}, [1, 2], {}, {"conv.weight": torch.zeros(2, 2)}])
def test_an_unknown_file_lists_who_is_known(content: Any, here: Path) -> None:
    torch.save(content, "other.pth")
    ended = typed("other.pth", main=interop.main)
    assert ended.code == 2 and ended.err.count("\n") == 1
    for word in ("other.pth holds no network known here", "EDSR", "DnCNN", "liif"):
        assert word in ended.err


def test_nothing_is_written_that_would_be_read_back_as_another_network(here: Path) -> None:
    """Names and shapes hold neither the bicubic skip nor the range of pixels nor what is added or subtracted."""
    skipping = Restorer.from_description(network(EDSR, X2, DIV2K_MEAN, 255.0) | {"image_skip": True})
    ranged = Restorer.from_description(network(EDSR, X2, 0.4, 2.0))
    vdsr = {"_target_": "dynres.backbones.vdsr.VDSR", "channels": 8, "layers": 20, "image_channels": 1}
    adding = {"_target_": "dynres.upsamplers.same_size.SameSize", "image_channels": 1, "skip": "add"}
    cases = {"skip": skipping, "range": ranged, "twenty": restorer(vdsr, adding)}
    for name, made in cases.items():
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        made.save_pretrained(name)
        ended = typed(name, "--official", "other.pth", main=interop.main)
        assert ended.code == 2 and "read back as another network" in ended.err, (name, ended.err)
        assert not (here / "other.pth").exists()
    assert typed("twenty", "--official", "my_vdsr.pth", main=interop.main).code == 0
    assert "VDSR" in typed("my_vdsr.pth", main=interop.main).out
    assert "exists" in typed("twenty", "--official", "my_vdsr.pth", main=interop.main).err


def test_weights_that_are_not_numbers_are_refused(edsr: Path, here: Path) -> None:
    state = torch.load(edsr, weights_only=True)["params_ema"]
    state["tail.1.bias"][0] = float("nan")
    torch.save(state, "spoilt.pth")
    ended = typed("spoilt.pth", main=interop.main)
    assert ended.code == 2 and "spoilt.pth is spoilt: upsampler.last.bias" in ended.err


def test_no_result_takes_the_place_of_another_or_of_an_image(edsr: Path, here: Path) -> None:
    for name in ("in/a.png", "in/a.PNG"):
        write_png(here / name, scene(20, 24))
    both = typed("in", "--ckpt", str(edsr), "-o", "out", main=upscale.main)
    assert both.code == 2 and "would both become" in both.err and not (here / "out").exists()
    before = (here / "in" / "a.png").read_bytes()
    itself = typed("in/a.png", "--ckpt", str(edsr), "-o", "in/a.png", main=upscale.main)
    assert itself.code == 2 and "is one of the images" in itself.err
    assert (here / "in" / "a.png").read_bytes() == before


def test_a_noise_level_that_nobody_reads_is_refused(edsr: Path, here: Path) -> None:
    write_png(here / "a.png", scene(20, 24))
    ended = typed("a.png", "--ckpt", str(edsr), "--noise", "25", "-o", "out", main=upscale.main)
    assert ended.code == 2 and "leave out --noise" in ended.err
