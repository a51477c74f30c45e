"""python -m dynres.upscale on what people have: any colour mode, folders, broken files, large results."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynres import upscale
from dynres.build import build_restorer

from .conftest import Ended, scene, start, typed, wait

SIDES = (20, 24)  # height, width


def enlarge(*arguments: str) -> Ended:
    return typed(*arguments, main=upscale.main)


@pytest.fixture
def last(edsr: Ended) -> str:
    return f"--ckpt={edsr.folder}/checkpoints/last.ckpt"


def of_every_kind() -> dict[str, Callable[[Path], None]]:
    """File name -> what writes it."""
    rgb = Image.fromarray(scene(*SIDES))
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, SIDES[1]).astype(np.uint8), (SIDES[0], 1))))
    sixteen = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned: rows are columns
    return {
        "rgb.png": rgb.save, "gray.png": rgb.convert("L").save, "palette.png": rgb.convert("P").save,
        "alpha.png": alpha.save, "sixteen.png": sixteen.save, "cmyk.jpg": rgb.convert("CMYK").save,
        "turned.jpg": lambda path: rgb.save(path, exif=exif, quality=95),
    }  # fmt: skip


def test_every_kind_of_image_is_enlarged_and_a_broken_one_is_named(here: Path, last: str) -> None:
    (here / "in").mkdir()
    kinds = of_every_kind()
    for name, write in kinds.items():
        write(here / "in" / name)
    (here / "in" / "broken.png").write_bytes((here / "in" / "rgb.png").read_bytes()[:200])
    ended = enlarge("in", "--scale", "3.7", last, "-o", "out")
    errors = [line for line in ended.err.splitlines() if line.startswith("error:")]
    assert ended.code == 2 and len(errors) == 1 and "broken.png" in errors[0], ended.err
    expected = (round(SIDES[1] * 3.7), round(SIDES[0] * 3.7))
    for name in kinds:
        result = Image.open(here / "out" / f"{Path(name).stem}_x3.7.png")
        size = expected[::-1] if name == "turned.jpg" else expected
        assert (result.size, result.mode) == (size, "RGBA" if name == "alpha.png" else "RGB"), name
    carried = np.asarray(Image.open(here / "out" / "alpha_x3.7.png"))[..., 3].astype(float)
    assert carried[:, 0].max() < 20 and carried[:, -1].min() > 235, "alpha is a ramp from left to right"
    assert len(list((here / "out").iterdir())) == len(kinds), "a broken image leaves no file"


def test_tiles_change_nothing_but_memory(here: Path, last: str) -> None:
    Image.fromarray(scene(90, 120)).save("in.png")
    for name, tile in (("whole.png", "0"), ("tiles.png", "48")):
        assert enlarge("in.png", "--size", "200x160", "--tile", tile, last, "-o", name).code == 0
    whole, tiles = (np.asarray(Image.open(name)).astype(int) for name in ("whole.png", "tiles.png"))
    assert whole.shape == (160, 200, 3)
    worst = np.abs(whole - tiles).max()
    assert worst <= 1, f"tiles differ by {worst} of 255"  # 1e-3 may fall on either side of a rounding


def test_bfloat16_and_automatic_tiles_give_nearly_the_same(here: Path, last: str) -> None:
    Image.fromarray(scene(90, 120)).save("in.png")
    asked = {"plain.png": (), "bf16.png": ("--precision", "bf16"), "auto.png": ("--tile", "auto")}
    for name, options in asked.items():
        ended = enlarge("in.png", "--scale", "2", *options, last, "-o", name)
        assert ended.code == 0, ended.err
    plain, *others = (np.asarray(Image.open(name)).astype(int) for name in asked)
    for name, other in zip(("bf16", "auto"), others, strict=True):
        worst = np.abs(plain - other).max()
        assert worst <= 2, f"{name} differs by {worst} of 255"


def test_the_newest_finished_run_is_taken_and_a_budget_is_met(here: Path, trained: Ended, edsr: Ended) -> None:
    Image.fromarray(scene(100, 100)).save("in.png")
    none = enlarge("in.png", "--scale", "2", "-o", "out.png")
    assert none.code == 2 and none.err.startswith("error: no finished run") and "--ckpt" in none.err, none.err
    for number, run in enumerate((edsr, trained)):
        shutil.copytree(run.folder, here / "runs" / "x" / str(number))
        os.utime(here / f"runs/x/{number}/checkpoints/last.ckpt", (1e9 + number, 1e9 + number))
    shutil.copytree(trained.folder, here / "runs" / "x" / "unfinished")
    (here / "runs" / "x" / "unfinished" / "summary.json").unlink()
    free = enlarge("in.png", "--scale", "2", "-o", "out.png")
    assert free.code == 0 and "runs/x/1/" in free.err, free.err
    half = enlarge("in.png", "--scale", "2", "--budget", "0.6", "-o", "new/folder")
    assert half.code == 0 and (here / "new" / "folder" / "in_x2.png").is_file(), half.err
    gmacs = [float(ended.err.split(" GMACs")[0].split()[-1]) for ended in (free, half)]
    assert gmacs[1] < gmacs[0], f"GMACs without and with a budget: {gmacs}"


def test_the_subnet_of_the_scale_that_is_typed_runs(here: Path) -> None:
    """21 x 27 pixels at x2.9 become 61 x 78, neither of which is x2.9 exactly."""
    inside = {"_target_": "dynres.backbones.edsr.edsr_baseline", "channels": 8, "blocks": 1}
    backbone = {"_target_": "dynres.backbones.anysr.AnySR", "network": inside, "rule": "official"}
    upsampler = {"_target_": "dynres.upsamplers.liif.LIIF", "hidden": 4, "layers": 1}
    build_restorer({"backbone": backbone, "upsampler": upsampler}).save_pretrained("network")
    Image.fromarray(scene(21, 27)).save("in.png")
    for asked, ran in (("--scale=2.9", "2 of 3"), ("--scale=1.5", "0 of 3"), ("--size=78x61", "3 of 3")):
        ended = enlarge("in.png", asked, "--ckpt=network", "-o", "out.png")
        assert ended.code == 0 and f"{ran} steps of width" in ended.err, ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--scale 0.5", "between 1 and 30"), ("--scale 31", "31"), ("--scale nan", "nan"), ("", "--scale"),
        ("--scale 2 --size 40x40", "either"), ("--size 40", "WIDTHxHEIGHT"), ("--size 10x10", "height"),
        ("--scale 2 --budget 0", "budget"), ("--scale 2 --budget nan", "nan"), ("--scale 2 --tile 9", "tile"),
        ("--scale 2 --tile -1", "tile"), ("--scale 2 --tile large", "tile"), ("--scale 2 --precision 16", "bf16"),
        ("--scale 2 --ckpt nope.ckpt", "nope.ckpt"),
        ("--scale 2 --device nope", "nope"), ("--scale abc", "abc"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments: str, words: str, here: Path, last: str) -> None:
    Image.fromarray(scene(*SIDES)).save("in.png")
    ended = enlarge("in.png", last, *arguments.split(), "-o", "out.png")
    errors = [line for line in ended.err.splitlines() if "error: " in line]
    assert ended.code == 2 and len(errors) == 1 and words in errors[0], ended.err
    assert "Traceback" not in ended.err and not (here / "out.png").exists()


def test_input_and_output_must_fit(here: Path, last: str) -> None:
    (here / "in").mkdir()
    Image.fromarray(scene(*SIDES)).save("in/a.png")
    for source, target, word in (("in", "out.png", "must be a folder"), ("no.png", "out", "no.png")):
        ended = enlarge(source, "--scale", "2", last, "-o", target)
        assert ended.code == 2 and word in ended.err, ended.err


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
def test_a_4k_result_needs_bounded_memory(here: Path, last: str) -> None:
    Image.fromarray(scene(270, 480)).save("in.png")
    command = ["in.png", "--size", "3840x2160", "--tile", "128", last, "-o", "out.png"]
    ended = wait(start(command, here, "dynres.upscale"))
    assert ended.code == 0, ended.err
    assert Image.open("out.png").size == (3840, 2160)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # of this and every earlier child
    assert peak < 2, f"peak memory {peak:.2f} GB"
