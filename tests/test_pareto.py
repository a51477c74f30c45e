"""python -m dynres.pareto: points of the plane, the front, trainings that are found again, and the command."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict

from dynres.build import build_restorer, network_description
from dynres.contracts import EvalSample, QueryBatch
from dynres.data.pairs import query_batch
from dynres.data.resize import resize
from dynres.errors import UserError
from dynres.launch.find import begun, composed, finished
from dynres.methods.base import Inference
from dynres.methods.flexir import whole_patches
from dynres.nodes import make
from dynres.pareto import report, session
from dynres.pareto.__main__ import main
from dynres.pareto.measure import Family, Point, bicubic, front, measured
from dynres.pareto.systems import SYSTEMS, UNCUT, command, cuts
from dynres.restorer import Restorer
from tests.cli.conftest import UNDRAWN, Ended, typed, write_scenes

# ------------------------------------------------------------------------------------------------------- the front

coarse = st.integers(0, 4).map(float)  # so that costs and qualities are often equal


@given(st.lists(st.tuples(coarse, coarse), max_size=12))
def test_the_front_is_what_no_other_point_dominates(points: list[tuple[float, float]]) -> None:
    def dominated(one: tuple[float, float]) -> bool:
        return any(cost <= one[0] and quality >= one[1] and (cost, quality) != one for cost, quality in points)

    assert front(points) == [not dominated(one) for one in points]


def point(system: str, macs: float, psnr: float, **other: object) -> Point:
    values = dict(dataset="demo", protocol="div2k", asked="1", share=1.0, whole=2 * macs, gain=psnr - 30, ms=1.0)
    return Point(**{"system": system, "backbone": macs, "psnr": psnr, "images": 3, **values, **other})  # type: ignore[arg-type]


def test_a_network_worse_than_bicubic_is_not_on_the_front() -> None:
    points = [point("bicubic", 0, 30), point("a", 1e9, 29.9), point("b", 2e9, 31, whole=1e9), point("c", 3e9, 31)]
    assert report.on_front(points) == {"backbone": [True, False, True, False], "whole": [True, False, True, False]}


def test_test_sets_have_fronts_of_their_own() -> None:
    points = [point("a", 1e9, 31), point("a", 2e9, 28, dataset="harder")]
    assert report.on_front(points)["backbone"] == [True, True]


def test_the_picture_has_a_row_a_test_set_and_a_line_a_system() -> None:
    points = [
        point(name, macs * 1e9, 30 + macs / 10, dataset=dataset)
        for dataset in ("one", "two")
        for name, macs in (("bicubic", 0), ("a", 1), ("a", 4), ("b", 2))
    ]
    axes = report.picture(points, "demo", 2).axes
    assert len(axes) == 4 and axes[0].get_ylim() == axes[1].get_ylim()
    lines = {line.get_label(): line for line in axes[1].lines}
    assert list(lines["a"].get_xdata()) == [2, 8] and list(lines["b"].get_ydata()) == [30.2]


# ------------------------------------------------------------------------------------------------------ the points


def network(name: str, *overrides: str) -> Restorer:
    """Of a system, untrained, of smoke size."""
    torch.manual_seed(0)
    cfg = composed(command(name, 2, "smoke", Path("runs"), overrides))
    return build_restorer(network_description(cfg)).eval()


def sample(seed: int, dataset: str = "demo") -> EvalSample:
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, 28, 36, generator=random)
    plain, target = (torch.rand(1, 3, 56, 72, generator=random) for _ in range(2))
    seeds = torch.tensor([seed])
    return EvalSample(image, target, plain, (2.0, 2.0), "x2", dataset, f"{seed}", "div2k", seeds)


SINGLE = [name for name, system in SYSTEMS.items() if not system.rates]


@pytest.mark.parametrize("name", SINGLE)
def test_a_larger_budget_spends_no_less_and_never_more_than_it_is(name: str) -> None:
    restorer = network(name)
    budgets = [0.01, 0.5, 0.8, 0.9, 0.95, 1.0]
    family, one = Family([restorer], Inference()), sample(0)
    spent = [family.restored(one, budget).record.macs for budget in budgets]
    full = restorer.backbone.cost(28, 36).full
    assert spent == sorted(spent) and spent[-1] <= full
    assert all(macs <= budget * full or macs == spent[0] for macs, budget in zip(spent, budgets, strict=True)), spent


@pytest.mark.parametrize("name", SINGLE)
def test_points_are_means_over_images_and_no_two_are_the_same(name: str) -> None:
    restorer, samples = network(name), [sample(1), sample(2), sample(3, "other")]
    points = measured("it", [restorer], samples, None, Inference(), torch.device("cpu"))
    for dataset, some in (("demo", samples[:2]), ("other", samples[2:])):
        mine = [one for one in points if one.dataset == dataset]
        assert len({(one.backbone, one.psnr) for one in mine}) == len(mine) >= 2
        assert [one.backbone for one in mine] == sorted(one.backbone for one in mine)
        assert sum("own" in one.asked for one in mine) == 1
        own = next(one for one in mine if "own" in one.asked)
        restored = [restorer.restore(each.image, scale=2, seed=each.seed) for each in some]
        assert own.backbone == pytest.approx(sum(one.macs.item() for one in restored) / len(some))
        assert own.whole - own.backbone == restorer.upsampler.macs(28, 36, (56, 72))
        assert own.images == len(some)
    given = measured("it", [restorer], samples[:1], [0.97, 1.0], Inference(), torch.device("cpu"))
    assert {part for one in given for part in one.asked.split(", ")} <= {"0.97", "1", "0.97 - 1", "own"}


def test_of_pruned_networks_the_largest_that_fits_runs() -> None:
    widths = {rate: f"[{round(16 * (1 - rate))},{round(16 * (1 - rate))}]" for rate in (0.25, 0.5)}
    cut = [network("swinir", f"backbone.mlp_widths={text}") for text in widths.values()]
    networks = [cut[0], network("swinir"), cut[1]]
    costs = [each.backbone.cost(28, 36).full for each in networks]
    family, one = Family(networks, Inference()), sample(0)
    for budget in (0.01, *(cost / costs[1] for cost in costs)):
        fitting = [cost for cost in costs if cost <= budget * costs[1] * (1 + 1e-9)]
        found = family.restored(one, budget)
        assert found.record.macs == max(fitting, default=min(costs)) and found.full == costs[1]
    points = measured("it", networks, [one], None, Inference(), torch.device("cpu"))
    assert [point.backbone for point in points] == sorted(costs), "each network has its point"
    assert points[-1].share == 1 and "own" not in points[-1].asked


def test_bicubic_costs_nothing_and_is_measured_as_the_others_are() -> None:
    (one,) = bicubic([sample(1), sample(2)])
    points = measured("it", [network("acla")], [sample(1), sample(2)], [1.0], Inference(), torch.device("cpu"))
    assert (one.backbone, one.whole, one.gain) == (0, 0, 0)
    assert points[0].psnr - points[0].gain == pytest.approx(one.psnr)


# --------------------------------------------------------------------------------------------------- the trainings


def test_flexir_trains_on_the_patches_that_the_pixels_of_a_batch_make(tmp_path: Path) -> None:
    photos = write_scenes(tmp_path / "photos")
    where = ["data=folder", f"data.root={photos}", "data.lr_size=12"]
    cfg = composed(command("flexir", 2, "smoke", tmp_path, where))
    data = make(cfg.data, "data")
    batch = query_batch(next(iter(data.train_dataloader())), data.recipe)
    patch = whole_patches(batch)
    shrunk = [resize(one.mul(255).round().byte().permute(1, 2, 0).numpy(), (12, 12), "matlab") for one in patch.target]
    expected = torch.stack([torch.from_numpy(one).permute(2, 0, 1) for one in shrunk]).float() / 255
    torch.testing.assert_close(patch.image, expected, atol=1.01 / 255, rtol=0)
    fewer = QueryBatch(*batch)._replace(target=batch.target[:, :9])
    with pytest.raises(UserError, match=r"24x24 pixels, and 9 of them.*data\.queries=null"):
        whole_patches(fewer)


def test_overrides_are_for_all_systems_or_for_the_one_they_name() -> None:
    overrides = ["seed=3", "tadt:ckpt=a:b.ckpt", "acla:method.gamma=1"]
    tadt, acla = (command(name, 3, "paper", Path("my runs"), overrides) for name in ("tadt", "acla"))
    assert tadt[-2:] == ["seed=3", "ckpt=a:b.ckpt"] and acla[-2:] == ["seed=3", "method.gamma=1"]
    assert {"profile=paper", "out='my runs'", "logger=csv", "task.scale=3"} <= set(acla)
    assert "logger=csv" not in command("acla", 2, "demo", Path("runs"), ["logger=wandb"])


def test_cut_networks_are_trained_as_long_after_the_cut_as_the_first_one(tmp_path: Path) -> None:
    first = command("swinir", 2, "demo", tmp_path, ["trainer.max_steps=100", "trainer.val_check_interval=50"])
    cfg = composed(first)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "trained.ckpt").touch()
    later = [composed(one) for one in cuts("swinir", first, cfg, tmp_path)]
    assert [one.trainer.max_steps for one in later] == [100 - round(100 * cfg.method.training)] * 3
    assert sorted([cfg.method.rate, *(one.method.rate for one in later)]) == [1e-6, 0.25, 0.5, 0.75]
    assert {one.method.trained for one in later} == {str(tmp_path / "checkpoints" / "trained.ckpt")}


def keep(cfg: DictConfig, folder: Path) -> Path:
    """What a finished run leaves, as far as it is looked at."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "summary.json").write_text("{}")
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    return folder


def test_a_finished_run_is_found_by_its_configuration(tmp_path: Path) -> None:
    def cfg(*overrides: str) -> DictConfig:
        return composed(command("tadt", 2, "smoke", tmp_path, overrides))

    assert finished(tmp_path, cfg()) is None
    run = keep(cfg("out=elsewhere", "logger=tensorboard", "data.workers=2"), tmp_path / "run")
    keep(cfg("seed=1"), tmp_path / "other")
    assert finished(tmp_path, cfg()) == run
    assert finished(tmp_path, cfg("trainer.max_steps=7")) is None
    with open_dict(changed := cfg()):
        changed.method.a_new_option = 1
    assert finished(tmp_path, changed) is None
    assert not begun(tmp_path, cfg())
    (run / "summary.json").unlink()
    assert finished(tmp_path, cfg()) is None and begun(tmp_path, cfg()), "an unfinished run"
    assert not begun(tmp_path, changed)


# ----------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for seconds; trainings run in this process."""

    def here(arguments: Sequence[str], log: Path, told: Callable[[str], None]) -> None:
        ended = typed(*arguments)
        for line in (ended.out + ended.err).splitlines():
            told(f"{line}\n")
        if ended.code:
            raise UserError(ended.err.strip())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "run", here)
    photos = write_scenes(tmp_path / "photos")
    return [
        "--profile", "smoke", "data=folder", f"data.root={photos}", "data.lr_size=16", "data.val_crop=48",
        "trainer.max_steps=4", "trainer.val_check_interval=2", *UNDRAWN,
    ]  # fmt: skip


def pareto(*arguments: str) -> Ended:
    return typed(*arguments, main=main)


def rows(folder: Path = Path("runs/pareto")) -> list[dict[str, str]]:
    with open(folder / "pareto.csv", newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_two_systems_from_training_to_picture_and_once_more_without_training(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SYSTEMS, "swinir", replace(SYSTEMS["swinir"], rates=(0.5, UNCUT)))
    first = pareto(*small, "--only", "tadt,swinir")
    assert first.code == 0, first.out + first.err
    assert "about " in first.out and "left for all trainings" in first.out
    found = rows()
    assert list(dict.fromkeys(row["system"] for row in found)) == ["bicubic", "TADT + LIIF", "SwinIR, pruned"]
    assert sum(row["system"] == "SwinIR, pruned" for row in found) == 2
    assert all(5 < float(row["psnr"]) < 60 and row["dataset"] == "held-out" for row in found)
    assert len({row["protocol"] for row in found}) == 1 and any(row["front_whole"] == "1" for row in found)
    text = Path("runs/pareto/pareto.md").read_text(encoding="utf-8")
    assert "RGB without 8 pixels" in text and text.count("python -m dynres.run +experiment=swinir_prune") == 2
    assert Path("runs/pareto/pareto.png").stat().st_size > 8_000

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(session, "run", never)
    again = pareto(*small, "--only", "tadt,swinir", "--budgets", "0.9,1")
    assert again.code == 0 and again.out.count("already trained") == 3, again.out + again.err
    known = {(row["system"], row["backbone"]): row["psnr"] for row in found}
    for row in rows():
        assert known.get((row["system"], row["backbone"]), row["psnr"]) == row["psnr"]


def test_the_own_decision_gives_what_the_run_s_test_gave(small: list[str]) -> None:
    assert pareto(*small, "--only", "flexir").code == 0
    (summary,) = Path("runs/pareto/flexir_as_image").glob("*/per_image.csv")
    with open(summary, newline="") as lines:
        (run,) = csv.DictReader(lines)
    own = next(row for row in rows() if "own" in row["asked"])
    assert float(own["psnr"]) == pytest.approx(float(run["psnr"]), abs=1e-4)
    assert float(own["backbone"]) == pytest.approx(float(run["macs"]))


def test_a_system_that_fails_is_named_and_the_others_go_on(small: list[str]) -> None:
    broken = ["acla:method.learning_rate=-1", "flexir:backbone.nonsense=1"]
    ended = pareto(*small, "--only", "flexir,acla,tadt", *broken)
    assert ended.code == 2, ended.out
    assert {row["system"] for row in rows()} == {"bicubic", "TADT + LIIF"}
    text = Path("runs/pareto/pareto.md").read_text(encoding="utf-8")
    assert "failed: error: method" in text and "-1" in text and "failed: unknown option backbone.nonsense" in text
    assert "FlexIR cannot be trained: unknown option" in ended.out.partition("training")[0], "told before the first"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "tadt,edsr"], "--only takes systems out of tadt, anysr, flexir, acla, swinir, got 'edsr'"),
        (["--budgets", "0.5,x"], "--budgets takes numbers"),
        (["--budgets", "0.5,1.5"], "--budgets: budget must be in (0, 1], got 1.5"),
        (["--scale", "5"], "--scale must be one of 2, 3, 4, got 5"),
        (["--device", "nowhere"], "--device nowhere"),
        (["seed"], "expected KEY=VALUE"),
        (["edsr:seed=1"], "there is no system 'edsr'"),
        (["profile=paper"], "leave out profile=paper: --profile decides"),
        (["tadt:task.scale=3"], "leave out task.scale=3: --scale decides"),
        (["--profile", "big"], "unknown option profile=big"),
        (["data=folder", "data.root=nowhere"], "nowhere"),
        (["nonsense=1"], "unknown option nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_trained(arguments: list[str], message: str, small: list[str]) -> None:
    ended = pareto("--only=tadt", *arguments)
    assert ended.code == 2 and message in ended.err, ended.err
    assert len(ended.err.strip().splitlines()) == 1 and ended.err.startswith("error: ")
    assert not Path("runs").exists()
