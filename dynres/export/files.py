"""Files of a fixed network: written, read back by their runtime, and compared with `Restorer.restore`."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynres import __version__
from dynres.backbones.acla import CrossLayer
from dynres.backbones.anysr import AnySR
from dynres.contracts import Restoration, Routing, Task
from dynres.errors import UserError
from dynres.export.fixed import FixedRestorer
from dynres.export.int8 import quantised
from dynres.export.runtime import (
    INPUT,
    KEY,
    OUTPUT,
    Exported,
    Run,
    first_cause,
    require,
    run_onnx,
    run_program,
)
from dynres.files import atomic_file
from dynres.restorer import Restorer, output_size

TOLERANCE = 1e-4  # a file further from `Restorer.restore` is not left behind; 1/255 is 4e-3
_FOLDED = 2**13  # constants of more numbers stay computed: grids of a large output would outweigh the network

# Decisions; a budget, as `Restorer.restore` fits it to the image; or every branch on or off.
Stated = Routing | float | Literal["all", "none"]


def export_onnx(
    restorer: Restorer,
    path: Path | str,
    size: tuple[int, int],
    scale: float | None = None,
    routing: Stated | None = None,
    noise: float | None = None,
    image: Tensor | None = None,
    opset: int = 18,
    int8: bool = False,
) -> Exported:
    """Write a network for images of one size as ONNX: "image" (1, c, H, W) -> "restored" (1, c, H', W'), in [0, 1].

    Args:
        restorer: the network; it is copied and left as it is.
        path: of the file.
        size: (H, W) of the image.
        scale: upscaling factor in [1, 30]; None for the one a network was made for.
        routing: of a routed network, and needed there: which branches run; the others are not in the file. Of AnySR,
            nothing for the subnet of the scale. Of ACLA, a budget or nothing: its file chooses keys by what it sees.
        noise: standard deviation on the scale of 8 bits, for networks that must be told.
        image: (1, c, H, W) in [0, 1] (or colour for a gray network) that a budget is fitted to and the file is checked
            with; None checks with a random one.
        opset: version of ONNX's operators, at least 18.
        int8: quantise the linear layers once the file has been checked, and compare the two (dynres.export.int8).

    Raises:
        UserError: a missing package, anything out of range, a network that cannot be traced, or a file further than
            1e-4 from `Restorer.restore`, which is then removed; with int8, also a network without linear layers, or a
            result further from the float file's than int8 may be.
    """
    require("onnx", "onnxscript", "onnxruntime")
    if opset < 18:
        raise UserError(f"opset must be at least 18, got {opset}")
    job = _prepared(restorer, size, scale, routing, noise, image)
    with _conversion(restorer, "ONNX"):
        model = _onnx_model(_program(job), opset)
    model.metadata_props[KEY] = json.dumps(job.metadata)
    import onnx_ir

    return _written(Path(path), onnx_ir.to_proto(model).SerializeToString(), job, len(model.graph), run_onnx, int8)


def export_program(
    restorer: Restorer,
    path: Path | str,
    size: tuple[int, int],
    scale: float | None = None,
    routing: Stated | None = None,
    noise: float | None = None,
    image: Tensor | None = None,
) -> Exported:
    """The same as a program of torch.export, for `torch.export.load(path).module()(image)`; see `export_onnx`."""
    job = _prepared(restorer, size, scale, routing, noise, image)
    content = io.BytesIO()
    with _conversion(restorer, "torch.export"):
        program = _program(job)
        torch.export.save(program, content, extra_files={f"{KEY}.json": json.dumps(job.metadata)})
    nodes = sum(node.op == "call_function" for node in program.graph.nodes)
    return _written(Path(path), content.getvalue(), job, nodes, run_program)


@dataclass(frozen=True)
class _Job:
    """A network made ready: `fixed` must give `expected` for `image`."""

    fixed: FixedRestorer
    image: Tensor
    expected: Tensor
    metadata: dict[str, Any]


def _prepared(
    restorer: Restorer,
    size: tuple[int, int],
    scale: float | None,
    routing: Stated | None,
    noise: float | None,
    image: Tensor | None,
) -> _Job:
    restorer = copy.deepcopy(restorer).cpu().eval()
    if getattr(restorer.backbone, "alpha", None) is not None:
        raise UserError("this is the supernet of a search: train what it found (found/ in its run), and export that")
    scale = stated_scale(restorer, scale)
    if min(size) < 1:
        raise UserError(f"the image needs a height and a width of at least 1, got {size[0]}x{size[1]}")
    by_content = not restorer.backbone.regional and not isinstance(restorer.backbone, AnySR)
    if isinstance(routing, int | float) and image is None and by_content:
        raise UserError(f"a budget of {routing:g} is fitted to an image: give one (--image)")
    try:
        output = output_size(size, scale, None)
        shown = _shown(restorer, size, image)
        found, asked = _reference(restorer, shown, scale, routing, noise)
        fixed = FixedRestorer(restorer, size, output, asked, found.routing)
    except ValueError as error:
        raise UserError(str(error)) from error
    return _Job(fixed, shown, found.image.clone(), _metadata(restorer, size, output, scale, noise, found))


def stated_scale(restorer: Restorer, scale: float | None) -> float:
    """The scale asked for, else the one that the network was made for.

    Raises:
        UserError: there is neither.
    """
    scale = restorer.upsampler.scale if scale is None else scale
    if scale is None:
        raise UserError("this network enlarges by any factor: say which (--scale 2)")
    return scale


def _shown(restorer: Restorer, size: tuple[int, int], image: Tensor | None) -> Tensor:
    """(1, c, H, W) the image to check with."""
    if image is None:
        source = torch.Generator().manual_seed(0)
        return torch.rand(1, restorer.backbone.image_channels, *size, generator=source)
    if len(image) != 1 or tuple(image.shape[-2:]) != tuple(size):
        raise UserError(
            f"the image is {image.shape[-1]}x{image.shape[-2]} and the network is exported for {size[1]}x{size[0]} "
            f"(width x height): give one image of that size"
        )
    return restorer.seen(image.detach().cpu().float(), 1)


def _reference(
    restorer: Restorer, image: Tensor, scale: float, routing: Stated | None, noise: float | None
) -> tuple[Restoration, Task]:
    """What the file must give with the decisions behind it, and what the backbone was asked."""
    name = type(restorer.backbone).__name__
    routed = bool(restorer.backbone.cost(*image.shape[-2:]).units)
    if restorer.backbone.regional and not isinstance(routing, int | float):
        if routing not in (None, "all"):
            raise UserError(
                f"{name} always runs its first block: give a budget, such as 0.6, or nothing for all blocks"
            )
        routing = 1.0
    if isinstance(restorer.backbone, CrossLayer) and not isinstance(routing, int | float):
        if routing not in (None, "all"):
            raise UserError(f"{name} chooses keys by what it sees: give a budget, or nothing for all that it keeps")
        routing = 1.0 if routed else None
    by_scale = isinstance(restorer.backbone, AnySR)  # what runs is known before the image is
    if routed and routing is None and not by_scale:
        raise UserError(f"{name} routes: say which branches run (--routing all, or --budget 0.6 --image photo.png)")
    if not routed and routing is not None:
        raise UserError(f"{name} has no branches to bypass: leave out the routing and the budget")
    budget = routing if isinstance(routing, int | float) else None if by_scale and routing is None else 1.0
    budget = budget if routed else None
    stated: Routing | None = None
    asked: list[Task] = []

    def ask(_: nn.Module, given: tuple[Tensor, Task]) -> tuple[Tensor, Task]:
        asked.append(replace(given[1], routing=stated))
        return given[0], asked[-1]

    with restorer.backbone.register_forward_pre_hook(ask):
        found = restorer.restore(image, scale, budget=budget, noise=noise)
        if found.routing is not None and (routing == "none" or isinstance(routing, Routing)):
            stated = replace(found.routing, decisions=_decisions(routing, found.routing.decisions, name))
            found = restorer.restore(image, scale, noise=noise)
    return found, asked[-1]


def _decisions(routing: Routing | Literal["none"], like: Tensor, name: str) -> Tensor:
    if routing == "none":
        return torch.zeros_like(like)
    if routing.decisions.shape != like.shape:
        have, want = tuple(routing.decisions.shape), tuple(like.shape)
        raise UserError(f"{name} takes decisions of shape {want} for one image, got {have}")
    return routing.decisions.detach().to(like)


def _metadata(
    restorer: Restorer,
    size: tuple[int, int],
    output: tuple[int, int],
    scale: float,
    noise: float | None,
    found: Restoration,
) -> dict[str, Any]:
    routing = found.routing
    decisions: dict[str, float] | None = None
    if routing is not None:  # gates are 0 or 1; ACLA's shares of kept keys, of the image at hand, lie between
        values = [int(value) if value in (0, 1) else value for value in routing.decisions[0].tolist()]
        decisions = dict(zip(routing.units, values, strict=True))
    return {
        "format": 1,
        "version": __version__,
        "network": None if restorer.description is None else dict(restorer.description),
        "input_size": list(size),
        "output_size": list(output),
        "scale": scale,
        "noise": noise,
        "routing": decisions,
        "macs": int(found.macs.item()),
        "int8": None,
    }


@contextmanager
def _conversion(restorer: Restorer, target: str) -> Iterator[None]:
    """Torch's refusals as one line; its warnings and the converter's, which are about their own insides, unsaid."""
    levels = {log: log.level for log in map(logging.getLogger, ("onnxscript", "onnx_ir"))}
    for log in levels:
        log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except RuntimeError as error:  # of tracing and of the conversion alike
            names = f"{type(restorer.backbone).__name__} + {type(restorer.upsampler).__name__}"
            raise UserError(f"{names} cannot be exported to {target}: {first_cause(error)}") from error
        finally:
            for log, level in levels.items():
                log.setLevel(level)


@torch.no_grad()
def _program(job: _Job) -> torch.export.ExportedProgram:
    program = torch.export.export(job.fixed, (job.image,), strict=False)
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes):
        node.meta.pop("stack_trace", None)  # lines of code with the folders of the machine that exported
    program.example_inputs = None  # the picture
    return program


def _onnx_model(program: torch.export.ExportedProgram, opset: int) -> Any:
    """onnx_ir's model of a program, with constants folded and without torch's notes on every node."""
    from onnx_ir.passes import common as passes
    from onnxscript import optimizer

    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        optimize=False,
        verbose=False,
    )
    assert made is not None
    model = made.model
    if model.opset_imports[""] != opset:
        raise RuntimeError(f"opset {opset} is not among those that this version of torch writes")
    # Not onnxscript's rewriting, which takes numbers below 1e-8 for 0: the ensemble's MIN_AREA would be lost.
    optimizer.fold_constants(model, output_size_limit=_FOLDED)
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
    ):
        tidy(model)
    passes.ClearMetadataAndDocStringPass()(model)
    return model


def _written(path: Path, content: bytes, job: _Job, nodes: int, run: Run, int8: bool = False) -> Exported:
    """Put the file in its place if what it gives is what the network gives."""
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
            results = torch.stack(run(temporary, job.image, 2))  # twice: what draws at random may agree the first time
            difference = (results - job.expected).abs().max().item()
            if not difference <= TOLERANCE:  # also refuses NaN
                raise UserError(
                    f"{path} is not kept: it differs from the network by {difference:.2g}, more than {TOLERANCE:g}"
                )
            done = Exported(path, difference, nodes, job.metadata)
            if int8:
                done = quantised(done, temporary, job.image, job.expected)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    return done
