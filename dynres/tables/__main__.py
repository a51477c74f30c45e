"""python -m dynres.tables (make reproduce-tables): our numbers beside the published ones.

Costs need no training and are counted on the spot. PSNR comes from the summary.json of finished runs with
profile=paper; a number that no run has yet is a dash, never a guess. Written to OUT/tables/PAPER.md and printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dynres.backbones.base import Backbone
from dynres.build import compose_checked, network_description
from dynres.cost.counter import count_parameters
from dynres.errors import UserError, clean_exit
from dynres.files import write_text
from dynres.paths import conf_dir
from dynres.restorer import Restorer

Row = list[str]


def mean_macs(backbone: Backbone, long_side: int, short_sides: Mapping[int, int], scale: int) -> float:
    """Mean MACs over validation images, long_side x short_side -> number of images, at 1/scale of their size."""
    total = sum(count * backbone.cost(short // scale, long_side // scale).full for short, count in short_sides.items())
    return total / sum(short_sides.values())


def extractor(network: str) -> Backbone:
    """A backbone of conf/backbone in its published size, on the meta device."""
    cfg = compose_checked(["profile=paper", "method=assr", f"backbone={network}"])
    with torch.device("meta"):
        return Restorer.from_description(network_description(cfg)).backbone


def cost_rows(table: Mapping[str, Any], known: set[str]) -> Iterator[Row]:
    """Table 3: parameters and MACs, published | ours | difference. A routed network is counted with every branch on."""
    for network, published in table["rows"].items():
        row = [network, *(_number(published[key]) for key in ("params", "x2", "x3", "x4"))]
        if network not in known:
            yield [*row, *["-"] * 4, "not here"]
            continue
        backbone, ours = extractor(network), []
        for scale in (2, 3, 4):
            macs = mean_macs(backbone, table["long_side"], table["short_sides"], scale) / 1e9
            theirs = published[f"x{scale}"]
            ours.append(f"{macs:.2f}" + (f" ({macs / theirs - 1:+.2%})" if theirs else ""))
        yield [*row, f"{count_parameters(backbone) / 1e6:.2f}", *ours, published.get("remark", "")]


def finished(runs: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(experiment, test set) -> metrics by scale, of the newest finished profile=paper run of each experiment."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(runs.rglob("summary.json"), key=lambda path: path.stat().st_mtime):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["profile"] == "paper":
            found |= {(result["experiment"], name): rows for name, rows in result["metrics"].items()}
    return found


def psnr_rows(table: Mapping[str, Any], runs: Mapping[tuple[str, str], Any], dataset: str) -> Iterator[Row]:
    """Table 1: for each upsampler and backbone, published and ours at every scale."""
    for upsampler, backbones in table["psnr"].items():
        for backbone, published in backbones.items():
            prefix = {"mstb": "baseline", "tadt": "tadt"}.get(backbone, backbone)
            ours = runs.get((f"{prefix}_{upsampler}", dataset), {})
            cells = [
                f"{_number(value)} | {_number(ours.get(scale, {}).get('psnr'))}" for scale, value in published.items()
            ]
            yield [upsampler, backbone, *cells]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{float(value):.2f}"


def show(title: str, columns: Row, rows: list[Row]) -> str:
    """Print a table; returns it as Markdown."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a file or a pipe has no width of its own
    console.print(table)
    lines = [columns, ["---"] * len(columns), *[[cell.replace("|", "/") for cell in row] for row in rows]]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def costs(published: Mapping[str, Any], runs: Path) -> str:
    """Table 3, printed and as Markdown."""
    known = {path.stem for path in (conf_dir() / "backbone").glob("*.yaml")}
    table = published["table3"]
    rows = list(track(cost_rows(table, known), "counting", len(table["rows"]), console=Console(stderr=True)))
    return show(
        f"Table 3: {table['title']}; {table['convention']}; published, then ours",
        ["backbone", "params", "x2", "x3", "x4", "ours: params", "x2", "x3", "x4", "remark"],
        rows,
    )


def quality(published: Mapping[str, Any], runs: Path) -> str:
    """Table 1, printed and as Markdown."""
    table = published["table1"]
    scales = list(next(iter(next(iter(table["psnr"].values())).values())))
    return show(
        f"Table 1: {table['title']}; published | ours",
        ["upsampler", "backbone", *scales],
        list(psnr_rows(table, finished(runs), "DIV2K")),
    )


TABLES = {"tadt/3": costs, "tadt/1": quality}


@clean_exit
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dynres.tables", description="Published numbers beside ours.")
    parser.add_argument("--published", type=Path, default=Path("experiments/tadt/published.yaml"))
    parser.add_argument("--table", choices=TABLES, help="one table; default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    if not options.published.is_file():
        raise UserError(f"{options.published} does not exist: run from a clone, or give --published PATH")
    published = yaml.safe_load(options.published.read_text(encoding="utf-8"))
    parts = [make(published, options.runs) for name, make in TABLES.items() if options.table in (None, name)]
    target = options.runs / "tables" / f"{(options.table or 'tadt').replace('/', '_')}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, "\n".join(parts))
    print(f"written to {target}")


if __name__ == "__main__":
    main()
