"""SwinIR: the authors' features, every published variant's names, images of any size, and its published cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from dynres.backbones.swinir import SwinIR
from dynres.contracts import Task
from dynres.interop.families import swinir
from dynres.interop.official import from_official, official_names, recognise, to_official
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle
from dynres.upsamplers.same_size import SameSize
from tests.golden.fill import FOLDER, Oracle, assert_parity, oracle
from tests.golden.parity import assert_names, rebuilt

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
SMALL: dict[str, Any] = {"embed_dim": 12, "depths": (2, 2), "heads": 2, "window": 4, "out_channels": 5}


def small(**options: Any) -> SwinIR:
    """With weights large enough for attention and its biases to matter."""
    torch.manual_seed(0)
    network = SwinIR(**(SMALL | options)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture(scope="module")
def features() -> tuple[SwinIR, Oracle]:
    """LTE's SwinIR without a tail, and its oracle."""
    reference, network = oracle("swinir_feat_none"), SwinIR()
    weights = reference.weights()
    names = official_names(Restorer(network, PixelShuffle(64, 2)))
    ours = {ours.removeprefix("backbone."): key for ours, key in names.items() if ours.startswith("backbone.")}
    network.load_state_dict({key: weights[theirs] for key, theirs in ours.items()})
    return network.eval(), reference


def test_exported_names_are_the_authors(features: tuple[SwinIR, Oracle]) -> None:
    network, reference = features
    exported = to_official(Restorer(network, PixelShuffle(64, 2)))
    exported = {key: value for key, value in exported.items() if not key.startswith(("upsample.", "conv_last."))}
    assert {key: tuple(value.shape) for key, value in exported.items()} == reference.keys
    assert swinir.extractor(exported) == swinir.extractor(reference.weights())


@pytest.mark.parametrize("case", ["a", "b"])
def test_features_equal_the_authors_and_keep_the_padding(features: tuple[SwinIR, Oracle], case: str) -> None:
    network, reference = features
    image = reference.array(f"{case}.input")
    with torch.no_grad():
        found = network(image, Task())
    assert_parity(found.map, reference.array(f"{case}.output"), case)
    assert found.image is image and found.routing is None
    assert torch.equal(found.cropped, found.map[..., : image.shape[-2], : image.shape[-1]])


def test_gradient_equals_the_authors(features: tuple[SwinIR, Oracle]) -> None:
    network, reference = features
    loss = network(reference.array("a.input"), Task()).map.abs().mean()
    assert str(reference.arrays["a.grad_name"]) == "conv_first.weight"
    (gradient,) = torch.autograd.grad(loss, network.conv_first.weight)
    assert loss.item() == pytest.approx(float(reference.arrays["a.loss"]), rel=1e-5)
    assert gradient.double().abs().sum().item() == pytest.approx(float(reference.arrays["a.grad_abs_sum"]), rel=1e-4)


@pytest.fixture(scope="module")
def lte() -> Iterator[tuple[Restorer, Oracle]]:
    yield rebuilt("lte_swinir")


def test_under_lte_names_are_the_authors(lte: tuple[Restorer, Oracle]) -> None:
    assert_names(*lte)
    assert sum(p.numel() for p in lte[0].parameters()) == lte[1].facts["total_params"] == 12_096_871


@pytest.mark.parametrize("case", ["query", "grid"])
def test_under_lte_queried_colours_are_the_authors(lte: tuple[Restorer, Oracle], case: str) -> None:
    restorer, reference = lte
    image, coords, cell = (reference.array(f"{case}.{name}") for name in ("inp", "coord", "cell"))
    with torch.no_grad():
        colours = restorer.upsampler.query(restorer.backbone(image, Task()), coords, cell)
    assert_parity(colours, reference.array(f"{case}.output"), case)


def test_under_lte_an_image_padded_beforehand_gives_the_authors_enlargement(lte: tuple[Restorer, Oracle]) -> None:
    """LTE's test script mirrors the image up to the next whole window, enlarges all of it, and crops."""
    restorer, reference = lte
    image, expected = reference.array("padded_eval.inp"), reference.array("padded_eval.output")
    height, width = ((side // 8 + 1) * 8 for side in image.shape[-2:])
    image = torch.cat([image, image.flip(2)], dim=2)[:, :, :height]
    image = torch.cat([image, image.flip(3)], dim=3)[..., :width]
    with torch.no_grad():
        colours = restorer.upsampler.decode(restorer.backbone(image, Task()), (2 * height, 2 * width))
    assert_parity(colours[..., : expected.shape[-2], : expected.shape[-1]], expected, "padded_eval")


def description(
    upsampler: str, scale: int | None = None, window: int = 8, image_channels: int = 3, **options: Any
) -> dict[str, Any]:
    """A whole network; `options` are of its backbone."""
    head: dict[str, Any] = {"_target_": f"dynres.upsamplers.{upsampler}", "image_channels": image_channels}
    backbone = {
        "_target_": "dynres.backbones.swinir.SwinIR",
        "embed_dim": 180,
        "depths": [6] * 6,
        "heads": 6,
        "window": window,
        "mlp_ratio": 2.0,
        "image_channels": image_channels,
        "out_channels": 64,
        "resi_connection": "1conv",
    }
    mean = [0.4488, 0.4371, 0.4040] if image_channels == 3 else 0.0
    return {
        "backbone": backbone | options,
        "upsampler": head | ({"skip": "add"} if scale is None else {"scale": scale}),
        "image_skip": False,
        "pixels": {"mean": mean, "factor": 255.0 if window == 7 else 1.0},
    }


SHUFFLE, NEAREST, SAME = "pixelshuffle.PixelShuffle", "pixelshuffle.NearestConv", "same_size.SameSize"
LARGE: dict[str, Any] = {"embed_dim": 240, "depths": [6] * 9, "heads": 8, "resi_connection": "3conv"}
BARE: dict[str, Any] = {"out_channels": None}
LIGHT: dict[str, Any] = BARE | {"embed_dim": 60, "depths": [6] * 4}
PUBLISHED = {
    "classical x2": (description(SHUFFLE, 2), 48),
    "classical x3": (description(SHUFFLE, 3), 48),
    "classical x8": (description(SHUFFLE, 8), 48),
    "lightweight x2": (description("pixelshuffle.DirectPixelShuffle", 2, **LIGHT), 64),
    "lightweight x3": (description("pixelshuffle.DirectPixelShuffle", 3, **LIGHT), 64),
    "real images x2": (description(NEAREST, 2), 64),
    "real images x4": (description(NEAREST, 4), 64),
    "real images, large, x4": (description(NEAREST, 4, **LARGE), 64),
    "colour noise": (description(SAME, **BARE), 128),
    "gray noise": (description(SAME, image_channels=1, **BARE), 128),
    "colour artifacts": (description(SAME, window=7, **BARE), 126),
    "gray artifacts": (description(SAME, window=7, image_channels=1, **BARE), 126),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_network_is_recognised_by_its_exported_names(name: str) -> None:
    network, size = PUBLISHED[name]
    with torch.device("meta"):
        restorer = Restorer.from_description(network)
    state = to_official(restorer)
    assert recognise(state) == network
    window = network["backbone"]["window"]
    masks = {tuple(value.shape) for key, value in state.items() if key.endswith("attn_mask")}
    assert masks == {((size // window) ** 2, window**2, window**2)}
    assert from_official(state, restorer).keys() == restorer.state_dict().keys()


def test_names_of_the_large_network_for_real_images() -> None:
    with torch.device("meta"):
        restorer = Restorer.from_description(PUBLISHED["real images, large, x4"][0])
    state = to_official(restorer)
    assert state["layers.8.conv.0.weight"].shape == (60, 240, 3, 3)
    assert state["layers.8.conv.2.weight"].shape == (60, 60, 1, 1)
    assert state["conv_after_body.4.weight"].shape == (240, 60, 3, 3)
    assert {"conv_up1.weight", "conv_up2.weight", "conv_hr.weight", "conv_last.weight"} <= state.keys()
    assert "conv_after_body.weight" not in state and "conv_up3.weight" not in state


@pytest.mark.parametrize(
    "network",
    [
        description(NEAREST, 4, embed_dim=16, depths=[2, 3], heads=4, out_channels=6, resi_connection="3conv"),
        description(SAME, window=7, image_channels=1, embed_dim=12, depths=[2], mlp_ratio=1.5, out_channels=None),
    ],
)
def test_a_network_rebuilt_from_its_export_gives_the_same_image(network: dict[str, Any]) -> None:
    restorer = Restorer.from_description(network).eval()
    state = to_official(restorer)
    found = recognise(state)
    assert found == network
    again = Restorer.from_description(found).eval()
    again.load_state_dict(from_official(state, again))
    image = torch.rand(1, network["backbone"]["image_channels"], 9, 13)
    assert torch.equal(restorer.restore(image).image, again.restore(image).image)


def test_exported_masks_are_those_of_the_nine_regions_of_a_rolled_image() -> None:
    restorer = Restorer(small(window=8), PixelShuffle(5, 2))
    mask = to_official(restorer)["layers.0.residual_group.blocks.1.attn_mask"].view(6, 6, 64, 64)
    label = (torch.arange(48) >= 40).long() + (torch.arange(48) >= 44)
    regions = 3 * label[:, None] + label[None, :]
    for row in range(6):
        for column in range(6):
            part = regions[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].flatten()
            assert torch.equal(mask[row, column], torch.where(part[:, None] == part[None, :], 0.0, -100.0))


def official_shapes(model: str) -> dict[str, Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in oracle(model).keys.items()}


@pytest.mark.parametrize("model", sorted(path.name.removesuffix(".keys.json") for path in FOLDER.glob("*.keys.json")))
def test_other_networks_are_not_taken_for_a_swinir(model: str) -> None:
    own = model.startswith("swinir")
    state = official_shapes(model)
    assert (swinir.whole(state) is not None) == (own and model != "swinir_feat_none")
    assert (swinir.extractor(state) is not None) == (model == "swinir_feat_none")


def test_an_incomplete_or_a_larger_state_dict_is_nobodys() -> None:
    whole = to_official(Restorer(small(depths=(2,)), PixelShuffle(5, 2)))
    assert swinir.whole(whole) is not None
    tables = ("relative_position_index", "attn_mask")
    for key in whole:
        part = {other: value for other, value in whole.items() if other != key}
        assert (swinir.whole(part) is not None) == key.endswith(tables), f"without {key}"
        for shape in ((), (3,), (2, 0), (2, 2, 2, 2, 2)):
            swinir.whole(whole | {key: torch.empty(shape)})  # if it is taken for one, it is refused on loading
    assert swinir.whole(whole | {"layers.0.residual_group.overlap_attn.qkv.weight": torch.empty(36, 12)}) is None  # HAT


def test_a_head_that_is_not_the_authors_has_no_form_of_theirs() -> None:
    with pytest.raises(ValueError, match=r"SwinIR has an authors' form only under SameSize\(skip=add\)"):
        to_official(Restorer(small(), SameSize(5, skip="none")))


def test_cost_is_the_published_one_for_each_padded_pixel() -> None:
    with torch.device("meta"):
        network = SwinIR()
    assert network.cost(9, 23).full == 12_376_980 * 16 * 24


@pytest.mark.parametrize(("window", "multiple"), [(4, 4), (7, 7)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 9), (14, 2)])
def test_any_image_size_goes_in(height: int, width: int, window: int, multiple: int) -> None:
    network = small(window=window)
    with torch.no_grad():
        found = network(torch.randn(2, 3, height, width), Task())
    assert network.size_multiple == multiple
    assert found.map.shape[-2:] == (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    assert found.cropped.shape == (2, 5, height, width) and found.map.isfinite().all()


def test_a_sample_alone_is_the_sample_in_a_batch() -> None:
    network, images = small().double(), torch.randn(3, 3, 9, 13, dtype=torch.double)
    with torch.no_grad():
        together = network(images, Task()).map
        for image, expected in zip(images, together, strict=True):
            torch.testing.assert_close(network(image[None], Task()).map[0], expected)


def test_padding_is_the_reflection_of_the_image() -> None:
    network, image = small(), torch.randn(1, 3, 13, 8)
    completed = torch.cat([image, image[:, :, 9:12].flip(2)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(network(image, Task()).map, network(completed, Task()).map)


def test_every_second_layer_is_shifted_by_half_a_window() -> None:
    groups: Any = small(depths=(3, 2), window=7).layers
    assert [[layer.attn.shift for layer in group.blocks] for group in groups] == [[0, 3, 0], [0, 3]]


def test_stochastic_depth_rises_from_nothing_and_acts_in_training_alone() -> None:
    network = small(depths=(2, 3), drop_path=0.8)
    groups: Any = network.layers
    assert [layer.drop_path.drop_prob for group in groups for layer in group.blocks] == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8]
    )
    image = torch.randn(1, 3, 8, 8)
    plain = small(depths=(2, 3), drop_path=0.0)
    with torch.no_grad():
        assert torch.equal(network(image, Task()).map, plain(image, Task()).map)
        assert not torch.equal(network.train()(image, Task()).map, plain(image, Task()).map)
        assert torch.equal(plain.train()(image, Task()).map, plain.eval()(image, Task()).map)


def test_every_parameter_learns() -> None:
    network = small(resi_connection="3conv")
    network(torch.randn(1, 3, 8, 8), Task()).map.pow(2).sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still, f"no gradient reaches {still}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, "groups of at least 1, got 0"),
        ({"depths": (2, 0)}, "depths of at least 1, got 0"),
        ({"heads": 5}, "channels=12, heads=5"),
        ({"window": 0}, "window of at least 1, got 0"),
        ({"mlp_ratio": 0.0}, "mlp_hidden of at least 1, got 0"),
        ({"out_channels": 0}, "out_channels of at least 1, got 0"),
        ({"resi_connection": "2conv"}, "must be 1conv or 3conv, got '2conv'"),
        ({"embed_dim": 2, "heads": 1, "resi_connection": "3conv"}, "needs 4, got 2"),
    ],
)
def test_impossible_options_are_refused_with_their_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwinIR(**(SMALL | options))


@pytest.mark.parametrize(
    ("name", "parameters"), [("swinir", 11_603_044), ("swinir_lightweight", 903_660), ("swinir_denoise", 11_499_300)]
)
def test_configuration_builds_the_published_network(name: str, parameters: int) -> None:
    with torch.device("meta"):
        network = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    assert sum(p.numel() for p in network.parameters()) == parameters
