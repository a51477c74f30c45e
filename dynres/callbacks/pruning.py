"""Where a network was cut: how much of each layer is left, and the scores that decided it (Table 2's remark)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer

from dynres.callbacks.common import EvaluationWatcher, restorer_of, run_folder, save_figure, save_table
from dynres.checkpoint_io import read_checkpoint
from dynres.report import Record

NAMES = {"msa": "attention, channels", "mlp": "MLP, hidden channels"}


class Layer(NamedTuple):
    """A line of pruning.csv: inner channels of one MLP or attention, first to last of its kind.

    kept of full channels; scores: |a| of all of them, sorted, before the cut; empty where no run trained them.
    """

    kind: str
    number: int
    kept: int
    full: int
    scores: NDArray[np.float32]


class PrunedChannels(EvaluationWatcher):
    """Writes pruning.csv and pruning.png after the test of a network that was cut; nothing of any other."""

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        network = restorer_of(module)
        path = Path(getattr(module, "trained", None) or run_folder(trainer) / "checkpoints" / "trained.ckpt")
        trained = read_checkpoint(path) if path.is_file() else None
        whole = uncut(network, trained)
        layers = cut_layers(network, whole, trained)
        if not layers:
            return
        before, left = (sum(each.numel() for each in one.parameters()) for one in (whole, network))
        print(f"pruned: {left:,} of {before:,} parameters ({left / before:.1%})")
        header = ["kind", "layer", "kept", "of", "least_score", "median_score", "greatest_score"]
        rows = [[*layer[:4], *quartiles(layer.scores)] for layer in layers]
        save_table(trainer, "pruning", header, rows)
        save_figure(trainer, draw(layers), "pruning.png", "pruning")
        for kind in dict.fromkeys(layer.kind for layer in layers):
            mine = [layer for layer in layers if layer.kind == kind]
            kept, full = sum(layer.kept for layer in mine), sum(layer.full for layer in mine)
            shares = [layer.kept / layer.full for layer in mine]
            print(f"{NAMES[kind]}: {kept} of {full} kept, in a layer {min(shares):.0%} to {max(shares):.0%}")


def quartiles(scores: NDArray[np.float32]) -> list[str]:
    """Least, median and greatest; empty where there are none."""
    return [f"{np.quantile(scores, at):.4f}" for at in (0, 0.5, 1)] if len(scores) else ["", "", ""]


def uncut(restorer: Any, trained: Mapping[str, Any] | None) -> Any:
    """The network before the cut, on the meta device: as its file says, else one with all its channels."""
    whole = dict(restorer.description if trained is None else trained["dynres"]["network"])
    if trained is None:
        whole["backbone"] = {key: value for key, value in whole["backbone"].items() if not key.endswith("_widths")}
    with torch.device("meta"):
        return type(restorer).from_description(whole)


def cut_layers(restorer: Any, whole: Any, trained: Mapping[str, Any] | None) -> list[Layer]:
    """The layers of the kinds that were cut, attentions and MLPs apart; none of a network with all its channels.

    Args:
        restorer: a Restorer.
        whole: what it was before.
        trained: the checkpoint of that, which has the scores of the kinds that were to be cut; None if it is lost.
    """
    pairs = list(zip(restorer.backbone.inner_channels(), whole.backbone.inner_channels(), strict=True))
    cut = [kind for kind in NAMES if any(now.kind == kind and now.width < full.width for now, full in pairs)]
    state = {} if trained is None else trained["state_dict"]
    scores = iter([value for name, value in state.items() if name.startswith("scores.")])
    layers: list[Layer] = []
    for now, full in (pair for pair in pairs if pair[0].kind in cut):
        number = 1 + sum(layer.kind == now.kind for layer in layers)
        found = next(scores, torch.empty(0)).abs().sort().values.numpy()
        layers.append(Layer(now.kind, number, now.heads * now.width, full.heads * full.width, found))
    return sorted(layers, key=lambda layer: (cut.index(layer.kind), layer.number))


def draw(layers: Sequence[Layer]) -> Figure:
    """A column of axes a kind: kept channels of each layer as bars, and the scores of its channels below.

    Gray are the lowest scores, as many as were cut; heads, which are cut together by their means, lose some others.
    """
    kinds = list(dict.fromkeys(layer.kind for layer in layers))
    with_scores = any(len(layer.scores) for layer in layers)
    rows = 2 if with_scores else 1
    figure = Figure(figsize=(5.2 * len(kinds), 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, len(kinds), squeeze=False, sharex="col")
    for column, kind in enumerate(kinds):
        mine = [layer for layer in layers if layer.kind == kind]
        numbers = [layer.number for layer in mine]
        bars = grid[0, column]
        bars.bar(numbers, [layer.full for layer in mine], color="0.9", width=0.8)
        bars.bar(numbers, [layer.kept for layer in mine], color="C0" if kind == "mlp" else "C1", width=0.8)
        kept, full = sum(layer.kept for layer in mine), sum(layer.full for layer in mine)
        bars.set_title(f"{NAMES[kind]}: {kept} of {full} kept", fontsize=10)
        bars.set_ylabel("channels")
        if with_scores:
            below = grid[1, column]
            for layer in mine:
                cut, stay = layer.scores[: layer.full - layer.kept], layer.scores[layer.full - layer.kept :]
                for values, colour in ((cut, "0.65"), (stay, "C0" if kind == "mlp" else "C1")):
                    below.plot(np.full(len(values), layer.number), values, "_", color=colour, markersize=7)
            below.set_ylabel("|a| before the cut")
            below.set_ylim(bottom=0)
        grid[-1, column].set_xlabel("layer, first to last (gray: cut)")
        grid[-1, column].xaxis.get_major_locator().set_params(integer=True)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
