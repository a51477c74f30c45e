"""Demosaicing as a user types it: the mosaic itself measured, and a network trained on either half of the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dynres.data.images import find_images, read_rgb
from dynres.data.mosaic import Mosaic
from dynres.data.pairs import to_tensor
from dynres.metrics import psnr

from .conftest import Ended, typed

TINY = ["task=demosaic", "profile=smoke", "data=folder", "data.val_crop=48"]


def row(ended: Ended, label: str) -> dict[str, float | str]:
    assert ended.code == 0, ended.err
    summary = json.loads((ended.folder / "summary.json").read_text())
    found: dict[str, float | str] = summary["metrics"]["held-out"][label]
    return found


def test_the_input_is_the_mosaic_and_beside_it_stands_the_bilinear_image(photos: Path, here: Path) -> None:
    found = row(typed("+experiment=input", *TINY, f"data.root={photos}", "task.pattern=bggr"), "bggr")
    clean = read_rgb(find_images(photos)[2])
    mosaic = torch.from_numpy(Mosaic("bggr")(clean, False, 0, np.random.default_rng(0)).image).permute(2, 0, 1)
    assert found["psnr"] == pytest.approx(psnr(mosaic, to_tensor(clean), "denoise", 1))
    assert found["plain"] == "bilinear" and float(found["psnr_plain"]) > float(found["psnr"]) + 10


def test_a_network_learns_from_two_halves(photos: Path, here: Path) -> None:
    ended = typed(
        "backbone=edsr_baseline", "upsampler=same_size", "method=restoration", *TINY, f"data.root={photos}",
        "data.halves=true",
    )  # fmt: skip
    found = row(ended, "rggb")
    assert found["plain"] == "bilinear" and 3 < float(found["psnr"]) < 60
    assert len(list((ended.folder / "panels").glob("*.png"))) >= 1


def test_a_batch_without_halves_is_one_line(photos: Path, here: Path) -> None:
    ended = typed(
        "backbone=edsr_baseline", "upsampler=same_size", "method=restoration", *TINY, f"data.root={photos}",
        "data.halves=true", "data.batch_size=3",
    )  # fmt: skip
    assert ended.code == 2 and ended.err.count("\n") == 1 and "error: data.batch_size=3 " in ended.err, ended.err
    assert not (here / "runs").exists()
