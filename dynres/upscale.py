"""python -m dynres.upscale IMAGE_OR_FOLDER --scale 3.7 -o OUT: enlarge or restore any image with a trained network."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from dynres.data.images import find_images, read_rgba, write_png
from dynres.data.resize import resize
from dynres.errors import UserError, clean_exit
from dynres.interop.weights import load_pretrained
from dynres.restorer import PRECISIONS, Restorer, check_budget, output_size

DEFAULT_TILE = 480  # about 2 GB for the largest network of the suite


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with every value checked that can be checked without an image."""
    parser = argparse.ArgumentParser(prog="python -m dynres.upscale", description=__doc__)
    parser.add_argument("input", type=Path, help="an image, or a folder of images (searched recursively)")
    parser.add_argument("--scale", type=float, help="factor from 1 to 30, such as 3.7; default: the network's own")
    parser.add_argument("--size", help="output size WIDTHxHEIGHT instead of a scale")
    parser.add_argument(
        "--ckpt", type=Path, help="a run's checkpoint or an author's file; default: the newest finished run under runs/"
    )
    parser.add_argument("--family", help="whose file it is, where names and shapes do not tell: VDSR")
    parser.add_argument("--noise", type=float, help="standard deviation of the noise (of 255), for networks that ask")
    parser.add_argument(
        "--budget", type=float, help="fraction (0, 1] of the full compute; default: the network decides"
    )
    parser.add_argument("--pointer", type=int, help="the deepest block that may run, for networks with branches")
    parser.add_argument(
        "--threshold",
        type=_threshold,
        help="adaptive inference for such networks: regions that score above it leave early; auto: as calibrated to "
        "the budget (python -m dynres.calibrate)",
    )
    parser.add_argument("--regions", type=int, help="into how many regions such networks cut an image")
    parser.add_argument(
        "--tile",
        type=_tile,
        default=DEFAULT_TILE,
        help="side in input pixels of the tiles that the backbone sees; 0 for none; auto: none if the image fits into "
        f"the free memory, else the largest that do. Default: {DEFAULT_TILE}. Exact for networks of convolutions; "
        "those that look at the whole image (docs/inference.md) give a slightly other result in tiles",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="32", help="bf16: up to twice as fast, a little off")
    parser.add_argument("--compile", action="store_true", help="the backbone through torch.compile, slow at first")
    parser.add_argument("--seed", type=int, default=0, help="fixes the network's random gates")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-o", "--out", type=Path, required=True, help="output PNG, or a folder")
    options = parser.parse_args(arguments)
    options.size = _size(options.size)
    if options.scale is not None and options.size is not None:
        raise UserError("give either --scale, such as --scale 3.7, or --size WIDTHxHEIGHT")
    try:
        if options.scale is not None:
            output_size((1, 1), options.scale, None)
        check_budget(options.budget)
        torch.device(options.device)
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error).splitlines()[0]) from error
    return options


def _threshold(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise UserError(f"--threshold takes a number such as 1.05, or auto, got {text}") from error


def _tile(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _size(text: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT -> (height, width)."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UserError(f"--size takes WIDTHxHEIGHT in pixels, such as 3840x2160, got {text}")
    return int(height), int(width)


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """last.ckpt of the run under `runs` that finished last."""
    finished = [path for path in runs.rglob("checkpoints/last.ckpt") if (path.parent.parent / "summary.json").is_file()]
    if not finished:
        raise UserError(f"no finished run under {runs}/: train one with `make demo`, or give --ckpt PATH")
    return max(finished, key=lambda path: path.stat().st_mtime)


def enlarge(restorer: Restorer, path: Path, options: argparse.Namespace, progress: Progress) -> tuple[str, Path]:
    """Restore one image and write it; alpha is carried, enlarged by bicubic. Returns a line about it, and the file."""
    rgb, alpha = read_rgba(path)
    try:
        size = output_size((rgb.shape[0], rgb.shape[1]), options.scale, options.size)
        seen = size if restorer.upsampler.same_size else rgb.shape[:2]
        tile = options.tile or None
        if isinstance(tile, int) and max(seen) > tile:
            restorer.check_tile(tile)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    image = torch.from_numpy(rgb).to(options.device).permute(2, 0, 1)[None].float() / 255
    if restorer.backbone.image_channels == 1 and bool((image == image[:, :1]).all()):
        image = image[:, :1]  # a gray image is what a gray network is for; of a colour one it takes the luma
    seed = torch.tensor([options.seed], device=options.device)

    def watch(tiles: Iterator[int], count: int) -> Iterator[int]:
        task = progress.add_task(f"{path.name} (tiles)", total=count)
        for index in tiles:
            yield index
            progress.advance(task)
        progress.remove_task(task)

    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        try:
            result = restorer.restore(
                image,
                scale=options.scale,
                size=options.size,
                budget=options.budget,
                pointer=options.pointer,
                threshold=options.threshold,
                regions=options.regions,
                tile=tile,
                seed=seed,
                watch=watch,
                noise=options.noise,
                precision=options.precision,
                compile=options.compile,
            )
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    for note in said:
        progress.console.print(f"note: {note.message}", highlight=False, soft_wrap=True)
    target = _target(path, options)
    write_png(
        target, _pixels(result.image), None if alpha is None else resize(alpha[..., None], size, "matlab")[..., 0]
    )
    line = (
        f"{path.name}: {rgb.shape[1]}x{rgb.shape[0]} -> {size[1]}x{size[0]}, {result.macs.item() / 1e9:.2f} GMACs, "
        f"{time.perf_counter() - started:.1f} s"
    )
    if result.routing is not None:
        if result.routing.regions is not None:
            blocks = result.routing.decisions.sum(1).mean().item()
            regions = len(result.routing.regions.boxes)
            line += f", {blocks:.2f} of {len(result.routing.units)} blocks in {regions} region{'s' * (regions > 1)}"
        elif result.routing.units[0].startswith("width "):  # of AnySR
            line += f", {result.routing.decisions.sum():.0f} of {len(result.routing.units)} steps of width"
        else:
            keys = [n for n, unit in enumerate(result.routing.units) if " keys" in unit]  # of ACLA, or none
            some = result.routing.decisions[:, keys] if keys else result.routing.decisions
            line += f", {some.mean().item():.0%} of the {'keys' if keys else 'branches'}"
    return line, target


def _pixels(image: Tensor):  # type: ignore[no-untyped-def]  # numpy uint8 (H, W, 3)
    return image[0].expand(3, -1, -1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()


def _target(path: Path, options: argparse.Namespace) -> Path:
    if options.out.suffix.lower() == ".png" and not options.input.is_dir():
        return options.out
    kind = f"x{options.scale:g}" if options.scale is not None else f"{options.size[1]}x{options.size[0]}"
    kind = "restored" if options.scale == 1 else kind
    below = path.relative_to(options.input).parent if options.input.is_dir() else Path()
    return options.out / below / f"{path.stem}_{kind}.png"


def _check_targets(images: list[Path], options: argparse.Namespace) -> None:
    """Refuse to write two results into one file, or a result over an image that was given."""
    given = {path.resolve() for path in images}
    written: dict[Path, Path] = {}
    for path in images:
        target = _target(path, options).resolve()
        if target in given:
            raise UserError(f"{target} is one of the images: give another -o")
        if target in written:
            raise UserError(f"{path} and {written[target]} would both become {target}: restore them one by one")
        written[target] = path


@clean_exit
def main() -> None:
    """The command line. An image that cannot be read is named and the others are still done; exit code 2 then."""
    options = parse()
    if options.input.is_dir() and options.out.suffix:
        raise UserError(f"-o {options.out} must be a folder when the input is one")
    images = find_images(options.input) if options.input.is_dir() else [options.input]
    checkpoint = options.ckpt or newest_checkpoint()
    console = Console(stderr=True)
    restorer = load_pretrained(checkpoint, options.family)
    try:
        restorer = restorer.to(options.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {options.device}: {str(error).splitlines()[0]}") from error
    console.print(f"network: {checkpoint}", highlight=False, soft_wrap=True)
    if options.scale is None and options.size is None:
        if restorer.upsampler.scale is None:
            raise UserError("this network enlarges by any factor: give --scale, such as --scale 3.7, or --size")
        options.scale = restorer.upsampler.scale
    if restorer.backbone.wants_noise and options.noise is None:
        raise UserError("this network must be told the noise: --noise 25 for a standard deviation of 25 of 255")
    if options.noise is not None and not restorer.backbone.wants_noise:
        raise UserError("this network does not ask for the noise level: leave out --noise")
    _check_targets(images, options)
    failed = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bars as progress:
        every = progress.add_task("images", total=len(images))
        for path in images:
            try:
                line, target = enlarge(restorer, path, options, progress)
                console.print(f"{line}: {target}", highlight=False, soft_wrap=True)
            except UserError as error:
                failed += 1
                console.print(f"error: {error}", highlight=False, soft_wrap=True)
            progress.advance(every)
    if failed:
        sys.exit(2)


if __name__ == "__main__":
    main()
