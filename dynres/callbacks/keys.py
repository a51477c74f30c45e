"""The keys of cross-layer attention: how many are kept of each layer, and where one query's lie (ACLA, Figure 2)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from statistics import fmean
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dynres.callbacks.common import EvaluationWatcher, restorer_of, save_figure, save_table
from dynres.callbacks.keys_picture import QueryKeys, draw, query_keys, textured
from dynres.callbacks.panels import pixels
from dynres.contracts import EvalSample, Evaluation
from dynres.errors import UserError
from dynres.report import Record, grouped

COLUMNS = 8  # a table of more is too wide for a terminal


@dataclass(frozen=True)
class Kept:
    """A line of keys.csv: of `keys` = K sampled keys, how many a query of a module keeps in one referred layer.

    Means over the queries of an image and the images of a test set at one label. layer: after which the module stands;
    referred: the number of a layer, or "head".
    """

    dataset: str
    label: str
    layer: int
    referred: str
    kept: float
    keys: int


class ChosenKeys(EvaluationWatcher):
    """Writes keys.csv and keys/*.png, prints the table and logs test/keys/layerJ@L, its means over all test images.

    Pictures are of ACLA and of CLA, which keeps every key and needs no table; nothing for other networks. A pictured
    image is restored once more, whole.

    Args:
        pictures: images of each test set and label that are drawn.
        query: (row, column) of the pixel whose keys are drawn, as fractions of the image from 0 to 1; None: a pixel of
            strong texture.
        layer: after which the module stands whose keys are drawn; None: the last.

    Raises:
        ValueError: an option out of range.
        UserError: before anything runs, if no module stands after that layer.
    """

    def __init__(self, pictures: int = 1, query: Sequence[float] | None = None, layer: int | None = None) -> None:
        super().__init__()
        if query is not None and not _is_place(query):
            raise ValueError(f"query must be null or [row, column] as fractions of the image in [0, 1], got {query}")
        if type(pictures) is not int or pictures < 0:
            raise ValueError(f"pictures must be a whole number of at least 0, got {pictures}")
        self.pictures, self.layer = pictures, layer
        self.query = None if query is None else (float(query[0]), float(query[1]))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        known = modules_of(restorer_of(pl_module).backbone)
        if known and self.layer is not None and self.layer not in known:
            stand = ", ".join(map(str, known))
            raise UserError(f"callbacks.keys.layer must be one after which a module stands ({stand}), got {self.layer}")

    def watch(self, trainer: Trainer, evaluation: Evaluation, item: Record) -> None:
        seen = sum((other.dataset, other.label) == (item.dataset, item.label) for other in self.records)
        if seen > self.pictures or not trainer.is_global_zero:
            return
        sample = evaluation.sample
        found = self._look(trainer.lightning_module, sample)
        if found is None:  # another network, or a budget that pays for no module
            return
        title = f"{sample.dataset} {sample.name}, {sample.label}"
        name = re.sub(r"[^\w.-]+", "-", f"{item.dataset}_{item.label}_{item.image}")
        figure = draw(pixels(_shown(sample, found.size)), found, title)
        save_figure(trainer, figure, f"keys/{name}.png", f"keys/{sample.dataset}_{sample.label}")

    def _look(self, method: Any, sample: EvalSample) -> QueryKeys | None:
        """The keys of the query in the last module that ran, or in that after `layer`."""
        backbone = restorer_of(method).backbone
        found: list[QueryKeys] = []

        def look(position: int, module: Any, args: tuple[Any, ...], result: tuple[Tensor, Any]) -> None:
            if args[0].is_meta:  # costs are being counted
                return
            x, maps = args[0], args[1]
            query = self._pixel(sample, (x.shape[-2], x.shape[-1]))
            found[:] = [query_keys(position, _names(backbone, position), x, maps, result[1], query)]

        hooks = [
            module.register_forward_hook(lambda *seen, position=position: look(position, *seen))
            for position, module in modules_of(backbone).items()
            if self.layer in (None, position)
        ]
        try:
            if hooks:
                method.evaluate(sample, method.inference._replace(tile=None, compile=False))
        finally:
            for hook in hooks:
                hook.remove()
        return found[0] if found else None

    def _pixel(self, sample: EvalSample, size: tuple[int, int]) -> tuple[int, int]:
        """(row, column) of the query in maps of a size."""
        if self.query is None:
            return textured((sample.plain if sample.target is None else sample.target)[0], size)
        row, column = (min(int(part * side), side - 1) for part, side in zip(self.query, size, strict=True))
        return row, column

    def write(self, trainer: Trainer, module: LightningModule, records: Sequence[Record]) -> None:
        backbone = restorer_of(module).backbone
        if not modules_of(backbone) or not backbone.units:
            return
        lines = kept_keys(records, backbone.keys)
        save_table(trainer, "keys", [field.name for field in fields(Kept)], map(astuple, lines))
        means = {
            f"test/keys/layer{layer}@{referred}": backbone.keys * share
            for (layer, referred), share in _shares(records).items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(means, step=trainer.global_step)
        print_kept(lines)


def modules_of(backbone: Any) -> dict[int, Any]:
    """The modules with sampled keys, by the layer after which they stand; none of other networks."""
    inserted = getattr(backbone, "inserted", {})
    return {int(position): module for position, module in inserted.items() if hasattr(module, "choose")}


def _names(backbone: Any, position: int) -> list[str]:
    """Of the maps that the module after a layer refers to."""
    return ["head"] * backbone.refer_head + [f"layer {other}" for other in backbone.positions if other <= position]


def _is_place(query: Any) -> bool:
    parts = list(query) if isinstance(query, Sequence) and not isinstance(query, str) else []
    return len(parts) == 2 and all(type(part) in (int, float) and 0 <= part <= 1 for part in parts)


def _shown(sample: EvalSample, size: tuple[int, int]) -> Tensor:
    """The picture under the keys, of the size of the maps: what there is without a network, else the input."""
    return sample.plain if sample.plain.shape[-2:] == size else sample.image


# ------------------------------------------------------------------------------------------------ how many are kept


def _shares(records: Sequence[Record]) -> dict[tuple[int, str], float]:
    """(layer, referred layer) -> mean share of the keys that are kept."""
    found = {}
    for column, unit in enumerate(records[0].units):
        if match := re.fullmatch(r"layer (\d+) keys@(\w+)", unit):
            found[int(match[1]), match[2]] = fmean(item.decisions[column] for item in records)
    return found


def kept_keys(records: Sequence[Record], keys: int) -> list[Kept]:
    """The lines of keys.csv."""
    return [
        Kept(dataset, label, layer, referred, keys * share, keys)
        for (dataset, label), group in grouped(records).items()
        for (layer, referred), share in _shares(group).items()
    ]


def print_kept(lines: Sequence[Kept]) -> None:
    """A table for each test set and label: modules x referred layers, and how much each module keeps of all."""
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no width of its own
    groups: dict[tuple[str, str], dict[int, list[Kept]]] = {}
    for line in lines:
        groups.setdefault((line.dataset, line.label), {}).setdefault(line.layer, []).append(line)
    for (dataset, label), modules in groups.items():
        console.print(_table(f"{dataset} {label}: keys kept, by layer", modules))


def _table(title: str, modules: Mapping[int, Sequence[Kept]]) -> Table:
    referred = [line.referred for line in list(modules.values())[-1]]
    shown = referred if len(referred) <= COLUMNS else []
    table = Table(title=title, title_justify="left")
    for header in ["layer", *shown, "of all"]:
        table.add_column(header, justify="right", no_wrap=True)
    for layer, lines in modules.items():
        cells = {line.referred: f"{line.kept:.1f} / {line.keys}" for line in lines}
        total = math.fsum(line.kept for line in lines) / sum(line.keys for line in lines)
        table.add_row(str(layer), *(cells.get(name, "") for name in shown), f"{total:.0%}")
    return table
