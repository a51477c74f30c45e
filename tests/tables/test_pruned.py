"""Where runs pruned, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynres.tables.pruned import draw, kept

HEADER = "kind,layer,kept,of,least_score,median_score,greatest_score"  # as the callback writes it


def run(folder: Path, *lines: str) -> Path:
    """A run's folder with its pruning.csv: kind, layer, kept, of."""
    folder.mkdir()
    (folder / "pruning.csv").write_text("\n".join([HEADER, *(f"{line},,," for line in lines)]))
    return folder


def test_a_line_a_run_and_a_column_a_kind(tmp_path: Path) -> None:
    one = kept(run(tmp_path / "a", "msa,1,6,8", "msa,2,2,8", "mlp,1,8,16", "mlp,2,16,16"))
    other = kept(run(tmp_path / "b", "msa,1,4,8", "msa,2,4,8", "mlp,1,12,16", "mlp,2,12,16"))
    assert one == {"msa": [0.75, 0.25], "mlp": [0.5, 1.0]}
    figure = draw({"one": one, "other": other})
    assert [axes.get_title() for axes in figure.axes] == ["attention", "MLP"]
    for axes, kind in zip(figure.axes, ("msa", "mlp"), strict=True):
        lines = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
        assert lines == {"one": one[kind], "other": other[kind]}


def test_a_run_that_pruned_nothing_has_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kept(tmp_path)
