"""Images restored at their own size, gray ones, networks that work on regions, and photographs without ground truth."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

from dynres.callbacks.beta import BetaCurve, beta_curve
from dynres.callbacks.depths import colours, cores
from dynres.callbacks.flops import Flops
from dynres.callbacks.panels import Panels, draw
from dynres.callbacks.predictions import Predictions
from dynres.callbacks.progress import RunProgress, Sparse
from dynres.callbacks.routing import RoutingMap
from dynres.callbacks.routing import draw as heat_map
from dynres.callbacks.summary import SummaryCallback
from dynres.contracts import EvalSample, Evaluation, RegionDepths, Restoration, Routing
from dynres.report import record

from .conftest import TinyTraining, photograph

BLOCKS = tuple(f"block {number}" for number in (1, 2, 3))
QUARTERS = ((0, 34, 0, 52), (0, 34, 44, 96), (30, 64, 0, 52), (30, 64, 44, 96))  # of 64 x 96, sharing 4 and 8 pixels


def regions(*depths: int, boxes: tuple[tuple[int, int, int, int], ...] = QUARTERS) -> Routing:
    """What a network of three blocks says that left each region at one of these depths."""
    share = torch.tensor([[sum(depth >= block for depth in depths) / len(depths) for block in (1, 2, 3)]])
    return Routing(share, share, None, BLOCKS, RegionDepths(boxes, torch.tensor([depths])))


def evaluation(
    label: str = "sigma25", scale: int = 1, channels: int = 3, blind: bool = False, routing: Routing | None = None
) -> Evaluation:
    """A 64 x 96 image, noisy or shrunken, and one restored halfway to the original."""
    target = photograph(64, 96)[:, :channels]
    if scale == 1:
        image = plain = target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    else:
        image = F.avg_pool2d(target, scale)
        plain = F.interpolate(image, scale_factor=scale, mode="bicubic").clamp(0, 1)
    name = "bicubic" if scale > 1 else "noisy" if label.startswith("sigma") else "JPEG"
    known = None if blind else target
    protocol = "car" if name == "JPEG" else "denoise"
    sample = EvalSample(
        image, known, plain, (scale, scale), label, "Toy", "photo", protocol, torch.tensor([0]), 25, name
    )
    restored = (0.5 * plain + 0.5 * target).clamp(0, 1)
    done = Restoration(restored, routing, torch.tensor([2e9], dtype=torch.float64), full_macs=int(3e9))
    if blind:
        return Evaluation(sample, done, None, None, None, 5.0)
    return Evaluation(sample, done, 26.0, 20.0, 0.8, 5.0, psnr_b=25.5 if protocol == "car" else None)


def panel(**options: Any) -> Figure:
    shown = evaluation(**options)
    return draw(shown, record(shown), 24)


def titles(figure: Figure) -> list[str]:
    """Of the upper row."""
    return [axes.get_title() for axes in figure.axes[: len(figure.axes) // 2]]


def test_a_denoised_image_stands_between_the_noisy_and_the_clean_one() -> None:
    assert titles(panel()) == ["noisy 20.00 dB", "ours 26.00 dB (+6.00)", "clean 96x64"]
    assert titles(panel(label="q10"))[0] == "JPEG 20.00 dB"


def test_an_enlarged_image_has_the_four_columns() -> None:
    found = titles(panel(label="x2", scale=2))
    assert found == ["LR 48x32", "bicubic 20.00 dB", "ours 26.00 dB (+6.00)", "HR 96x64"]


def test_without_ground_truth_nothing_is_measured_and_nothing_compared() -> None:
    assert titles(panel(label="x2", scale=2, blind=True)) == ["LR 48x32", "bicubic", "ours"]
    figure = panel(label="real", blind=True)
    assert titles(figure) == ["input", "ours"]
    assert figure.get_suptitle() == "Toy photo, real, 2.00 GMACs"


@pytest.mark.parametrize("scale", [1, 2])
def test_a_gray_image_is_shown_in_gray(scale: int) -> None:
    shown = evaluation("x2" if scale > 1 else "sigma25", scale, channels=1)
    for axes in draw(shown, record(shown), 24).axes:
        pixels = np.asarray(axes.images[0].get_array())
        assert pixels.shape[-1] == 3 and np.ptp(pixels, axis=-1).max() == 0
    upper = draw(shown, record(shown), 24).axes
    np.testing.assert_allclose(
        np.asarray(upper[scale].images[0].get_array())[..., 0], shown.restoration.image[0, 0].numpy()
    )


def test_the_crop_is_the_same_for_every_network_where_there_is_no_ground_truth() -> None:
    one = evaluation("real", blind=True)
    other = replace(one, restoration=replace(one.restoration, image=torch.rand(1, 3, 64, 96)))
    marks = [draw(shown, record(shown), 24).axes[0].patches[0].get_bbox().bounds for shown in (one, other)]
    assert marks[0] == marks[1]


def test_a_depth_is_told_and_beta_only_where_there_is_one() -> None:
    whole = regions(3, boxes=((0, 64, 0, 96),))
    assert panel(routing=whole).get_suptitle().endswith("2.00 GMACs, mean depth 3.0 blocks")
    assert len(titles(panel(routing=whole))) == 3, "one region needs no map"
    assert panel(routing=regions(1, 2, 3, 3)).get_suptitle().replace("\n", " ").endswith("mean depth 2.2 blocks")
    gates = torch.tensor([[1.0, 0.0]])
    told = panel(routing=Routing(gates, gates, torch.tensor([0.61]), ("group 1 a", "group 1 b"))).get_suptitle()
    assert told.replace("\n", " ").endswith("beta 0.61, 50% of branches") and "depth" not in told


def test_more_regions_have_a_column_with_their_depths_and_its_legend() -> None:
    figure = panel(routing=regions(1, 3, 3, 3))
    assert titles(figure) == ["noisy 20.00 dB", "ours 26.00 dB (+6.00)", "clean 96x64", "depth of each region"]
    depth_map, legend = figure.axes[3], figure.axes[7]
    assert [text.get_text() for text in depth_map.texts] == ["1", "3", "3", "3"]
    tints = [patch for patch in depth_map.patches if isinstance(patch, Rectangle) and patch.get_fill()]
    expected = [colours(3)[depth - 1] for depth in (1, 3, 3, 3)]
    assert [patch.get_facecolor()[:3] for patch in tints] == [to_rgba(colour)[:3] for colour in expected]
    assert [patch.get_width() for patch in legend.patches if isinstance(patch, Rectangle)] == [1, 0, 3]
    written = {text.get_text() for text in legend.texts}
    assert written == {"depth 1", "depth 2", "depth 3", "1 region", "0 regions", "3 regions"}


def test_the_map_of_an_enlargement_is_as_large_as_the_image() -> None:
    halves = tuple(tuple(edge // 2 for edge in box) for box in QUARTERS)
    figure = panel(label="x2", scale=2, blind=True, routing=regions(1, 2, 3, 1, boxes=halves))  # type: ignore[arg-type]
    assert titles(figure)[3:] == ["depth of each region"]
    tints = [patch for patch in figure.axes[3].patches if isinstance(patch, Rectangle) and patch.get_fill()]
    assert sum(patch.get_width() * patch.get_height() for patch in tints) == 64 * 96


def test_hundreds_of_regions_have_no_numbers() -> None:
    boxes = tuple((top, top + 2, left, left + 2) for top in range(0, 64, 2) for left in range(0, 96, 2))
    figure = panel(routing=regions(*[1] * len(boxes), boxes=boxes))
    assert not figure.axes[3].texts


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), share=st.integers(0, 3), size=st.integers(7, 20))
def test_cores_cover_the_image_once(rows: int, columns: int, share: int, size: int) -> None:
    step = size - share
    boxes = tuple(
        (row * step, row * step + size, column * step, column * step + size)
        for row in range(rows)
        for column in range(columns)
    )
    found = cores(boxes)
    area = (step * (rows - 1) + size) * (step * (columns - 1) + size)
    assert sum((bottom - top) * (right - left) for top, bottom, left, right in found) == pytest.approx(area)
    for box, core in zip(boxes, found, strict=True):
        assert box[0] <= core[0] < core[1] <= box[1] and box[2] <= core[2] < core[3] <= box[3]


# ------------------------------------------------------------------------------------------------ a whole test


class Replay(TinyTraining):
    """Its test gives these evaluations."""

    def __init__(self, given: Sequence[Evaluation]) -> None:
        super().__init__()
        self.given = list(given)

    def test_step(self, sample: EvalSample, index: int) -> Evaluation:
        return self.given[index]


@pytest.fixture
def replay(tmp_path: Path) -> Callable[..., None]:
    def run(given: Sequence[Evaluation], *watchers: Callback, module: type[Replay] = Replay) -> None:
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
            enable_progress_bar=any(isinstance(one, RunProgress) for one in watchers), default_root_dir=tmp_path,
            callbacks=list(watchers),
        )  # fmt: skip
        trainer.test(module(given), DataLoader(range(len(given)), batch_size=None), verbose=False)  # type: ignore[arg-type]

    return run


def named(shown: Evaluation, name: str, label: str) -> Evaluation:
    return replace(shown, sample=shown.sample._replace(name=name, label=label))


def lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_real_photographs_go_through_every_callback(tmp_path: Path, replay: Callable[..., None]) -> None:
    watchers = [Panels(), Flops(), RoutingMap(), Predictions(), SummaryCallback("flexir", "smoke", 0)]
    replay([evaluation("x2", 2, blind=True, routing=regions(1, 2, 3, 3))], *watchers)
    row = json.loads((tmp_path / "summary.json").read_text())["metrics"]["Toy"]["x2"]
    assert [row[key] for key in ("psnr", "psnr_plain", "ssim", "psnr_b", "beta")] == [None] * 5
    assert row["active_fraction"] == pytest.approx((4 + 3 + 2) / 12) and row["plain"] == "bicubic"
    assert "| x2 | - | - | - | - | 2.000 |" in (tmp_path / "summary.md").read_text()
    (image,) = lines(tmp_path / "per_image.csv")
    assert [image[key] for key in ("plain", "psnr", "psnr_plain", "ssim", "psnr_b", "beta")] == ["bicubic", *[""] * 5]
    assert [path.name for path in tmp_path.glob("panels/*")] == ["Toy_x2_photo.png"]


def test_levels_stay_in_their_order_and_blocks_are_shares_of_regions(
    tmp_path: Path, replay: Callable[..., None]
) -> None:
    noisy = evaluation(routing=regions(1, 2, 3, 3)), evaluation(routing=regions(1, 1, 1, 2))
    labels = ("sigma15", "sigma50", "sigma25")
    given = [named(one, name, label) for one, name in zip(noisy, "ab", strict=True) for label in labels]
    replay(given, RoutingMap(), Flops(), SummaryCallback("flexir", "smoke", 0))
    rows = lines(tmp_path / "routing.csv")
    assert list(dict.fromkeys(row["label"] for row in rows)) == list(labels)
    assert [float(row["frequency"]) for row in rows[:3]] == [1.0, (3 / 4 + 1 / 4) / 2, (2 / 4 + 0) / 2]
    assert [row["label"] for row in lines(tmp_path / "macs.csv")] == list(labels)
    assert list(json.loads((tmp_path / "summary.json").read_text())["metrics"]["Toy"]) == list(labels)
    assert "| level | noisy | ours |" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(("labels", "name"), [(("x2", "x2x3"), "scale"), (("q10", "q40"), "level")])
def test_the_axis_of_the_heat_map_has_the_right_name(labels: tuple[str, str], name: str) -> None:
    figure = heat_map({label: [1.0, 0.5, 0.0] for label in labels}, BLOCKS, dict.fromkeys(labels, 2))
    assert figure.axes[0].get_xlabel() == name
    assert {"100%", "50%", "0%", "block"} <= {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_predictions_are_gray_or_colour_files(
    tmp_path: Path, replay: Callable[..., None], channels: int, mode: str
) -> None:
    shown = evaluation(channels=channels)
    replay([shown], Predictions())
    with Image.open(tmp_path / "predictions" / "Toy" / "sigma25" / "photo.png") as image:
        assert (image.mode, image.size) == (mode, (96, 64))
        pixels = torch.from_numpy(np.array(image)).reshape(64, 96, channels).permute(2, 0, 1)
    assert torch.equal(pixels, shown.restoration.image[0].mul(255).round().byte())


def test_progress_gives_no_db_that_nobody_knows(
    replay: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sparse, "__call__", lambda self, share: True)
    replay([evaluation(), evaluation("real", blind=True)], RunProgress(live=False))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("test:")]
    assert told[0].startswith("test: image 1/2  Toy sigma25  26.00 dB")
    assert told[1] == "test: image 2/2  Toy real"


def test_a_routed_network_without_beta_has_no_curve(tmp_path: Path, replay: Callable[..., None]) -> None:
    class Blocks(Replay):
        def __init__(self, given: Sequence[Evaluation]) -> None:
            super().__init__(given)
            backbone: Any = self.restorer.backbone
            backbone.image_channels, backbone.route = 1, self.route

        def route(self, image: torch.Tensor, task: Any) -> Routing:
            assert image.shape[1] == 1, "a gray network is asked about a gray image"
            return regions(1, 2, 3, 3)

    assert beta_curve(Blocks([]), (2.0, 4.0)) is None
    replay([evaluation()], BetaCurve(), module=Blocks)
    assert not list(tmp_path.glob("beta_curve*"))
