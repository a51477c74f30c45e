"""FlexIR's tables: what they count is what our networks have; rows of each pointer, threshold and training."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynres.contracts import Task
from dynres.cost.__main__ import measure
from dynres.cost.counter import count_parameters
from dynres.restorer import Restorer
from dynres.tables import flexir
from dynres.tables.published import network
from dynres.tables.rows import at, systems
from dynres.tables.sheet import Measured, Sheet
from dynres.tables.validate import check
from dynres.upsamplers.base import GridUpsampler

from .fakes import Fake, cell, demo_runs, published, row, stands, worst_cost

PUBLISHED: Any = published("flexir")
SIZE = (128, 128)
POINTERS = ("P = 1", "P = 2", "P = 3", "P = 4", "P = 5", "Full Size")
# The first convolution, P blocks and a branch, without the tables of position biases.
PARAMS = {
    3: (2_161_263, 4_020_123, 5_878_983, 7_737_843, 9_596_703, 11_455_563),
    4: (2_154_781, 4_013_641, 5_872_501, 7_731_361, 9_590_221, 11_449_081),
}


@cache
def sheet(number: int) -> Sheet:
    (found,) = flexir.TABLES[f"flexir/{number}"](PUBLISHED, Fake())
    return found


def value(measured: Measured | None) -> float:
    assert measured is not None and measured.value is not None
    return measured.value


def built(number: int, name: str) -> Restorer:
    about = PUBLISHED[f"table{number}"]["systems"][name]
    return network(
        tuple(about["network"]) if "network" in about else at(about["recipe"], {3: "sigma25", 4: "q40"}[number])
    )


# ------------------------------------------------------------------------------------------------------- counts


def test_costs_that_can_be_reached_are() -> None:
    """To the printed digits: DnCNN's 557,443 parameters are printed as 0.56 M."""
    assert check(sheet(3)) == check(sheet(4)) == []
    assert worst_cost([sheet(3), sheet(4)]) == pytest.approx(0.0045661, abs=1e-6)


@pytest.mark.parametrize("number", PARAMS)
@pytest.mark.parametrize("name", POINTERS)
def test_every_pointer_has_the_published_parameters_and_macs(number: int, name: str) -> None:
    params, macs = (cell(sheet(number), name, column, "") for column in ("#Params", "MACs"))
    assert value(params.ours) * 1e6 == pytest.approx(PARAMS[number][POINTERS.index(name)], abs=0.5)
    assert params.published is not None and abs(value(params.ours) - params.published) < 0.005
    assert macs.published is not None and abs(value(macs.ours) / macs.published - 1) < 5e-4


@pytest.mark.parametrize(
    ("number", "name", "params", "macs"),
    [
        (3, "SwinIR", 11_455_563, 188.034),
        (3, "DnCNN", 557_443, 9.116),
        (3, "DRUNet", 32_640_960, 35.902),
        (4, "DRUNet", 32_638_656, 35.864),
        (4, "RDN", 22_123_395, 362.395),
        (4, "RNAN", 8_957_249, 123.868),
    ],
)
def test_the_other_networks_count_what_is_said_of_them(number: int, name: str, params: int, macs: float) -> None:
    found, spent = (cell(sheet(number), name, column, "") for column in ("#Params", "MACs"))
    assert value(found.ours) * 1e6 == pytest.approx(params, abs=0.5)
    assert value(spent.ours) == pytest.approx(macs, abs=5e-4)
    assert found.difference is not None and abs(found.difference) < 0.005
    assert spent.published is not None and abs(value(spent.ours) / spent.published - 1) < 0.002


def biases(network: Restorer) -> int:
    """Output elements of the convolutions that have a bias, each an addition, of one image of SIZE."""
    found: list[int] = []

    def count(module: nn.Module, inputs: Any, out: Tensor) -> None:
        found.append(out.numel() if getattr(module, "bias", None) is not None else 0)

    hooks = [
        part.register_forward_hook(count) for part in network.modules() if isinstance(part, nn.modules.conv._ConvNd)
    ]
    assert isinstance(network.upsampler, GridUpsampler)
    image = torch.empty(1, network.backbone.image_channels, *SIZE, device="meta")
    network.upsampler(network.backbone(image, Task()))
    for hook in hooks:
        hook.remove()
    return sum(found)


def test_the_remarks_on_rdn_and_rnan_explain_their_published_macs() -> None:
    """Biases; RDN for gray, whose first and last convolutions are narrower; RNAN without its two softmaxes."""
    height, width = SIZE
    rdn, rnan = (cell(sheet(4), name, "MACs", "") for name in ("RDN", "RNAN"))
    narrower = 2 * 9 * 64 * 5 * height * width + 2 * 4 * height * width  # and two biases of the last
    assert value(rdn.ours) + (biases(built(4, "RDN")) - narrower) / 1e9 == pytest.approx(rdn.published, rel=2e-5)
    more = biases(built(4, "RNAN")) / 1e9
    assert more == pytest.approx(0.15, abs=0.05)
    assert value(rnan.ours) + more == pytest.approx(rnan.published, rel=5e-4)
    softmaxes = measure(built(4, "RNAN"), SIZE, "thop", 1.0)["macs"] / 1e9 - value(rnan.ours)
    assert softmaxes == pytest.approx(1.61, abs=0.005)


@pytest.mark.parametrize(
    ("number", "one_branch", "macs", "all_branches"),
    [(3, 11_504_163, 200.07, 12_989_178), (4, 11_485_585, 212.46, 12_954_390)],
)
def test_what_there_is_beyond_the_published_counts(
    number: int, one_branch: int, macs: float, all_branches: int
) -> None:
    everything = [cell(sheet(number), "Full Size", column, "everything") for column in ("#Params", "MACs")]
    assert value(everything[0].ours) * 1e6 == pytest.approx(one_branch, abs=0.5)
    assert value(everything[1].ours) == pytest.approx(macs, abs=5e-3)
    assert all(one.published is None for one in everything)
    adaptive = cell(sheet(number), "Adaptive*", "#Params", "everything")
    assert value(adaptive.ours) * 1e6 == pytest.approx(all_branches, abs=0.5), "it needs all of them"
    assert not cell(sheet(number), "Adaptive*", "#Params", "").reachable
    assert cell(sheet(number), "Adaptive*", "MACs", "").ours is None, "as many as its image needs"
    assert count_parameters(built(number, "Full Size")) == all_branches


def test_both_conventions_count_in_one_pass_what_each_counts_alone() -> None:
    words = (
        "backbone=flexir",
        "backbone.embed_dim=12",
        "backbone.depths=[1,2]",
        "backbone.heads=2",
        "upsampler=as_image",
    )
    small = ("task=denoise_color", "method=flexir", "method.pretraining=0.5", *words)
    for pointer in (1, 2, None):
        found = flexir.costs_of(small, pointer, (16, 24))
        for convention in ("thop", "all"):
            alone = measure(flexir.pointed(small, pointer), (16, 24), convention, 1.0)
            assert found[convention] == alone


# ----------------------------------------------------------------------------------------------------- published


def test_published_cells_are_those_of_the_data() -> None:
    for number in range(1, 7):
        table, found = PUBLISHED[f"table{number}"], sheet(number)
        for one in found.rows:
            for column, its in zip(found.columns, one.cells, strict=True):
                if column.ours:
                    assert its.published is None
                elif column.metric.kind == "cost":
                    name = {"params": "params", "gmacs": "macs", "time": "time"}[column.metric.name]
                    assert its.published == table["systems"][one.name][name]
                else:
                    cells = table["rows"][one.name][column.group][column.level]
                    assert its.published == cells[table["metrics"].index(column.metric.name)]


def test_numbers_that_the_paper_prints_twice_agree() -> None:
    """Tables 3 and 4 repeat cells of Tables 1 and 2; Table 5 the adaptive row; Table 6 the mean over the pointers."""
    both = {"Full Size": "FlexIR [Full Size]", "P = 4": "FlexIR [P = 4]"}
    for number, names in (
        (3, ["Full Size", "P = 4", "DnCNN", "DRUNet"]),
        (4, ["Full Size", "P = 4", "DRUNet", "RDN", "RNAN"]),
    ):
        for name in names:
            ((dataset, levels),) = PUBLISHED[f"table{number}"]["rows"][name].items()
            for level, cells in levels.items():
                assert PUBLISHED[f"table{number - 2}"]["rows"][both.get(name, name)][dataset][level] == cells
    rows = {name: levels["McMaster"]["sigma25"][0] for name, levels in PUBLISHED["table3"]["rows"].items()}
    assert rows["Adaptive*"] == round(PUBLISHED["table5"]["rows"]["1.10×"]["McMaster"]["sigma25"][0], 2)
    mean = sum(rows[name] for name in POINTERS) / 6
    assert mean == pytest.approx(PUBLISHED["table6"]["rows"]["PSD + C-WS"]["McMaster"]["sigma25"][0], abs=0.005)


def test_digits_are_the_papers() -> None:
    assert {column.metric.name: column.metric.digits for column in sheet(5).columns} == {
        "time": 2,
        "psnr": 3,
        "ssim": 4,
    }
    assert [column.metric.digits for column in sheet(6).columns] == [3]
    assert {column.metric.name: column.metric.digits for column in sheet(2).columns} == {
        "psnr": 2,
        "ssim": 4,
        "psnr_b": 2,
    }


# ------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("number", range(1, 7))
def test_every_recipe_can_be_run(number: int, tmp_path: Path) -> None:
    (weights := tmp_path / "a.ckpt").touch()
    for system in systems(PUBLISHED[f"table{number}"]):
        _, level = next(iter(system.published))
        if system.recipe is None:
            assert row(sheet(number), system.name).status == "cited only"
            continue
        cfg = stands(system.recipe(level), weights)
        assert cfg.profile_name == "paper" and cfg.data.source == "div2k"
        assert system.demo is None or system.demo in demo_runs("flexir")


def test_flexir_starts_from_a_swinir_of_the_same_level() -> None:
    (full,) = [one for one in systems(PUBLISHED["table2"]) if one.name == "FlexIR [Full Size]"]
    assert full.recipe is not None
    recipe = full.recipe("q30")
    assert recipe.start is not None and "backbone=swinir_denoise" in recipe.start.overrides
    assert recipe.overrides[-1] == recipe.start.overrides[-1] == "task.quality=30"


def test_a_network_that_is_told_the_noise_is_trained_once() -> None:
    for name, once in (("FFDNet", True), ("DRUNet", True), ("DnCNN", False)):
        (system,) = [one for one in systems(PUBLISHED["table1"]) if one.name == name]
        assert system.recipe is not None
        assert (system.recipe("sigma15") == system.recipe("sigma50")) is once


def test_each_row_takes_its_way_through_the_network() -> None:
    ways = {one.name: one.way for number in (3, 5, 6) for one in systems(PUBLISHED[f"table{number}"])}
    assert [ways[name] for name in (*POINTERS, "Adaptive*", "1.00×")] == [
        "P=1", "P=2", "P=3", "P=4", "P=5", "", "h=1.10", "h=1.00",
    ]  # fmt: skip
    assert {ways[name] for name in ("SD", "PSD", "PSD + C-WS")} == {"mean P"}


def test_the_demo_has_columns_of_its_own() -> None:
    numbers = {("PSD", "demo", "sigma25", "psnr"): 30.03}
    (found,) = flexir.TABLES["flexir/6"](PUBLISHED, Fake(numbers, own=[("demo", "sigma25")]))
    own = cell(found, "PSD", "sigma25", "demo: ours")
    assert own.published is None and value(own.ours) == 30.03
    assert cell(found, "PSD", "sigma25", "McMaster").ours is None
    (first,) = flexir.TABLES["flexir/1"](PUBLISHED, Fake(own=[("demo", "sigma25")]))
    assert flexir.SHALLOW in first.notes and flexir.SHALLOW not in sheet(1).notes


def test_measured_numbers_stand_in_their_cells() -> None:
    ours = Fake({("DnCNN-3", "classic5", "q10", "psnr_b"): 29.1})
    (found,) = flexir.TABLES["flexir/2"](PUBLISHED, ours)
    assert cell(found, "DnCNN-3", "q10 PSNR-B", "classic5").difference == pytest.approx(-0.03)
    assert {asked[3] for asked in ours.asked} == {"car"} and found.label == Fake.label
