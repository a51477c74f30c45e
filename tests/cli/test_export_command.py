"""python -m dynres.export on saved networks: one line about the file, one line about a mistake."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynres.export import Quantised
from dynres.export import __main__ as command
from dynres.interop.weights import load_pretrained
from dynres.metrics import psnr
from dynres.restorer import Restorer

from .conftest import Ended, scene, typed

PIXELS = {"mean": 0.5, "factor": 2.0}
LIIF = {"_target_": "dynres.upsamplers.liif.LIIF", "hidden": 8, "layers": 1}
NETWORKS = {
    "edsr": (
        {"_target_": "dynres.backbones.edsr.EDSR", "channels": 4, "blocks": 1, "residual_scale": 1.0},
        {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": 2},
    ),
    "tadt": (
        {
            "_target_": "dynres.backbones.tadt.TADT", "channels": 8, "groups": 1, "local_windows": [1, 2, 4],
            "global_window": 4, "pooled": 2, "heads": 1, "blocks_per_group": 1, "out_channels": 4,
            "controller_width": 2,
        },
        LIIF,
    ),
    "ffdnet": (
        {"_target_": "dynres.backbones.ffdnet.FFDNet", "channels": 4, "layers": 3},
        {"_target_": "dynres.upsamplers.same_size.AsImage"},
    ),
}  # fmt: skip


def export(line: str) -> Ended:
    return typed(*line.split(), main=command.main)


@pytest.fixture
def saved(here: Path) -> Path:
    """A working folder with networks and with images of 8x12 (width x height) and of 9x9 pixels."""
    for name, (backbone, upsampler) in NETWORKS.items():
        torch.manual_seed(0)
        description = {"backbone": backbone, "upsampler": upsampler, "image_skip": False, "pixels": PIXELS}
        Restorer.from_description(description).save_pretrained(here / name)
    Image.fromarray(scene(12, 8)).save(here / "photo.png")
    Image.fromarray(scene(9, 9)).save(here / "square.png")
    return here


def test_a_network_of_one_scale_needs_a_size_and_a_name(saved: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "dynres[export]"')
    ended = export("--ckpt edsr --size 8x12 -o out/net.onnx")
    assert ended.code == 0, ended.err
    line = ended.err.splitlines()[-1]
    assert line.startswith("out/net.onnx: 8x12 -> 16x24, ") and "branches" not in line
    assert float(re.findall(r"at most (\S+) from the network", line)[0]) < 1e-5
    session = onnxruntime.InferenceSession("out/net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == [1, 3, 24, 16]


def test_a_budget_bypasses_what_does_not_fit_into_it(saved: Path) -> None:
    lines = {}
    for name, stated in (("all", "--routing all"), ("none", "--routing none"), ("most", "--budget 0.95")):
        ended = export(f"--ckpt tadt --size 8x12 --scale 1.5 {stated} --image photo.png -o {name}.pt2")
        assert ended.code == 0, ended.err
        lines[name] = ended.err.splitlines()[-1]
    branches = {name: int(re.findall(r"(\d+) of 4 branches", line)[0]) for name, line in lines.items()}
    assert branches["all"] == 4 and branches["none"] == 0 and 0 < branches["most"] < 4, lines
    extra = {"dynres.json": ""}
    torch.export.load(saved / "most.pt2", extra_files=extra)
    told = json.loads(extra["dynres.json"])
    assert sum(told["routing"].values()) == branches["most"] and told["output_size"] == [18, 12]


def test_a_budget_that_cannot_be_met_is_said(saved: Path) -> None:
    ended = export("--ckpt tadt --size 8x12 --scale 2 --budget 0.01 --image photo.png -o net.pt2")
    assert ended.code == 0 and "note: a budget of 0.01 cannot be met" in ended.err, ended.err
    assert "0 of 4 branches" in ended.err


def test_the_format_may_differ_from_the_name(saved: Path) -> None:
    ended = export("--ckpt ffdnet --size 8x12 --noise 25 --format pt2 -o net.bin")
    assert ended.code == 0, ended.err
    with (saved / "net.bin").open("rb") as file:
        assert torch.export.load(file).module()(torch.rand(1, 3, 12, 8)).shape == (1, 3, 12, 8)


def test_int8_says_what_it_changed(saved: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "dynres[export]"')
    Image.fromarray(scene(18, 12)).save(saved / "original.png")
    asked = "--ckpt tadt --size 8x12 --scale 1.5 --routing all --image photo.png"
    ended = export(f"{asked} --int8 --original original.png -o net.onnx")
    assert ended.code == 0, ended.err
    found = re.fullmatch(
        r"network: tadt\n"
        r"net.onnx: 8x12 -> 12x18, 4 of 4 branches, .*; at most (\S+) from the network\n"
        r"int8: 8 of 8 linear layers, \S+ -> \S+ MB \(\d+%\); PSNR to the float file on photo.png: (\S+) dB\n"
        r"PSNR to original.png: float (\S+) dB, int8 (\S+) dB\n"
        r"time in onnxruntime, 1 thread: float \S+ ms, int8 \S+ ms, \S+ times as (fast|long: no gain here)\n",
        ended.err,
    )
    assert found, ended.err
    image = torch.from_numpy(np.array(Image.open("photo.png"))).permute(2, 0, 1)[None] / 255
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    results = {
        "float": load_pretrained("tadt").restore(image, 1.5, budget=1.0).image,
        "int8": torch.from_numpy(session.run(["restored"], {"image": image.numpy()})[0]),
        "original": torch.from_numpy(np.array(Image.open("original.png"))).permute(2, 0, 1)[None] / 255,
    }
    for group, (a, b) in {2: ("float", "int8"), 3: ("float", "original"), 4: ("int8", "original")}.items():
        assert float(found[group]) == pytest.approx(psnr(results[a], results[b], "denoise", 1), abs=0.02)
    assert float(found[1]) == pytest.approx((results["int8"] - results["float"]).abs().max().item(), rel=0.1)


def test_int8_without_a_linear_layer_is_refused(saved: Path) -> None:
    pytest.importorskip("onnxruntime", reason='pip install "dynres[export]"')
    ended = export("--ckpt edsr --size 8x12 --int8 -o a.onnx")
    assert ended.code == 2 and ended.err.count("error: ") == 1 and "no linear layer" in ended.err, ended.err
    assert not list(saved.glob("*a.*"))


@pytest.mark.parametrize(
    ("slow", "fast", "words"), [(3.0, 2.0, "1.50 times as fast"), (2.0, 3.0, "1.50 times as long: no gain here")]
)
def test_a_file_that_got_slower_is_called_slower(slow: float, fast: float, words: str) -> None:
    image = torch.zeros(1, 3, 2, 2)
    options = command.parse(["--ckpt", "x", "--size", "2x2", "--int8", "-o", "a.onnx"])
    lines = command.report_int8(Quantised(3, 2, (2_000_000, 500_000), (image, image), (slow, fast), 2), options, None)
    assert lines[0] == "int8: 2 of 3 linear layers, 2 -> 0.5 MB (25%); PSNR to the float file on random pixels: inf dB"
    assert lines[1:] == [f"time in onnxruntime, 2 threads: float {slow:g} ms, int8 {fast:g} ms, {words}"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("edsr --size 8 -o a.pt2", "WIDTHxHEIGHT"),
        ("edsr --size 0x8 -o a.pt2", "WIDTHxHEIGHT"),
        ("edsr --size 8x12 -o a.pth", "a.pth ends neither in .onnx nor in .pt2"),
        ("edsr --size 8x12 --format tflite -o a.pt2", "tflite"),
        ("edsr --size 8x12 --scale 3 -o a.pt2", "made for x2"),
        ("edsr --size 8x12 --scale 0.5 -o a.pt2", "between 1 and 30"),
        ("edsr --size 8x12 --opset 11 -o a.onnx", "opset must be at least 18"),
        ("edsr --size 8x12 --budget 0.5 --image photo.png -o a.pt2", "EDSR has no branches"),
        ("edsr --size 8x12 --image square.png -o a.pt2", "the image is 9x9 and the network is exported for 8x12"),
        ("edsr --size 8x12 --image none.png -o a.pt2", "no image at none.png"),
        ("edsr --size 8x12 -o photo.png/a.pt2", "photo.png/a.pt2 cannot be written"),
        ("edsr --size 8x12 --int8 -o a.pt2", "--int8 quantises ONNX files only: name the file NET.onnx"),
        ("edsr --size 8x12 --int8 --original square.png -o a.onnx", "give all three"),
        ("edsr --size 8x12 --image photo.png --original square.png -o a.onnx", "give all three"),
        (
            "edsr --size 8x12 --int8 --image photo.png --original square.png -o a.onnx",
            "square.png is 9x9 and the results are 16x24",
        ),
        ("tadt --size 8x12 --int8 --image photo.png --original square.png -o a.onnx", "--scale 2"),
        ("nothing --size 8x12 -o a.pt2", "nothing"),
        ("tadt --size 8x12 -o a.pt2", "--scale 2"),
        ("tadt --size 8x12 --scale 2 -o a.pt2", "--routing all"),
        ("tadt --size 8x12 --scale 2 --budget 0.5 -o a.pt2", "give one (--image)"),
        ("tadt --size 8x12 --scale 2 --budget 2 --image photo.png -o a.pt2", "(0, 1]"),
        ("tadt --size 8x12 --scale 2 --budget 0.5 --routing all -o a.pt2", "not allowed with"),
        ("ffdnet --size 8x12 -o a.pt2", "noise=25"),
    ],
)
def test_a_mistake_is_one_line(line: str, words: str, saved: Path) -> None:
    ended = export(f"--ckpt {line}")
    errors = [said for said in ended.err.splitlines() if "error: " in said]
    assert ended.code == 2 and len(errors) == 1 and words in errors[0], ended.err
    assert "Traceback" not in ended.err and not list(saved.glob("*a.*"))


def test_a_missing_package_is_named_with_its_cure(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = export("--ckpt edsr --size 8x12 -o a.onnx")
    assert ended.code == 2 and 'onnxruntime: pip install "dynres[export]"' in ended.err, ended.err
    assert not (saved / "a.onnx").exists()
