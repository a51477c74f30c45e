"""Tests of given weights and of inputs that need none: what runs, which row gets which number, why others get none."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dynres.build import build_restorer, compose_checked, network_description
from dynres.interop.official import to_official
from dynres.launch.session import Session
from dynres.tables.catalogue import Catalogue, weights_below
from dynres.tables.given import Asked, Given, Plan, plan
from dynres.tables.results import Result
from dynres.tables.rows import at, systems
from dynres.tables.sheet import Recipe, System
from tests.cli.conftest import scene, write_scenes

BICUBIC = ("task=sr", "method=assr", "backbone=identity", "upsampler=bicubic", "mode=test")
JPEG = ("task=car", "method=restoration", "backbone=identity", "upsampler=as_image", "mode=test")
VDSR = (
    "task=sr", "method=assr", "backbone=vdsr", "backbone.channels=4", "backbone.layers=3", "upsampler=same_size",
    "upsampler.skip=add", "pixels.mean=0", "pixels.factor=1",
)  # fmt: skip
DNCNN = (
    "task=denoise_gray", "method=restoration", "backbone=dncnn", "backbone.channels=4", "backbone.layers=3",
    "upsampler=same_size", "upsampler.skip=subtract", "pixels.mean=0", "pixels.factor=1",
)  # fmt: skip
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def system(name: str, overrides: Sequence[str] | None) -> System:
    return System(name, {}, None if overrides is None else lambda level: Recipe(at(overrides, level)))


def write_weights(path: Path, overrides: Sequence[str]) -> None:
    """An authors' file of a network with drawn weights."""
    restorer = build_restorer(network_description(compose_checked(["profile=paper", *overrides])))
    torch.save({name: value / 50 for name, value in to_official(restorer).items()}, path)  # which change little


class Outcome(NamedTuple):
    data: Path
    out: Path
    weights: Path
    asked: list[Asked]
    plan: Plan
    session: Session
    ours: Given

    def number(self, place: int, metric: str) -> Any:
        return self.ours.measured(*self.asked[place], metric)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Bicubic and a small VDSR on five pictures, one of them gray, and JPEG on 2 of LIVE1's 29."""
    folder = tmp_path_factory.mktemp("given")
    data, out, files = folder / "data", folder / "runs", folder / "weights"
    write_scenes(data / "benchmark" / "Set5" / "HR", 4)
    Image.fromarray(scene(72, 72)[..., 1]).save(data / "benchmark" / "Set5" / "HR" / "gray.png")
    write_scenes(data / "LIVE1", 2)
    files.mkdir()
    write_weights(files / "vdsr_tiny.pth", VDSR)
    rows = {"Bicubic": BICUBIC, "JPEG": JPEG, "VDSR": VDSR, "EDSR": ("backbone=edsr", *VDSR[:2])}
    bicubic, jpeg, vdsr, edsr = (system(name, overrides) for name, overrides in rows.items())
    asked: list[Asked] = [
        (bicubic, "Set5", "x2", "benchmark"), (bicubic, "Set5", "x3", "benchmark"), (vdsr, "Set5", "x2", "benchmark"),
        (vdsr, "Set5", "x3", "benchmark"), (jpeg, "LIVE1", "q10", "car"), (jpeg, "LIVE1", "q40", "car"),
        (bicubic, "Manga109", "x2", "benchmark"), (edsr, "Set5", "x2", "benchmark"),
        (system("RDN", None), "Set5", "x2", "benchmark"),
    ]  # fmt: skip
    catalogue = Catalogue(data)
    found = plan([*asked, *asked], catalogue, weights_below(files)[0])
    session = Session(found.wanted, out, lambda text: None, jobs=1, threads=1)
    session.run()
    return Outcome(data, out, files, asked, found, session, Given(found, catalogue, session.found, session.failed))


def test_levels_and_sets_of_one_network_are_one_run(tested: Outcome) -> None:
    assert len(tested.plan.wanted) == 3 and not tested.session.failed, tested.session.failed
    bicubic, vdsr, jpeg = (wanted.command for wanted in tested.plan.wanted)
    assert "data.test_scales=[2,3]" in bicubic and "data.test_downsampling=matlab" in bicubic
    assert "data.protocol=benchmark" in bicubic
    assert f"ckpt={tested.weights.resolve() / 'vdsr_tiny.pth'}" in vdsr and "task.test_qualities=[10,40]" in jpeg
    assert all("profile=paper" in command and "mode=test" in command for command in (bicubic, vdsr, jpeg))


def test_a_place_gets_its_number_and_a_part_of_a_set_is_called_so(tested: Outcome) -> None:
    (folder,) = (folder for name, folder in tested.session.found.items() if "JPEG" in name)
    for place, level in ((4, "q10"), (5, "q40")):
        for metric in ("psnr", "ssim", "psnr_b"):
            found = tested.number(place, metric)
            assert found.value == Result(folder).value("LIVE1", level, metric) and found.seeds == 1
            assert found.part and found.note == "2 of 29 images"
    assert tested.number(4, "psnr").value < tested.number(5, "psnr").value


@pytest.mark.parametrize("place", [0, 2])
def test_of_networks_of_the_luma_a_gray_file_is_measured_in_its_own_samples(tested: Outcome, place: int) -> None:
    """Its luma has 219 levels for 255: with no other difference the error in decibels differs by that ratio."""
    title = "Bicubic" if place == 0 else "vdsr_tiny"
    (folder,) = (folder for name, folder in tested.session.found.items() if title in name)
    lines = [line for line in Result(folder).lines("per_image.csv") if line["label"] == "x2"]
    as_luma = {line["image"]: float(line["psnr"]) for line in lines}
    own = as_luma | {"gray": as_luma["gray"] - 20 * math.log10(255 / 219)}
    found = tested.number(place, "psnr")
    tolerance = 1e-9 if place == 0 else 0.02  # the network sees other values, and is rounded to 8 bits in others
    assert found.value == pytest.approx(np.mean(list(own.values())), abs=tolerance)
    assert not found.part and found.note == "gray, a gray file, in its own samples"
    similarity = tested.number(place, "ssim").value
    plain = np.mean([float(line["ssim"]) for line in lines])
    assert plain - 0.02 < similarity < plain


def test_a_place_without_a_number_says_why(tested: Outcome) -> None:
    assert tested.number(6, "psnr").note == "Manga109 is not in DATA"
    assert tested.number(7, "psnr").note == "no checkpoint given"
    assert tested.number(8, "psnr").note == "" and tested.number(8, "psnr").value is None  # the row says: cited only
    name = tested.plan.wanted[0].name
    failed = Given(tested.plan, tested.ours.catalogue, {}, {name: "disk full"})
    assert failed.measured(*tested.asked[0], "psnr").note == "disk full"
    assert failed.measured(*tested.asked[2], "psnr").note == "not run"


def test_results_of_other_images_or_weights_are_taken_back(tested: Outcome) -> None:
    summaries = {name: folder / "summary.json" for name, folder in tested.session.found.items()}
    kept = {file: file.read_bytes() for file in summaries.values()}
    tested.plan.take_back(tested.out)
    assert all(file.is_file() for file in summaries.values())

    weights = tested.weights / "vdsr_tiny.pth"
    later = max(file.stat().st_mtime for file in summaries.values()) + 10
    os.utime(weights, (later, later))
    tested.plan.take_back(tested.out)
    assert [name for name, file in summaries.items() if not file.is_file()] == [
        name for name in summaries if "vdsr_tiny" in name
    ]
    extra = tested.data / "benchmark" / "Set5" / "HR" / "more.png"
    Image.fromarray(scene(72, 72, 9)).save(extra)
    again = plan(tested.asked, Catalogue(tested.data), weights_below(tested.weights)[0])
    again.take_back(tested.out)
    assert [name for name, file in summaries.items() if file.is_file()] == [
        name for name in summaries if "JPEG" in name
    ]

    extra.unlink()  # as it was, for the other tests
    os.utime(weights, (0, 0))
    for file, content in kept.items():
        file.write_bytes(content)


def test_a_row_takes_the_file_of_its_name_then_the_one_made_for_its_task(tmp_path: Path) -> None:
    write_scenes(tmp_path / "Set12", 12)
    for name in ("dncnn3.pth", "dncnn_gray_blind.pth"):
        write_weights(tmp_path / name, DNCNN)
    weights = weights_below(tmp_path)[0]
    asked: list[Asked] = [(system(name, DNCNN), "Set12", "sigma25", "denoise") for name in ("DnCNN-3", "DnCNN-B")]
    found = plan(asked, Catalogue(tmp_path), weights)
    used = {key[0]: test.weights.path.name for key, test in found.tests.items() if test.weights is not None}
    assert used == {"DnCNN-3": "dncnn3.pth", "DnCNN-B": "dncnn_gray_blind.pth"}


def test_of_two_files_that_fit_alike_none_is_taken(tmp_path: Path) -> None:
    write_scenes(tmp_path / "Set5", 5)
    for name in ("one.pth", "two.pth", "sharp_x3.pth"):
        write_weights(tmp_path / name, DNCNN)
    rows = system("DnCNN", ("task=sr", "method=assr", *DNCNN[2:], "backbone.image_channels=1"))
    asked: list[Asked] = [(rows, "Set5", level, "benchmark") for level in ("x2", "x3")]
    found = plan(asked, Catalogue(tmp_path), weights_below(tmp_path)[0])
    (reason,) = found.missing.values()
    assert reason.startswith("one.pth and two.pth fit alike")
    assert [test.weights.path.name for test in found.tests.values() if test.weights] == ["sharp_x3.pth"]


# ------------------------------------------------------------------------------------------------ real images, weights

PSNR, SSIM = 0.05, 0.002
REAL = [  # paper, table (and part of it), row, test sets, levels
    ("acla", "table1", "Bicubic", ("Set5", "Set14", "B100"), ("x2", "x3", "x4")),
    ("acla", "table1", "Bicubic", ("Urban100",), ("x2", "x4")),
    ("acla", "table3", "JPEG", ("LIVE1", "classic5"), ("q10", "q20", "q30", "q40")),
    ("acla", "table10", "Mosaiced", ("McMaster", "Kodak24", "CBSD68"), ("grbg",)),
    ("acla", "table3", "DnCNN", ("classic5",), ("q10", "q40")),
    ("acla", "table1", "VDSR", ("Set5",), ("x2", "x3", "x4")),
    ("reference", "table1/denoising", "DnCNN", ("Set12",), ("sigma25",)),
]


@pytest.mark.data
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("paper", "where", "row", "sets", "levels"), REAL)
def test_published_rows_are_reproduced(
    dynres_data: Path, tmp_path: Path, paper: str, where: str, row: str, sets: tuple[str, ...], levels: tuple[str, ...]
) -> None:
    """Within 0.05 dB and 0.002 of SSIM; of a part of a set there is a number, which is not compared."""
    table = yaml.safe_load((EXPERIMENTS / paper / "published.yaml").read_text(encoding="utf-8"))
    for part in where.split("/"):
        table = table[part]
    (one,) = (each for each in systems(table) if each.name == row)
    asked: list[Asked] = [(one, dataset, level, table["protocol"]) for dataset in sets for level in levels]
    catalogue = Catalogue(dynres_data)
    found = plan(asked, catalogue, weights_below(dynres_data / "weights")[0])
    session = Session(found.wanted, tmp_path, print, threads=1)
    session.run()
    ours = Given(found, catalogue, session.found, session.failed)
    for _, dataset, level, protocol in asked:
        for metric, published in zip(table["metrics"], one.published[dataset, level], strict=True):
            number = ours.measured(one, dataset, level, protocol, metric)
            assert number.value is not None, number.note
            assert number.part == (dataset == "Urban100")
            difference = abs(number.value - published)
            assert number.part or difference < (SSIM if metric == "ssim" else PSNR), (dataset, level, metric, number)
