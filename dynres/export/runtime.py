"""What a file is run by, and what is known of a file once it has run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynres.errors import UserError

INPUT, OUTPUT = "image", "restored"
KEY = "dynres"  # of the metadata: an entry of ONNX's metadata_props, a file "dynres.json" inside a pt2

Run = Callable[[Path, Tensor, int], list[Tensor]]  # a file's results for an image, asked for so many times


@dataclass(frozen=True)
class Quantised:
    """What int8 linear layers changed, on the image that the file was checked with.

    Attributes:
        layers: linear layers of the float file that the image goes through, by their weights.
        int8: how many of these were quantised.
        sizes: of the float and of the int8 file, bytes.
        results: of the float and of the int8 file, (1, c, H', W') each, in [0, 1].
        milliseconds: of the float and of the int8 file, medians of runs that took turns.
        threads: of onnxruntime in these runs.
    """

    layers: int
    int8: int
    sizes: tuple[int, int]
    results: tuple[Tensor, Tensor]
    milliseconds: tuple[float, float]
    threads: int


@dataclass(frozen=True)
class Exported:
    """A file that was written and agrees with the network.

    Attributes:
        path: of the file.
        difference: largest |file - Restorer.restore| on the image it was checked with, for values in [0, 1].
        nodes: of its graph.
        metadata: what the file says of itself: format, version, network (its description), input_size and output_size
            (height, width), scale, noise, routing (unit -> decision for the image it was checked with), macs of the
            backbone, int8 (how many linear layers were quantised, of how many; None in a float file).
        quantised: of an int8 file, what that changed.
    """

    path: Path
    difference: float
    nodes: int
    metadata: dict[str, Any]
    quantised: Quantised | None = None


def require(*packages: str) -> None:
    """Refuse to go on without these packages of the extra `export`, in one line."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f'ONNX files need {package}: pip install "dynres[export]"') from error


def first_cause(error: BaseException) -> str:
    """The first line of the error that an error was raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def onnxruntime_says(words: str) -> Iterator[None]:
    """Whatever onnxruntime raises as one line; its own errors have no other class in common."""
    try:
        yield
    except Exception as error:
        raise UserError(f"onnxruntime {words}: {first_cause(error)}") from error


def onnx_session(model: str | bytes, threads: int = 0) -> Callable[[Tensor], Tensor]:
    """An ONNX file, by its path or its content, as image -> restored; 0 threads are as many as onnxruntime likes.

    Raises:
        UserError: onnxruntime refuses the file, now or when it is to run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with onnxruntime_says("refuses the file"):
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> Tensor:
        with onnxruntime_says("refuses the file"):
            return torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])

    return run


def run_onnx(path: Path, image: Tensor, times: int) -> list[Tensor]:
    """`Run` of an ONNX file."""
    session = onnx_session(str(path))
    return [session(image) for _ in range(times)]


@torch.no_grad()
def run_program(path: Path, image: Tensor, times: int) -> list[Tensor]:
    """`Run` of a pt2."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return [module(image) for _ in range(times)]
