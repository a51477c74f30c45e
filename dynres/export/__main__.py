"""python -m dynres.export --ckpt X --size WIDTHxHEIGHT --scale 2 -o OUT.onnx: a trained network for other runtimes."""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from dynres.data.images import read_rgb
from dynres.errors import UserError, clean_exit
from dynres.export.files import Exported, export_onnx, export_program
from dynres.interop.weights import load_pretrained
from dynres.restorer import check_budget, output_size

SUFFIXES = {".onnx": "onnx", ".pt2": "pt2"}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with every value checked that can be checked without the network."""
    parser = argparse.ArgumentParser(prog="python -m dynres.export", description=__doc__)
    parser.add_argument(
        "--ckpt", type=Path, required=True, help="a run's checkpoint, a save_pretrained folder, or authors' file"
    )
    parser.add_argument("--size", required=True, help="size WIDTHxHEIGHT of the images that the file will restore")
    parser.add_argument("--scale", type=float, help="upscaling factor from 1 to 30; default: the network's own")
    parser.add_argument("--noise", type=float, help="standard deviation, such as 25, for networks that must be told")
    parser.add_argument("--image", type=Path, help="an image of that size: fits the budget, and checks the file")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--budget", type=float, help="of a routed network: the branches that fit (0, 1] of its compute")
    which.add_argument("--routing", choices=("all", "none"), help="of a routed network: every branch, or none")
    parser.add_argument("--format", choices=("onnx", "pt2"), help="default: by the name of the file")
    parser.add_argument("--opset", type=int, default=18, help="version of ONNX's operators, at least 18")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write")
    options = parser.parse_args(arguments)
    options.size = _size(options.size)
    options.format = options.format or SUFFIXES.get(options.out.suffix.lower())
    if options.format is None:
        raise UserError(f"-o {options.out} ends neither in .onnx nor in .pt2: name it so, or give --format")
    try:
        check_budget(options.budget)
        if options.scale is not None:
            output_size((1, 1), options.scale, None)
    except ValueError as error:
        raise UserError(str(error)) from error
    return options


def _size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT -> (height, width)."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.lower())
    if found is None:
        raise UserError(f"--size takes WIDTHxHEIGHT of the image in pixels, such as 480x320, got {text}")
    return int(found[2]), int(found[1])


def _image(path: Path | None) -> Tensor | None:
    return None if path is None else torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None].float() / 255


def report(done: Exported) -> str:
    """One line about a file."""
    told = done.metadata
    (height, width), (tall, wide) = told["input_size"], told["output_size"]
    parts = [f"{width}x{height} -> {wide}x{tall}"]
    if told["routing"] is not None:
        keys = [share for unit, share in told["routing"].items() if " keys" in unit]  # of ACLA, or none
        branches = f"{sum(told['routing'].values())} of {len(told['routing'])} branches"
        parts.append(f"{sum(keys) / len(keys):.0%} of the keys" if keys else branches)
    parts += [f"{told['macs'] / 1e9:.3g} GMACs", f"{done.nodes} nodes", f"{done.path.stat().st_size / 1e6:.1f} MB"]
    return f"{done.path}: {', '.join(parts)}; at most {done.difference:.1e} from the network"


@clean_exit
def main() -> None:
    """The command line."""
    options = parse()
    console = Console(stderr=True)
    restorer = load_pretrained(options.ckpt)
    console.print(f"network: {options.ckpt}", highlight=False, soft_wrap=True)
    stated = options.routing if options.budget is None else options.budget
    asked = (options.size, options.scale, stated, options.noise, _image(options.image))
    with warnings.catch_warnings(record=True) as said:
        if options.format == "onnx":
            done = export_onnx(restorer, options.out, *asked, opset=options.opset)
        else:
            done = export_program(restorer, options.out, *asked)
    for note in said:
        console.print(f"note: {note.message}", highlight=False, soft_wrap=True)
    console.print(report(done), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
