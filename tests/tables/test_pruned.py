"""Where each gamma prunes: runs that differ in gamma alone are drawn together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from dynres.tables.pruned import draw, groups, pictures


def run(folder: Path, kept: list[int], **method: Any) -> None:
    folder.mkdir(parents=True)
    options = {"sparsity": 1e-5, "scope": "mlp", "rate": 0.25, "trained": None} | method
    network: dict[str, Any] = {"backbone": {"depths": [2]}, "upsampler": {}, "image_skip": False, "pixels": {}}
    OmegaConf.save({"profile_name": "demo", "seed": 0, "method": options, **network}, folder / "config.yaml")
    lines = [f"mlp,{number},{some},8,,," for number, some in enumerate(kept, start=1)]
    (folder / "pruning.csv").write_text(
        "\n".join(["kind,layer,kept,of,least_score,median_score,greatest_score", *lines])
    )


def test_runs_that_differ_in_gamma_alone_are_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", [8, 4])
    run(tmp_path / "b", [6, 6], sparsity=1e-4)
    run(tmp_path / "c", [2, 2], rate=0.75)
    run(tmp_path / "d", [7, 5], sparsity=1e-3, trained="a/checkpoints/trained.ckpt")
    (title,) = groups(tmp_path)
    assert groups(tmp_path)[title] == {1e-5: {"mlp": [1.0, 0.5]}, 1e-4: {"mlp": [0.75, 0.75]}}
    text = pictures(tmp_path)
    assert f"(pruned_{title}.png)" in text and (tmp_path / "tables" / f"pruned_{title}.png").stat().st_size > 3000
    lines = draw(groups(tmp_path)[title]).axes[0].lines
    assert [np.asarray(line.get_ydata()).tolist() for line in lines] == [[1.0, 0.5], [0.75, 0.75]]


def test_one_gamma_is_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "a", [8, 4])
    assert pictures(tmp_path) == "" and "differ in method.sparsity" in capsys.readouterr().out
