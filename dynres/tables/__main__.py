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
from rich.table import Table

from dynres.build import build_restorer, compose_checked, network_description
from dynres.cost.counter import count_parameters
from dynres.errors import UserError, clean_exit
from dynres.files import write_text
from dynres.paths import conf_dir

Row = list[str]


def mean_macs(network: str, long_side: int, short_sides: Mapping[int, int], scale: int) -> tuple[int, float]:
    """(parameters, mean MACs over the validation images at 1/scale) of a backbone in its published size."""
    cfg = compose_checked(["profile=paper", "method=assr", f"backbone={network}"])
    with torch.device("meta"):
        backbone = build_restorer(network_description(cfg)).backbone
    total = sum(count * backbone.cost(short // scale, long_side // scale).full for short, count in short_sides.items())
    return count_parameters(backbone), total / sum(short_sides.values())


def cost_rows(table: Mapping[str, Any], known: set[str]) -> Iterator[Row]:
    """Table 3: parameters and MACs, published | ours | difference. A routed network is counted with every branch on."""
    for network, published in table["rows"].items():
        if network not in known:
            yield [network, *(_number(published[key]) for key in ("params", "x2", "x3", "x4")), *["-"] * 4]
            continue
        row, ours = [network, *(_number(published[key]) for key in ("params", "x2", "x3", "x4"))], []
        for scale in (2, 3, 4):
            params, macs = mean_macs(network, table["long_side"], table["short_sides"], scale)
            ours.append(f"{macs / 1e9:.2f} ({macs / 1e9 / published[f'x{scale}'] - 1:+.2%})")
        yield [*row, f"{params / 1e6:.2f}", *ours]


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


@clean_exit
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dynres.tables", description="Published numbers beside ours.")
    parser.add_argument("--published", type=Path, default=Path("experiments/tadt/published.yaml"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    if not options.published.is_file():
        raise UserError(f"{options.published} does not exist: run from a clone, or give --published PATH")
    published = yaml.safe_load(options.published.read_text(encoding="utf-8"))
    known = {path.stem for path in (conf_dir() / "backbone").glob("*.yaml")}
    costs = published["table3"]
    text = show(
        f"Table 3: {costs['title']}; {costs['convention']}; published, then ours with every branch on",
        ["backbone", "params", "x2", "x3", "x4", "ours: params", "x2", "x3", "x4"],
        list(cost_rows(costs, known)),
    )
    quality = published["table1"]
    scales = list(next(iter(next(iter(quality["psnr"].values())).values())))
    text += "\n" + show(
        f"Table 1: {quality['title']}; published | ours",
        ["upsampler", "backbone", *scales],
        list(psnr_rows(quality, finished(options.runs), "DIV2K")),
    )
    target = options.runs / "tables" / "tadt.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    print(f"written to {target}")


if __name__ == "__main__":
    main()
