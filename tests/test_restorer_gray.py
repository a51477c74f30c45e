"""Gray networks on colour images, same-size networks at a scale, and the noise level."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.backbones.dncnn import DnCNN
from dynres.backbones.ffdnet import FFDNet
from dynres.backbones.vdsr import VDSR
from dynres.contracts import Features, Task
from dynres.layers.colour import rgb, ycbcr
from dynres.layers.sampling import bicubic_grid, grid_coords
from dynres.restorer import Pixels, Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle
from dynres.upsamplers.same_size import AsImage, SameSize

PIXELS = Pixels(0.0, 1.0)


class Recorder(Backbone):
    """Hands its image on and keeps what it was given."""

    def __init__(self, image_channels: int, wants_noise: bool = False) -> None:
        super().__init__()
        self.out_channels = self.image_channels = image_channels
        self.wants_noise = wants_noise
        self.seen: list[tuple[Tensor, Task]] = []

    def forward(self, image: Tensor, task: Task) -> Features:
        if not image.is_meta:  # its cost is counted on the meta device
            self.seen.append((image, task))
        return Features(image, image)


def vdsr(channels: int = 1, change: float = 0.0) -> Restorer:
    """A network that adds a constant to its image."""
    restorer = Restorer(VDSR(4, 3, channels), SameSize(4, channels, skip="add"), pixels=PIXELS).eval()
    restorer.upsampler.zero_output()
    assert isinstance(restorer.upsampler, SameSize) and restorer.upsampler.last.bias is not None
    nn.init.constant_(restorer.upsampler.last.bias, change)
    return restorer


def image(batch: int = 1, channels: int = 3, height: int = 9, width: int = 7) -> Tensor:
    """Not near 0 or 1, where a change would be clipped."""
    return 0.3 + 0.4 * torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(2))


# ------------------------------------------------------------------------------------------------ gray networks


@pytest.mark.parametrize("size", [(9, 7), (18, 14), (31, 12)])
def test_a_gray_network_without_effect_leaves_the_bicubic_colours(size: tuple[int, int]) -> None:
    restored = vdsr().restore(image(2), size=size).image
    torch.testing.assert_close(restored, bicubic_grid(image(2), size), rtol=0, atol=2e-6)


def test_a_gray_network_changes_the_luma_and_keeps_the_chroma() -> None:
    restored = vdsr(change=0.05).restore(image(), scale=2).image
    before, after = ycbcr(bicubic_grid(image(), (18, 14))), ycbcr(restored)
    torch.testing.assert_close(after - before, torch.tensor([0.05, 0, 0]).view(1, 3, 1, 1).expand_as(after))


def test_a_gray_network_does_to_the_luma_what_it_does_to_a_gray_image() -> None:
    torch.manual_seed(0)
    network = Restorer(DnCNN(4, 4, 1), SameSize(4, 1, skip="subtract"), pixels=PIXELS).eval()
    nn.init.normal_(network.upsampler.last.weight, std=0.02)
    gray = network.restore(ycbcr(image())[:, :1]).image
    assert gray.shape == (1, 1, 9, 7) and (gray - ycbcr(image())[:, :1]).abs().max() > 1e-3
    torch.testing.assert_close(ycbcr(network.restore(image()).image)[:, :1], gray, rtol=0, atol=2e-6)


def test_colours_are_clamped_after_the_luma_is_put_back() -> None:
    """Luma in studio range is below 1 for white; clamping it would not hold the colours in range."""
    bright, dark = (vdsr(change=change).restore(image(), scale=1).image for change in (0.5, -0.5))
    expected = rgb(ycbcr(image()) + torch.tensor([0.5, 0, 0]).view(1, 3, 1, 1))
    assert expected.max() > 1
    torch.testing.assert_close(bright, expected.clamp(0, 1), rtol=0, atol=2e-6)
    assert dark.min() == 0 and dark.max() < 0.3


def test_a_colour_network_refuses_a_gray_image_and_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="a colour network needs an image of 3 channels: repeat the gray one"):
        vdsr(3).restore(image(channels=1))


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 channels, axis 1 of \(1, 4, 9, 7\) has 4"):
        vdsr().restore(image(channels=4))


@pytest.mark.parametrize(("reads", "makes"), [(1, 3), (3, 1)])
def test_parts_for_different_channels_do_not_go_together(reads: int, makes: int) -> None:
    with pytest.raises(ValueError, match=rf"reads images of {reads} channels and the upsampler makes {makes}: set"):
        Restorer(VDSR(4, 3, reads), SameSize(4, makes))


def test_targets_are_seen_as_the_network_sees_its_images() -> None:
    colours = torch.rand(2, 11, 3)
    assert torch.equal(vdsr(3).seen(colours), colours)
    torch.testing.assert_close(vdsr().seen(colours), ycbcr(colours, -1)[..., :1])


# ------------------------------------------------------------------------------------------------ same size at a scale


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(9, 7), (18, 14), (10, 21)])
def test_a_same_size_network_sees_the_bicubic_enlargement(channels: int, size: tuple[int, int]) -> None:
    backbone = Recorder(channels)
    Restorer(backbone, AsImage(channels, channels), pixels=Pixels(0.25, 2.0)).restore(image(), size=size)
    [(given, _)] = backbone.seen
    enlarged = bicubic_grid(image(), size)
    expected = enlarged if channels == 3 else ycbcr(enlarged)[:, :1]
    torch.testing.assert_close(given, 2 * (expected - 0.25), rtol=0, atol=3e-6)


def test_its_own_size_is_the_default() -> None:
    torch.testing.assert_close(vdsr(3).restore(image()).image, image())
    enlarging = Restorer(VDSR(4, 3, 3), PixelShuffle(4, 2))
    assert enlarging.restore(image()).image.shape == (1, 3, 18, 14)


def test_macs_are_those_of_the_enlargement() -> None:
    network = vdsr()
    restoration = network.restore(image(2), scale=3)
    assert restoration.full_macs == network.backbone.cost(27, 21).full
    assert restoration.macs.tolist() == [restoration.full_macs] * 2


def test_tiles_of_the_enlargement_give_the_whole_image() -> None:
    torch.manual_seed(0)
    network = Restorer(VDSR(4, 4, 1), SameSize(4, 1), pixels=PIXELS).eval()
    whole, cut = (network.restore(image(1, 3, 25, 17), scale=2, tile=tile).image for tile in (None, 24))
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2])
def test_training_and_inference_give_the_same_colours(channels: int, scale: int) -> None:
    """`query` at every pixel centre is `restore`: of the luma, for a gray network."""
    torch.manual_seed(0)
    network = Restorer(VDSR(4, 3, channels), SameSize(4, channels), pixels=PIXELS).eval()
    size = (9 * scale, 7 * scale)
    coords = grid_coords(size).expand(2, -1, -1)
    cell = torch.tensor([2 / size[0], 2 / size[1]]).expand_as(coords)
    with torch.no_grad():
        colours, _ = network.query(image(2), coords, cell, Task(torch.full((2,), float(scale))))
    restored = network.restore(network.seen(image(2), 1), size=size).image
    assert colours.shape == (2, size[0] * size[1], channels)
    torch.testing.assert_close(colours.transpose(1, 2).reshape_as(restored).clamp(0, 1), restored, rtol=0, atol=3e-6)


def test_a_batch_of_two_scales_is_refused_in_training() -> None:
    coords = torch.zeros(2, 1, 2)
    cell = torch.tensor([[[2 / 18, 2 / 14]], [[2 / 27, 2 / 21]]])
    with pytest.raises(ValueError, match="trains at one scale at a time"):
        vdsr().query(image(2), coords, cell, Task(torch.tensor([2.0, 3.0])))


def test_the_bicubic_skip_is_refused_where_the_head_adds_the_image_itself() -> None:
    with pytest.raises(ValueError, match="image_skip=true would add the image twice: SameSize"):
        Restorer(VDSR(4, 3, 1), SameSize(4, 1, skip="add"), image_skip=True)


# ------------------------------------------------------------------------------------------------ noise level


def ffdnet() -> Restorer:
    torch.manual_seed(0)
    return Restorer(FFDNet(4, 3, 3), AsImage(3, 3), pixels=PIXELS).eval()


def test_a_missing_noise_level_is_asked_for_by_name() -> None:
    with pytest.raises(ValueError, match="FFDNet must be told the noise level, such as noise=25"):
        ffdnet().restore(image())


@pytest.mark.parametrize("noise", [-1, 255.5, float("nan"), float("inf")])
@pytest.mark.parametrize("build", [ffdnet, vdsr])
def test_an_impossible_noise_level_is_refused_with_its_number(build: object, noise: float) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=re.escape(f"noise is a standard deviation from 0 to 255, got {noise}")):
        build().restore(image(), noise=noise)


@pytest.mark.parametrize("noise", [0, 25, 255])
def test_every_image_is_told_the_noise_level_over_255(noise: float) -> None:
    backbone = Recorder(3, wants_noise=True)
    Restorer(backbone, AsImage(3, 3), pixels=PIXELS).restore(image(2), noise=noise)
    [(_, task)] = backbone.seen
    assert task.noise is not None
    torch.testing.assert_close(task.noise, torch.full((2,), noise / 255))


def test_the_noise_level_matters_to_those_who_want_it_and_to_no_other() -> None:
    plain = vdsr(3, change=0.01)
    assert torch.equal(plain.restore(image()).image, plain.restore(image(), noise=25).image)
    weak, strong = (ffdnet().restore(image(), noise=noise).image for noise in (5, 50))
    assert (weak - strong).abs().max() > 1e-3
