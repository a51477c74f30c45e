"""python -m dynres.tables (make reproduce-tables): the papers' tables and figures beside ours, from real runs.

Where numbers of ours come from:
  by default        costs are counted; demo-size networks, trained for a minute each on bundled photographs with three
                    seeds, hold the papers' claims
  --data PATH       nothing is trained: what needs no weights, and what --checkpoints holds, is tested on the real sets
  --profile paper   every network of the tables is trained in the paper's size, on --data PATH

What is finished is found again (same configuration, same code), what was interrupted goes on, what fails is named in
its place. Writes REPORTS/index.html, and REPORTS/tables/PAPER_N.md, .csv and .tex.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import track

import dynres
from dynres.errors import UserError, clean_exit
from dynres.provenance import code_version
from dynres.tables import acla, anysr, flexir, lightweight_swinir, reference, tadt
from dynres.tables.figures.gallery import drawn
from dynres.tables.render import files, markdown, page
from dynres.tables.render.summary import TOLERANCE, Costs, costs, paper_name
from dynres.tables.sheet import Ours, Sheet, TableMaker
from dynres.tables.sources import Asked, by_demo, by_tests, by_training
from dynres.tables.validate import check

TABLES: dict[str, TableMaker] = {
    **tadt.TABLES,
    **anysr.TABLES,
    **flexir.TABLES,
    **acla.TABLES,
    **lightweight_swinir.TABLES,
    **reference.TABLES,
}
SOURCES = {"demo": by_demo, "data": by_tests, "paper": by_training}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m dynres.tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of every run, as dynres.run takes it")
    parser.add_argument("--table", help="one table, such as tadt/3; default: all, and the page")
    parser.add_argument("--profile", choices=("demo", "smoke", "paper"), help="default: demo; none with --data alone")
    parser.add_argument("--data", type=Path, help="folder of the real sets (docs/data.md)")
    parser.add_argument("--checkpoints", type=Path, help="folder of weights to test, ours or the authors', with --data")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"), help="of runs (default: runs/tables)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="default: reports")
    parser.add_argument("--experiments", type=Path, default=Path("experiments"), help="published numbers and plans")
    parser.add_argument("--jobs", type=int, help="runs at a time; default: one a core, at most 4; with GPUs one")
    parser.add_argument("--cluster", choices=("slurm", "local"), help="runs as jobs of submitit, with --profile paper")
    parser.add_argument("--cluster-parameter", action="append", default=[], metavar="KEY=VALUE", help="of its jobs")
    parser.add_argument(
        "--runs", type=Path, action="append", default=[], help="also count finished paper-size runs here"
    )
    parser.add_argument("--check", action="store_true", help="only look whether the published numbers can be")
    options = parser.parse_intermixed_args(arguments)
    if options.table is not None and options.table not in TABLES:
        raise UserError(f"there is no table {options.table!r}: {', '.join(TABLES)}")
    if not options.experiments.is_dir():
        raise UserError(f"{options.experiments} does not exist: run from a clone, or give --experiments PATH")
    for option, path in (("--data", options.data), ("--checkpoints", options.checkpoints)):
        if path is not None and not path.exists():
            raise UserError(f"{option} {path} does not exist")
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {options.jobs}")
    if options.profile == "paper" and options.data is None:
        raise UserError("--profile paper trains on real images: give --data PATH (make: DATA=PATH)")
    if options.data is not None and options.profile in ("demo", "smoke"):
        raise UserError(
            f"--data is for tests of checkpoints, or --profile paper: leave out --profile {options.profile}"
        )
    if options.checkpoints is not None and (options.data is None or options.profile is not None):
        raise UserError("--checkpoints are tested on real sets: give --data PATH, and no --profile")
    if (options.cluster or options.runs) and options.profile != "paper":
        raise UserError("--cluster and --runs are for --profile paper")
    return options


def published(experiments: Path, paper: str) -> Mapping[str, Any]:
    """A paper's published.yaml."""
    file = experiments / paper / "published.yaml"
    if not file.is_file():
        raise UserError(f"{file} does not exist: run from a clone, or give --experiments PATH")
    found: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


def made(keys: Sequence[str], content: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Ours]) -> list[Sheet]:
    """The sheets of some tables."""
    return [sheet for key in keys for sheet in TABLES[key](content[paper_of(key)], ours[paper_of(key)])]


def paper_of(key: str) -> str:
    """ "tadt" of "tadt/3"."""
    return key.partition("/")[0]


def told(found: Costs) -> str:
    """How far counted costs are from the published ones."""
    worst = f"; farthest off: {found.worst.name}, {found.worst.ratio:+.2%}" if found.worst else ""
    return f"{found.within} of {found.compared} costs that can be compared are within {TOLERANCE:.1%}{worst}"


def about(what: str) -> dict[str, str]:
    """The foot of the page. No times: a run that was interrupted ends with the same page."""
    return {
        "version": f"dynres {dynres.__version__}, code {code_version()}",
        "numbers": what,
        "how to make this page": "make reproduce-tables\nmake reproduce-tables TABLE=tadt/3\n"
        "make reproduce-tables DATA=/path/to/sets CHECKPOINTS=/path/to/weights\n"
        "make reproduce-tables profile=paper DATA=/path/to/sets",
    }


@clean_exit
def main() -> None:
    """The command line. What fails is named in its place while the rest goes on; exit code 2 then."""
    options = parse()
    if not options.check:
        try:
            (options.reports / "tables").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--reports {options.reports} cannot be written: {error.strerror}") from error
    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    keys = [options.table] if options.table else list(TABLES)
    papers = list(dict.fromkeys(paper_of(key) for key in keys))
    content = {paper: published(options.experiments, paper) for paper in papers}
    asked = {paper: Asked() for paper in papers}
    say("counting parameters and MACs (a minute or two)")
    counted = []
    for key in track(keys, "counting costs", console=Console(stderr=True), transient=True):
        counted += made([key], content, asked)
    if complaints := [f"{sheet.title}: {one}" for sheet in counted for one in check(sheet)]:
        raise UserError("; ".join(complaints))
    if options.check:
        say(f"{len(counted)} tables can be what they are")
        return
    source = SOURCES["paper" if options.profile == "paper" else "data" if options.data else "demo"](options, asked, say)
    sheets = made(keys, content, source.ours)
    for file in files.write(options.reports / "tables", sheets):
        say(f"written: {file}")
    say(told(costs(sheets)))
    if options.table:
        say(markdown.render(sheets))
    else:
        pictures = list(track(drawn(source.runs, content), "drawing", console=Console(stderr=True), transient=True))
        what = source.ours[papers[0]].label
        page.write(options.reports / "index.html", sheets, source.verdicts, pictures, about(what))
        for one in source.verdicts:
            say(f"{one.verdict}: {one.claim} ({paper_name(one.paper)})")
        say(f"the page: {options.reports / 'index.html'}")
    if source.failed:
        raise UserError(f"{len(source.failed)} runs failed, which the tables name: {', '.join(source.failed)}")


if __name__ == "__main__":
    main()
