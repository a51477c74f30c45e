"""+experiment=anysr_edsr_srno as a user types it: its data, an interruption, and what cannot be."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from .conftest import Ended, killed_and_resumed, typed
from .test_errors import refused
from .test_experiments import composed

ANYSR = ["+experiment=anysr_edsr_srno", "~callbacks.subnets"]


@pytest.fixture(scope="module")
def whole(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = typed(*ANYSR, *tiny, f"out={tmp_path_factory.mktemp('anysr')}")
    assert ended.code == 0, ended.err
    return ended


def weights(ended: Ended) -> dict[str, torch.Tensor]:
    return dict(torch.load(ended.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])


def column(folder: Path, name: str) -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(line[name]) for line in csv.DictReader(file) if line[name]]


def test_the_method_brings_its_data_and_its_published_numbers() -> None:
    cfg, _ = composed(*ANYSR, "profile=paper", "data=div2k", "data.root=DIV2K")
    assert (cfg.data.scales, cfg.data.scale_step) == ([1.0, 4.1], 0.1)
    assert (cfg.data.batch_size, cfg.data.lr_size, cfg.data.queries, cfg.trainer.max_steps) == (32, 128, 16384, 250000)
    assert composed("+experiment=anysr_rdn_srno", "profile=paper")[0].data.batch_size == 16
    typed_in, _ = composed(*ANYSR, "data.scale_step=null", "data.scales=[1,4]")
    assert (typed_in.data.scales, typed_in.data.scale_step) == ([1, 4], None)
    assert composed("+experiment=tadt_liif")[0].data.scale_step is None


def test_training_starts_from_the_plain_network(edsr: Ended, tiny: list[str], here: Path) -> None:
    """As the refusal of method.pretraining=0 advises."""
    start = edsr.folder / "checkpoints" / "last.ckpt"
    ended = typed("+experiment=anysr_edsr_liif", *ANYSR[1:], *tiny, f"ckpt={start}", "method.pretraining=0")
    assert ended.code == 0, ended.err
    before, after = (weights(each) for each in (edsr, ended))
    key = "restorer.backbone.body.0.body.0.weight"
    moved = (after[key.replace("backbone.", "backbone.network.")] - before[key]).abs().max()
    assert 0 < moved < 0.01, f"the first convolution is off by {moved:g} from where it should have begun"


@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_run_resumes_as_if_it_had_not_been(step: int, whole: Ended, tiny: list[str], here: Path) -> None:
    """While the whole network is trained, and when subnets are."""
    resumed = killed_and_resumed(step, [*ANYSR, *tiny, f"out={here}", "callbacks.checkpoints.every=1"])
    assert resumed.code == 0, resumed.err
    ours, theirs = weights(resumed), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    widths, continued = (column(one.folder, "train/width") for one in (whole, resumed))
    del widths[step - 1]  # the line of a step is written after its checkpoint
    assert continued == widths and 0.5 in widths


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("method.pretraining=0", ("ckpt=PATH", "method.pretraining=0.3")),
        ("backbone=edsr_baseline", ("method=anysr", "backbone=edsr_baseline", "backbone=anysr_edsr")),
        ("data.scale_step=0", ("data.scale_step", "above 0", "got 0")),
        ("data.scale_step=4", ("at most the 3.1", "got 4")),
        ("data.scale_step=fast", ("data.scale_step", "fast")),
        ("task=sr data.scale_step=0.1", ("data.scale_step=0.1", "task=assr")),
        ("method.full_share=2", ("full_share", "[0, 1]", "2")),
        ("method.warmup=1", ("warmup", "1")),
    ],
)
def test_a_mistake_is_one_line(overrides: str, words: tuple[str, ...], here: Path, tiny: list[str]) -> None:
    refused(typed(*ANYSR, *tiny, *overrides.split()), here, *words)


def test_a_task_of_patches_is_refused_as_such(here: Path) -> None:
    """Before options of pairs are looked for in its data."""
    ended = typed(*ANYSR, "profile=smoke", "task=denoise_color", "upsampler=same_size")
    refused(ended, here, "trains on patches", "method=anysr on queries")
