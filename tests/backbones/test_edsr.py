"""EDSR: parity with the authors' numbers, its cost, and the facts that live on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from dynres.backbones.edsr import EDSR, edsr_baseline
from dynres.backbones.identity import Identity
from dynres.contracts import Task
from dynres.interop.family import State
from dynres.interop.official import recognise
from dynres.layers.pixels import Pixels
from dynres.upsamplers.pixelshuffle import PixelShuffle
from tests.golden.fill import assert_parity, is_filled, oracle
from tests.golden.parity import assert_forward, assert_gradient, rebuilt

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
GOLDEN = oracle("edsr_baseline_feat")


def filled() -> EDSR:
    network = edsr_baseline()
    network.load_state_dict(GOLDEN.weights())
    return network


def test_keys_and_shapes_are_the_authors_without_the_unused_mean_shift() -> None:
    ours = {key: tuple(value.shape) for key, value in edsr_baseline().state_dict().items()}
    theirs = {key: shape for key, shape in GOLDEN.keys.items() if is_filled(key)}
    assert list(ours.items()) == list(theirs.items())


def test_parameter_count_is_the_published_one() -> None:
    assert sum(p.numel() for p in edsr_baseline().parameters()) == GOLDEN.facts["trainable_params"] == 1_220_416


@pytest.mark.parametrize("case", ["a", "b"])
def test_features_equal_the_authors(case: str) -> None:
    with torch.no_grad():
        features = filled()(GOLDEN.array(f"{case}.input"), Task())
    assert_parity(features.map, GOLDEN.array(f"{case}.output"), case)
    assert torch.equal(features.image, GOLDEN.array(f"{case}.input")) and features.routing is None


def test_gradient_equals_the_authors() -> None:
    network = filled()
    loss = network(GOLDEN.array("a.input"), Task()).map.abs().mean()
    loss.backward()
    gradient = dict(network.named_parameters())[str(GOLDEN.arrays["a.grad_name"])].grad
    assert gradient is not None
    assert loss.item() == pytest.approx(float(GOLDEN.arrays["a.loss"]), rel=1e-5)
    assert gradient.double().abs().sum().item() == pytest.approx(float(GOLDEN.arrays["a.grad_abs_sum"]), rel=1e-4)


@pytest.mark.parametrize(("channels", "blocks"), [(8, 1), (12, 3)])
@pytest.mark.parametrize(("height", "width"), [(7, 9), (16, 5)])
def test_cost_formula_is_what_torch_counts(channels: int, blocks: int, height: int, width: int) -> None:
    network = edsr_baseline(channels, blocks)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, height, width), Task())
    assert 2 * network.cost(height, width).full == counter.get_total_flops()


def test_baseline_cost_per_pixel() -> None:
    """The parameters of the convolutions without their 34 x 64 biases, one MAC each a pixel."""
    assert edsr_baseline().cost(1, 1).full == 1_220_416 - 34 * 64


def test_halo_is_the_exact_receptive_radius() -> None:
    """A pixel `halo` away changes the output, one further away does not."""
    network = edsr_baseline(4, 2).double()
    image = torch.rand(1, 3, 1, 2 * network.halo + 3, dtype=torch.double, requires_grad=True)
    centre = network.halo + 1
    (gradient,) = torch.autograd.grad(network(image, Task()).map[0, :, 0, centre].sum(), image)
    reached = gradient[0, :, 0].abs().sum(0).nonzero().flatten() - centre
    assert (reached.min().item(), reached.max().item()) == (-network.halo, network.halo)


def test_residual_scale_weighs_the_blocks() -> None:
    """With scale 0 the blocks vanish: head + last convolution of the head."""
    network, x = edsr_baseline(6, 2, residual_scale=0.0), torch.randn(1, 3, 8, 8)
    head = network.head(x)
    torch.testing.assert_close(network(x, Task()).map, head + network.body[-1](head))


@pytest.mark.parametrize("option", ["channels", "blocks"])
def test_impossible_sizes_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} of at least 1, got 0"):
        edsr_baseline(**{option: 0})


def test_identity_hands_the_image_on_for_nothing() -> None:
    image = torch.randn(2, 3, 5, 7)
    features = Identity()(image, Task())
    assert features.map is image and features.image is image
    assert Identity().cost(100, 100).full == 0 and Identity().out_channels == 3


@pytest.mark.parametrize("model", ["edsr_baseline_x2_noshift", "edsr_x2_noshift"])
def test_networks_without_mean_shift_equal_the_authors(model: str) -> None:
    """LIIF's copy with its tail sees [0, 1] as it is. Its state dict holds a shift all the same, so that this cannot be
    read off it."""
    restorer, reference = rebuilt(model)
    restorer.pixels = Pixels(mean=0.0, factor=1.0)
    for case in ("a", "b"):
        assert_forward(restorer, reference, case, f"{model} {case}")
    assert_gradient(restorer, reference, "a")


def whole_state(scale: int) -> dict[str, torch.Tensor]:
    """A narrow EDSR with its tail, by the authors' names."""
    body, tail = EDSR(6, 2, 1.0).state_dict(), PixelShuffle(6, scale).state_dict()
    for key, value in tail.items():
        body[f"tail.0{key.removeprefix('stages')}" if key.startswith("stages") else key.replace("last", "tail.1")] = (
            value
        )
    return dict(body)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_tails_of_every_scale_are_recognised(scale: int) -> None:
    found = recognise(whole_state(scale))
    assert found is not None
    assert found["backbone"] == {
        "_target_": "dynres.backbones.edsr.EDSR", "channels": 6, "blocks": 2, "residual_scale": 1.0
    }  # fmt: skip
    assert found["upsampler"]["scale"] == scale
    assert found["pixels"] == {"mean": [0.4488, 0.4371, 0.4040], "factor": 255.0}


def test_a_state_dict_with_a_key_more_or_less_is_not_recognised() -> None:
    state: State = whole_state(4)
    for key in state:
        assert recognise({other: value for other, value in state.items() if other != key}) is None, key
    assert recognise({**state, "msa.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize(("name", "parameters"), [("edsr_baseline", 1_220_416), ("edsr", 38_362_368), ("identity", 0)])
def test_configuration_builds_the_published_network(name: str, parameters: int) -> None:
    network = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    assert sum(p.numel() for p in network.parameters()) == parameters
