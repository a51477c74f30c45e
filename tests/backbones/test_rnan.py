"""RNAN: parity of the denoisers with the authors' numbers, odd sizes, published counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from dynres.backbones.rnan import RNAN
from dynres.contracts import Task
from dynres.cost.counter import count_macs
from dynres.interop.families import rnan
from dynres.layers.nonlocal_attention import NonLocalBlock
from dynres.layers.windows import pad_to_multiple
from dynres.restorer import Pixels, Restorer
from tests.golden.fill import FOLDER, Oracle, oracle
from tests.golden.parity import assert_forward, assert_gradient, assert_names, rebuilt

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
ORACLES = sorted(file.name.removesuffix(".keys.json") for file in FOLDER.glob("*.keys.json"))


@pytest.fixture(scope="module", params=["rnan_dn_gray", "rnan_dn_rgb"])
def denoiser(request: pytest.FixtureRequest) -> Iterator[tuple[Restorer, Oracle]]:
    """The network as its authors ran it for the oracle: on [0, 1], where their scripts use 8-bit values."""
    restorer, reference = rebuilt(request.param)
    assert restorer.pixels == Pixels(0.0, 255.0)
    restorer.pixels = Pixels(0.0, 1.0)
    yield restorer, reference


def small(**options: bool | int) -> RNAN:
    """A narrow network whose non-local blocks, which begin as the identity, do something."""
    network = RNAN(**{"channels": 6, "modules": 3} | options).double().eval()
    for module in network.modules():
        if isinstance(module, NonLocalBlock):
            nn.init.normal_(module.W.weight)
    return network


def image(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.double)


def test_denoiser_has_the_authors_names_and_size(denoiser: tuple[Restorer, Oracle]) -> None:
    restorer, reference = denoiser
    assert_names(restorer, reference)
    assert sum(p.numel() for p in restorer.parameters()) == reference.facts["total_params"]


@pytest.mark.parametrize("case", ["a", "b"])
def test_denoiser_output_equals_the_authors(denoiser: tuple[Restorer, Oracle], case: str) -> None:
    assert_forward(*denoiser, case, case)


def test_denoiser_gradient_equals_the_authors(denoiser: tuple[Restorer, Oracle]) -> None:
    assert_gradient(*denoiser, "a")


def test_configuration_builds_the_published_network() -> None:
    """8 959 555 with the last convolution to colours."""
    network = instantiate(OmegaConf.load(CONF / "rnan.yaml"))
    assert sum(p.numel() for p in network.parameters()) == 8_959_555 - (3 * 64 * 9 + 3)


def test_published_count_of_the_gray_network() -> None:
    """FlexIR's table prints 124.06 G at 128 x 128.

    Its counter takes convolutions with bias, charges transposed ones by their output, and skips attention products.
    """
    network, pixels = RNAN(image_channels=1), 128 * 128
    products = 2 * 2 * pixels**2 * 32  # two non-local modules, two products each, 32 channels
    convolutions = network.cost(128, 128).full - products
    surplus = 10 * 64 * 64 * 6 * 6 * (pixels - pixels // 4)  # the transposed convolutions read a quarter of the pixels
    half = ("down.bias", "small.0.body.0.bias", "small.0.body.2.bias", "small.1.body.0.bias", "small.1.body.2.bias")
    biases = sum(
        parameter.numel() * (pixels // 4 if name.endswith(half) else pixels)
        for name, parameter in network.named_parameters()
        if name.endswith("bias")
    )
    tail = (64 * 9 + 1) * pixels
    assert (convolutions + surplus + biases + tail) / 1e9 == pytest.approx(124.06, abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (7, 9), (8, 5)])
def test_an_odd_side_is_padded_by_reflection(height: int, width: int) -> None:
    network, odd = small(), image(height, width)
    even = network(pad_to_multiple(odd, 2), Task()).map
    features = network(odd, Task())
    torch.testing.assert_close(features.map, even[..., :height, :width])
    assert features.map.shape == (2, 6, height, width) and features.image is odd


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3)])
def test_cost_is_what_torch_counts(height: int, width: int) -> None:
    network, x = small().float(), torch.randn(1, 3, height, width)
    assert network.cost(height, width).full == count_macs(lambda: network(x, Task()))


def test_long_skip_adds_the_features_of_the_head() -> None:
    plain, skipped, x = small(), small(long_skip=True), image(6, 5)
    skipped.load_state_dict(plain.state_dict())
    difference = skipped(x, Task()).map - plain(x, Task()).map
    torch.testing.assert_close(difference, plain.head(pad_to_multiple(x, 2))[..., :5])


def test_a_far_pixel_reaches_everywhere_through_the_non_local_modules() -> None:
    x = image(2, 400).requires_grad_()
    (gradient,) = torch.autograd.grad(small(modules=2)(x, Task()).map[..., 0].sum(), x)
    assert bool((gradient[..., -1] != 0).any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 1}, "channels and modules of at least 2, got 1 and 3"),
        ({"modules": 1}, "channels and modules of at least 2, got 6 and 1"),
        ({"image_channels": 0}, "image_channels of at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused_by_name(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize("model", ORACLES)
def test_no_other_state_dict_is_taken(model: str) -> None:
    state = {key: torch.ones(()).expand(shape) for key, shape in oracle(model).keys.items()}
    found = rnan.whole(state)
    assert (found is not None) == model.startswith("rnan_")
    if found is not None:
        assert found["backbone"]["long_skip"] == (model == "rnan_sr_x2")
        assert found["backbone"]["image_channels"] == (1 if "gray" in model else 3)


def test_no_incomplete_state_dict_is_taken() -> None:
    state = {key: torch.ones(()).expand(shape) for key, shape in oracle("rnan_dn_rgb").keys.items()}
    for missing in state:
        assert rnan.whole({key: value for key, value in state.items() if key != missing}) is None, missing
    assert rnan.whole(state | {"body.9.weight": torch.ones(1)}) is None
    assert rnan.whole(dict.fromkeys(state, torch.ones(1))) is None
