"""python -m dynres.pareto (make pareto): TADT, AnySR, FlexIR, ACLA and pruned SwinIR on one plane of PSNR against MACs.

Trains each of them (what is finished is found again, what is not is resumed), restores the same held-out photographs
at one scale with budgets from the least to all of the compute, and writes OUT/pareto/pareto.{png,csv,md}. Arguments
KEY=VALUE go to every training as they are; NAME:KEY=VALUE to that of one system, such as tadt:ckpt=BASELINE.ckpt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from dynres.data.datamodule import SuperResolutionData
from dynres.errors import UserError, clean_exit
from dynres.interop.weights import load_pretrained
from dynres.launch.find import composed
from dynres.methods.base import Inference
from dynres.nodes import make, plain
from dynres.pareto.measure import bicubic, measured
from dynres.pareto.report import Trained, draw, tell
from dynres.pareto.session import Session, about
from dynres.pareto.systems import SYSTEMS
from dynres.restorer import check_budget

SCALES = (2, 3, 4)
# What this command decides for all trainings, and where one says so.
OWN = {
    "profile": "--profile", "out": "--out", "task": "--scale", "task.scale": "--scale", "mode": "the command itself",
    "resume": "the command itself", "hydra.run.dir": "--out",
}  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m dynres.pareto", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as of dynres.run, such as data=div2k data.root=DIV2K")
    parser.add_argument("--profile", default="demo", help="demo (default), smoke or paper")
    parser.add_argument("--only", help=f"systems, with commas between: {','.join(SYSTEMS)}")
    parser.add_argument("--scale", type=int, default=2, help="2 (default), 3 or 4")
    parser.add_argument("--budgets", help="shares of the full compute, such as 0.5,0.75,1; default: by each network")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="results go to OUT/pareto (default: runs)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the restoration")
    options = parser.parse_intermixed_args(arguments)
    options.only = _names(options.only)
    options.budgets = _budgets(options.budgets)
    if options.scale not in SCALES:
        raise UserError(f"--scale must be one of {', '.join(map(str, SCALES))}, got {options.scale}")
    for override in options.overrides:
        _check_override(override)
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {options.device}: {str(error).splitlines()[0]}") from error
    return options


def _check_override(override: str) -> None:
    """Refuse what is no override, is for no system, or says what an option of this command says."""
    system, colon, rest = override.partition(":")
    if colon and "=" not in system:
        if system not in SYSTEMS:
            raise UserError(f"{override}: there is no system {system!r}, only {', '.join(SYSTEMS)}")
        override = rest
    key, equals, _ = override.lstrip("+").partition("=")
    if not equals and not override.startswith("~"):
        raise UserError(f"expected KEY=VALUE, as dynres.run takes it, got {override!r}")
    if key in OWN:
        raise UserError(f"leave out {override}: {OWN[key]} decides that for all systems")


def _names(only: str | None) -> list[str]:
    names = list(SYSTEMS) if only is None else list(dict.fromkeys(name.strip() for name in only.split(",")))
    if unknown := [name for name in names if name not in SYSTEMS]:
        raise UserError(f"--only takes systems out of {', '.join(SYSTEMS)}, got {unknown[0]!r}")
    return names


def _budgets(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        budgets = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--budgets takes numbers with commas between, such as 0.5,0.75,1, got {text}") from error
    try:
        for budget in budgets:
            check_budget(budget)
    except ValueError as error:
        raise UserError(f"--budgets: {error}") from error
    return sorted(set(budgets))


def tests(options: argparse.Namespace) -> tuple[SuperResolutionData, Inference]:
    """The images that all systems restore, read once to be sure of them; and how, but for the budget."""
    shared = [one for one in options.overrides if one.lstrip("+~").startswith(("data", "inference.", "seed="))]
    cfg = composed(
        [
            "mode=test", "backbone=identity", "upsampler=bicubic", "method=assr", "task=sr",
            f"task.scale={options.scale}", f"profile={options.profile}", *shared,
            f"data.test_scales=[{options.scale}]",
        ]
    )  # fmt: skip
    data = make(cfg.data, "data")
    data.check("test")
    return data, Inference(**plain(cfg.inference))


@clean_exit
def main() -> None:
    """The command line. A system that fails is named, and the others go on; exit code 2 then."""
    options = parse()
    console = Console()
    data, inference = tests(options)
    out = options.out / "pareto"

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    session = Session(options.only, options.scale, options.profile, out, options.overrides, say)
    points, systems = bicubic(data.test_dataloader()), list[Trained]()
    for name in options.only:
        try:
            folders = session.trained(name)
            networks = [load_pretrained(folder / "checkpoints" / "last.ckpt") for folder in folders]
            say(f"{SYSTEMS[name].title}: restoring at each budget")
            title, samples = SYSTEMS[name].title, data.test_dataloader()
            points += measured(title, networks, samples, options.budgets, inference, torch.device(options.device))
            systems.append(about(name, folders))
        except UserError as error:
            systems.append(Trained(SYSTEMS[name].title, [], failure=str(error)))
            say(f"{SYSTEMS[name].title} failed: {error}")
        draw(out, points, options.profile, options.scale)  # what there is: the rest may take days
    tell(out, points, systems, options.profile, options.scale)
    say(f"written to {out}/pareto.png, .md and .csv")
    if any(one.failure for one in systems):
        sys.exit(2)


if __name__ == "__main__":
    main()
