"""Two processes that share a batch train the network that one process trains on the whole of it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from .conftest import start, typed, wait


def test_two_processes_train_what_one_does(here: Path, tiny: list[str]) -> None:
    """A routed network, which is exchanged for a smaller one in mid-run."""
    network = ["backbone=tadt", "upsampler=liif", "method=prune", "method.scope=mlp_msa", "method.rate=0.5"]
    command = [*network, *tiny, "data.batch_size=4"]
    two = wait(start([*command, "strategy=ddp_cpu", "out=two"], here))
    assert two.code == 0, two.err
    one = typed(*command, "strategy=cpu", "out=one")
    assert one.code == 0, one.err
    losses = []
    for folder in (one.folder, two.folder):
        with open(folder / "metrics.csv", newline="") as file:
            losses.append([float(line["train/loss"]) for line in csv.DictReader(file) if line["train/loss"]])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-5), f"losses of one and two processes: {losses}"
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (one.folder, two.folder)
    )
    worst = max(float((first[key] - second[key]).abs().max()) for key in first)
    assert worst < 1e-5, f"weights differ by up to {worst:g}"
    assert [path.name for path in (here / "two").glob("*/*")] == [two.folder.name], "one folder for both processes"
