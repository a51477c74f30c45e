"""Laws of the heads that give whole images at one scale: one function in two forms, refusals, and what they spend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from dynres.contracts import Features
from dynres.layers.sampling import grid_coords
from dynres.upsamplers.base import GridUpsampler
from dynres.upsamplers.pixelshuffle import DirectPixelShuffle, NearestConv, PixelShuffle
from dynres.upsamplers.same_size import AsImage, SameSize

CONF = Path(__file__).resolve().parents[2] / "conf" / "upsampler"
CHANNELS = 3  # also of the image, for AsImage
BUILD: dict[str, Callable[[], GridUpsampler]] = {
    **{f"pixelshuffle_x{scale}": partial(PixelShuffle, CHANNELS, scale) for scale in (2, 3, 4, 8)},
    **{f"direct_x{scale}": partial(DirectPixelShuffle, CHANNELS, scale) for scale in (2, 3, 5)},
    **{f"nearest_conv_x{scale}": partial(NearestConv, CHANNELS, scale) for scale in (2, 4, 8)},
    "pixelshuffle_gray": partial(PixelShuffle, CHANNELS, 2, image_channels=1),
    **{f"same_size_{skip}": partial(SameSize, CHANNELS, skip=skip) for skip in ("add", "subtract", "none")},
    "same_size_5": partial(SameSize, CHANNELS, image_channels=1, kernel=5, bias=False),
    "as_image": partial(AsImage, CHANNELS),
}
LEARNED = [name for name in BUILD if name != "as_image"]
every = pytest.mark.parametrize("name", BUILD)
learned = pytest.mark.parametrize("name", LEARNED)


def build(name: str) -> GridUpsampler:
    torch.manual_seed(0)
    return BUILD[name]().eval()


def features(head: GridUpsampler, height: int = 5, width: int = 7, padding: int = 0) -> Features:
    """Of two images; with so many rows and columns of padding at the bottom and right of the map."""
    random = torch.Generator().manual_seed(1)
    return Features(
        torch.randn(2, CHANNELS, height + padding, width + padding, generator=random),
        torch.rand(2, head.image_channels, height, width, generator=random) * 2 - 1,
    )


def grid(head: GridUpsampler, given: Features) -> tuple[int, int]:
    return head.scale * given.image.shape[-2], head.scale * given.image.shape[-1]


@every
def test_query_picks_pixels_of_the_decoded_grid(name: str) -> None:
    head = build(name)
    given = features(head)
    size = grid(head, given)
    pixels = torch.randperm(size[0] * size[1])[:20]
    coords = grid_coords(size)[pixels].expand(2, -1, -1)
    cell = torch.tensor([2 / size[0], 2 / size[1]]).expand_as(coords)
    decoded = head.decode(given, size)
    assert decoded.shape == (2, head.image_channels, *size)
    assert torch.equal(head.query(given, coords, cell), decoded.flatten(2)[:, :, pixels].transpose(1, 2))


@every
def test_another_size_is_refused_with_its_cure(name: str) -> None:
    head = build(name)
    given = features(head)
    height, width = grid(head, given)
    message = f"made for x{head.scale} and gives {height}x{width} pixels here, not {height + 1}x{width}: ask for scale"
    with pytest.raises(ValueError, match=message):
        head.decode(given, (height + 1, width))
    coords = torch.zeros(2, 4, 2)
    with pytest.raises(ValueError, match=f"a x{head.scale} head has pixels of one size"):
        head.query(given, coords, torch.full((2, 4, 2), 0.9 / max(height, width)))


@every
def test_what_lies_beyond_the_image_is_cropped(name: str) -> None:
    """A map with padding is convolved whole, and pixels within reach of no padding are those without it."""
    head = build(name)
    padded = features(head, padding=3)
    plain = Features(padded.cropped, padded.image)
    size = grid(head, padded)
    with_padding, without = head.decode(padded, size), head.decode(plain, size)
    assert with_padding.shape == (2, head.image_channels, *size)
    inner = 3 * head.scale  # no convolution of these heads reaches 2 pixels of the input or more
    torch.testing.assert_close(with_padding[..., :-inner, :-inner], without[..., :-inner, :-inner])


@every
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_macs_are_what_torch_counts(name: str, size: tuple[int, int]) -> None:
    head = build(name)
    given = features(head, *size)
    one = Features(given.map[:1], given.image[:1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        head.decode(one, grid(head, one))
    assert 2 * head.macs(*size, grid(head, one)) == counter.get_total_flops()
    assert (head.macs(*size, grid(head, one)) > 0) == (name != "as_image")


@learned
def test_zero_output_leaves_nothing_but_the_skip(name: str) -> None:
    head = build(name)
    given = features(head)
    assert head.decode(given, grid(head, given)).std() > 0.01
    head.zero_output()
    expected = given.image if head.adds_image else torch.zeros(2, head.image_channels, *grid(head, given))
    assert torch.equal(head.decode(given, grid(head, given)), expected)


@learned
def test_every_parameter_gets_a_gradient_from_query(name: str) -> None:
    head = build(name).train()
    given = features(head)
    given.map.requires_grad_()
    size = grid(head, given)
    cell = torch.tensor([2 / size[0], 2 / size[1]]).expand(2, 60, 2)
    head.query(given, torch.rand(2, 60, 2) * 2 - 1, cell).pow(2).mean().backward()
    without = [key for key, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == [] and given.map.grad is not None and bool((given.map.grad != 0).any())


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_pixel_shuffle_has_a_stage_for_each_factor(scale: int) -> None:
    """4 C channels for each 2, 9 C for 3: the parameters of EDSR's tail."""
    stages = {2: [4], 3: [9], 4: [4, 4], 8: [4, 4, 4]}[scale]
    expected = sum(9 * 8 * n * 8 + n * 8 for n in stages) + 9 * 8 * 3 + 3
    assert sum(p.numel() for p in PixelShuffle(8, scale).parameters()) == expected


def test_direct_pixel_shuffle_lays_channels_out_as_colour_row_column() -> None:
    head = DirectPixelShuffle(CHANNELS, 2)
    head.zero_output()
    with torch.no_grad():
        head.last.bias.copy_(torch.arange(12.0))  # type: ignore[union-attr]
    image = head.decode(features(head), (10, 14))[0]
    assert image[:, :2, :2].flatten().tolist() == list(range(12))


def test_nearest_conv_repeats_pixels_before_it_convolves() -> None:
    """With every convolution the identity, positive features come out as the nearest-neighbour enlargement."""
    head = NearestConv(CHANNELS, 4)
    for conv in (*head.stages, head.hr, head.last):
        assert isinstance(conv, torch.nn.Conv2d) and conv.bias is not None
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    given = features(head)
    bright = Features(given.map.abs(), given.image)
    torch.testing.assert_close(head.decode(bright, (20, 28)), F.interpolate(bright.map, scale_factor=4.0))


@pytest.mark.parametrize(("skip", "sign"), [("add", 1.0), ("subtract", -1.0), ("none", None)])
def test_same_size_skips(skip: str, sign: float | None) -> None:
    """image + convolution, image - convolution, or the convolution alone."""
    head = SameSize(CHANNELS, skip=skip)  # type: ignore[arg-type]
    given = features(head)
    convolved = head.last(given.map)
    expected = convolved if sign is None else given.image + sign * convolved
    torch.testing.assert_close(head.decode(given, (5, 7)), expected)
    assert head.adds_image == (sign is not None) and head.same_size and head.scale == 1


def test_as_image_hands_the_features_on() -> None:
    head = AsImage(CHANNELS)
    given = features(head)
    assert torch.equal(head.decode(given, (5, 7)), given.map)
    with pytest.raises(ValueError, match="needs a head with weights, and AsImage has none"):
        head.zero_output()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PixelShuffle(8, 1), "pixelshuffle enlarges by 2, 3, 4, 8, ..., got scale 1"),
        (lambda: PixelShuffle(8, 6), "pixelshuffle enlarges by 2, 3, 4, 8, ..., got scale 6"),
        (lambda: PixelShuffle(8, 0), "pixelshuffle enlarges by 2, 3, 4, 8, ..., got scale 0"),
        (lambda: PixelShuffle(0, 2), "PixelShuffle needs in_channels of at least 1, got 0"),
        (lambda: NearestConv(8, 3), "nearest_conv enlarges by powers of 2, got scale 3"),
        (lambda: NearestConv(8, 5), "nearest_conv enlarges by .* got scale 5"),
        (lambda: NearestConv(8, 2, image_channels=0), "NearestConv needs image_channels of at least 1, got 0"),
        (lambda: DirectPixelShuffle(8, 1), "pixelshuffle_direct enlarges by .* got scale 1"),
        (lambda: SameSize(8, kernel=4), "SameSize needs an odd kernel, got 4"),
        (lambda: SameSize(8, skip="times"), "skip must be add, subtract or none, got 'times'"),  # type: ignore[arg-type]
        (lambda: AsImage(8), "AsImage needs features of 3 channels, the backbone gives 8"),
    ],
)
def test_impossible_options_are_refused_by_name_and_value(call: Callable[[], GridUpsampler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("file", "in_channels", "parameters"),
    [
        ("pixelshuffle", 64, 64 * 256 * 9 + 256 + 64 * 3 * 9 + 3),
        ("pixelshuffle_direct", 60, 60 * 12 * 9 + 12),
        ("nearest_conv", 64, 2 * (64 * 64 * 9 + 64) + 64 * 3 * 9 + 3),
        ("same_size", 180, 180 * 3 * 9 + 3),
        ("as_image", 3, 0),
    ],
)
def test_configuration_builds_the_published_head(file: str, in_channels: int, parameters: int) -> None:
    """At the scale of the task, x2 here."""
    cfg = OmegaConf.create({"task": {"scale": 2}, "upsampler": OmegaConf.load(CONF / f"{file}.yaml")})
    head = instantiate(cfg.upsampler, in_channels=in_channels)
    assert isinstance(head, GridUpsampler) and head.scale == (1 if head.same_size else 2)
    assert sum(p.numel() for p in head.parameters()) == parameters
