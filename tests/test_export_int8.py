"""int8 files: every linear layer that the image goes through, nothing else, within what 8 bits allow, and measured."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynres.errors import UserError
from dynres.export import Exported, export_onnx
from dynres.export import int8 as quantisation
from dynres.restorer import Restorer

onnx = pytest.importorskip("onnx", reason='pip install "dynres[export]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "dynres[export]"')
pytest.importorskip("onnxscript", reason='pip install "dynres[export]"')
from onnx import helper, numpy_helper  # noqa: E402

SIZE = (7, 9)
EDSR = {"_target_": "dynres.backbones.edsr.EDSR", "channels": 8, "blocks": 1, "residual_scale": 1.0}
SWINIR = {
    "_target_": "dynres.backbones.swinir.SwinIR", "embed_dim": 16, "depths": [2], "heads": 2, "window": 4,
    "out_channels": 8,
}  # fmt: skip
TADT = {
    "_target_": "dynres.backbones.tadt.TADT", "channels": 16, "groups": 1, "local_windows": [1, 2, 4],
    "global_window": 4, "pooled": 2, "blocks_per_group": 1, "out_channels": 8, "controller_width": 6,
}  # fmt: skip
LIIF = {"_target_": "dynres.upsamplers.liif.LIIF", "hidden": 100, "layers": 2}  # 100 x 100: more than what is folded
SHUFFLE = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": 2}

Quantised = tuple[Restorer, Exported, Any]  # a network, its file, and the file's graph


def built(backbone: dict[str, Any], upsampler: dict[str, Any]) -> Restorer:
    """A network whose layers all matter and whose results have contrast."""
    torch.manual_seed(0)
    restorer = Restorer.from_description({"backbone": backbone, "upsampler": upsampler, "pixels": {"mean": 0.4}})
    for layer in restorer.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return restorer.eval()


def exported(restorer: Restorer, path: Path, *asked: Any) -> Quantised:
    done = export_onnx(restorer, path, SIZE, *asked, int8=True)
    return restorer, done, onnx.load(str(path)).graph


@pytest.fixture(scope="module")
def swinir(tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    return exported(built(SWINIR, SHUFFLE), tmp_path_factory.mktemp("swinir") / "net.onnx")


@pytest.fixture(scope="module")
def tadt(tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    return exported(built(TADT, LIIF), tmp_path_factory.mktemp("tadt") / "net.onnx", 2, "all")


@pytest.fixture(params=["swinir", "tadt"])
def each(request: pytest.FixtureRequest) -> Quantised:
    return request.getfixturevalue(request.param)


def run(file: Path | bytes, image: Tensor) -> Tensor:
    source = file if isinstance(file, bytes) else str(file)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["restored"], {"image": image.numpy()})[0])


def levels(a: Tensor, b: Tensor) -> float:
    """Root mean square difference, of 255."""
    return 255 * (a - b).square().mean().sqrt().item()


def linear_layers(restorer: Restorer) -> dict[str, nn.Linear]:
    """Those that the image goes through; LIIF's first is in part a convolution, in part a sum of positions."""
    found = {name: layer for name, layer in restorer.named_modules() if isinstance(layer, nn.Linear)}
    return {name: layer for name, layer in found.items() if "controller" not in name and "imnet.layers.0" not in name}


# ------------------------------------------------------------------------------------------------ what is quantised


def test_every_linear_layer_is_counted_and_quantised(each: Quantised) -> None:
    restorer, done, graph = each
    assert done.quantised is not None
    count = len(linear_layers(restorer))
    assert (done.quantised.int8, done.quantised.layers) == (count, count)
    assert done.metadata["int8"] == {"quantised": count, "layers": count}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len({node.input[1] for node in products}) == count < len(products), "layers run in several places here"


def test_each_layers_weight_is_in_the_file_to_half_a_step_of_its_channel(each: Quantised) -> None:
    """Transposed as MatMul wants it, 7 bits to either side of 0, one scale an output channel."""
    restorer, _, graph = each
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored = []
    for weight in {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}:
        whole, scale = held[weight], held[weight.removesuffix("_quantized") + "_scale"]
        assert whole.dtype == np.int8 and abs(whole).max() <= 64 and scale.shape == (whole.shape[1],)
        stored.append((whole * scale, scale))
    for name, layer in linear_layers(restorer).items():
        wanted = layer.weight.detach().numpy().T
        errors = [abs(w - wanted) / scale for w, scale in stored if w.shape == wanted.shape]
        assert min(error.max() for error in errors) < 0.51, name
        assert sum(error.max() < 0.51 for error in errors) == 1, name


def test_attention_and_convolutions_stay_float(each: Quantised) -> None:
    restorer, _, graph = each
    kinds = [node.op_type for node in graph.node]
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in restorer.modules())
    lifts = "LIIF" in type(restorer.upsampler).__name__
    hidden = sum("controller" in name for name, m in restorer.named_modules() if isinstance(m, nn.Conv2d))
    assert kinds.count("Conv") == convolutions + lifts - hidden and "ConvInteger" not in kinds
    constants = {tensor.name for tensor in graph.initializer}
    floats = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(floats) == 2 * kinds.count("Softmax") > 0, "two products an attention"
    assert constants.isdisjoint(name for node in floats for name in node.input)


def test_float_weights_are_not_left_in_the_file(each: Quantised) -> None:
    restorer, done, graph = each
    assert done.quantised is not None
    before, after = done.quantised.sizes
    assert after == done.path.stat().st_size < before
    shapes = {tuple(layer.weight.shape) for layer in linear_layers(restorer).values()}
    floats = [tuple(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2]
    assert not [dims for dims in floats if dims in shapes or dims[::-1] in shapes]


# ------------------------------------------------------------------------------------------------ what it gives


def test_results_are_near_the_networks_on_another_image(each: Quantised) -> None:
    restorer, done, _ = each
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(5))
    routed = {"budget": 1.0} if "tadt" in type(restorer.backbone).__name__.lower() else {}
    expected = restorer.restore(image, 2, **routed).image
    assert expected.std() > 0.03, "an image without contrast tells nothing"
    assert 0 < levels(run(done.path, image), expected) < 3


def test_what_is_reported_is_what_the_files_give(each: Quantised) -> None:
    _, done, _ = each
    assert done.quantised is not None
    float_result, int8_result = done.quantised.results
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))  # that of a check without an image
    torch.testing.assert_close(run(done.path, image), int8_result, rtol=0, atol=1e-6)
    assert done.difference == pytest.approx((float_result - int8_result).abs().max().item(), abs=1e-4)
    assert done.difference > 1e-4 and done.quantised.threads == torch.get_num_threads()
    assert min(done.quantised.milliseconds) > 0
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["dynres"]) == done.metadata
    assert list(session.get_modelmeta().custom_metadata_map) == ["dynres"]
    onnx.checker.check_model(str(done.path), full_check=True)


# ------------------------------------------------------------------------------------------------ small graphs


def small(nodes: list[Any], constants: dict[str, np.ndarray], rows: int, width: int) -> tuple[bytes, Exported]:
    """A file that gives (rows, outputs) for an image (rows, width)."""
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", floats, [rows, width])],
        [helper.make_tensor_value_info("restored", floats, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString(), Exported(Path("net.onnx"), 0.0, len(nodes), {})


def quantised(content: bytes, done: Exported, path: Path, image: Tensor) -> Exported:
    path.write_bytes(content)
    return quantisation.quantised(done, path, image, run(content, image))


@settings(max_examples=30)
@given(
    rows=st.integers(1, 5),
    width=st.integers(1, 40),
    outputs=st.integers(1, 20),
    spread=st.floats(0, 3),
    seed=st.integers(0, 2**16),
)
def test_the_error_of_a_layer_is_that_of_its_steps(
    tmp_path_factory: pytest.TempPathFactory, rows: int, width: int, outputs: int, spread: float, seed: int
) -> None:
    """Half a step of the input times the weights, half a step of a channel's weights times the input, and of both.

    Channels of very different size (10^-spread) each have their own step.
    """
    random = np.random.default_rng(seed)
    weight = random.normal(size=(outputs, width)) / width * 10.0 ** -np.linspace(0, spread, outputs)[:, None]
    weight, bias = weight.astype(np.float32), random.normal(size=outputs).astype(np.float32)
    image = torch.from_numpy(random.random((rows, width), np.float32))
    linear = helper.make_node("Gemm", ["image", "w", "b"], ["restored"], transB=1)
    path = tmp_path_factory.mktemp("layer") / "net.onnx"
    done = quantised(*small([linear], {"w": weight, "b": bias}, rows, width), path, image)
    assert done.quantised is not None
    error = (done.quantised.results[1] - done.quantised.results[0]).abs().amax(dim=0).numpy()
    x_step, w_step = max(image.max().item(), 0) / 255, abs(weight).max(axis=1) / 64
    largest = image.max().item()
    allowed = (x_step / 2 * abs(weight)).sum(axis=1) + width * w_step / 2 * (largest + x_step / 2)
    assert (error <= 1.01 * allowed + 1e-6).all(), (error / allowed).max()


def test_layers_that_share_a_weight_read_it_the_same_way_round(tmp_path: Path) -> None:
    """Also where it is square, so that a transposition too many goes unseen; LIIF's corners share theirs."""
    weight = np.random.default_rng(0).normal(size=(8, 8), scale=0.3).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["image", "w"], ["a"], transB=1),
        helper.make_node("Gemm", ["a", "w"], ["b"], transB=1),
        helper.make_node("Gemm", ["b", "w"], ["restored"], transB=1),
    ]
    done = quantised(*small(nodes, {"w": weight}, 4, 8), tmp_path / "net.onnx", torch.rand(4, 8))
    assert done.quantised is not None and (done.quantised.int8, done.quantised.layers) == (1, 1)
    assert levels(*done.quantised.results) < 3 < 255 * done.quantised.results[0].std()


def test_weights_that_the_graph_cuts_and_joins_are_layers_and_products_without_the_image_are_not(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    parts = {name: random.normal(size=(3, 6), scale=0.3).astype(np.float32) for name in "uv"}
    nodes = [
        helper.make_node("Concat", ["u", "v"], ["uv"], axis=0),
        helper.make_node("Transpose", ["uv"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["image", "w"], ["a"]),  # a layer
        helper.make_node("MatMul", ["positions", "w"], ["biases"]),  # of constants alone
        helper.make_node("Transpose", ["a"], ["a.T"], perm=[1, 0]),
        helper.make_node("MatMul", ["a.T", "biases"], ["b"]),  # constants on the right: a layer too
        helper.make_node("MatMul", ["a", "b"], ["restored"]),  # of what the image gives alone
    ]
    constants = parts | {"positions": random.normal(size=(4, 6), scale=0.3).astype(np.float32)}
    path = tmp_path / "net.onnx"
    done = quantised(*small(nodes, constants, 4, 6), path, torch.rand(4, 6))
    assert done.quantised is not None and (done.quantised.int8, done.quantised.layers) == (2, 2)
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("MatMulInteger") == 2 and kinds.count("MatMul") == 1 and "Concat" not in kinds
    assert levels(*done.quantised.results) < 3


def test_branches_keep_the_constants_that_they_read(tmp_path: Path) -> None:
    floats = onnx.TensorProto.FLOAT
    result = helper.make_tensor_value_info("here", floats, None)
    add = helper.make_graph([helper.make_node("Add", ["a", "o"], ["here"])], "add", [], [result])
    keep = helper.make_graph([helper.make_node("Identity", ["a"], ["here"])], "keep", [], [result])
    nodes = [
        helper.make_node("MatMul", ["image", "w"], ["a"]),
        helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "half"], ["bright"]),
        helper.make_node("If", ["bright"], ["restored"], then_branch=add, else_branch=keep),
    ]
    random = np.random.default_rng(0)
    constants = {name: random.normal(size=(6, 6), scale=0.2).astype(np.float32) for name in "wo"}
    constants["half"] = np.float32(0.5)
    done = quantised(*small(nodes, constants, 6, 6), tmp_path / "net.onnx", torch.ones(6, 6))
    assert done.quantised is not None and done.quantised.int8 == 1
    assert 0 < levels(*done.quantised.results) < 3


# ------------------------------------------------------------------------------------------------ refusals, times


def test_a_network_without_linear_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no linear layer .* leave out --int8") as refused:
        export_onnx(built(EDSR, SHUFFLE), tmp_path / "net.onnx", SIZE, int8=True)
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


def test_a_result_that_int8_spoils_is_not_kept(tmp_path: Path) -> None:
    """One unit of a layer is so large that 255 steps up to it leave the others none; nothing reads it."""
    restorer = built(EDSR, LIIF | {"hidden": 8, "local_ensemble": False})
    layers = restorer.upsampler.imnet.layers  # type: ignore[union-attr]
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(3)
        layers[2].bias[0] = 1e4
        layers[4].weight[:, 0] = 0
    path = tmp_path / "net.onnx"
    path.write_text("what was there before")
    with pytest.raises(UserError, match=r"is not kept: in int8 it differs .* leave out --int8"):
        export_onnx(restorer, path, SIZE, 2, int8=True)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["what was there before"]


def test_files_are_timed_in_turns() -> None:
    order = []

    def quick(image: Tensor) -> Tensor:
        order.append("quick")
        return image

    def slow(image: Tensor) -> Tensor:
        order.append("slow")
        time.sleep(0.003)
        return image

    taken = quantisation._milliseconds((slow, quick), torch.rand(1))
    assert order == ["slow", "quick"] * quantisation.RUNS
    assert taken[0] > 3 > taken[1]
