"""Post-training dynamic quantisation of an ONNX file's linear layers: weights int8 by channel, inputs as they come.

onnxruntime's quantiser, which is given every product of what depends on the image with a fixed matrix. Convolutions,
products of two activations (attention) and what the image does not reach (position biases) stay float.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynres.errors import UserError
from dynres.export.runtime import INPUT, KEY, OUTPUT, Exported, Quantised, onnx_session, onnxruntime_says

FURTHEST = 8  # levels of 255, root mean square, from the float file: a PSNR of 30 dB between the two
RUNS = 5  # of each file, in turns, for its time

Restored = Callable[[Tensor], Tensor]  # a file, as image -> restored


def quantised(done: Exported, path: Path, image: Tensor, expected: Tensor) -> Exported:
    """Replace the float file at `path` by its int8 form, and measure both.

    Args:
        done: what is known of the float file.
        path: where it lies now.
        image: (1, c, H, W) in [0, 1] to compare and time them with.
        expected: (1, c, H', W') what the network gives for it.

    Returns:
        `done` of the int8 file, with `quantised`.

    Raises:
        UserError: no linear layer, onnxruntime cannot quantise or run the file, or the results differ by more than
            `FURTHEST`.
    """
    before = path.read_bytes()
    done = _rewritten(done, path)
    after, threads = path.read_bytes(), torch.get_num_threads()
    sessions = onnx_session(before, threads), onnx_session(after, threads)
    results = sessions[0](image), sessions[1](image)
    levels = 255 * (results[1] - results[0]).square().mean().sqrt().item()
    if not levels <= FURTHEST:  # also refuses NaN
        raise UserError(
            f"{done.path} is not kept: in int8 it differs from the float file by {levels:.3g} of 255 levels (root mean "
            f"square), more than {FURTHEST}: leave out --int8"
        )
    told, sizes = done.metadata["int8"], (len(before), len(after))
    times = _milliseconds(sessions, image)
    changed = Quantised(told["layers"], told["quantised"], sizes, results, times, threads)
    return replace(done, difference=(results[1] - expected).abs().max().item(), quantised=changed)


def _rewritten(done: Exported, path: Path) -> Exported:
    """Write the int8 form over the float file; `done` with its nodes and with what it says of itself."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model, layers = _with_stored_weights(onnx.load(path))
    if not layers:
        raise UserError(
            "the image goes through no linear layer of this network, and int8 quantises no other: leave out --int8"
        )
    add_pre_process_metadata(model)  # or a line of advice on stderr to do what was done above
    with onnxruntime_says("cannot quantise the file"):
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[name for names in layers.values() for name in names],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # 7 bits: with 8, sums of products saturate on x86 processors without VNNI
        )
    model = onnx.load(path)
    taken = len({node.input[1] for node in model.graph.node if node.op_type == "MatMulInteger"})
    metadata = done.metadata | {"int8": {"quantised": taken, "layers": len(layers)}}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata)})
    onnx.save(model, path)
    return replace(done, nodes=len(model.graph.node), metadata=metadata)


def _milliseconds(sessions: tuple[Restored, Restored], image: Tensor) -> tuple[float, float]:
    """Medians, of runs that take turns: what slows the machine down for a while slows both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for run, times in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            run(image)
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken[0]), statistics.median(taken[1])


def _with_stored_weights(model: Any) -> tuple[Any, dict[str, list[str]]]:
    """The model with each linear layer as a named MatMul by an initializer, which is all that the quantiser takes.

    Transposed, joined or cut weights are computed here and stored in the place of what they come from.

    Returns:
        the model, and weight -> its MatMuls: a layer may run in several places, such as each kind of windows.
    """
    from onnx import numpy_helper

    parts = (part for node in model.graph.node for part in _as_matmul(node))
    nodes = list({tuple(part.output): part for part in parts}.values())  # a shared weight is transposed once
    seen = {INPUT}
    for node in nodes:
        if not seen.isdisjoint(_read(node)):
            seen.update(node.output)
    linear = [n for n in nodes if n.op_type in ("MatMul", "Gemm") and n.input[0] in seen and n.input[1] not in seen]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    computed = {node.input[1] for node in linear} - stored.keys()
    for name, value in _values(model, nodes, sorted(computed)).items():
        stored[name] = numpy_helper.from_array(value, name)
    nodes = _behind([node for node in nodes if computed.isdisjoint(node.output)], [OUTPUT])
    layers: dict[str, list[str]] = {}
    for number, node in enumerate(node for node in linear if len(stored[node.input[1]].dims) == 2):
        node.name = f"linear_{number}"
        layers.setdefault(node.input[1], []).append(node.name)
    return _model(model, nodes, model.graph.input, model.graph.output, stored.values()), layers


def _as_matmul(node: Any) -> Iterator[Any]:
    """A Gemm as torch's linear layers become it, x W^T + b, in its parts; any other node as it is.

    onnxruntime's quantiser does that too, but transposes a weight anew for every layer that shares it.
    """
    from onnx import helper

    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type != "Gemm" or options.get("transA") or {options.get(k, 1) for k in ("alpha", "beta")} != {1}:
        yield node
        return
    x, weight, *bias = node.input
    if options.get("transB"):
        yield helper.make_node("Transpose", [weight], [f"{weight}.T"], perm=[1, 0])
        weight = f"{weight}.T"
    product = f"{node.output[0]}.product" if bias else node.output[0]
    yield helper.make_node("MatMul", [x, weight], [product])
    if bias:
        yield helper.make_node("Add", [product, *bias], node.output)


def _values(model: Any, nodes: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Arrays that the nodes compute without the image."""
    if not names:
        return {}
    import onnxruntime
    from onnx import helper

    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    part = _model(model, _behind(nodes, names), [], outputs, model.graph.initializer)
    with onnxruntime_says("cannot compute the weights"):
        session = onnxruntime.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(list(names), {}), strict=True))


def _behind(nodes: Sequence[Any], names: Iterable[str]) -> list[Any]:
    """Those of the nodes, in their order, that it takes to compute the names."""
    wanted, found = set(names), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(_read(node))
            found.append(node)
    return found[::-1]


def _read(node: Any) -> Iterator[str]:
    """Names of what a node reads, also from within its branches or its loop."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read(inner)


def _model(like: Any, nodes: Sequence[Any], inputs: Any, outputs: Any, held: Iterable[Any]) -> Any:
    """A model of these nodes with the constants, of those held, that they read."""
    from onnx import helper

    used = {name for node in nodes for name in _read(node)}
    constants = [tensor for tensor in held if tensor.name in used]
    graph = helper.make_graph(nodes, like.graph.name, inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=like.opset_import, ir_version=like.ir_version)
