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
from dynres.export.files import export_onnx, export_program, stated_scale
from dynres.export.runtime import Exported, Quantised
from dynres.interop.weights import load_pretrained
from dynres.metrics.image import peak_ratio
from dynres.restorer import Restorer, check_budget, output_size

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
    parser.add_argument(
        "--int8", action="store_true", help="quantise the linear layers of an ONNX file, and measure it"
    )
    parser.add_argument(
        "--original", type=Path, help="with --int8: what --image was made from; PSNR of both files to it"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write")
    options = parser.parse_args(arguments)
    options.size = _size(options.size)
    options.format = options.format or SUFFIXES.get(options.out.suffix.lower())
    if options.format is None:
        raise UserError(f"-o {options.out} ends neither in .onnx nor in .pt2: name it so, or give --format")
    if options.int8 and options.format != "onnx":
        raise UserError("--int8 quantises ONNX files only: name the file NET.onnx, or leave out --int8")
    if options.original is not None and not (options.int8 and options.image):
        raise UserError("--original is what --image was made from, to measure --int8 by: give all three")
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


def _original(options: argparse.Namespace, restorer: Restorer) -> Tensor | None:
    """(1, c, H', W') what the results are measured by; refused before the work if it has another size."""
    original = _image(options.original)
    if original is None:
        return None
    (tall, wide) = output_size(options.size, stated_scale(restorer, options.scale), None)
    height, width = original.shape[-2:]
    if (height, width) != (tall, wide):
        raise UserError(
            f"{options.original} is {width}x{height} and the results are {wide}x{tall} (width x height): give the "
            f"original of that size"
        )
    return restorer.seen(original, 1)


def report(done: Exported) -> str:
    """One line about a file."""
    told = done.metadata
    (height, width), (tall, wide) = told["input_size"], told["output_size"]
    parts = [f"{width}x{height} -> {wide}x{tall}"]
    if told["routing"] is not None:
        keys = [share for unit, share in told["routing"].items() if " keys" in unit]  # of ACLA, or none
        unit = "steps of width" if any(unit.startswith("width ") for unit in told["routing"]) else "branches"
        branches = f"{sum(told['routing'].values()):g} of {len(told['routing'])} {unit}"
        parts.append(f"{sum(keys) / len(keys):.0%} of the keys" if keys else branches)
    parts += [f"{told['macs'] / 1e9:.3g} GMACs", f"{done.nodes} nodes", f"{done.path.stat().st_size / 1e6:.1f} MB"]
    return f"{done.path}: {', '.join(parts)}; at most {done.difference:.1e} from the network"


def report_int8(changed: Quantised, options: argparse.Namespace, original: Tensor | None) -> list[str]:
    """What int8 changed: how much of the network, bytes, results, time."""
    before, after = (size / 1e6 for size in changed.sizes)
    lines = [
        f"int8: {changed.int8} of {changed.layers} linear layers, {before:.3g} -> {after:.3g} MB "
        f"({after / before:.0%}); PSNR to the float file on {options.image or 'random pixels'}: "
        f"{_decibels(*changed.results)}"
    ]
    if original is not None:
        either = [_decibels(result, original) for result in changed.results]
        lines.append(f"PSNR to {options.original}: float {either[0]}, int8 {either[1]}")
    slow, fast = changed.milliseconds
    verdict = f"{slow / fast:.2f} times as fast" if fast < slow else f"{fast / slow:.2f} times as long: no gain here"
    threads = f"{changed.threads} thread{'s' * (changed.threads > 1)}"
    return [*lines, f"time in onnxruntime, {threads}: float {slow:.4g} ms, int8 {fast:.4g} ms, {verdict}"]


def _decibels(a: Tensor, b: Tensor) -> str:
    """PSNR of all pixels and channels of two (1, c, H, W) images in [0, 1], rounded to 8 bits."""
    return f"{peak_ratio(*((255 * image[0].double().clamp(0, 1)).round() for image in (a, b))):.2f} dB"


@clean_exit
def main() -> None:
    """The command line."""
    options = parse()
    console = Console(stderr=True)
    restorer = load_pretrained(options.ckpt)
    console.print(f"network: {options.ckpt}", highlight=False, soft_wrap=True)
    stated = options.routing if options.budget is None else options.budget
    original = _original(options, restorer)
    asked = (options.size, options.scale, stated, options.noise, _image(options.image))
    with warnings.catch_warnings(record=True) as said:
        if options.format == "onnx":
            done = export_onnx(restorer, options.out, *asked, opset=options.opset, int8=options.int8)
        else:
            done = export_program(restorer, options.out, *asked)
    for note in said:
        console.print(f"note: {note.message}", highlight=False, soft_wrap=True)
    console.print(report(done), highlight=False, soft_wrap=True)
    if done.quantised is not None:
        console.print(*report_int8(done.quantised, options, original), sep="\n", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
