"""The distillation token: its count, what it sees and changes, and a SwinIR that is otherwise as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynres.backbones.swinir import SwinIR
from dynres.backbones.swinir_distilled import SwinIRDistilled, attend_with_token
from dynres.build import build_restorer, network_description
from dynres.contracts import Task
from dynres.cost.counter import count_parameters
from dynres.export import export_onnx
from dynres.interop.weights import load_pretrained
from dynres.layers.attention import WindowAttention
from dynres.layers.windows import shift_mask
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import DirectPixelShuffle
from tests.cli.test_experiments import composed

SMALL: dict[str, Any] = {"embed_dim": 12, "depths": (2, 2), "heads": 2, "window": 4}


def small(**options: Any) -> SwinIRDistilled:
    """With weights large enough for attention and the token to matter."""
    torch.manual_seed(0)
    network = SwinIRDistilled(**(SMALL | options)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def maps(network: SwinIR, image: Tensor) -> Tensor:
    with torch.no_grad():
        return network(image, Task()).map


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [("swinir_distilled", 910_452), ("swinir_lightweight", 910_152), ("swinir_distilled 4x4", 663_972)],
)
def test_parameters_are_the_papers(backbone: str, parameters: int) -> None:
    """910.45 k and 910.15 k (Sec. 4.3.1); the 4 x 4 layers of its text have another number."""
    name, _, depths = backbone.partition(" ")
    options = ["backbone.depths=[4,4,4,4]"] if depths else []
    choices = [f"backbone={name}", "upsampler=pixelshuffle_direct", "task=sr", "method=assr", "profile=paper"]
    cfg, _ = composed(*choices, *options)
    with torch.device("meta"):
        assert count_parameters(build_restorer(network_description(cfg))) == parameters


def test_a_plain_swinir_fits_all_but_the_token() -> None:
    with torch.device("meta"):
        plain, distilled = SwinIR(60, (6, 6, 6, 6), out_channels=None), SwinIRDistilled()
    ours, theirs = ({k: v.shape for k, v in network.state_dict().items()} for network in (distilled, plain))
    assert ours == theirs | {"tokens": (5, 60)}


def by_hand(attention: WindowAttention, x: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """One window, one query and one head at a time, on the rolled image."""
    window, shift, heads, width = attention.window, attention.shift, attention.heads, attention.width
    _, height, width_of_image, _ = x.shape
    out, answers = torch.zeros(*x.shape[:3], heads * width, dtype=x.dtype), []
    for number, image in enumerate(x.roll((-shift, -shift), dims=(1, 2))):
        heard = []
        for top in range(0, height, window):
            for left in range(0, width_of_image, window):
                inside = image[top : top + window, left : left + window].flatten(0, 1)
                query, key, value = attention.qkv(torch.cat([inside, token[number]])).chunk(3, dim=-1)
                ends = top + window == height, left + window == width_of_image
                near = shift_mask(window, shift, *ends)
                for q in range(window**2 + 1):
                    of_heads = []
                    for head in range(heads):
                        part = slice(head * width, (head + 1) * width)
                        logits = key[:, part] @ query[q, part] / width**0.5
                        if q < window**2:
                            bias = attention.bias_table[attention.index[q], head].masked_fill(~near[q], float("-inf"))
                            logits = torch.cat([logits[:-1] + bias, logits[-1:]])
                        of_heads.append(logits.softmax(0) @ value[:, part])
                    if q < window**2:
                        out[number, top + q // window, left + q % window] = torch.cat(of_heads)
                    else:
                        heard.append(torch.cat(of_heads))
        answers.append(torch.stack(heard).mean(0, keepdim=True))
    return out.roll((shift, shift), dims=(1, 2)), torch.stack(answers)


@settings(max_examples=10)
@given(
    batch=st.integers(1, 2), rows=st.integers(1, 3), columns=st.integers(1, 3), heads=st.integers(1, 2),
    shift=st.integers(0, 2), width=st.sampled_from([None, 1, 5]),
)  # fmt: skip
def test_attention_is_the_plain_form(
    batch: int, rows: int, columns: int, heads: int, shift: int, width: int | None
) -> None:
    attention = WindowAttention(2 * heads, heads, 3, shift=shift, width=width).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    x, token = (torch.randn(batch, *size, 2 * heads).double() for size in ((3 * rows, 3 * columns), (1,)))
    with torch.no_grad():
        for found, expected in zip(attend_with_token(attention, x, token), by_hand(attention, x, token), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("row", range(3))
def test_each_vector_changes_the_features(row: int) -> None:
    network, image = small(), torch.randn(1, 3, 8, 12)
    before = maps(network, image)
    with torch.no_grad():
        network.tokens[row] += torch.randn(12)
    changed = (maps(network, image) - before).abs()
    assert changed.amax(dim=(0, 1)).min() > 1e-4, "every window sees the token"


def test_every_parameter_learns() -> None:
    network = small(depths=(2, 2, 2, 2), resi_connection="3conv")
    network(torch.randn(1, 3, 8, 8), Task()).map.pow(2).sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still, f"no gradient reaches {still}"
    assert network.tokens.grad is not None and bool(network.tokens.grad.any(dim=1).all())


def test_a_far_window_is_heard_through_the_token() -> None:
    """Which is why the network is unbounded."""
    network, image = small(depths=(1, 1)), torch.randn(1, 3, 8, 64)
    other = image.clone()
    other[..., -4:] += 1
    plain = SwinIR(**(SMALL | {"depths": (1, 1), "out_channels": None})).eval()
    plain.load_state_dict({key: value for key, value in network.state_dict().items() if key != "tokens"})
    assert torch.equal(maps(plain, image)[..., :8], maps(plain, other)[..., :8])
    assert not torch.equal(maps(network, image)[..., :8], maps(network, other)[..., :8]) and network.unbounded


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 9), (14, 2)])
def test_any_image_size_goes_in(height: int, width: int) -> None:
    network = small()
    with torch.no_grad():
        found = network(torch.randn(2, 3, height, width), Task())
    assert found.map.shape == (2, 12, -(-height // 4) * 4, -(-width // 4) * 4)
    assert found.cropped.shape == (2, 12, height, width) and found.map.isfinite().all()


def test_a_sample_alone_is_the_sample_in_a_batch() -> None:
    network, images = small().double(), torch.randn(3, 3, 9, 13, dtype=torch.double)
    together = maps(network, images)
    for image, expected in zip(images, together, strict=True):
        torch.testing.assert_close(maps(network, image[None])[0], expected)


def test_stochastic_depth_takes_the_token_with_the_image() -> None:
    """At a rate of 1 the second layer of two does nothing, whatever it holds."""
    network = small(depths=(2,), drop_path=1.0).train()
    other: Any = copy.deepcopy(network)
    for parameter in other.layers[0].blocks[1].parameters():
        torch.nn.init.normal_(parameter)
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(maps(network, image), maps(other, image))
    assert not torch.equal(maps(network.eval(), image), maps(other.eval(), image))


def test_pruned_widths_are_taken() -> None:
    network: Any = small(mlp_widths=[3, 4, 5, 6], head_widths=[1, 2, 3, 4])
    assert maps(network, torch.randn(1, 3, 8, 8)).isfinite().all()
    assert [layer.proj.in_features for group in network.layers for layer in group.blocks] == [2, 4, 6, 8]


def restorer() -> Restorer:
    node = {"_target_": "dynres.backbones.swinir_distilled.SwinIRDistilled", **SMALL, "depths": [2, 2]}
    head = {"_target_": "dynres.upsamplers.pixelshuffle.DirectPixelShuffle", "scale": 2}
    made = Restorer.from_description({"backbone": node, "upsampler": head, "pixels": {"mean": 0.4}})
    made.backbone.load_state_dict(small().state_dict())
    for parameter in made.upsampler.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return made.eval()


def test_it_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason='pip install "dynres[export]"')
    runtime = pytest.importorskip("onnxruntime", reason='pip install "dynres[export]"')
    network, image = restorer(), torch.rand(1, 3, 7, 9)
    done = export_onnx(network, tmp_path / "net.onnx", (7, 9))
    session = runtime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["restored"], {"image": image.numpy()})
    expected = network.restore(image).image
    assert expected.std() > 0.01
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)


def test_it_is_saved_and_read_back(tmp_path: Path) -> None:
    network, image = restorer(), torch.rand(1, 3, 7, 9)
    network.save_pretrained(tmp_path / "net")
    again = load_pretrained(tmp_path / "net")
    assert isinstance(again.backbone, SwinIRDistilled)
    assert torch.equal(again.restore(image).image, network.restore(image).image)


def test_tiles_are_counted_and_near_the_whole() -> None:
    torch.manual_seed(0)
    network = Restorer(SwinIRDistilled(**SMALL), DirectPixelShuffle(12, 2)).eval()
    image = torch.rand(1, 3, 60, 72)
    whole, tiled = network.restore(image), network.restore(image, tile=48)
    assert tiled.macs.item() > whole.macs.item() == network.backbone.cost(60, 72).full
    difference = (whole.image - tiled.image).abs().max().item()
    assert 0 < difference < 0.01, f"{difference:.5f}"


def test_a_token_costs_little() -> None:
    with torch.device("meta"):
        plain, distilled = SwinIR(60, (6, 6, 6, 6), out_channels=None), SwinIRDistilled()
    more = distilled.cost(48, 48).full / plain.cost(48, 48).full - 1
    assert 0 < more < 0.015, f"{more:.4f} of the MACs more"
