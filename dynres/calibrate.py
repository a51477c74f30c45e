"""python -m dynres.calibrate FOLDER --ckpt FLEXIR -o OUT [--sigma 25 | --quality 10]: thresholds for a budget.

Adaptive inference leaves a region where its score exceeds a threshold; how much compute that saves depends on the
images. This command restores the images of a folder once at every depth, tells for each threshold which share of the
full compute they would take, and writes the network with that table: a folder that every command takes as a
checkpoint, and whose `threshold=auto` follows `budget`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dynres.errors import UserError
from dynres.restorer import ADAPTIVE_REGIONS

POINTS = 24  # of the table that is kept
SHOWN = 8


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dynres.calibrate", description=__doc__)
    parser.add_argument("images", type=Path, help="a folder of images like those to come, already degraded")
    parser.add_argument("--ckpt", type=Path, required=True, help="a FlexIR: a run's checkpoint or a saved folder")
    parser.add_argument("--sigma", type=float, help="the images are clean: add noise of this level (of 255) first")
    parser.add_argument("--quality", type=int, help="the images are clean: JPEG of this quality (1 to 100) first")
    parser.add_argument("--regions", type=int, default=ADAPTIVE_REGIONS, help="as inference will cut images")
    parser.add_argument("--seed", type=int, default=0, help="fixes the noise")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the calibrated network")
    options = parser.parse_args(arguments)
    if options.sigma is not None and options.quality is not None:
        raise UserError("give either --sigma or --quality")
    if options.regions < 1:
        raise UserError(f"--regions must be at least 1, got {options.regions}")
    if options.out.exists():
        raise UserError(f"{options.out} exists: give another -o")
    return options
