"""python -m dynres.tables (make reproduce-tables): our numbers beside the published ones.

Costs need no training and are counted on the spot. PSNR comes from finished runs with profile=paper; a number that no
run has yet is a dash, never a guess. Written to RUNS/tables/PAPER.md, or PAPER_NUMBER.md for one table, and printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dynres.errors import UserError, clean_exit
from dynres.files import write_text
from dynres.tables import acla, anysr, flexir, lightweight_swinir, tadt

# Each prints itself from (published numbers, folder of runs) and returns its Markdown.
TABLES: dict[str, Callable[[Mapping[str, Any], Path], str]] = {
    **tadt.TABLES,
    **flexir.TABLES,
    **acla.TABLES,
    **lightweight_swinir.TABLES,
    **anysr.TABLES,
}


def write(paper: str, chosen: str | None, file: Path, runs: Path) -> None:
    """Make one table of a paper, or all of them, and write them below `runs`."""
    if not file.is_file():
        raise UserError(f"{file} does not exist: run from a clone, or give --published PATH")
    published = yaml.safe_load(file.read_text(encoding="utf-8"))
    names = [name for name in TABLES if name.startswith(f"{paper}/") and chosen in (None, name)]
    parts = [TABLES[name](published, runs) for name in names]
    target = runs / "tables" / f"{(chosen or paper).replace('/', '_')}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, "\n".join(parts))
    print(f"written to {target}")


@clean_exit
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dynres.tables", description="Published numbers beside ours.")
    parser.add_argument("--table", choices=TABLES, help="one table; default: all")
    parser.add_argument(
        "--published", type=Path, help="instead of experiments/PAPER/published.yaml; TADT's, without --table"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    papers = list(dict.fromkeys(name.split("/")[0] for name in TABLES))
    if options.table or options.published:
        papers = [(options.table or "tadt").split("/")[0]]
    for paper in papers:
        file = options.published or Path("experiments") / paper / "published.yaml"
        write(paper, options.table, file, options.runs)


if __name__ == "__main__":
    main()
