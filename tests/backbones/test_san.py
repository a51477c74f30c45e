"""SAN: its parts against loops and exact roots, the whole of it by the authors' names, its size, its facts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from dynres.backbones.san import SAN, NonLocal, SecondOrderAttention, covariance, matrix_square_root
from dynres.build import build_restorer
from dynres.contracts import Task
from dynres.interop.official import from_official, recognise, to_official
from dynres.layers.pixels import DIV2K_MEAN, Pixels
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle
from tests.golden.fill import drawn, uniform

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
UNUSED = {"conv_last.weight", "conv_last.bias", "RG.0.gamma", "RG.1.gamma"} | {
    f"non_local.soca.conv_du.{layer}.{leaf}" for layer in (0, 2) for leaf in ("weight", "bias")
}
SMALL = {"channels": 16, "groups": 2, "blocks": 2, "reduction": 4}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A small x2 network by the authors' names, all weights drawn, in double precision."""
    empty = to_official(Restorer(SAN(**SMALL), PixelShuffle(16, 2), pixels=Pixels(DIV2K_MEAN, 255.0)))
    return {key: (value if "_mean" in key else drawn(key, value.shape, 0.6)).double() for key, value in empty.items()}


def conv(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def iterated_root(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz iterations act on each eigenvalue alone: the root by eigenvectors, number by number."""
    values, vectors = torch.linalg.eigh(matrix)
    y, z = values / values.sum(), torch.ones_like(values)
    for _ in range(5):
        step = (3 - z * y) / 2
        y, z = y * step, step * z
    return vectors @ torch.diag(y) @ vectors.T * values.sum().sqrt()


def second_order(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Second-order attention of one image."""
    root = iterated_root(torch.cov(x[0].flatten(1), correction=0))
    squeezed = conv(state, f"{name}.conv_du.0", root.mean(dim=0).view(1, -1, 1, 1)).relu()
    return x * conv(state, f"{name}.conv_du.2", squeezed).sigmoid()


def non_local(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Of one image, place by place, each quarter for itself."""
    theta, phi, g = (conv(state, f"non_local.non_local.{name}", x)[0] for name in ("theta", "phi", "g"))
    height, width = x.shape[2:]
    mean = torch.empty_like(g)
    for row in range(height):
        for column in range(width):
            rows = slice(0, height // 2) if row < height // 2 else slice(height // 2, None)
            columns = slice(0, width // 2) if column < width // 2 else slice(width // 2, None)
            products = torch.einsum("c,cij->ij", theta[:, row, column], phi[:, rows, columns])
            weights = torch.exp(products) / torch.exp(products).sum()
            mean[:, row, column] = (weights * g[:, rows, columns]).sum(dim=(1, 2))
    return x + conv(state, "non_local.non_local.W", mean[None])


def san(state: Mapping[str, Tensor], image: Tensor, groups: int, blocks: int) -> Tensor:
    """What the authors' code computes of one image in [0, 255], step by step from its state dict."""
    mean = 255 * torch.tensor(DIV2K_MEAN, dtype=torch.double).view(1, 3, 1, 1)
    head = conv(state, "head.0", image - mean)
    source = x = non_local(state, head)
    for name in (f"RG.{number}" for number in range(groups)):
        y = x
        for block in (f"{name}.rcab.{number}.conv_first" for number in range(blocks)):
            y = y + conv(state, f"{block}.2", conv(state, f"{block}.0", y).relu())
        x = x + conv(state, f"{name}.conv_last", second_order(state, f"{name}.soca", y))
        x = x + state["gamma"] * source
    features = non_local(state, x) + head
    return conv(state, "tail.1", F.pixel_shuffle(conv(state, "tail.0.0", features), 2)) + mean


def test_whole_network_is_what_its_state_dict_says(state: dict[str, Tensor]) -> None:
    """Of so little contrast that the non-local softmax is far from one-hot."""
    found = recognise(state)
    assert found is not None and found["backbone"] == {"_target_": "dynres.backbones.san.SAN", **SMALL}
    restorer = build_restorer(found).double()
    restorer.load_state_dict(from_official(state, restorer), strict=True)
    assert restorer.pixels == Pixels(DIV2K_MEAN, 255.0)
    image = (torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1) + uniform((2, 3, 5, 7), 0, -0.01, 0.01)).double()
    features = restorer.backbone(restorer.pixels.normal(image), Task())
    ours = 255 * restorer.pixels.colours(restorer.upsampler.decode(features, (10, 14)), 1)
    theirs = torch.cat([san(state, 255 * each[None], SMALL["groups"], SMALL["blocks"]) for each in image])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-7)


def test_what_nothing_reads_is_exported_and_not_needed(state: dict[str, Tensor]) -> None:
    """The authors' code makes a convolution, an attention and a scale a group that its forward pass does not use."""
    assert set(state) >= UNUSED
    found = recognise(state)
    assert found is not None and recognise({key: value for key, value in state.items() if key not in UNUSED}) == found


def test_a_state_dict_with_a_key_more_or_less_is_not_recognised(state: dict[str, Tensor]) -> None:
    for key in set(state) - UNUSED - {"sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias"}:
        assert recognise({other: value for other, value in state.items() if other != key}) is None, key
    assert recognise({**state, "RG.0.soca.other": torch.zeros(1)}) is None


def test_the_authors_later_code_is_not_taken_for_this_one(state: dict[str, Tensor]) -> None:
    """A quarter of the channels inside the non-local module, and another skip, which leaves no trace."""
    later = {
        key: value.repeat_interleave(2, 1 if ".W.weight" in key else 0)
        for key, value in state.items()
        if key.startswith("non_local.non_local") and key != "non_local.non_local.W.bias"
    }
    assert recognise({**state, **later}) is None


def test_square_root_converges() -> None:
    root = torch.randn(3, 5, 5, dtype=torch.double)
    root = root @ root.transpose(1, 2) + torch.eye(5)
    torch.testing.assert_close(matrix_square_root(root @ root, 30), root)


def test_covariance_is_that_of_the_places() -> None:
    x = torch.randn(2, 4, 3, 5, dtype=torch.double)
    torch.testing.assert_close(covariance(x)[1], torch.cov(x[1].flatten(1), correction=0))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3), (3, 1), (6, 5)])
def test_uniform_images_have_finite_outputs_and_gradients(height: int, width: int) -> None:
    """Their covariance is zero inside, where a square root has no derivative."""
    attention, x = SecondOrderAttention(8, 2), torch.ones(2, 8, height, width, requires_grad=True)
    attention(x).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    network = SAN(**SMALL)
    features = network(torch.full((2, 3, height, width), 0.3), Task()).map
    assert features.shape == (2, 16, height, width) and features.isfinite().all()


def test_non_local_module_of_a_fresh_network_does_nothing() -> None:
    x = torch.randn(2, 16, 5, 4)
    assert torch.equal(NonLocal(16)(x), x)


def test_a_quarter_does_not_see_the_others() -> None:
    module = NonLocal(16)
    nn.init.ones_(module.W.weight)
    x = torch.randn(1, 16, 5, 7)
    changed = x.clone()
    changed[:, :, 2:, 3:] += 1
    before, after = module(x), module(changed)
    assert torch.equal(before[:, :, :2], after[:, :, :2]) and torch.equal(before[..., :3], after[..., :3])
    assert not torch.allclose(before[:, :, 2:, 3:] + 1, after[:, :, 2:, 3:])


def test_configuration_is_the_published_size() -> None:
    """15.7 M in the paper, at x2; with the 38 044 weights that nothing reads."""
    network = instantiate(OmegaConf.load(CONF / "san.yaml"))
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == 15_525_289
    assert parameters + sum(p.numel() for p in PixelShuffle(64, 2).parameters()) + 38_044 == 15_712_776


def test_cost_is_convolutions_covariances_roots_and_attention() -> None:
    network, height, width = SAN(**SMALL), 6, 8
    channels, inner, places = 16, 2, height * width
    group = 5 * 9 * channels**2 * places + channels**2 * places + 2 * 4 * channels + 12 * channels**3
    non_local = 4 * channels * inner * places + 4 * 2 * inner * (places // 4) ** 2
    means = channels * places + channels**2  # of the places, and of the root's rows
    assert network.cost(height, width).full == 27 * channels * places + 2 * (group + means) + 2 * non_local


def test_halo_is_what_its_convolutions_reach() -> None:
    """Without the attentions that see more: a pixel `halo` away matters, one further away does not."""
    network = SAN(**SMALL).double()
    for group in network.RG:
        group.soca = nn.Identity()
    network.non_local = nn.Identity()
    for parameter in network.parameters():
        parameter.data.abs_()  # no ReLU hides what reaches it
    image = torch.rand(1, 3, 1, 2 * network.halo + 3, dtype=torch.double, requires_grad=True)
    centre = network.halo + 1
    (gradient,) = torch.autograd.grad(network(image, Task()).map[0, :, 0, centre].sum(), image)
    reached = gradient[0, :, 0].abs().sum(0).nonzero().flatten() - centre
    assert (reached.min().item(), reached.max().item()) == (-network.halo, network.halo)


@pytest.mark.parametrize("option", ["channels", "groups", "blocks"])
def test_impossible_sizes_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"SAN needs {option} of at least 1, got 0"):
        SAN(**{option: 0})
