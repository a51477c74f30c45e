"""ACLA as a user types it: its tasks, the search, training what was found, and what cannot be."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from dynres.export.__main__ import main as export_command

from .conftest import UNDRAWN, Ended, killed_and_resumed, typed

TINY = ["profile=smoke", "data=folder", "data.val_crop=48", *UNDRAWN]
SEARCH = ["+experiment=acla_search", *TINY, "data.lr_size=12"]


@pytest.fixture(scope="module")
def searched(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = typed(*SEARCH, f"data.root={photos}", f"out={tmp_path_factory.mktemp('acla')}/runs")
    assert ended.code == 0, ended.err
    return ended


def test_a_search_writes_what_it_found(searched: Ended) -> None:
    found = json.loads((searched.folder / "positions.json").read_text())
    assert found["positions"] == [layer for layer, alpha in enumerate(found["alpha"], 1) if alpha >= 0]
    assert found["cost_weight"] == 0.15 and len(found["alpha"]) == 3 and (searched.folder / "alphas.png").is_file()
    with open(searched.folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [float(row["train/validation_half"]) for row in rows] == [0, 0, 0, 0, 1, 0]
    assert "positions found: " in searched.out


def test_what_was_found_trains(searched: Ended, photos: Path, here: Path) -> None:
    command = re.search(r"train it: python -m dynres\.run (.*)", searched.out)
    assert command
    ended = typed(*command[1].split())
    assert ended.code == 0, ended.err
    assert ended.out.startswith("acla_found, profile=smoke")
    config = (ended.folder / "config.yaml").read_text()
    found = json.loads((searched.folder / "positions.json").read_text())["positions"]
    assert "searched: true" not in config and "AssrTraining" in config
    layers = {name.split(".")[3] for name in torch.load(ended.folder / "checkpoints" / "last.ckpt", weights_only=True)
              ["state_dict"] if ".inserted." in name}  # fmt: skip
    assert sorted(map(int, layers)) == found


def test_the_search_of_another_task_is_trained_as_that_task(photos: Path, here: Path) -> None:
    choices = ["task=denoise_color", "backbone=acla_edsr_denoise", "upsampler=same_size", "method.cost_weight=0.2"]
    ended = typed("+experiment=acla_search", *TINY, *choices, f"data.root={photos}")
    assert ended.code == 0, ended.err
    text = (ended.folder / "found" / "experiment" / "acla_found.yaml").read_text()
    for line in ("/task: denoise_color", "/method: acla", "/backbone: acla_edsr_denoise", "/upsampler: same_size"):
        assert f"override {line}" in text


def test_a_supernet_is_not_exported(searched: Ended, here: Path) -> None:
    last = searched.folder / "checkpoints" / "last.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv", ["export", "--ckpt", str(last), "--size", "24x20", "-o", "net.pt2", "--format", "pt2"]
        )
        with pytest.raises(SystemExit) as ended:
            export_command()
    assert ended.value.code == 2 and not (here / "net.pt2").exists()


def test_keys_are_drawn_in_bfloat16(photos: Path, here: Path) -> None:
    options = ["inference.precision=bf16", "data.lr_size=12", f"data.root={photos}"]
    ended = typed("+experiment=acla_edsr_sr", *TINY, *options)
    assert ended.code == 0 and list((ended.folder / "keys").glob("*.png")), ended.err


def test_a_killed_search_resumes_as_if_it_had_not(searched: Ended, photos: Path, here: Path) -> None:
    resumed = killed_and_resumed(4, [*SEARCH, f"data.root={photos}", f"out={here}/killed"])
    assert resumed.code == 0 and "continuing from last.ckpt" in resumed.out, resumed.err
    one, other = (json.loads((ended.folder / "positions.json").read_text()) for ended in (resumed, searched))
    assert one == other


@pytest.mark.parametrize(
    ("experiment", "label"),
    [("acla_denoise", "sigma25"), ("acla_car", "q10"), ("acla_demosaic", "grbg"), ("acla_rcan_sr", "x2")],
)
def test_every_task_trains_and_counts_its_keys(experiment: str, label: str, photos: Path, here: Path) -> None:
    patches = "data.lr_size=12" if label == "x2" else "data.patch_size=24"
    ended = typed(f"+experiment={experiment}", *TINY, patches, f"data.root={photos}")
    assert ended.code == 0, ended.err
    row = json.loads((ended.folder / "summary.json").read_text())["metrics"]["held-out"][label]
    assert row["psnr"] > 5 and row["macs"] > 0
    with open(ended.folder / "routing.csv", newline="") as file:
        shares = {line["unit"]: float(line["frequency"]) for line in csv.DictReader(file)}
    assert all(0 <= share <= 1 for share in shares.values()) and any(" keys@" in unit for unit in shares)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["+experiment=acla_search", "backbone.searched=false"], "needs a supernet"),
        (["+experiment=acla_search", "data.halves=false"], "two halves"),
        (["+experiment=acla_search", "backbone.positions=[1,2]"], "positions=all"),
        (["+experiment=acla_search", "data.batch_size=1"], "data.batch_size"),
        (["+experiment=acla_search", "backbone=edsr"], "searched"),
        (["+experiment=acla_search", "method.temperature=1"], "such as [1, 0.1]"),
        (["+experiment=acla_edsr_sr", "backbone.searched=true"], "method=acla_search"),
        (["+experiment=acla_edsr_sr", "backbone.positions=[0,99]"], "layers from 1 to"),
        (["+experiment=acla_edsr_sr", "backbone.attention=everything"], "attention must be one of"),
        (["+experiment=acla_denoise", "backbone.keys=0"], "keys of at least 1"),
        (["+experiment=acla_car", "backbone.image_channels=3"], "image_channels=1"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], words: str, photos: Path, here: Path) -> None:
    size = "data.patch_size=24" if arguments[0].endswith(("denoise", "car")) else "data.lr_size=12"
    ended = typed(*arguments, *TINY, size, f"data.root={photos}")
    assert ended.code == 2 and len(ended.err.strip().splitlines()) == 1, ended.err
    assert words in ended.err
    assert not list((here / "runs").rglob("*")) if (here / "runs").exists() else True
