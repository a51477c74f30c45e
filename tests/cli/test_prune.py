"""+experiment=swinir_prune as a user types it: train, cut, fine-tune; killed in either phase; what its files are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dynres import upscale
from dynres.checkpoint_io import read_checkpoint
from dynres.export.__main__ import main as export_main
from dynres.interop.__main__ import main as interop_main
from dynres.interop.weights import load_pretrained

from .conftest import Ended, killed_and_resumed, typed

PRUNE = ["+experiment=swinir_prune", "method.scope=mlp_msa", "method.rate=0.5", "trainer.max_steps=6"]


@pytest.fixture(scope="module")
def pruned(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = typed(*PRUNE, *tiny, f"out={tmp_path_factory.mktemp('pruned')}")
    assert ended.code == 0, ended.err
    return ended


def checkpoint(ended: Ended, name: str) -> Path:
    return ended.folder / "checkpoints" / f"{name}.ckpt"


def test_the_network_is_smaller_after_the_cut_and_says_so(pruned: Ended) -> None:
    before, after = (load_pretrained(checkpoint(pruned, name)) for name in ("trained", "last"))
    widths = [inner.heads * inner.width for inner in before.backbone.inner_channels()]
    left = [inner.heads * inner.width for inner in after.backbone.inner_channels()]
    assert sum(left) == sum(widths) // 2
    assert "factors" in read_checkpoint(checkpoint(pruned, "trained"))
    assert "factors" not in read_checkpoint(checkpoint(pruned, "last"))
    count = sum(each.numel() for each in after.parameters())
    assert f"pruned: {count:,} of" in pruned.out
    lines = (pruned.folder / "pruning.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 and (pruned.folder / "pruning.png").stat().st_size > 5000
    assert lines[1].startswith("msa,1,") and lines[-1].startswith("mlp,2,")
    rows = [line.split(",") for line in (pruned.folder / "companions.csv").read_text().splitlines()[1:]]
    sizes = {name: (int(parameters), int(macs)) for _, _, name, parameters, macs, _ in rows}
    assert sizes["before the cut"] > sizes["cut"] == sizes["ours"] and list(sizes)[-1] == "ours"
    psnr = {name: float(value) for *_, name, _, _, value in rows}
    assert psnr["cut"] != psnr["ours"] and list((pruned.folder / "companions").glob("*.png"))


def test_the_best_network_is_a_pruned_one(pruned: Ended) -> None:
    """Whatever the dense one reached before the cut."""
    best = load_pretrained(checkpoint(pruned, "best"))
    assert best.description == load_pretrained(checkpoint(pruned, "last")).description


def test_the_file_from_before_the_cut_restores_as_the_network_with_its_scores(pruned: Ended) -> None:
    stored = read_checkpoint(checkpoint(pruned, "trained"))
    restorer = load_pretrained(checkpoint(pruned, "trained"))
    names = dict(restorer.named_parameters())
    for name, factor in stored["factors"].items():
        torch.testing.assert_close(names[name].detach(), stored["state_dict"][f"restorer.{name}"] * factor)
    assert any((score != 1).any() for name, score in stored["state_dict"].items() if name.startswith("scores."))


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_killed_in_either_phase_resumes_as_if_it_had_not(
    step: int, pruned: Ended, tiny: list[str], here: Path
) -> None:
    """The cut is before step 3: its last checkpoint may be from before, from the very step, or from after it."""
    command = [*PRUNE, *tiny, f"out={here}", "callbacks.checkpoints.every=1"]
    resumed = killed_and_resumed(step, command)
    assert resumed.code == 0, resumed.err
    whole, continued = (read_checkpoint(checkpoint(one, "last"))["state_dict"] for one in (pruned, resumed))
    assert whole.keys() == continued.keys()
    assert all(torch.equal(whole[key], continued[key]) for key in whole)


def test_scores_of_another_run_are_cut_at_another_rate(pruned: Ended, tiny: list[str], here: Path) -> None:
    again = typed(
        *PRUNE[:2], "method.rate=0.25", f"method.trained={checkpoint(pruned, 'trained')}", *tiny, f"out={here}"
    )
    assert again.code == 0, again.err
    assert not checkpoint(again, "trained").exists()
    sizes = [
        sum(each.numel() for each in load_pretrained(checkpoint(one, "last")).parameters()) for one in (again, pruned)
    ]
    assert sizes[0] > sizes[1]


def test_the_pruned_network_trains_on_enlarges_and_is_exported(
    pruned: Ended, tiny: list[str], photos: Path, here: Path
) -> None:
    last = checkpoint(pruned, "last")
    tuned = typed("network=ckpt", f"ckpt={last}", "task=sr", "method=assr", *tiny, f"out={here}/tune")
    assert tuned.code == 0, tuned.err
    picture = str(photos / "00.png")
    done = typed(picture, "--ckpt", str(last), "--scale", "2", "-o", str(here / "out.png"), main=upscale.main)
    assert done.code == 0 and (here / "out.png").is_file(), done.err
    file = here / "pruned.onnx"
    done = typed("--ckpt", str(last), "--size", "24x20", "-o", str(file), main=export_main)
    assert done.code == 0 and file.is_file(), done.err


def test_its_own_experiment_tests_it_too(pruned: Ended, tiny: list[str], here: Path) -> None:
    """At a rate that would leave nothing of what is left."""
    last = checkpoint(pruned, "last")
    again = typed(*PRUNE[:2], "method.rate=0.9", "mode=test", "network=ckpt", f"ckpt={last}", *tiny, f"out={here}")
    assert again.code == 0, again.err
    metrics = [json.loads((one.folder / "summary.json").read_text())["metrics"] for one in (again, pruned)]
    assert metrics[0]["held-out"]["x2"]["psnr"] == pytest.approx(metrics[1]["held-out"]["x2"]["psnr"], abs=1e-4)


def test_the_authors_format_cannot_hold_it(pruned: Ended, here: Path) -> None:
    done = typed(str(checkpoint(pruned, "last")), "--official", str(here / "theirs.pth"), main=interop_main)
    assert done.code == 2 and not (here / "theirs.pth").exists()
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method.rate=1.5"], "rate must lie in (0, 1), got 1.5"),
        (["method.rate=0.99"], "lower it"),
        (["method.scope=heads"], "scope must be one of mlp, mlp_msa"),
        (["method.ranking=best"], "ranking must be one of global, layer"),
        (["method.training=0"], "training must lie in (0, 1)"),
        (["method.sparsity=-1"], "sparsity must be at least 0"),
        (["method.trained=nowhere.ckpt"], "method.trained=nowhere.ckpt does not exist"),
        (["backbone=edsr_baseline"], "EDSR has no MLPs whose channels can be cut"),
        (["backbone=cat_r_2", "method.scope=mlp_msa"], "set scope=mlp"),
        (["backbone.mlp_widths=[4,0]"], "mlp_widths must be at least 1"),
        (["backbone.mlp_widths=3"], "mlp_widths must be a list of whole numbers"),
        (["backbone.head_widths=[1.5,2]"], "head_widths must be a list of whole numbers"),
        (["callbacks.companions.crop=0"], "crop at least 1 pixel"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(
    options: list[str], message: str, tiny: list[str], here: Path
) -> None:
    done = typed("+experiment=swinir_prune", *tiny, *options)
    assert done.code == 2 and message in done.err and len(done.err.strip().splitlines()) == 1, done.err


def test_another_runs_checkpoint_without_scores_is_refused(pruned: Ended, tiny: list[str], here: Path) -> None:
    done = typed("+experiment=swinir_prune", *tiny, f"method.trained={checkpoint(pruned, 'last')}")
    assert done.code == 2 and "holds no scores" in done.err
    trained = f"method.trained={checkpoint(pruned, 'trained')}"
    other = typed("+experiment=swinir_prune", *tiny, trained)
    assert other.code == 2 and "take method.scope of its run" in other.err
    other = typed(*PRUNE[:2], *tiny, trained, "pixels.factor=3")
    assert other.code == 2 and "pixels and image_skip of its run" in other.err
    other = typed(*PRUNE[:2], *tiny, trained, f"ckpt={checkpoint(pruned, 'last')}", "network=ckpt")
    assert other.code == 2 and "leave out ckpt, or method.trained" in other.err


def test_a_pruned_network_is_pruned_again(pruned: Ended, tiny: list[str], here: Path) -> None:
    """Its table is of what the second run cut."""
    last = checkpoint(pruned, "last")
    again = typed("+experiment=swinir_prune", "network=ckpt", f"ckpt={last}", *tiny, f"out={here}")
    assert again.code == 0, again.err
    lines = [line.split(",") for line in (again.folder / "pruning.csv").read_text().splitlines()[1:]]
    assert [line[0] for line in lines] == ["mlp", "mlp"] and all(line[4] for line in lines)
    assert sum(int(line[3]) for line in lines) == 16 and sum(int(line[2]) for line in lines) == 12
