"""Files for other runtimes: they give what the network gives, hold nothing that does not run, and say what they are."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.contracts import Features, Routing, Task
from dynres.errors import UserError
from dynres.export import Exported, export_onnx, export_program, files
from dynres.export.fixed import FixedRestorer
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import DirectPixelShuffle

onnx = pytest.importorskip("onnx", reason='pip install "dynres[export]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='pip install "dynres[export]"')
pytest.importorskip("onnxscript", reason='pip install "dynres[export]"')

SIZE = (7, 9)
EDSR = {"_target_": "dynres.backbones.edsr.EDSR", "channels": 8, "blocks": 1, "residual_scale": 1.0}
RDN = {"_target_": "dynres.backbones.rdn.RDN", "channels": 16, "growth": 16, "blocks": 1, "convs": 4}
CLA = {
    "_target_": "dynres.backbones.acla.CrossLayerEDSR", "channels": 6, "blocks": 3, "residual_scale": 1.0,
    "positions": [1, 3], "keys": 3, "attention": "cla",
}  # fmt: skip
LIIF = {"_target_": "dynres.upsamplers.liif.LIIF", "hidden": 12, "layers": 2}
TADT = {
    "_target_": "dynres.backbones.tadt.TADT", "channels": 16, "groups": 1, "local_windows": [1, 2, 4],
    "global_window": 4, "pooled": 2, "blocks_per_group": 1, "out_channels": 8, "controller_width": 6,
}  # fmt: skip
SWINIR = {
    "_target_": "dynres.backbones.swinir.SwinIR", "embed_dim": 8, "depths": [2], "heads": 2, "window": 4,
    "out_channels": 8,
}  # fmt: skip
DNCNN = {"_target_": "dynres.backbones.dncnn.DnCNN", "channels": 8, "layers": 4, "image_channels": 1}
FFDNET = {"_target_": "dynres.backbones.ffdnet.FFDNet", "channels": 8, "layers": 3}
SRCNN = {
    "_target_": "dynres.backbones.srcnn.SRCNN", "channels": 8, "mapped_channels": 4, "patch_kernel": 5,
    "mapping_kernel": 3, "image_channels": 1,
}  # fmt: skip


def head(name: str, **options: Any) -> dict[str, Any]:
    return {"_target_": f"dynres.upsamplers.{name}", **options}


# Backbone, upsampler, image_skip, what `restore` is asked.
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any], bool, dict[str, Any]]] = {
    "liif": (EDSR, LIIF, False, {"scale": 2.5}),
    "liif x6, nearest": (EDSR, LIIF | {"local_ensemble": False}, False, {"scale": 6}),
    "lte": (EDSR, head("lte.LTE", hidden_dim=12, layers=2), False, {"scale": 5.5}),
    "metasr + bicubic": (EDSR, head("metasr.MetaSR", hidden=10), True, {"scale": 2.5}),
    "pixelshuffle": (EDSR, head("pixelshuffle.PixelShuffle", scale=2), False, {}),
    "cla": (CLA, head("pixelshuffle.PixelShuffle", scale=2), False, {}),
    "swinir": (SWINIR, head("pixelshuffle.PixelShuffle", scale=2), False, {}),
    "dncnn": (DNCNN, head("same_size.SameSize", skip="subtract", image_channels=1), False, {}),
    "ffdnet": (FFDNET, head("same_size.AsImage"), False, {"noise": 25}),
    "srcnn x3": (SRCNN, head("same_size.SameSize", skip="none", image_channels=1), False, {"scale": 3}),
}


def built(backbone: dict[str, Any], upsampler: dict[str, Any], image_skip: bool = False) -> Restorer:
    """A network in which everything matters."""
    torch.manual_seed(0)
    description = {"backbone": backbone, "upsampler": upsampler, "image_skip": image_skip, "pixels": {"mean": 0.4}}
    restorer = Restorer.from_description(description)
    for name, parameter in restorer.named_parameters():
        if "norm" not in name and "scale_branch" not in name:
            nn.init.normal_(parameter, std=0.2)
    return restorer.eval()


def picture(restorer: Restorer, seed: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(1, restorer.backbone.image_channels, *size, generator=torch.Generator().manual_seed(seed))


def run(path: Path, image: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["restored"], {"image": image.numpy()})[0])


def loaded(path: Path, image: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.export.load(path).module()(image)


def assert_equal(result: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.01, "an image without contrast tells nothing"
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------ static networks


@pytest.mark.parametrize("name", NETWORKS)
def test_an_onnx_file_gives_what_the_network_gives(name: str, tmp_path: Path) -> None:
    *parts, asked = NETWORKS[name]
    restorer = built(*parts)
    done = export_onnx(restorer, tmp_path / "net.onnx", SIZE, **asked)
    scale = asked.get("scale", restorer.upsampler.scale)
    image = picture(restorer)  # another one than the file was checked with
    assert_equal(run(done.path, image), restorer.restore(image, **(asked | {"scale": scale})).image)
    assert done.difference < 1e-5
    onnx.checker.check_model(str(done.path), full_check=True)


@pytest.mark.parametrize("name", ["liif", "srcnn x3", "ffdnet"])
def test_a_pt2_file_gives_what_the_network_gives(name: str, tmp_path: Path) -> None:
    *parts, asked = NETWORKS[name]
    restorer = built(*parts)
    done = export_program(restorer, tmp_path / "net.pt2", SIZE, **asked)
    image = picture(restorer)
    assert_equal(loaded(done.path, image), restorer.restore(image, **({"scale": 1} | asked)).image)


def test_a_gray_network_is_checked_with_the_luma_of_a_colour_image(tmp_path: Path) -> None:
    restorer = built(*NETWORKS["dncnn"][:3])
    colour = torch.rand(1, 3, *SIZE)
    done = export_program(restorer, tmp_path / "net.pt2", SIZE, image=colour)
    luma = restorer.seen(colour, 1)
    assert_equal(loaded(done.path, luma), restorer.restore(luma, scale=1).image)


def test_positions_of_a_large_output_are_not_written_out(tmp_path: Path) -> None:
    """A grid of indices would take 8 bytes a pixel and corner. Computed, the ensemble needs its MIN_AREA of 1e-9."""
    done = export_onnx(built(EDSR, LIIF), tmp_path / "net.onnx", (30, 30), scale=5)
    assert done.path.stat().st_size < 150 * 150 * 4
    assert max(np.prod(tensor.dims) for tensor in onnx.load(str(done.path)).graph.initializer) <= 8192


# ------------------------------------------------------------------------------------------------ routed networks


def by_hand(restorer: Restorer, image: Tensor, routing: Routing, size: tuple[int, int]) -> Tensor:
    """The image with these decisions, from the network's parts."""
    scale = torch.tensor([(size[0] * size[1] / image.shape[-2] / image.shape[-1]) ** 0.5])
    with torch.no_grad():
        features = restorer.backbone(restorer.pixels.normal(image), Task(scale, routing=routing))
        return restorer.pixels.colours(restorer.upsampler.decode(features, size), 1).clamp(0, 1)


def decided(restorer: Restorer, *on: int) -> Routing:
    decisions = torch.zeros(1, 4)
    decisions[:, list(on)] = 1
    return Routing(decisions, decisions, torch.ones(1), restorer.backbone.units)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def routed() -> Restorer:
    return built(TADT, LIIF)


@pytest.fixture(scope="module")
def some(routed: Restorer, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The branches of 1x1 and of 4x4 windows."""
    path = tmp_path_factory.mktemp("some") / "net.onnx"
    return export_onnx(routed, path, SIZE, 2, routing=decided(routed, 0, 2))


@pytest.fixture(scope="module")
def none(routed: Restorer, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_onnx(routed, tmp_path_factory.mktemp("none") / "net.onnx", SIZE, 2, routing="none")


def test_a_routed_network_keeps_its_decisions_on_every_image(routed: Restorer, some: Exported, none: Exported) -> None:
    image = picture(routed)
    results = []
    for done, on in ((some, (0, 2)), (none, ())):
        results.append(run(done.path, image))
        assert_equal(results[-1], by_hand(routed, image, decided(routed, *on), (14, 18)))
    assert (results[0] - results[1]).abs().max() > 1e-2, "the branches make no difference"


def test_bypassed_branches_and_the_controller_are_not_in_the_file(
    routed: Restorer, some: Exported, none: Exported, tmp_path: Path
) -> None:
    every = export_onnx(routed, tmp_path / "net.onnx", SIZE, 2, routing="all")
    assert_equal(run(every.path, picture(routed)), routed.restore(picture(routed), 2, budget=1.0).image)
    assert every.nodes > some.nodes > none.nodes
    graphs = [onnx.load(str(done.path)).graph for done in (every, some, none)]
    assert [sum(node.op_type == "Softmax" for node in graph.node) for graph in graphs] == [4, 2, 0]
    held = [sum(int(np.prod(tensor.dims)) for tensor in graph.initializer) for graph in graphs]
    assert held[0] > held[1] > held[2]
    assert not any("controller" in tensor.name for graph in graphs for tensor in graph.initializer)
    assert every.metadata["macs"] > some.metadata["macs"] > none.metadata["macs"]


def test_a_budget_is_fitted_to_the_image_given(routed: Restorer, tmp_path: Path) -> None:
    full = routed.backbone.cost(*SIZE)
    budget = (full.fixed + 0.5 * sum(full.units)) / full.full
    image = picture(routed, 3)
    done = export_program(routed, tmp_path / "net.pt2", SIZE, 2, routing=budget, image=image)
    free = routed.restore(image, 2, budget=budget)
    assert free.routing is not None and 0 < free.routing.decisions.sum() < 4
    assert list(done.metadata["routing"].values()) == free.routing.decisions[0].tolist()
    assert_equal(loaded(done.path, image), free.image)


@pytest.mark.parametrize("budget", [None, 0.9])
def test_adaptive_keys_are_chosen_by_what_the_file_sees(budget: float | None, tmp_path: Path) -> None:
    restorer = built(CLA | {"attention": "acla"}, head("pixelshuffle.PixelShuffle", scale=2))
    done = export_onnx(restorer, tmp_path / "net.onnx", SIZE, routing=budget, image=picture(restorer))
    for seed in (1, 3):
        image = picture(restorer, seed)
        assert_equal(run(done.path, image), restorer.restore(image, budget=budget).image)
    routing = restorer.restore(picture(restorer), budget=budget).routing
    assert routing is not None and 0 < float(routing.decisions.mean()) < 1
    assert list(done.metadata["routing"].values()) == routing.decisions[0].tolist()
    with pytest.raises(UserError, match="chooses keys by what it sees"):
        export_onnx(restorer, tmp_path / "none.onnx", SIZE, routing="none")


def test_one_subnet_of_anysr_is_in_the_file(tmp_path: Path) -> None:
    """That of the scale; or the one that a budget pays for, which takes no image to know."""
    node = {"_target_": "dynres.backbones.anysr.AnySR", "network": RDN, "mean_shift": True}
    restorer, held = built(node, LIIF), []
    cases = ((1.5, None, 0), (1.5, restorer.backbone.shares(*SIZE)[1], 1), (1.5, "all", 3), (2.9, None, 2))
    for scale, routing, step in cases:
        done = export_onnx(restorer, tmp_path / f"{step}.onnx", SIZE, scale, routing=routing)
        budget = 1.0 if routing == "all" else routing
        image = picture(restorer, 5)
        free = restorer.restore(image, scale, budget=budget)
        assert free.routing is not None and free.routing.decisions.sum() == step == sum(
            done.metadata["routing"].values()
        )
        assert_equal(run(done.path, image), free.image)
        held.append(sum(int(np.prod(each.dims)) for each in onnx.load(str(done.path)).graph.initializer))
    assert held[0] < held[1] < held[2], f"numbers in the files of the subnets: {held[:3]}"


def test_a_routed_network_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynres.export.fixed.TADT", type("Another", (), {}))
    with pytest.raises(UserError, match="branches of TADT cannot be taken out"):
        export_program(built(TADT, LIIF), tmp_path / "net.pt2", SIZE, 2, routing="all")


# ------------------------------------------------------------------------------------------------ what a file says


def test_a_file_describes_itself(routed: Restorer, some: Exported, tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(str(some.path), providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["dynres"])
    assert told == some.metadata
    assert told["network"] == routed.description
    assert (told["input_size"], told["output_size"], told["scale"]) == ([7, 9], [14, 18], 2)
    assert told["routing"] == {"group 1 1x1": 1, "group 1 2x2": 0, "group 1 4x4": 1, "group 1 global": 0}
    cost = routed.backbone.cost(*SIZE)
    assert told["macs"] == cost.fixed + cost.units[0] + cost.units[2]
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("image", [1, 3, 7, 9])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("restored", [1, 3, 14, 18])]


def test_a_pt2_file_describes_itself_and_holds_no_picture(tmp_path: Path) -> None:
    restorer = built(*NETWORKS["ffdnet"][:3])
    done = export_program(restorer, tmp_path / "net.pt2", SIZE, noise=25, image=picture(restorer))
    extra = {"dynres.json": ""}
    assert torch.export.load(done.path, extra_files=extra).example_inputs is None
    assert json.loads(extra["dynres.json"]) == done.metadata
    assert done.metadata["noise"] == 25 and done.metadata["routing"] is None


def test_no_folder_of_this_machine_is_in_a_file(some: Exported, tmp_path: Path) -> None:
    here = str(Path(__file__).resolve().parents[1]).encode()
    program = export_program(built(EDSR, LIIF), tmp_path / "net.pt2", SIZE, 2).path
    with zipfile.ZipFile(program) as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    assert not any(here in content for content in [some.path.read_bytes(), *contents])


def test_the_opset_is_the_one_asked_for_or_refused(tmp_path: Path) -> None:
    restorer, path = built(EDSR, head("pixelshuffle.PixelShuffle", scale=2)), tmp_path / "net.onnx"
    for opset in (17, 99):
        with pytest.raises(UserError, match=str(opset)):
            export_onnx(restorer, path, SIZE, opset=opset)
        assert not path.exists()
    export_onnx(restorer, path, SIZE, opset=20)
    assert [each.version for each in onnx.load(str(path)).opset_import if not each.domain] == [20]


def test_the_network_is_left_as_it_is(tmp_path: Path) -> None:
    restorer = built(TADT, LIIF).train()
    before = {key: value.clone() for key, value in restorer.state_dict().items()}
    export_program(restorer, tmp_path / "net.pt2", SIZE, 2, routing="none")
    assert restorer.training and restorer.backbone.training and not restorer.backbone._forward_pre_hooks
    assert before.keys() == restorer.state_dict().keys()
    assert all(torch.equal(value, restorer.state_dict()[key]) for key, value in before.items())


# ------------------------------------------------------------------------------------------------ refusals


class Off(FixedRestorer):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) + 2e-4


class Broken(FixedRestorer):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * float("nan")


@pytest.mark.parametrize(
    ("export", "wrong", "words"),
    [(export_onnx, Off, "0.0002"), (export_program, Off, "0.0002"), (export_program, Broken, "nan")],
)
def test_a_file_that_differs_is_not_kept(
    export: Callable[..., Exported], wrong: type, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FixedRestorer", wrong)
    path = tmp_path / "net.file"
    path.write_text("what was there before")
    with pytest.raises(UserError, match=f"is not kept: it differs from the network by {words}"):
        export(built(EDSR, head("pixelshuffle.PixelShuffle", scale=2)), path, SIZE)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["what was there before"]


class Chance(Backbone):
    """Draws from a generator that it seeds anew: always the same here, never the same in a traced graph."""

    out_channels = 3

    def forward(self, image: Tensor, task: Task) -> Features:
        if image.is_meta:
            return Features(image, image)
        drawn = torch.randn(3, 1, 1, generator=torch.Generator().manual_seed(0))
        return Features(image + drawn, image)


class Fickle(Backbone):
    """Decides by what it sees."""

    out_channels = 3

    def forward(self, image: Tensor, task: Task) -> Features:
        return Features(image if image.is_meta or image.mean() > 0 else -image, image)


@pytest.mark.parametrize(("backbone", "words"), [(Chance, "is not kept"), (Fickle, "cannot be exported")])
def test_a_network_that_is_no_function_of_its_image_alone_is_refused(
    backbone: type[Backbone], words: str, tmp_path: Path
) -> None:
    restorer = Restorer(backbone(), DirectPixelShuffle(3, 2)).eval()
    with pytest.raises(UserError, match=words) as refused:
        export_program(restorer, tmp_path / "net.pt2", SIZE)
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_cure(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    restorer = built(EDSR, head("pixelshuffle.PixelShuffle", scale=2))
    with pytest.raises(UserError, match=rf'need {package}: pip install "dynres\[export\]"'):
        export_onnx(restorer, tmp_path / "net.onnx", SIZE)
    export_program(restorer, tmp_path / "net.pt2", SIZE)  # needs none of them


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        ((EDSR, LIIF), {}, "--scale"),
        ((EDSR, LIIF), {"scale": 31}, "between 1 and 30"),
        ((EDSR, LIIF), {"scale": 2, "size": (0, 9)}, "at least 1, got 0x9"),
        ((EDSR, LIIF), {"scale": 2, "routing": "all"}, "EDSR has no branches"),
        ((EDSR, LIIF), {"scale": 2, "routing": 0.5, "image": torch.rand(1, 3, 7, 9)}, "EDSR has no branches"),
        ((EDSR, LIIF), {"scale": 2, "image": torch.rand(1, 3, 9, 7)}, "7x9 .* exported for 9x7"),
        ((EDSR, LIIF), {"scale": 2, "image": torch.rand(2, 3, 7, 9)}, "one image"),
        ((EDSR, LIIF), {"scale": 2, "image": torch.rand(1, 1, 7, 9)}, "3 channels"),
        ((EDSR, LIIF), {"scale": 2, "noise": 300}, "0 to 255"),
        ((EDSR, head("pixelshuffle.PixelShuffle", scale=2)), {"scale": 3}, "made for x2"),
        ((FFDNET, head("same_size.AsImage")), {}, "noise=25"),
        ((TADT, LIIF), {"scale": 2}, "say which branches"),
        ((TADT, LIIF), {"scale": 2, "routing": 0.5}, "--image"),
        ((TADT, LIIF), {"scale": 2, "routing": 1.5, "image": torch.rand(1, 3, 7, 9)}, r"\(0, 1\]"),
        ((TADT, LIIF), {"scale": 2, "routing": Routing(*(torch.ones(1, 8),) * 2, torch.ones(1), ())}, r"\(1, 4\)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(network: Any, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as refused:
        export_program(built(*network), tmp_path / "net.pt2", **({"size": SIZE} | options))
    assert "\n" not in str(refused.value) and list(tmp_path.iterdir()) == []
