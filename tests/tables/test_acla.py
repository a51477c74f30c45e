"""ACLA's tables: what can be counted is what our networks have, the rest says why; how rows come about."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dynres.build import compose_checked
from dynres.cost.counter import count_parameters
from dynres.tables import acla
from dynres.tables.published import network
from dynres.tables.rows import at, systems
from dynres.tables.sheet import Sheet
from dynres.tables.validate import check

from .fakes import Fake, cell, demo_runs, published, row, stands, worst_cost

PUBLISHED: Any = published("acla")
COSTS = (4, 5, 6, 7, 8, 11)
QUALITY = (1, 2, 3, 10)
SIZE = (48, 48)
PIXELS, CHANNELS, EDSR = 48 * 48, 256, 40_729_603


@cache
def sheet(number: int) -> Sheet:
    (found,) = acla.TABLES[f"acla/{number}"](PUBLISHED, Fake())
    return found


def counts(number: int, name: str) -> tuple[float, float, float]:
    """M parameters; GMACs with no key and with every key."""
    params, macs = (cell(sheet(number), name, column).ours for column in ("Params", "FLOPs"))
    assert params is not None and params.value is not None and macs is not None and macs.value is not None
    return params.value, macs.value, macs.value if macs.top is None else macs.top


def off(ours: float, published: float) -> float:
    """Per cent."""
    return 100 * (ours / published - 1)


def printed(number: int, name: str) -> Any:
    return PUBLISHED[f"table{number}"]["systems"][name]


# ------------------------------------------------------------------------------------------------------- counts


def test_costs_that_can_be_reached_are() -> None:
    """Within half a per cent of parameters and MACs."""
    sheets = [sheet(number) for number in (*QUALITY, *COSTS)]
    assert [check(one) for one in sheets] == [[]] * len(sheets)
    assert 0.0047 < worst_cost(sheets) < 0.005, "ACLA's MACs, which fit four modules (Table 4)"


def test_edsr_has_the_published_parameters_and_macs() -> None:
    params, fewest, most = counts(4, "EDSR")
    assert round(params * 1e6) == EDSR and round(params, 2) == printed(4, "EDSR")["params"]
    assert fewest == most == pytest.approx(93.85, abs=0.005)
    assert off(most, printed(4, "EDSR")["macs"]) == pytest.approx(-0.13, abs=0.005)


# Four CLA modules, which refer to 2, 3, 4 and 5 maps: 14 in all. Per cent by which ours are off: parameters, MACs.
@pytest.mark.parametrize(
    ("keys", "params_off", "macs_off"),
    [(4, 0.32, 0.015), (8, 0.31, 0.105), (16, 0.30, 0.30), (32, 0.31, 0.285), (64, 0.325, 0.245)],
)
def test_cla_has_the_published_counts_at_every_number_of_keys(keys: int, params_off: float, macs_off: float) -> None:
    expected, (params, fewest, most) = printed(7, f"K = {keys}"), counts(7, f"K = {keys}")
    c, own = CHANNELS, CHANNELS * (CHANNELS + 1)
    assert round(params * 1e6) == EDSR + 14 * (own + 3 * keys * (c + 1)) + 4 * own
    added = PIXELS * (14 * (c * c + 3 * keys * c + keys * c) + 4 * c * c) / 1e9
    assert fewest == most == pytest.approx(counts(4, "EDSR")[1] + added, abs=1e-6)
    assert -params_off < off(params, expected["params"]) < 0
    assert -macs_off < off(most, expected["macs"]) < 0


def test_a_convolution_to_half_the_channels_would_give_cla_its_published_parameters() -> None:
    """What the note says of it."""
    half = 4 * CHANNELS // 2 * (CHANNELS + 1) / 1e6
    for name, about in PUBLISHED["table7"]["systems"].items():
        assert abs(off(counts(7, name)[0] + half, about["params"])) < 0.025


@pytest.mark.parametrize(
    ("name", "params_off", "macs_off"), [("L = 8", 0.16, 1.14), ("L = 16", 2.43, 3.04), ("L = 32", 4.85, 5.95)]
)
def test_more_cla_modules_grow_faster_than_published(name: str, params_off: float, macs_off: float) -> None:
    params, _, most = counts(5, name)
    assert off(params, printed(5, name)["params"]) == pytest.approx(params_off, abs=0.006)
    assert off(most, printed(5, name)["macs"]) == pytest.approx(macs_off, abs=0.006)


@pytest.mark.parametrize(
    ("keys", "variant", "percent"),
    [
        (8, "a", 0.03),
        (16, "a", 0.01),
        (32, "a", 0.31),
        (32, "b", 0.09),
        (64, "b", 0.35),
        (64, "c", 0.2),
        (128, "c", 0.66),
    ],
)
def test_acla_has_the_published_parameters_as_one_of_its_variants(keys: int, variant: str, percent: float) -> None:
    name = f"K = {keys}, {variant}"
    assert abs(off(counts(8, name)[0], printed(8, name)["params"])) < percent


@pytest.mark.parametrize(("keys", "percent"), [(8, 0), (16, 0), (32, 0), (64, 0.14), (128, 0.6)])
def test_acla_of_four_modules_spends_the_published_macs(keys: int, percent: float) -> None:
    """Between no key and every key: variant c, whose mask units are the smallest; from K = 64 on a little above."""
    name = f"K = {keys}, c"
    expected, (_, fewest, most) = printed(8, name)["macs"], counts(8, name)
    assert off(fewest, expected) < percent and expected < most
    assert most - fewest == pytest.approx(14 * PIXELS * keys * CHANNELS / 1e9, abs=1e-6), "every key of 14 maps"
    difference = cell(sheet(8), name, "FLOPs").difference
    assert difference == (0 if percent == 0 else pytest.approx(fewest - expected)), "0 inside of the range"


@pytest.mark.parametrize(
    ("number", "name", "params", "macs"),
    [(4, "NL", 41.782, 107.135), (4, "CLNL", 42.572, 125.249), (11, "EDSR + SE", 40.763, 93.85),
     (11, "EDSR + ACLA + SE", 42.334, 97.58)],
)  # fmt: skip
def test_what_cannot_be_reproduced_has_the_counts_of_the_usual_blocks(
    number: int, name: str, params: float, macs: float
) -> None:
    ours = counts(number, name)
    assert (ours[0], ours[2]) == pytest.approx((params, macs), abs=0.006)
    assert not cell(sheet(number), name, "Params").reachable and not cell(sheet(number), name, "FLOPs").reachable


def test_macs_of_a_network_are_a_range_where_keys_are_chosen() -> None:
    """By hand: two modules that refer to 2 and 3 maps of 8 channels, 4 keys each."""
    words = ["backbone.channels=8", "backbone.blocks=2", "backbone.positions=2", "backbone.keys=4"]
    small = (
        "task=sr",
        "method=assr",
        "backbone=acla_edsr",
        *words,
        "backbone.refer_head=true",
        "upsampler=pixelshuffle",
    )
    fewest, most = acla.gmacs(small, (6, 5))
    trunk = 9 * (3 * 8 + 5 * 8 * 8)  # the first convolution, two blocks and the last
    modules = 5 * (64 + 3 * 4 * 8 + 4 * 8) + 2 * 64  # values, queries and masks of each map; outputs
    head = 9 * 8 * 32 + 4 * 9 * 8 * 3
    assert fewest * 1e9 == pytest.approx(30 * (trunk + modules + head))
    assert (most - fewest) * 1e9 == pytest.approx(30 * 5 * 4 * 8)


def test_parameters_of_table_1_are_those_of_each_scale_and_compared_at_x2() -> None:
    """The paper prints x2's at every scale."""
    heads = {"x2": 40_729_603, "x3": 43_680_003, "x4": 43_089_923}
    for scale, params in heads.items():
        found = cell(sheet(1), "EDSR", scale, "Params")
        assert found.published == 40.7 and found.reachable == (scale == "x2")
        assert found.ours is not None and found.ours.value == params / 1e6
    assert cell(sheet(1), "MemNet", "x2", "Params").ours is None, "cited only"
    assert cell(sheet(1), "Bicubic", "x2", "Params").published is None


def test_what_cannot_be_reached_says_why() -> None:
    for number in (*QUALITY, *COSTS):
        for name, about in PUBLISHED[f"table{number}"]["systems"].items():
            told = about.get("remark", "") or ("no one network" in " ".join(sheet(number).notes).lower())
            assert told or "unreachable" not in about, f"Table {number}, {name}"
            assert about["recipe"] is not None or row(sheet(number), name).status == "cited only"


# ----------------------------------------------------------------------------------------------------- published


def test_published_cells_are_those_of_the_data() -> None:
    for number in (*QUALITY, *COSTS, 12):
        table, found = PUBLISHED[f"table{number}"], sheet(number)
        metrics = {"psnr": 0, "ssim": 1}
        for one in found.rows:
            for column, its in zip(found.columns, one.cells, strict=True):
                if column.metric.kind == "cost":
                    name = {"params": "params", "gmacs": "macs", "time": "time"}[column.metric.name]
                    assert its.published == table["systems"][one.name][name]
                else:
                    cells = table["rows"][one.name][column.group][column.level]
                    assert its.published == cells[metrics[column.metric.name]]


def test_numbers_that_the_paper_prints_twice_agree() -> None:
    """PSNR at x2 in Tables 1, 4 to 8, 11 and 12; counts of CLA in Tables 4 to 7, of ACLA in Tables 6 and 8."""
    first = PUBLISHED["table1"]["rows"]
    names = {"EDSR + ACLA": "EDSR+ACLA", "CLA": "EDSR+CLA", "ACLA": "EDSR+ACLA", "L = 4": "EDSR+CLA"}
    again = [(12, name) for name in PUBLISHED["table12"]["rows"] if name != "SAN"]
    again += [(4, "EDSR"), (4, "CLA"), (4, "ACLA"), (5, "L = 4"), (6, "CLA"), (6, "ACLA"), (7, "K = 8")]
    again += [(8, "K = 16, a"), (11, "EDSR"), (11, "EDSR + ACLA")]
    for number, name in again:
        for dataset, levels in PUBLISHED[f"table{number}"]["rows"][name].items():
            system = {"K = 8": "EDSR+CLA", "K = 16, a": "EDSR+ACLA"}.get(name, names.get(name, name))
            assert levels["x2"] == first[system][dataset]["x2"][:1], f"Table {number}, {name}"
    for same in ([(4, "CLA"), (5, "L = 4"), (6, "CLA"), (7, "K = 8")], [(6, "ACLA"), (8, "K = 16, a")]):
        assert len({(printed(number, name)["params"], printed(number, name)["macs"]) for number, name in same}) == 1


def test_the_search_found_where_the_experiments_have_their_modules() -> None:
    found = sheet(9)
    for name, about in PUBLISHED["table9"]["rows"].items():
        cfg = compose_checked([f"+experiment={about['experiment']}", "profile=paper"])
        assert list(cfg.backbone.positions) == about["positions"]
        numbers = [one.published for one in row(found, name).cells]
        assert [number for number in numbers if number is not None] == [about["lambda"], *about["positions"]]
    assert all(one.ours is None or one.ours.value is None for each in found.rows for one in each.cells)


def test_times_are_cited() -> None:
    time = cell(sheet(12), "SAN", "Inference Time")
    assert time.published == 61.2 and time.ours is not None and time.ours.value is None and time.ours.note
    assert not time.reachable


# ------------------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("number", [*QUALITY, 11, 12])
def test_every_recipe_can_be_run(number: int, tmp_path: Path) -> None:
    """Those of Tables 4 to 8, which differ in options of one network, are built where costs are counted."""
    (weights := tmp_path / "a.ckpt").touch()
    for system in systems(PUBLISHED[f"table{number}"]):
        _, level = next(iter(system.published))
        if system.recipe is not None:
            assert stands(system.recipe(level), weights).profile_name == "paper"


def test_rows_of_the_demo_are_in_its_plan() -> None:
    named = [
        about.get("demo")
        for number in (*QUALITY, *COSTS, 12)
        for about in PUBLISHED[f"table{number}"]["systems"].values()
    ]
    assert {name for name in named if name} == demo_runs("acla")


def test_a_level_sets_scale_noise_quality_or_pattern() -> None:
    assert [at(("a",), level)[1] for level in ("x3", "sigma30", "q10", "grbg")] == [
        "task.scale=3", "task.sigma=30", "task.quality=10", "task.pattern=grbg",
    ]  # fmt: skip
    edsr = at(PUBLISHED["recipes"]["edsr"]["recipe"], "x3")
    assert count_parameters(network(edsr)) == 43_680_003


def test_rows_of_one_network_are_one_run() -> None:
    """EDSR+ACLA of Table 1 is K = 16, a of Table 8, written out; CLA stands in five tables."""
    words = PUBLISHED["table8"]["systems"]["K = 16, a"]["recipe"]
    long, short = (
        compose_checked([*each, "profile=paper"]) for each in (words, PUBLISHED["recipes"]["acla"]["recipe"])
    )
    assert long == short
    assert len({tuple(printed(n, name)["recipe"]) for n, name in ((4, "CLA"), (5, "L = 4"), (7, "K = 8"))}) == 1


def test_measured_numbers_stand_in_their_cells() -> None:
    ours = Fake({("ACLA", "LIVE1", "q10", "psnr"): 29.7}, own=[("demo", "x2")])
    (found,) = acla.TABLES["acla/3"](PUBLISHED, ours)
    assert [one.ours.value for one in row(found, "ACLA").cells if one.ours and one.ours.seeds] == [29.7]
    assert cell(found, "ACLA", "q10", "LIVE1").difference == pytest.approx(-0.03)
    assert {asked[3] for asked in ours.asked} == {"car"} and found.label.endswith(Fake.label)
    (demo,) = acla.TABLES["acla/4"](PUBLISHED, Fake({("CLA", "demo", "x2", "psnr"): 31.0}, own=[("demo", "x2")]))
    own = cell(demo, "CLA", "x2", "demo: ours")
    assert own.ours is not None and own.ours.value == 31.0 and own.published is None
    assert cell(demo, "CLA", "x2", "Set5").ours is None, "another thing"
