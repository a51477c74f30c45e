"""CAT: the authors' axial network, its windows read off a file, images of any size, and its published cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dynres.backbones.cat import CAT
from dynres.contracts import Task
from dynres.interop.families import cat
from dynres.interop.official import from_official, recognise, to_official
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle
from tests.golden.fill import FOLDER, Oracle, is_filled, oracle
from tests.golden.parity import assert_forward, assert_gradient, assert_names

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
SMALL: dict[str, Any] = {
    "embed_dim": 64, "depths": (2, 2), "heads": 4, "short_sides": (2, 4), "long_side": 8, "out_channels": 5
}  # fmt: skip
AXIAL: dict[str, Any] = {"long_side": None}


def small(**options: Any) -> CAT:
    """With weights large enough for attention and its biases to matter; normalisations are left as they are."""
    torch.manual_seed(0)
    network = CAT(**(SMALL | options)).eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture(scope="module")
def axial() -> tuple[Restorer, Oracle]:
    """The axial network, whose windows show in its masks alone: the authors' tables come with the weights."""
    reference = oracle("cat_axial_tiny_x2")
    tables = {key: torch.empty(shape) for key, shape in reference.keys.items() if not is_filled(key)}
    state = reference.weights() | tables
    found = recognise(state)
    assert found is not None
    restorer = Restorer.from_description(found)
    restorer.load_state_dict(from_official(state, restorer))
    return restorer.eval(), reference


def test_axial_windows_are_read_off_the_masks(axial: tuple[Restorer, Oracle]) -> None:
    backbone: Any = axial[0].backbone
    assert (backbone.short_sides, backbone.long_side, backbone.size_multiple) == ((4, 4), None, 4)
    assert_names(*axial)


def test_axial_image_and_gradient_equal_the_authors(axial: tuple[Restorer, Oracle]) -> None:
    assert_forward(*axial, "a", "cat_axial_tiny_x2")
    assert_gradient(*axial, "a")


def description(
    scale: int | None, short_sides: list[int], long_side: int | None, image_channels: int = 3, **options: Any
) -> dict[str, Any]:
    """A whole network; `options` are of its backbone."""
    tail: dict[str, Any] = {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": scale}
    if scale is None:
        tail = {"_target_": "dynres.upsamplers.same_size.SameSize", "skip": "add"}
    backbone = {
        "_target_": "dynres.backbones.cat.CAT",
        "embed_dim": 180,
        "depths": [6] * 6,
        "heads": 6,
        "short_sides": short_sides,
        "long_side": long_side,
        "mlp_ratio": 4.0,
        "image_channels": image_channels,
        "out_channels": 64 if scale else None,
        "resi_connection": "1conv",
    }
    mean = [0.4488, 0.4371, 0.4040] if image_channels == 3 else 0.0
    return {
        "backbone": backbone | options,
        "upsampler": tail | {"image_channels": image_channels},
        "image_skip": False,
        "pixels": {"mean": mean, "factor": 1.0 if image_channels == 3 else 255.0},
    }


SLIM: dict[str, Any] = {"embed_dim": 64, "depths": [2, 3], "heads": 4}
PUBLISHED = {
    "CAT-R x4": description(4, [4] * 6, 16),
    "CAT-R-2 x3": description(3, [4] * 6, 16, mlp_ratio=2.0),
    "CAT-A x2": description(2, [2, 2, 2, 4, 4, 4], None),
    "CAT-A-2 x4": description(4, [4] * 6, None),
    "compression artifacts": description(None, [2, 2, 2, 4, 4, 4], None, image_channels=1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_network_is_recognised_by_its_exported_names(name: str) -> None:
    network = PUBLISHED[name]
    with torch.device("meta"):
        restorer = Restorer.from_description(network)
    state = to_official(restorer)
    assert recognise(state) == network
    assert from_official(state, restorer).keys() == restorer.state_dict().keys()


@pytest.mark.parametrize(
    "network",
    [
        description(2, [2, 4], 8, **SLIM, resi_connection="3conv"),
        description(None, [2, 8], 8, **SLIM),
        description(3, [1, 2], None, image_channels=1, **SLIM),
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


def test_exported_tables_have_the_authors_values() -> None:
    """Offsets row by row; masks of the 3 x 3 regions of a rolled image, for lying windows and for standing ones."""
    state = to_official(Restorer(small(short_sides=(4, 4), long_side=16), PixelShuffle(5, 2)))
    assert state["layers.1.blocks.0.attns.0.rpe_biases"][[0, 1, 31, -1]].tolist() == [
        [-3, -15],
        [-3, -14],
        [-2, -15],
        [3, 15],
    ]
    assert state["layers.1.blocks.0.attns.1.rpe_biases"][[0, 1, 7, -1]].tolist() == [
        [-15, -3],
        [-15, -2],
        [-14, -3],
        [15, 3],
    ]
    for branch, (high, wide) in enumerate([(4, 16), (16, 4)]):
        rows, columns = (
            (torch.arange(64) >= 64 - side).long() + (torch.arange(64) >= 64 - side // 2) for side in (high, wide)
        )
        regions = 3 * rows[:, None] + columns[None, :]
        windows = regions.unfold(0, high, high).unfold(1, wide, wide).flatten(0, 1).flatten(1)
        expected = torch.where(windows[:, :, None] == windows[:, None, :], 0.0, -100.0)
        assert torch.equal(state[f"layers.1.blocks.1.attn_mask_{branch}"], expected)


@pytest.mark.parametrize("model", sorted(path.name.removesuffix(".keys.json") for path in FOLDER.glob("*.keys.json")))
def test_other_networks_are_not_taken_for_a_cat(model: str) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape in oracle(model).keys.items()}
    assert (cat.whole(state) is not None) == model.startswith("cat_")
    assert cat.extractor(state) is None


def test_an_extractor_alone_is_recognised() -> None:
    whole = to_official(Restorer(small(), PixelShuffle(5, 2)))
    state = {key: value for key, value in whole.items() if not key.startswith(("upsample.", "conv_last."))}
    found, asked = cat.extractor(state), cat.whole(whole)
    assert found is not None and asked is not None and found == asked["backbone"]


@pytest.mark.parametrize("options", [{}, AXIAL])
def test_an_incomplete_state_dict_is_nobodys(options: dict[str, Any]) -> None:
    whole = to_official(Restorer(small(depths=(2,), short_sides=(4,), **options), PixelShuffle(5, 2)))
    assert cat.whole(whole) is not None
    for key in whole:
        part = {other: value for other, value in whole.items() if other != key}
        table = not key.endswith(("weight", "bias"))
        assert table or cat.whole(part) is None, f"without {key}"
        for shape in ((), (3,), (2, 0), (0, 2, 2), (2, 2, 2, 2, 2)):
            cat.whole(whole | {key: torch.empty(shape)})  # if it is taken for one, it is refused on loading
    assert cat.whole(whole | {"layers.0.blocks.0.surplus.weight": torch.empty(1)}) is None


def test_windows_that_no_table_tells_are_those_of_cat_r() -> None:
    whole = to_official(Restorer(small(), PixelShuffle(5, 2)))
    found = cat.whole({key: value for key, value in whole.items() if key.endswith(("weight", "bias"))})
    assert found is not None
    assert (found["backbone"]["short_sides"], found["backbone"]["long_side"]) == ([4, 4], 16)


def test_cost_is_the_published_one_for_each_padded_pixel_and_the_position_mlps() -> None:
    """An MLP of width 5 for 3 heads runs over 7 x 31 offsets, in both branches of 36 blocks."""
    with torch.device("meta"):
        network = CAT()
    mlp = 2 * 5 + 5 * 5 + 5 * 5 + 5 * 3 + 3 * 5 * 5
    assert network.cost(17, 33).full == 12_435_300 * 32 * 48 + 36 * 2 * 7 * 31 * mlp


@pytest.mark.parametrize(("options", "multiple"), [({}, 8), (AXIAL, 4)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 9), (17, 2)])
def test_any_image_size_goes_in(height: int, width: int, options: dict[str, Any], multiple: int) -> None:
    network = small(**options)
    with torch.no_grad():
        found = network(torch.randn(2, 3, height, width), Task())
    assert network.size_multiple == multiple
    assert found.map.shape[-2:] == (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    assert found.cropped.shape == (2, 5, height, width) and found.map.isfinite().all()


@pytest.mark.parametrize("options", [{}, AXIAL])
def test_a_sample_alone_is_the_sample_in_a_batch(options: dict[str, Any]) -> None:
    network, images = small(**options).double(), torch.randn(3, 3, 9, 13, dtype=torch.double)
    with torch.no_grad():
        together = network(images, Task()).map
        for image, expected in zip(images, together, strict=True):
            torch.testing.assert_close(network(image[None], Task()).map[0], expected)


def test_padding_is_the_reflection_of_the_image_with_its_edge() -> None:
    network, image = small(), torch.randn(1, 3, 13, 8)
    completed = torch.cat([image, image[:, :, 10:].flip(2)], dim=2)
    with torch.no_grad():
        torch.testing.assert_close(network(image, Task()).map, network(completed, Task()).map)


def test_axial_windows_reach_across_the_image_and_rectangular_ones_do_not() -> None:
    def reached(**options: Any) -> set[int]:
        """Columns that the features of the middle of a wide image depend on, after one block."""
        network = small(depths=(1,), short_sides=(4,), **options).double()
        image = torch.randn(1, 3, 8, 48, dtype=torch.double, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(image, Task()).map[..., 4, 24].sum(), image)
        return set(gradient[0].abs().sum((0, 1)).nonzero().flatten().tolist())

    assert reached(**AXIAL) == set(range(48))
    assert reached() < set(range(12, 36))


def test_every_second_block_is_shifted_by_half_of_both_sides_or_of_the_short_one() -> None:
    def shifts(network: Any) -> list[list[tuple[int, int]]]:
        return [[attn.shift for attn in block.attns] for group in network.layers for block in group.blocks]

    assert shifts(small()) == [[(0, 0)] * 2, [(1, 4), (4, 1)], [(0, 0)] * 2, [(2, 4), (4, 2)]]
    assert shifts(small(**AXIAL)) == [[(0, 0)] * 2, [(0, 1), (1, 0)], [(0, 0)] * 2, [(0, 2), (2, 0)]]


def test_every_parameter_learns_but_the_bias_that_softmax_cannot_see() -> None:
    network = small(embed_dim=256, depths=(2,), short_sides=(2,), long_side=4).double()
    network(torch.randn(1, 3, 8, 8, dtype=torch.double), Task()).map.pow(2).mean().backward()
    largest = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in network.named_parameters()}
    blind = {name for name in largest if name.endswith("pos3.2.bias")}
    still = [name for name in largest.keys() - blind if largest[name] < 1e-9]
    assert not still, f"no gradient reaches {still}"
    assert len(blind) == 4 and max(largest[name] for name in blind) < 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, "groups of at least 1, got 0"),
        ({"short_sides": ()}, "short_sides of at least 1, got 0"),
        ({"short_sides": (2,)}, r"got \[2\] for 2 groups"),
        ({"short_sides": (3, 4)}, r"short_sides=\[3, 4\] and long_side=8"),
        ({"short_sides": (3, 4), "long_side": None}, r"short_sides=\[3, 4\] and long_side=None"),
        ({"heads": 3}, "got heads=3 and embed_dim=64"),
        ({"embed_dim": 62}, "got heads=4 and embed_dim=62"),
        ({"embed_dim": 24}, "got heads=4 and embed_dim=24"),
        ({"resi_connection": "2conv"}, "must be 1conv or 3conv, got '2conv'"),
    ],
)
def test_impossible_options_are_refused_with_their_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CAT(**(SMALL | options))


def test_configuration_builds_the_published_network() -> None:
    with torch.device("meta"):
        network = instantiate(OmegaConf.load(CONF / "cat_r_2.yaml"))
    assert sum(p.numel() for p in network.parameters()) == 11_628_100
