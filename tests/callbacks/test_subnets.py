"""What each subnet of AnySR gives and costs: numbers that are the evaluations', at any scale, budget or tile."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

from dynres.backbones.anysr import AnySR
from dynres.backbones.base import Backbone
from dynres.backbones.edsr import EDSR
from dynres.callbacks import ways
from dynres.callbacks.subnets import BY_SCALE, Point, Subnets, _table, by_dataset
from dynres.contracts import EvalSample
from dynres.methods.base import Inference, RestorationTraining
from dynres.report import Record, record
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF

from .conftest import SCALES, photograph, samples
from .test_configs import callbacks
from .test_watchers import assert_picture, lines

WIDTHS = ["0.5", "0.7", "0.9", "1"]
PICKED = {"x2": "0.7", "x3": "0.9", "x4": "1"}


def method(backbone: Backbone | None = None, inference: Inference | None = None) -> RestorationTraining:
    """Of a network in which every channel matters, so that no two subnets agree."""
    torch.manual_seed(0)
    backbone = backbone or AnySR(EDSR(16, 1, 1.0))
    restorer = Restorer(backbone, LIIF(backbone.out_channels, hidden=8, layers=1), image_skip=True)
    for parameter in restorer.parameters():
        nn.init.normal_(parameter, std=0.05)
    return RestorationTraining(restorer, 1e-3, [], 0.5, inference=inference)


def watched(
    folder: Path, *watchers: Callback, made: RestorationTraining | None = None, given: Sequence[EvalSample] = ()
) -> None:
    """A test that these callbacks watch."""
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=list(watchers),
    )  # fmt: skip
    loader: Any = DataLoader(list(given) or samples(), batch_size=None, collate_fn=lambda sample: sample)  # type: ignore[arg-type]
    trainer.test(made or method(), loader, verbose=False)


def table(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """subnets.csv by label and way."""
    return {(row["label"], row["way"]): row for row in lines(folder / "subnets.csv")}


def restored(made: RestorationTraining, sample: EvalSample, step: int) -> Record:
    """By a subnet, which the network is told to run."""
    backbone = made.restorer.backbone
    assert isinstance(backbone, AnySR)
    budget = backbone.shares(*sample.image.shape[-2:])[step]
    evaluation = made.evaluate(sample, Inference(budget))
    assert evaluation.restoration.routing is not None and evaluation.restoration.routing.decisions.sum() == step
    return record(evaluation)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a test of all samples."""
    folder = tmp_path_factory.mktemp("usual")
    watched(folder, Subnets())
    return folder


def test_numbers_are_those_of_each_subnet_and_of_the_scales(usual: Path) -> None:
    made, found = method().eval(), table(usual)
    assert list(found) == [(f"x{scale:g}", way) for scale in SCALES for way in [*WIDTHS, BY_SCALE]]
    for label, picked in PICKED.items():
        for step, way in enumerate(WIDTHS):
            each = [restored(made, sample, step) for sample in samples() if sample.label == label]
            row = found[label, way]
            for column in ("psnr", "psnr_plain", "ssim", "macs", "fraction"):
                expected = sum(getattr(one, column) for one in each) / 2
                assert float(row[column]) == pytest.approx(expected, rel=1e-6), (label, way, column)
            assert float(row["gain"]) == pytest.approx(float(row["psnr"]) - float(row["psnr_plain"]))
            assert (row["images"], row["picked"]) == ("2", "2" if way == picked else "0")
        differing = {"way", "picked"}
        assert {k: v for k, v in found[label, BY_SCALE].items() if k not in differing} == {
            k: v for k, v in found[label, picked].items() if k not in differing
        }
    assert len({row["psnr"] for (_, way), row in found.items() if way != BY_SCALE}) == 12, "subnets differ"
    assert_picture(usual / "subnets.png", (300, 900))


class Passes(Callback):
    """How many images the network has worked through, and which subnets ran."""

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.steps: list[int] = []
        backbone = pl_module.restorer.backbone
        backbone.network.register_forward_pre_hook(
            lambda _, given: None if given[0].is_meta else self.steps.append(backbone.subnet.step)
        )


def test_each_subnet_runs_once_an_image(tmp_path: Path) -> None:
    passes = Passes()
    watched(tmp_path, passes, Subnets(), given=samples()[1:4])
    assert len(passes.steps) == 3 * 4
    assert all(sorted(passes.steps[start : start + 4]) == [0, 1, 2, 3] for start in range(0, 12, 4))


@pytest.mark.parametrize("budget", [0.8, 1.0])
def test_under_a_budget_the_scale_still_picks_its_subnet(usual: Path, tmp_path: Path, budget: float) -> None:
    watched(tmp_path, Subnets(), made=method(inference=Inference(budget)), given=samples()[:2])
    free, paid = table(usual), table(tmp_path)
    assert list(paid) == [("x2", way) for way in [*WIDTHS, BY_SCALE]]
    for key, row in paid.items():
        assert {k: v for k, v in row.items() if k != "ms"} == {k: v for k, v in free[key].items() if k != "ms"}


def test_the_table_marks_what_the_scales_pick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched(tmp_path, Subnets())
    text, found = (tmp_path / "subnets.md").read_text(encoding="utf-8"), table(tmp_path)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    costs = ["GMACs 0.5", "GMACs 0.7", "GMACs 0.9", "GMACs 1 ‡"]
    assert rows[0] == ["scale", "bicubic", "0.5", "0.7", "0.9", "1 ‡", *costs]
    for label, *cells in rows[2:]:
        marked = [f"{float(found[label, way]['psnr']):.3f}" + " †" * (way == PICKED[label]) for way in WIDTHS]
        assert cells[1:] == [*marked, *(f"{float(found[label, way]['macs']) / 1e9:.3f}" for way in WIDTHS)]
    printed = capsys.readouterr().out
    macs = {way: sum(float(found[f"x{scale:g}", way]["macs"]) for scale in SCALES) for way in ("1", BY_SCALE)}
    psnr = {way: sum(float(found[f"x{scale:g}", way]["psnr"]) for scale in SCALES) / 3 for way in ("1", BY_SCALE)}
    for name, way in (("† the subnet of the scale", BY_SCALE), ("‡ the whole network at every scale", "1")):
        line = f"{name}: {psnr[way]:.3f} dB, {macs[way] / 3e9:.3f} GMACs, {macs[way] / macs['1']:.1%} of ‡"
        assert line in text and line in printed


def test_without_originals_costs_are_shown(tmp_path: Path) -> None:
    real = [each._replace(target=None, protocol="real", dataset="real") for each in samples() if each.label == "x2"]
    watched(tmp_path, Subnets(), given=real)
    text, row = (tmp_path / "subnets.md").read_text(encoding="utf-8"), table(tmp_path)["x2", "0.7"]
    assert (row["psnr"], row["gain"], row["picked"]) == ("", "", "2") and float(row["macs"]) > 0
    assert "| scale | GMACs 0.5 | GMACs 0.7 |" in text and "no ground truth" in text and "dB" not in text
    assert f"| {float(row['macs']) / 1e9:.3f} † |" in text
    assert_picture(tmp_path / "subnets.png", (300, 900))


def at(scale: tuple[float, float], label: str, size: tuple[int, int] = (6, 7)) -> EvalSample:
    """An image of this size, to be enlarged."""
    height, width = (round(side * factor) for side, factor in zip(size, scale, strict=True))
    target, seed = photograph(height, width), torch.tensor([0])
    return EvalSample(photograph(*size), target, target, scale, label, "Toy", "one", "real", seed)


def test_pairs_of_scales_and_scales_beyond_the_groups_have_their_rows(tmp_path: Path) -> None:
    given = [at((30.0, 30.0), "x30"), at((2.0, 3.0), "x2x3"), at((1.5, 1.5), "x1.5"), at((1.0, 1.0), "x1")]
    watched(tmp_path, Subnets(), given=[each._replace(target=None) for each in given])
    found = table(tmp_path)
    assert list(dict.fromkeys(label for label, _ in found)) == ["x1", "x1.5", "x2x3", "x30"]
    picked = {label: way for (label, way), row in found.items() if way != BY_SCALE and row["picked"] == "1"}
    assert picked == {"x30": "1", "x2x3": "0.9", "x1.5": "0.5", "x1": "0.5"}
    assert_picture(tmp_path / "subnets.png", (300, 900))


def test_images_of_one_row_may_differ_in_their_subnet(tmp_path: Path) -> None:
    """A scale an axis is what whole pixels make of it: 10 columns at x2.5 are 25, 11 are 28 of x2.545."""
    given = [at((2.0, 2.5), "x2x2.5", size)._replace(name=str(size)) for size in [(6, 10), (6, 11), (6, 12)]]
    made = method(AnySR(EDSR(16, 1, 1.0), rule="official"))
    watched(tmp_path, Subnets(), made=made, given=[each._replace(target=None) for each in given])
    assert "† the subnet" in (text := (tmp_path / "subnets.md").read_text(encoding="utf-8"))
    assert text.count(" †2/3 |") == text.count(" †1/3 |") == 1
    found = table(tmp_path)
    macs = (2 * float(found["x2x2.5", "0.7"]["macs"]) + float(found["x2x2.5", "1"]["macs"])) / 3
    assert float(found["x2x2.5", BY_SCALE]["macs"]) == pytest.approx(macs, rel=0.05)


def test_tiles_run_the_subnet_that_was_meant(tmp_path: Path) -> None:
    """Their overlaps cost more than the share, which is nobody's budget: no warning."""
    for name, tile in (("tiles", 24), ("whole", None)):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "a budget of")
            made = method(AnySR(EDSR(16, 1, 1.0), enhanced=False), Inference(tile=tile))
            watched(tmp_path / name, Subnets(), made=made, given=samples()[2:3])
    found, whole = (table(tmp_path / name) for name in ("tiles", "whole"))
    assert list(found) == [("x3", way) for way in [*WIDTHS, BY_SCALE]]
    for key, row in found.items():
        assert row["picked"] == whole[key]["picked"]
        assert float(row["psnr"]) == pytest.approx(float(whole[key]["psnr"]), abs=1e-3)
        assert float(row["macs"]) > float(whole[key]["macs"])


def test_a_network_without_subnets_is_left_alone(tmp_path: Path) -> None:
    watched(tmp_path, Subnets(), made=method(EDSR(8, 1, 1.0)))
    assert list(tmp_path.iterdir()) == []


def test_images_of_other_processes_count(usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way is gathered, also in a process that saw no image."""
    gathered: list[int] = []

    def gather(trainer: Trainer, records: Sequence[Record]) -> list[Record]:
        gathered.append(len(records))
        return [*records, *(replace(each, image=f"other {each.image}", macs=3 * each.macs) for each in records)]

    monkeypatch.setattr(ways, "from_all_processes", gather)
    watched(tmp_path, Subnets(), given=samples()[:2])
    assert gathered == [2] * 5
    alone, both = table(usual), table(tmp_path)
    for key, row in both.items():
        assert row["images"] == "4" and float(row["macs"]) == pytest.approx(2 * float(alone[key]["macs"]))
        assert int(row["picked"]) == 2 * int(alone[key]["picked"]) or key[1] == BY_SCALE
    empty = Subnets()
    empty.on_test_start(None, method())  # type: ignore[arg-type]
    assert list(empty.ways) == [*WIDTHS, BY_SCALE]


PSNR = st.floats(5, 60)


@given(st.lists(st.tuples(st.lists(PSNR, min_size=4, max_size=4), st.integers(0, 3)), min_size=1, max_size=5))
def test_the_line_of_the_scales_is_the_mean_of_the_marked_cells(drawn: list[tuple[list[float], int]]) -> None:
    points = []
    for scale, (psnr, picked) in enumerate(drawn):
        for step, way in enumerate([*WIDTHS, BY_SCALE]):
            value, macs = psnr[picked if way == BY_SCALE else step], 1e9 * (picked if way == BY_SCALE else step)
            marked = int(step == picked or way == BY_SCALE)
            points.append(
                Point("Set", f"x{scale + 1}", way, 1, marked, "div2k", "bicubic", value, 20, 0, 0.9, 1e9 + macs, 1, 1)
            )
    shown = _table(by_dataset(points)["Set"])
    cells = [cell for row in shown.rows for cell in row if cell.endswith("†")]
    assert len(cells) == len(drawn)
    means = [sum(psnr[picked] for psnr, picked in drawn) / len(drawn), sum(psnr[3] for psnr, _ in drawn) / len(drawn)]
    for note, expected in zip(shown.notes, means, strict=True):
        assert float(note.split(": ")[1].split(" dB")[0]) == pytest.approx(expected, abs=2e-3)


def test_the_configuration_adds_it_to_the_default() -> None:
    built = callbacks("+callbacks=anysr")
    assert list(built) == [*callbacks(), "subnets"] and isinstance(built["subnets"], Subnets)
