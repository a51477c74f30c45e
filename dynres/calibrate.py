"""python -m dynres.calibrate FOLDER --ckpt FLEXIR -o OUT [--sigma 25 | --quality 10]: thresholds for a budget.

Adaptive inference leaves a region where its score exceeds a threshold; how much compute that saves depends on the
images. This command restores the images of a folder once at every depth, tells for each threshold which share of the
full compute they would take, and writes the network with that table: a folder that every command takes as a
checkpoint, and whose `threshold=auto` follows `budget`.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from dynres.backbones.flexir import FlexIR
from dynres.contracts import Exit, Task
from dynres.data.degradations import Degradation, GaussianNoise, Jpeg
from dynres.data.images import find_images, is_gray, read_rgb
from dynres.data.pairs import generator, to_tensor
from dynres.errors import UserError, clean_exit
from dynres.interop.weights import load_pretrained
from dynres.layers.regions import cut
from dynres.restorer import ADAPTIVE_REGIONS, Restorer

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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the calibrated network")
    options = parser.parse_args(arguments)
    if options.sigma is not None and options.quality is not None:
        raise UserError("give either --sigma or --quality")
    ranges = {"sigma": (0, 255), "quality": (1, 100), "regions": (1, 10**6)}
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{name} must be from {low} to {high}, got {value}")
    if options.out.exists():
        raise UserError(f"{options.out} exists: give another -o")
    return options


def degraded(path: Path, channels: int, options: argparse.Namespace) -> Tensor:
    """The image at a path as a network of c channels will get it: (1, c, H, W), or colours for a gray network."""
    rgb = read_rgb(path)
    how: Degradation
    if options.sigma is not None:
        how, level = GaussianNoise(options.sigma, channels=channels), options.sigma
    elif options.quality is not None:
        how, level = Jpeg(options.quality), options.quality
    else:
        return to_tensor(rgb[..., :1] if channels == 1 and is_gray(path) else rgb)[None]
    seed = zlib.crc32(path.name.encode())
    spoilt = how(rgb, is_gray(path), level, generator(options.seed, seed))
    return torch.from_numpy(np.ascontiguousarray(spoilt.image.transpose(2, 0, 1)))[None]


@torch.inference_mode()
def leaving(restorer: Restorer, image: Tensor, regions: int) -> tuple[Tensor, list[int], int]:
    """Of one image: thresholds (R, N - 1) of its regions, a region's MACs by depth, and the image's in one piece."""
    backbone = restorer.backbone
    assert isinstance(backbone, FlexIR)
    normal = restorer.pixels.normal(restorer.seen(image, 1))
    height, width = normal.shape[-2:]
    boxes = backbone.boxes(height, width, Exit(regions=regions))
    size = backbone.region_sizes(height, width, Task(exit=Exit(regions=regions)))[0]
    macs = backbone.macs_by_depth(size, adaptive=True)
    found = [backbone.thresholds(region).cpu() for region in cut(normal, boxes).split(1)]  # one at a time: memory
    return torch.cat(found), macs, backbone.cost(height, width).full


def table(measured: Sequence[tuple[Tensor, list[int], int]]) -> list[tuple[float, float]]:
    """(mean share of the full MACs, threshold) pairs, both ascending, from below the least threshold to the greatest.

    Args:
        measured: `leaving` of every image.
    """
    every = torch.cat([thresholds.flatten() for thresholds, _, _ in measured])
    every = every[every.isfinite()]
    if not len(every):
        raise UserError("no region of these images has a gradient to score: give photographs")
    spread = torch.quantile(every.double(), torch.linspace(0, 1, POINTS, dtype=torch.float64)).unique()
    candidates = [float(spread[0]) * 0.99, *spread.tolist()]
    points: list[tuple[float, float]] = []
    for candidate in candidates:
        share = fmean(
            torch.tensor(macs, dtype=torch.float64)[depths(thresholds, candidate)].sum().item() / full
            for thresholds, macs, full in measured
        )
        if not points or share > points[-1][0]:
            points.append((share, candidate))
        else:
            points[-1] = (points[-1][0], candidate)  # as much compute at a higher threshold
    return points


def depths(thresholds: Tensor, h: float) -> Tensor:
    """(R,) blocks that each region goes through at h: up to the first whose threshold lies above, or all N."""
    stays = (thresholds <= h).to(torch.int64)
    return 1 + stays.cumprod(dim=1).sum(dim=1)


@clean_exit
def main() -> None:
    """The command line."""
    options = parse()
    restorer = load_pretrained(options.ckpt)
    if not isinstance(restorer.backbone, FlexIR):
        raise UserError(f"{options.ckpt} holds a {type(restorer.backbone).__name__}: thresholds are FlexIR's")
    if options.quality is not None and restorer.backbone.image_channels == 3:
        raise UserError("--quality makes gray JPEGs and this network restores colours: spoil its images beforehand")
    try:
        restorer = restorer.to(options.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {options.device}: {str(error).splitlines()[0]}") from error
    channels, console = restorer.backbone.image_channels, Console(stderr=True)
    images = find_images(options.images)
    measured = [
        leaving(restorer, degraded(path, channels, options).to(options.device), options.regions)
        for path in track(images, "restoring", console=console)
    ]
    points = table(measured)
    node = dict(restorer.description or {})
    node["backbone"] = {**node["backbone"], "calibration": [list(point) for point in points]}
    calibrated = Restorer.from_description(node)
    calibrated.load_state_dict(restorer.state_dict())
    calibrated.save_pretrained(options.out)
    show(points, len(images), options.regions)
    print(f"written to {options.out}: use it as ckpt, with threshold=auto and a budget")


def show(points: Sequence[tuple[float, float]], images: int, regions: int) -> None:
    """Print some of the points."""
    shown = Table(title=f"{images} images in {regions} regions, overlaps included", title_justify="left")
    for header in ("budget", "threshold"):
        shown.add_column(header, justify="right")
    step = max(1, (len(points) - 1) // SHOWN)
    for share, threshold in [*points[:-1:step], points[-1]]:
        shown.add_row(f"{share:.3f}", f"{threshold:.4f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
