"""Laws of the plain restorers SRCNN, VDSR, DnCNN, IRCNN, FFDNet and DRUNet, and their published sizes.

Equality with the authors' code: tests/golden, test_dncnn.py (batch normalisation), interop/test_pretrained.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from dynres.backbones.base import Backbone
from dynres.backbones.dncnn import DnCNN
from dynres.backbones.drunet import DRUNet
from dynres.backbones.ffdnet import FFDNet
from dynres.backbones.ircnn import IRCNN
from dynres.backbones.srcnn import SRCNN
from dynres.backbones.vdsr import VDSR
from dynres.contracts import Task
from dynres.cost.counter import count_macs, count_parameters
from dynres.layers.plain import repeat_to_multiple
from dynres.restorer import Pixels, Restorer
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.same_size import AsImage, SameSize

CONF = Path(__file__).resolve().parents[2] / "conf"
TINY: dict[str, Callable[[], Backbone]] = {
    "srcnn": lambda: SRCNN(4, 3, 9, 5, image_channels=1),
    "srcnn_915": lambda: SRCNN(4, 3, 9, 1, image_channels=3),
    "vdsr": lambda: VDSR(4, 4, image_channels=1),
    "dncnn": lambda: DnCNN(4, 4, image_channels=3),
    "dncnn_bn": lambda: DnCNN(4, 4, image_channels=1, batch_norm=True, bias=False),
    "ircnn": lambda: IRCNN(4, image_channels=3),
    "ffdnet": lambda: FFDNet(4, 3, image_channels=1),
    "drunet": lambda: DRUNet((3, 4, 5, 6), 1, image_channels=3),
}
SKIP: dict[str, Any] = {"vdsr": "add", "dncnn": "subtract", "ircnn": "subtract"}  # the others: none
every = pytest.mark.parametrize("name", TINY)


def tiny(name: str) -> Backbone:
    torch.manual_seed(0)
    return TINY[name]().eval()


def head(name: str, backbone: Backbone) -> Upsampler:
    family = name.split("_")[0]
    if family == "ffdnet":
        return AsImage(backbone.out_channels, backbone.image_channels)
    kernel, bias = 5 if family == "srcnn" else 3, family != "drunet"
    return SameSize(backbone.out_channels, backbone.image_channels, kernel, bias, SKIP.get(family, "none"))


def noise(backbone: Backbone, batch: int = 1) -> Tensor | None:
    return torch.full((batch,), 0.1) if backbone.wants_noise else None


def configured(name: str) -> Backbone:
    return instantiate(OmegaConf.load(CONF / "backbone" / f"{name}.yaml"))


# ------------------------------------------------------------------------------------------------ any image


@every
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (13, 6), (17, 23)])
def test_any_size_is_restored_at_its_own_size(name: str, size: tuple[int, int]) -> None:
    backbone = tiny(name)
    restorer = Restorer(backbone, head(name, backbone), pixels=Pixels(0.0, 1.0)).eval()
    image = torch.rand(2, backbone.image_channels, *size)
    features = backbone(image, Task(noise=noise(backbone, 2)))
    assert features.cropped.shape == (2, backbone.out_channels, *size)
    assert features.image is image and features.routing is None
    assert restorer.restore(image, noise=25).image.shape == image.shape


@every
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    backbone, images = tiny(name), torch.rand(3, TINY[name]().image_channels, 8, 16)
    together = backbone(images, Task(noise=noise(backbone, 3))).map
    for index in range(3):
        alone = backbone(images[index : index + 1], Task(noise=noise(backbone))).map
        torch.testing.assert_close(alone[0], together[index], rtol=1e-5, atol=1e-6)


@every
@pytest.mark.parametrize("size", [(16, 8), (7, 11)])
def test_cost_is_what_torch_counts(name: str, size: tuple[int, int]) -> None:
    backbone = tiny(name)
    image = torch.zeros(1, backbone.image_channels, *size)
    counted = count_macs(lambda: backbone(image, Task(noise=noise(backbone))))
    assert backbone.cost(*size).full == counted and backbone.cost(*size).units == ()


# ------------------------------------------------------------------------------------------------ context


def reached(backbone: Backbone, columns: range, width: int) -> tuple[int, int]:
    """How far left and right the input of any of these columns lies: no weight is negative, so no path is cut."""
    backbone = backbone.double()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.uniform_(0.1, 0.2)
    ends = []
    for column in columns:
        image = torch.rand(1, backbone.image_channels, 8, width, dtype=torch.double, requires_grad=True)
        feature = backbone(image, Task(noise=noise(backbone))).map[0, :, 0, column].sum()
        (gradient,) = torch.autograd.grad(feature, image)
        found = gradient[0].abs().sum((0, 1)).nonzero().flatten() - column
        ends.append((int(found.min()), int(found.max())))
    return min(low for low, _ in ends), max(high for _, high in ends)


@pytest.mark.parametrize("name", [name for name in TINY if name != "drunet"])
def test_halo_is_the_exact_receptive_radius(name: str) -> None:
    """Over the phases of a network that works at a lower resolution."""
    backbone = tiny(name)
    start = (backbone.halo // 2 + 1) * 2
    columns = range(start, start + backbone.size_multiple)
    assert reached(backbone, columns, 2 * start + 6) == (-backbone.halo, backbone.halo)


def test_drunets_halo_is_less_than_its_receptive_radius() -> None:
    assert reached(DRUNet((1, 1, 1, 1), 4, 1), range(240, 248), 480) == (-184, 184)
    assert DRUNet.halo == 64


@pytest.mark.parametrize("name", [name for name in TINY if name != "drunet"])
@pytest.mark.parametrize("size", [(70, 37), (21, 91)])
def test_tiles_give_the_whole_image(name: str, size: tuple[int, int]) -> None:
    backbone = tiny(name)
    restorer = Restorer(backbone, head(name, backbone), pixels=Pixels(0.0, 1.0)).eval()
    image = torch.rand(1, backbone.image_channels, *size)
    whole, cut = (restorer.restore(image, noise=25, tile=tile).image for tile in (None, 50))
    assert (whole - cut).abs().max().item() <= 1e-5


def test_drunets_tiles_leave_no_seams() -> None:
    """Tiles see 64 pixels of context, so pixels may differ a little; a wrong start of a tile would show."""
    backbone = tiny("drunet")
    restorer = Restorer(backbone, head("drunet", backbone), pixels=Pixels(0.0, 1.0)).eval()
    nn.init.normal_(restorer.upsampler.last.weight, std=0.5)
    image = torch.rand(1, 3, 40, 200)
    whole, cut = (restorer.restore(image, noise=25, tile=tile).image for tile in (None, 150))
    assert whole.std() > 0.05, "nothing to compare"
    assert (whole - cut).abs().max().item() <= 1e-3 * whole.std().item()


# ------------------------------------------------------------------------------------------------ SRCNN and VDSR


@pytest.mark.parametrize(("kernels", "channels"), [((9, 5, 5), 1), ((9, 1, 5), 3)])
def test_srcnn_is_three_convolutions(kernels: tuple[int, int, int], channels: int) -> None:
    backbone = SRCNN(6, 4, kernels[0], kernels[1], channels)
    top = SameSize(4, channels, kernels[2], skip="none")
    image = torch.rand(2, channels, 12, 15)
    weights = [(layer.weight, layer.bias) for layer in (backbone.conv1, backbone.conv2, top.last)]
    x = image
    for number, ((weight, bias), kernel) in enumerate(zip(weights, kernels, strict=True)):
        assert weight.shape[-2:] == (kernel, kernel)
        x = F.conv2d(F.pad(x, (kernel // 2,) * 4), weight, bias)
        x = x.clamp(min=0) if number < 2 else x
    features = backbone(image, Task())
    torch.testing.assert_close(top.decode(features, (12, 15)), x)


def test_vdsr_adds_its_convolutions_to_the_image() -> None:
    backbone, top = VDSR(5, 4), SameSize(5, 1, skip="add")
    image = torch.rand(1, 1, 9, 8)
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 3 and top.last.weight.shape == (1, 5, 3, 3)
    x = image
    for layer in convolutions:
        x = F.conv2d(x, layer.weight, layer.bias, padding=1).clamp(min=0)
    expected = image + F.conv2d(x, top.last.weight, top.last.bias, padding=1)
    torch.testing.assert_close(top.decode(backbone(image, Task()), (9, 8)), expected)


def test_fresh_deep_stacks_pass_their_signal_on() -> None:
    """19 layers with torch's own fresh weights would leave a hundred-millionth of it."""
    features = VDSR(image_channels=3)(torch.randn(1, 3, 24, 24), Task()).map
    assert 0.1 < features.std().item() < 10


# ------------------------------------------------------------------------------------------------ published sizes


@pytest.mark.parametrize(
    ("name", "backbone_parameters", "parameters"),
    [
        ("srcnn", 56_480, 57_281),
        ("vdsr", 665_344, 665_921),
        ("dncnn", 555_712, 557_443),
        ("ircnn", 186_432, 188_163),
        ("ffdnet", 852_108, 852_108),
        ("drunet", 32_639_232, 32_640_960),
    ],
)
def test_configuration_builds_the_published_network(name: str, backbone_parameters: int, parameters: int) -> None:
    backbone = configured(name)
    top = head(name, backbone)
    assert count_parameters(backbone) == backbone_parameters
    assert count_parameters(backbone) + count_parameters(top) == parameters


@pytest.mark.parametrize(("name", "printed"), [("srcnn", 52.7), ("vdsr", 612.6)])
def test_macs_of_a_720p_image_are_the_ones_that_tables_print(name: str, printed: float) -> None:
    """Multi-adds for a 1280x720 output (CARN, Ahn et al., ECCV 2018)."""
    backbone = configured(name)
    macs = backbone.cost(720, 1280).full + head(name, backbone).macs(720, 1280, (720, 1280))
    assert round(macs / 1e9, 1) == printed


def test_macs_of_dncnn_are_flexirs() -> None:
    """FlexIR, Table 4: 0.56 M parameters and 9.12 G for 128x128 pixels."""
    backbone = configured("dncnn")
    macs = backbone.cost(128, 128).full + head("dncnn", backbone).macs(128, 128, (128, 128))
    assert round(macs / 1e9, 2) == 9.12 and macs % 128**2 == 0


def test_macs_of_drunet_are_flexirs_once_doubling_is_counted_as_there() -> None:
    """FlexIR, Table 4: 32.64 M and 35.90 G for 128x128 pixels, counted on the outputs of transposed convolutions: each
    output of ours is one input times one of the 2 x 2 weights, there it is charged with all four."""
    backbone = configured("drunet")
    macs = backbone.cost(128, 128).full + head("drunet", backbone).macs(128, 128, (128, 128))
    doubling = 128**2 * (64 * 128 + 128 * 256 // 4 + 256 * 512 // 16)
    assert round(macs / 1e9, 2) == 34.69
    assert round((macs + 3 * doubling) / 1e9, 2) == 35.9


@pytest.mark.parametrize("size", ["smoke", "demo"])
@pytest.mark.parametrize("name", ["srcnn", "vdsr", "dncnn", "ircnn", "ffdnet", "drunet"])
def test_profiles_build_smaller_networks(name: str, size: str) -> None:
    published = OmegaConf.load(CONF / "backbone" / f"{name}.yaml")
    profile = OmegaConf.load(CONF / "profile" / "backbone" / f"{size}_{name}.yaml")
    small = instantiate(OmegaConf.merge(published, profile.backbone))
    assert count_parameters(small) < count_parameters(instantiate(published)) / 3


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SRCNN(channels=0), "SRCNN needs channels of at least 1, got 0"),
        (lambda: SRCNN(mapped_channels=0), "SRCNN needs mapped_channels of at least 1, got 0"),
        (lambda: SRCNN(patch_kernel=8), "SRCNN needs an odd patch_kernel of at least 1, got 8"),
        (lambda: SRCNN(mapping_kernel=-1), "SRCNN needs an odd mapping_kernel of at least 1, got -1"),
        (lambda: VDSR(channels=0), "VDSR needs channels of at least 1, got 0"),
        (lambda: VDSR(layers=1), "VDSR needs layers of at least 2, the head's included, got 1"),
        (lambda: DnCNN(layers=1), "DnCNN needs layers of at least 2, the head's included, got 1"),
        (lambda: DnCNN(image_channels=0), "DnCNN needs image_channels of at least 1, got 0"),
        (lambda: DnCNN(bias=False), "DnCNN without batch normalisation needs its biases"),
        (lambda: IRCNN(channels=0), "IRCNN needs channels of at least 1, got 0"),
        (lambda: FFDNet(layers=1), "FFDNet needs layers of at least 2, got 1"),
        (lambda: FFDNet(channels=0), "FFDNet needs channels of at least 1, got 0"),
        (lambda: DRUNet(channels=(8, 8)), r"DRUNet has four resolutions.*got channels \(8, 8\)"),
        (lambda: DRUNet(channels=(8, 8, 0, 8)), "DRUNet needs channels of at least 1, got 0"),
        (lambda: DRUNet(blocks=0), "DRUNet needs blocks of at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused_by_name(build: Callable[[], Backbone], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["ffdnet", "drunet"])
def test_a_network_that_wants_the_noise_level_says_so(name: str) -> None:
    backbone = tiny(name)
    assert backbone.wants_noise
    with pytest.raises(ValueError, match=f"(?i){name} must be told the noise level: give Task.noise"):
        backbone(torch.rand(1, backbone.image_channels, 8, 8), Task())


# ------------------------------------------------------------------------------------------------ noise level, padding


@pytest.mark.parametrize("name", ["ffdnet", "drunet"])
def test_each_image_has_its_own_noise_level(name: str) -> None:
    """A pair of levels gives what each gives alone, and the level matters."""
    backbone = tiny(name)
    image = torch.rand(1, backbone.image_channels, 8, 8).expand(2, -1, -1, -1)
    both = backbone(image, Task(noise=torch.tensor([0.0, 0.5]))).map
    for index, level in enumerate((0.0, 0.5)):
        alone = backbone(image[:1], Task(noise=torch.tensor([level]))).map
        torch.testing.assert_close(alone[0], both[index], rtol=1e-5, atol=1e-6)
    assert (both[0] - both[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "multiple"), [("ffdnet", 2), ("drunet", 8)])
def test_missing_rows_and_columns_are_the_last_ones_repeated(name: str, multiple: int) -> None:
    backbone = tiny(name)
    assert backbone.size_multiple == multiple
    image, task = torch.rand(1, backbone.image_channels, multiple + 1, multiple - 1), Task(noise=torch.tensor([0.1]))
    rows = torch.arange(2 * multiple).clamp(max=multiple)
    columns = torch.arange(multiple).clamp(max=multiple - 2)
    padded = image[:, :, rows][..., columns]
    assert torch.equal(repeat_to_multiple(image, multiple), padded)
    ours, whole = backbone(image, task), backbone(padded, task)
    assert torch.equal(ours.cropped, whole.map[..., : multiple + 1, : multiple - 1])
