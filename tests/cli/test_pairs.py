"""Every network and every upsampler, in pairs that make sense: built at published size, trained when small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dynres.build import build_restorer, network_description
from dynres.checks import check
from dynres.paths import conf_dir

from .conftest import typed
from .test_experiments import composed

ANY_SCALE = ("liif", "metasr", "lte", "lte_fast", "srno")
ONE_SCALE = ("pixelshuffle", "pixelshuffle_direct", "nearest_conv")
# Networks with heads of their own; every other backbone extracts features for all of the above, and for same_size.
OWN_HEAD = {
    "identity": ("bicubic",), "arbrcan": ("arbsr",), "ffdnet": ("as_image",), "flexir": ("as_image",),
    "dncnn": ("same_size",), "drunet": ("same_size",), "ircnn": ("same_size",), "srcnn": ("same_size",),
    "vdsr": ("same_size",),
    # of arbitrary scale; what is inside meets every head by its own name
    "anysr_edsr": (*ANY_SCALE, "arbsr"), "anysr_rdn": ("srno",), "anysr_rcan": ("srno",), "anysr_mstb": ("srno",),
}  # fmt: skip
BACKBONES = sorted(path.stem for path in (conf_dir() / "backbone").glob("*.yaml"))
UPSAMPLERS = sorted(path.stem for path in (conf_dir() / "upsampler").glob("*.yaml"))


def heads(backbone: str) -> tuple[str, ...]:
    return OWN_HEAD.get(backbone, (*ANY_SCALE, *ONE_SCALE, "same_size"))


# Every upsampler behind networks of one width, of another, and of attention; every network before one of each kind of
# upsampler: what holds in these holds in every pair.
WIDTHS = ("edsr_baseline", "rcan", "swinir", "tadt")
KINDS = ("liif", "pixelshuffle", "same_size")
PAIRS = [
    (backbone, upsampler)
    for backbone in BACKBONES
    for upsampler in heads(backbone)
    if backbone in WIDTHS or backbone in OWN_HEAD or upsampler in KINDS
]


def overrides(backbone: str, upsampler: str) -> list[str]:
    """What a user types to train the pair."""
    if backbone == "flexir":
        return ["backbone=flexir", "upsampler=as_image", "method=flexir", "task=denoise_color"]
    method = "tadt" if backbone == "tadt" else "assr"
    arbitrary = upsampler in (*ANY_SCALE, "bicubic") or backbone.startswith("anysr")
    task = "assr" if arbitrary else "sr"
    return [f"backbone={backbone}", f"upsampler={upsampler}", f"method={method}", f"task={task}"]


def test_every_upsampler_is_in_some_pair() -> None:
    assert {upsampler for _, upsampler in PAIRS} == set(UPSAMPLERS)


@pytest.mark.parametrize(("backbone", "upsampler"), PAIRS)
def test_a_pair_stands_at_its_published_size(backbone: str, upsampler: str, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.ckpt"
    baseline.touch()  # what TADT starts from; not looked at here
    mode = ["mode=test"] if upsampler == "bicubic" else []
    arguments = [*overrides(backbone, upsampler), "profile=paper", "data=demo", f"ckpt={baseline}", *mode]
    cfg, choices = composed(*arguments)
    check(cfg, choices)
    with torch.device("meta"):
        restorer = build_restorer(network_description(cfg))
    scale = restorer.upsampler.scale or 2
    assert restorer.upsampler.macs(16, 24, (16 * scale, 24 * scale)) >= 0


# Each backbone once, and each upsampler once: the laws of either hold in every pair.
TRAINED = [
    *((backbone, heads(backbone)[0]) for backbone in BACKBONES if backbone not in ("identity", "edsr_baseline")),
    *(("edsr_baseline", upsampler) for upsampler in heads("edsr_baseline")),
]


@pytest.mark.parametrize(("backbone", "upsampler"), TRAINED)
def test_a_pair_trains_a_few_steps(backbone: str, upsampler: str, tiny: list[str], here: Path) -> None:
    dense = ["method.dense_fraction=0.5"] if backbone == "tadt" else []
    sizes = [size for size in tiny if backbone != "flexir" or not size.startswith(("data.lr_size", "data.test_scales"))]
    ended = typed(*overrides(backbone, upsampler), *sizes, *dense, "~callbacks.macs", "trainer.max_steps=3")
    assert ended.code == 0, ended.err
    summary = json.loads((ended.folder / "summary.json").read_text())
    (row,) = summary["metrics"]["held-out"].values()
    assert 5 < row["psnr"] < 60, row
