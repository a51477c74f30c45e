"""The one inference entry: sizes, ranges, budgets and tiles, and what was really spent."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynres.backbones.edsr import EDSR
from dynres.backbones.tadt import TADT, TARC
from dynres.contracts import Restoration, Task
from dynres.cost.counter import count_macs
from dynres.layers.pixels import Pixels
from dynres.layers.sampling import grid_coords
from dynres.restorer import Restorer, check_budget, output_size
from dynres.tiles import tile_plan, tile_sizes
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.bicubic import Bicubic
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.metasr import MetaSR

HEADS = {
    "liif": lambda c: LIIF(c, hidden=12, layers=2),
    "metasr": lambda c: MetaSR(c, hidden=10),
    "lte": lambda c: LTE(c, hidden_dim=12, layers=2),
    "bicubic": Bicubic,
}


def head(name: str, channels: int) -> Upsampler:
    return HEADS[name](channels)


def static(upsampler: str = "liif", image_skip: bool = False) -> Restorer:
    torch.manual_seed(0)
    backbone = EDSR(8, 2, 1.0)
    return Restorer(backbone, head(upsampler, 8), image_skip).eval()


def routed(upsampler: str = "liif") -> Restorer:
    """A TADT with tiles of 20 pixels and more, whose branches and probabilities matter."""
    torch.manual_seed(0)
    backbone = TADT(
        channels=16, groups=2, local_windows=(1, 2, 4), global_window=4, pooled=2, out_channels=8, controller_width=6,
    )  # fmt: skip
    for name, parameter in backbone.named_parameters():
        if "scale_branch" not in name and "norm" not in name:
            nn.init.normal_(parameter, std=0.1)
    nn.init.normal_(backbone.controller.linear.weight, std=5.0)
    return Restorer(backbone, head(upsampler, 8)).eval()


def images(batch: int = 1, height: int = 10, width: int = 13) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def controller(restorer: Restorer) -> TARC:
    assert isinstance(restorer.backbone, TADT)
    return restorer.backbone.controller


def decisions(restoration: Restoration) -> Tensor:
    assert restoration.routing is not None
    return restoration.routing.decisions


def spent(restorer: Restorer, on: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """(B,) by the formula, over images or tiles of these sizes."""
    total = torch.zeros(len(on), dtype=torch.float64)
    for size in sizes:
        cost = restorer.backbone.cost(*size)
        total += cost.fixed + on.double() @ torch.tensor(cost.units, dtype=torch.float64)
    return total


# ------------------------------------------------------------------------------------------------ whole images


@pytest.mark.parametrize(
    ("upsampler", "image_skip"), [*((name, False) for name in HEADS), ("liif", True), ("metasr", True)]
)
@pytest.mark.parametrize("size", [(10, 13), (25, 39), (37, 31)])
def test_training_and_inference_give_the_same_colours(upsampler: str, image_skip: bool, size: tuple[int, int]) -> None:
    """`query` at every pixel centre is `restore`, but for the clamping."""
    restorer, image = static(upsampler, image_skip), images(2)
    coords = grid_coords(size).expand(2, -1, -1)
    cell = torch.tensor([2 / size[0], 2 / size[1]]).expand_as(coords)
    with torch.no_grad():
        colours, _ = restorer.query(image, coords, cell, Task(torch.full((2,), 2.0)))
    queried = colours.transpose(1, 2).reshape(2, 3, *size)
    restored = restorer.restore(image, size=size).image
    torch.testing.assert_close(queried.clamp(0, 1), restored, rtol=0, atol=1e-5)


def test_training_and_inference_route_alike() -> None:
    restorer, image, seed = routed(), images(2), torch.tensor([3, 4])
    restoration = restorer.restore(image, scale=2, seed=seed)
    coords = grid_coords((20, 26)).expand(2, -1, -1)
    cell = torch.tensor([2 / 20, 2 / 26]).expand_as(coords)
    with torch.no_grad():
        colours, routing = restorer.query(image, coords, cell, Task(torch.full((2,), 2.0), seed=seed))
    assert routing is not None and torch.equal(routing.decisions, decisions(restoration))
    queried = colours.transpose(1, 2).reshape(2, 3, 20, 26).clamp(0, 1)
    torch.testing.assert_close(queried, restoration.image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("build", [static, routed])
@pytest.mark.parametrize(
    ("asked", "size"),
    [({"scale": 3.7}, (37, 48)), ({"scale": 1}, (10, 13)), ({"scale": 30}, (300, 390)), ({"size": (20, 39)}, (20, 39))],
)
def test_output_has_the_size_asked_for_and_stays_in_range(build: Any, asked: Any, size: tuple[int, int]) -> None:
    restorer = build()
    for parameter in restorer.upsampler.parameters():
        nn.init.normal_(parameter, std=2.0)  # colours far outside [0, 1] before the clamp
    image = restorer.restore(images(), **asked).image
    assert image.shape == (1, 3, *size)
    assert image.min() == 0 and image.max() == 1


def test_image_skip_adds_the_bicubic_enlargement() -> None:
    """With a head that answers zero the result is plain bicubic; without the skip it is mid-grey."""
    with_skip, plain = static(image_skip=True), static()
    for restorer in (with_skip, plain):
        for parameter in restorer.upsampler.parameters():
            nn.init.zeros_(parameter)
    image = images()
    bicubic = static("bicubic").restore(image, scale=2.5).image
    torch.testing.assert_close(with_skip.restore(image, scale=2.5).image, bicubic)
    assert torch.equal(plain.restore(image, scale=2.5).image, torch.full_like(bicubic, 0.5))


@pytest.mark.parametrize("upsampler", ["lte", "bicubic"])
def test_image_skip_is_refused_where_the_upsampler_adds_the_image_itself(upsampler: str) -> None:
    with pytest.raises(ValueError, match=f"(?i)image_skip=true would add the image twice: {upsampler}"):
        static(upsampler, image_skip=True)


def test_restoring_leaves_the_input_alone_and_needs_no_gradient() -> None:
    restorer, image = static("bicubic"), images().requires_grad_()
    kept = image.detach().clone()
    assert not restorer.restore(image, scale=1).image.requires_grad
    assert torch.equal(image, kept)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"scale": 0.5}, "scale must be between 1 and 30, got 0.5"),
        ({"scale": 31}, "scale must be between 1 and 30, got 31"),
        ({"scale": float("nan")}, "scale must be between 1 and 30, got nan"),
        ({"scale": float("inf")}, "scale must be between 1 and 30, got inf"),
        ({"scale": 2, "size": (20, 26)}, "either a scale or a size, got scale=2 and size=(20, 26)"),
        ({}, "either a scale or a size, got scale=None and size=None"),
        ({"size": (9, 26)}, "output height must be between 10 (x1) and 300 (x30), got 9"),
        ({"size": (20, 391)}, "output width must be between 13 (x1) and 390 (x30), got 391"),
        ({"scale": 2, "budget": 0}, "budget must be in (0, 1], got 0"),
        ({"scale": 2, "budget": 1.1}, "budget must be in (0, 1], got 1.1"),
        ({"scale": 2, "budget": float("nan")}, "budget must be in (0, 1], got nan"),
        ({"scale": 2, "tile": 12}, "tile must be at least 21 pixels for this backbone, got 12"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_number(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        static().restore(images(), **asked)


def test_size_and_budget_checks_accept_their_limits() -> None:
    assert output_size((10, 13), 1, None) == output_size((10, 13), None, (10, 13)) == (10, 13)
    assert output_size((10, 13), 30.0, None) == output_size((10, 13), None, (300, 390)) == (300, 390)
    for budget in (None, 1e-9, 1.0):
        check_budget(budget)


# ------------------------------------------------------------------------------------------------ compute


def test_macs_of_every_image_of_a_batch_are_counted() -> None:
    restorer, image = routed(), images(2)
    restoration = restorer.restore(image, scale=1.3, seed=torch.tensor([0, 1]))
    first, second = decisions(restoration)
    assert not torch.equal(first, second), "the images have to disagree"
    assert torch.equal(restoration.macs, spent(restorer, decisions(restoration), [(10, 13)]))
    assert restoration.full_macs == restorer.backbone.cost(10, 13).full
    counted = count_macs(
        lambda: restorer.backbone(Pixels().normal(image), Task(torch.full((2,), 1.3), seed=torch.arange(2)))
    )
    assert counted == restoration.macs.sum().item()


def test_a_static_network_spends_everything_on_every_image() -> None:
    restorer = static()
    restoration = restorer.restore(images(2), scale=2)
    full = restorer.backbone.cost(10, 13).full
    assert restoration.routing is None and restoration.full_macs == full
    assert restoration.macs.tolist() == [full, full]


def test_a_budget_is_kept_in_silence_and_warned_about_below_the_floor() -> None:
    restorer = routed()
    floor = restorer.backbone.cost(10, 13).fixed / restorer.backbone.cost(10, 13).full
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for budget in (floor + 0.01, 0.9, 1.0):
            restoration = restorer.restore(images(), scale=2, budget=budget)
            assert restoration.macs.item() <= budget * restoration.full_macs
    with pytest.warns(UserWarning, match=rf"budget of 0\.1 cannot be met: {floor:.3f} of the full compute.*the least"):
        restoration = restorer.restore(images(), scale=2, budget=0.1)
    assert not decisions(restoration).any()


def test_a_static_network_warns_that_it_cannot_follow_a_budget() -> None:
    with pytest.warns(UserWarning, match=r"budget of 0\.5 cannot be met: 1\.000 of the full compute"):
        static().restore(images(), scale=2, budget=0.5)


def test_a_budget_that_overlapping_tiles_exceed_is_warned_about_with_the_cure() -> None:
    with pytest.warns(UserWarning, match=r"budget of 0\.9 cannot be met: \d\.\d+ of the full.*tiles overlap: larger"):
        routed().restore(images(1, 40, 40), scale=1, budget=0.9, tile=20)


def test_a_seed_fixes_the_result_and_another_changes_it() -> None:
    restorer, image = routed(), images()
    first, again, other = (restorer.restore(image, scale=1.3, seed=torch.tensor([s])) for s in (0, 0, 1))
    assert torch.equal(first.image, again.image)
    assert not torch.equal(decisions(first), decisions(other))
    assert not torch.equal(first.image, other.image)


def test_the_controller_is_told_the_mean_scale_of_the_two_axes() -> None:
    restorer, image = routed(), images(1, 10, 10)
    for size, scale in (((20, 80), 4.0), ((30, 30), 3.0), ((10, 10), 1.0)):
        expected = controller(restorer).beta(torch.tensor([scale]))
        routing = restorer.restore(image, size=size).routing
        assert routing is not None
        torch.testing.assert_close(routing.intensity, expected)


# ------------------------------------------------------------------------------------------------ tiles


@pytest.mark.parametrize("size", [(50, 37), (21, 60), (20, 19)])
@pytest.mark.parametrize("upsampler", ["liif", "lte"])
def test_tiles_of_a_convolutional_network_give_the_whole_image(size: tuple[int, int], upsampler: str) -> None:
    restorer, image = static(upsampler), images(2, *size)
    tiled = restorer.restore(image, scale=1.5, tile=24).image
    error = (tiled - restorer.restore(image, scale=1.5).image).abs().max().item()
    assert error <= 1e-5, f"tiles differ by {error:.2g}"


def test_tiles_of_attention_leave_no_seams() -> None:
    """Tiles see less context, so pixels may differ a little; cuts between tiles may not show as edges."""
    restorer, image = routed("lte"), images(1, 60, 45)
    whole = restorer.restore(image, scale=1, seed=torch.tensor([2])).image
    tiled = restorer.restore(image, scale=1, seed=torch.tensor([2]), tile=24).image
    difference = tiled - whole
    contrast = whole.std().item()
    assert difference.abs().max() < 0.05 * contrast, f"{difference.abs().max():.2g} beside a contrast of {contrast:.2g}"
    edges = max(difference.diff(dim=axis).abs().max().item() for axis in (2, 3))
    assert edges < 0.05 * contrast, f"edges of {edges:.2g} beside a contrast of {contrast:.2g}"


def test_decisions_are_taken_once_and_from_the_whole_image() -> None:
    restorer, image, calls = routed(), images(2, 45, 30), []
    whole = restorer.restore(image, scale=1.3, seed=torch.tensor([0, 1]))
    controller(restorer).register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape))
    tiled = restorer.restore(image, scale=1.3, seed=torch.tensor([0, 1]), tile=20)
    assert calls == [image.shape], f"the controller saw {calls}"
    assert torch.equal(decisions(tiled), decisions(whole))


@pytest.mark.parametrize("build", [static, routed])
def test_macs_of_tiles_include_their_overlaps(build: Any) -> None:
    restorer, image = build(), images(2, 45, 30)
    restoration = restorer.restore(image, scale=1.3, tile=24)
    sizes = tile_sizes(45, 30, tile_plan(restorer.backbone, 24))
    on = torch.zeros(2, 0) if restoration.routing is None else decisions(restoration)
    torch.testing.assert_close(restoration.macs, spent(restorer, on, sizes), rtol=1e-12, atol=0)
    assert (restoration.macs > spent(restorer, on, [(45, 30)])).all()
    assert restoration.full_macs == restorer.backbone.cost(45, 30).full


def test_an_image_within_one_tile_is_not_cut() -> None:
    restorer, image = routed(), images(1, 24, 20)
    seed = torch.tensor([5])
    one, whole = (restorer.restore(image, scale=2, tile=tile, seed=seed) for tile in (24, None))
    assert torch.equal(one.image, whole.image) and torch.equal(one.macs, whole.macs)


def test_the_iteration_over_tiles_can_be_watched() -> None:
    restorer, seen = static(), []

    def watch(order: Iterator[int], count: int) -> Iterator[int]:
        for index in order:
            seen.append((index, count))
            yield index

    restorer.restore(images(1, 45, 30), scale=1, tile=24, watch=watch)
    count = len(tile_sizes(45, 30, tile_plan(restorer.backbone, 24)))
    assert seen == [(index, count) for index in range(count)]


@pytest.mark.parametrize("build", [static, routed])
def test_the_smallest_tile_named_in_the_message_works(build: Any) -> None:
    restorer, image = build(), images(1, 30, 26)
    with pytest.raises(ValueError, match="got 3") as error:
        restorer.restore(image, scale=1, tile=3)
    found = re.search(r"at least (\d+) pixels", str(error.value))
    assert found is not None
    smallest = int(found[1])
    assert restorer.restore(image, scale=1, tile=smallest).image.shape == image.shape
    with pytest.raises(ValueError, match=f"at least {smallest} pixels"):
        restorer.restore(image, scale=1, tile=smallest - 1)
