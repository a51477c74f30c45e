"""Pictures for which networks restore something: side by side, and where they route."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from omegaconf import OmegaConf

from dynres.build import build_restorer, compose_checked, network_description
from dynres.contracts import Evaluation
from dynres.errors import UserError
from dynres.tables.figures import images, maps, samples
from dynres.tables.figures.found import Runs
from dynres.tables.figures.gallery import drawn
from dynres.tables.sheet import FinishedRun
from tests.tables.folders import finished


def untrained(folder: Path, name: str, level: str, *overrides: str) -> FinishedRun:
    """A smoke-size network as a run leaves it, its weights drawn."""
    run = finished(folder, name, 0, {level: {}})
    cfg = compose_checked([*overrides, "profile=smoke"])
    torch.manual_seed(0)
    restorer = build_restorer(network_description(cfg))
    for weights in restorer.parameters():  # with image_skip it begins as the bicubic enlargement
        torch.nn.init.normal_(weights, std=0.02)
    state = {f"restorer.{key}": value for key, value in restorer.state_dict().items()}
    samples.last(run).parent.mkdir()
    torch.save({"state_dict": state, "dynres": {"network": restorer.description}, "callbacks": {}}, samples.last(run))
    config = {"data": OmegaConf.to_container(cfg.data, resolve=True)}
    OmegaConf.save(OmegaConf.create(config), run.folder / "config.yaml")
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FinishedRun]:
    folder, scales = tmp_path_factory.mktemp("runs"), "data.test_scales=[2,3]"
    return {
        "tadt": untrained(folder, "tadt/tadt", "x2", "+experiment=tadt_liif", scales),
        "baseline": untrained(folder, "tadt/baseline", "x2", "+experiment=baseline_liif", scales),
    }


def test_a_square_is_one_place_at_every_resolution(trained: dict[str, FinishedRun]) -> None:
    whole = next(one for one in samples.tested(trained["tadt"]) if one.label == "x3")
    cut = samples.square(trained["tadt"], "x3", 96)
    assert cut.target is not None and whole.target is not None
    assert (cut.image.shape[-2:], cut.target.shape[-2:], cut.plain.shape[-2:]) == ((32, 32), (96, 96), (96, 96))
    found = [
        (top, left)
        for top in range(whole.image.shape[-2] - 31)
        for left in range(whole.image.shape[-1] - 31)
        if torch.equal(whole.image[0, :, top, left : left + 32], cut.image[0, :, 0])
    ]
    ((top, left),) = [
        at for at in found if torch.equal(whole.image[..., at[0] : at[0] + 32, at[1] : at[1] + 32], cut.image)
    ]
    assert torch.equal(cut.target, whole.target[..., 3 * top : 3 * top + 96, 3 * left : 3 * left + 96])
    assert torch.equal(cut.plain, whole.plain[..., 3 * top : 3 * top + 96, 3 * left : 3 * left + 96])
    with pytest.raises(UserError, match="was not tested at x5"):
        samples.square(trained["tadt"], "x5", 96)


def test_routing_of_a_photograph_is_that_of_its_restoration(trained: dict[str, FinishedRun]) -> None:
    sample = samples.square(trained["tadt"], "x2", 64)
    restoration = samples.restored(trained["tadt"], sample).restoration
    decided = maps.decisions(trained["tadt"], sample)
    assert restoration.routing is not None
    assert torch.equal(decided.decisions, restoration.routing.decisions)
    assert decided.units == restoration.routing.units
    figure = maps.image_figure([(sample, decided), (sample._replace(label="x3"), decided)])
    dots = next(one for one in figure.axes[0].collections if len(one.get_offsets()))
    assert len(dots.get_offsets()) == 2 * int(decided.decisions.sum())


def test_columns_are_restorations_with_their_psnr_and_errors(trained: dict[str, FinishedRun]) -> None:
    sample = samples.square(trained["tadt"], "x2", 64)
    found = [(name, samples.restored(run, sample)) for name, run in trained.items()]
    shown = images.columns(sample, found)
    assert [one.title for one in shown] == ["bicubic", "tadt", "baseline", "original"]
    figure, _ = images.side_by_side(shown, crop=16)
    wholes, crops, errors = (figure.axes[4 * row : 4 * row + 4] for row in range(3))
    assert [axes.get_title() for axes in wholes[1:]] == [f"{one.title}\n{one.psnr:.2f} dB" for one in shown[1:3]] + [
        "original"
    ]
    for one, whole, error in zip(shown[:3], wholes, errors, strict=False):
        image = one.image[0].clamp(0, 1).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(whole.images[0].get_array(), image, atol=1e-6)
        expected = 255 * np.abs(image - shown[-1].image[0].permute(1, 2, 0).numpy()).mean(-1)
        np.testing.assert_allclose(error.images[0].get_array(), expected, atol=1e-3)
    assert len({axes.images[0].get_clim() for axes in errors[:3]}) == 1  # one scale of colours for all
    assert all(axes.images[0].get_array().shape == (16, 16, 3) for axes in crops)


def test_tadt_is_drawn_beside_its_baseline(trained: dict[str, FinishedRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SIDE", 72)
    (picture,) = images.tadt(Runs(list(trained.values())), {})
    assert picture.title == "Side by side, x2" and picture.wide and len(picture.image) < 1_000_000
    assert picture.caption.startswith("Astronaut, the most detailed 72 x 72 pixels, x2")
    assert "demo-size networks" in picture.caption and "one seed (0)" in picture.caption
    assert images.tadt(Runs([trained["tadt"]]), {}) == []


def test_flexir_is_drawn_at_both_ends_and_adaptively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_of: list[tuple[Sequence[str], bool]] = []
    monkeypatch.setattr(images, "SIDE", 64)
    depths = images._depths

    def seen(axes: Axes, found: Sequence[tuple[str, Evaluation]]) -> bool:
        drawn_of.append(([title for title, _ in found], depths(axes, found)))
        return drawn_of[-1][1]

    monkeypatch.setattr(images, "_depths", seen)
    task = ("task=sr", "task.scale=2", "method=flexir", "backbone=flexir", "backbone.scale=2", "upsampler=as_image")
    denoising = untrained(tmp_path, "flexir/psd_cws", "sigma25", "+experiment=flexir_denoise", "task.sigma=25")
    larger = untrained(tmp_path, "flexir/sr_x2", "x2", *task)
    found = images.flexir(Runs([denoising, larger]), {})
    assert [picture.title for picture in found] == ["Side by side, sigma25", "Side by side, super-resolution x2"]
    (three, mapped), (two, unmapped) = drawn_of
    assert (three[0], three[1][:4], three[2][:4]) == ("P = 1", "P = ", "h = ") and mapped
    assert two == three[:2] and not unmapped
    assert "how many blocks each region went through" in found[0].caption
    assert "how many blocks" not in found[1].caption


def test_anysr_is_drawn_by_scale_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SIDE", 64)
    run = untrained(tmp_path, "anysr/anysr", "x2", "+experiment=anysr_edsr_liif", "data.test_scales=[2]")
    sample = samples.square(run, "x2", 64)
    half, whole = (samples.restored(run, sample, budget=budget).restoration for budget in (None, 1.0))
    assert half.macs.item() < whole.macs.item() == whole.full_macs
    (picture,) = images.anysr(Runs([run]), {})
    assert f"{half.macs.item() / half.full_macs:.0%} of the whole network's" in picture.caption


def test_acla_and_pruned_networks_are_drawn_beside_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SIDE", 64)
    x2 = "task.scale=2"
    runs = [
        untrained(tmp_path, "acla/acla", "x2", "+experiment=acla_edsr_sr", x2),
        untrained(tmp_path, "acla/edsr", "x2", "+experiment=acla_edsr_sr", "backbone.positions=[]", x2),
        untrained(tmp_path, "lightweight_swinir/uncut", "x2", "+experiment=swinir_prune", x2),
        untrained(tmp_path, "lightweight_swinir/msa_075", "x2", "+experiment=swinir_prune", "backbone.mlp_ratio=1", x2),
    ]
    (of_acla,), (of_swinir,) = images.acla(Runs(runs), {}), images.lightweight_swinir(Runs(runs), {})
    assert "bicubic" in of_acla.alt and "EDSR" in of_acla.alt and "ACLA" in of_acla.alt
    assert "uncut" in of_swinir.alt and "3/4 cut" in of_swinir.alt and "half" not in of_swinir.alt
    assert images.lightweight_swinir(Runs(runs[:3]), {}) == []  # nothing beside the uncut one


def test_a_lost_checkpoint_is_named(trained: dict[str, FinishedRun], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained["tadt"].folder, folder)
    (folder / "checkpoints" / "last.ckpt").unlink()
    lost = FinishedRun("tadt", "tadt", 0, folder)
    titles = {picture.title: picture for picture in drawn([lost, trained["baseline"]], {})}
    assert "last.ckpt does not exist" in titles["Side by side"].caption
    assert "last.ckpt does not exist" in titles["Routing, photograph by photograph"].caption
