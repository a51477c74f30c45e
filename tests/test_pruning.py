"""Scores, ranking and cut in closed form; what is cut equals what is masked, in every network that allows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dynres.backbones.swinir import SwinLayer
from dynres.contracts import Routing, Task
from dynres.cost.counter import count_macs, count_parameters
from dynres.errors import UserError
from dynres.layers.channels import InnerChannels
from dynres.pruning import channels_in, cut, factors, fresh_scores, ranked, scored
from dynres.restorer import Restorer

UP: dict[str, dict[str, Any]] = {
    "shuffle": {"_target_": "dynres.upsamplers.pixelshuffle.PixelShuffle", "scale": 2},
    "direct": {"_target_": "dynres.upsamplers.pixelshuffle.DirectPixelShuffle", "scale": 2},
    "liif": {"_target_": "dynres.upsamplers.liif.LIIF", "hidden": 8},
    "as_image": {"_target_": "dynres.upsamplers.same_size.AsImage"},
}
BODY = "dynres.backbones."
SWIN = {"embed_dim": 12, "depths": [2, 1], "heads": 3, "window": 4}
MSTB = {"channels": 32, "groups": 2, "heads": 2, "local_windows": [2, 4, 8], "global_window": 8, "pooled": 4}
NETWORKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "swinir": ({"_target_": BODY + "swinir.SwinIR", **SWIN, "out_channels": 8}, "shuffle", "mlp_msa"),
    "swinir light": ({"_target_": BODY + "swinir.SwinIR", **SWIN, "out_channels": None}, "direct", "mlp_msa"),
    "flexir": ({"_target_": BODY + "flexir.FlexIR", **SWIN}, "as_image", "mlp_msa"),
    "mstb": ({"_target_": BODY + "mstb.MultiScaleTransformer", **MSTB, "out_channels": 8}, "liif", "mlp_msa"),
    "tadt": ({"_target_": BODY + "tadt.TADT", **MSTB, "out_channels": 8, "controller_width": 4}, "liif", "mlp_msa"),
    "cat": (
        {"_target_": BODY + "cat.CAT", "embed_dim": 32, "depths": [2], "heads": 2, "short_sides": [4], "long_side": 8},
        "shuffle",
        "mlp",
    ),
}


def built(name: str, seed: int = 0) -> Restorer:
    """With position tables and weights far from their beginning, so that every part of a block shows."""
    torch.manual_seed(seed)
    backbone, head, _ = NETWORKS[name]
    made = Restorer.from_description({"backbone": backbone, "upsampler": UP[head]}).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def random_scores(channels: list[InnerChannels], seed: int = 1) -> nn.ParameterList:
    torch.manual_seed(seed)
    return nn.ParameterList(torch.randn_like(score) for score in fresh_scores(channels))


def precision(name: str) -> torch.dtype:
    """FlexIR blends its regions in float32, whatever it is given."""
    return torch.float32 if name == "flexir" else torch.float64


def restored(network: Restorer, image: Tensor, routing: Routing | None = None) -> Tensor:
    """At twice the size, with every branch on where nothing else is said."""
    scale = torch.full((len(image),), float(network.upsampler.scale or 2), dtype=image.dtype)
    with torch.no_grad():
        return network(image, Task(scale, budget=None if routing else 1.0, routing=routing))[0]


# ---------------------------------------------------------------------------------------------------------- the scores


def test_scores_multiply_hidden_channels_and_queries_keys_and_values() -> None:
    """X* = X diag(a), against one layer written out."""
    layer: Any = next(part for part in built("swinir").double().modules() if isinstance(part, SwinLayer))
    x = torch.randn(1, 4, 4, 12, dtype=torch.float64)
    msa, mlp = layer.inner_channels()
    a, b = torch.randn(12, dtype=torch.float64), torch.randn(24, dtype=torch.float64)
    handles = [scored(msa, a), scored(mlp, b)]
    got = layer(x)
    for handle in handles:
        handle.remove()
    tokens = layer.norm1(x).view(16, 12)
    q, k, v = ((part * a).view(16, 3, 4).transpose(0, 1) for part in layer.attn.qkv(tokens).chunk(3, dim=-1))
    bias = layer.attn.bias_table[layer.attn.index].permute(2, 0, 1)
    attention = (q @ k.transpose(1, 2) / 2 + bias).softmax(-1) @ v
    y = x + layer.proj(attention.transpose(0, 1).reshape(16, 12)).view_as(x)
    hidden = nn.functional.gelu(layer.mlp.fc1(layer.norm2(y))) * b
    torch.testing.assert_close(got, y + layer.mlp.fc2(hidden), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_factors_fold_the_scores_into_the_weights(name: str) -> None:
    network, image = built(name).to(precision(name)), torch.rand(1, 3, 13, 11, dtype=precision(name))
    channels = channels_in(network, NETWORKS[name][2])
    scores = random_scores(channels).to(precision(name))
    handles = [scored(*pair) for pair in zip(channels, scores, strict=True)]
    with_scores = restored(network, image)
    for handle in handles:
        handle.remove()
    without = restored(network, image)
    state = network.state_dict()
    for key, factor in factors(network, channels, list(scores)).items():
        state[key] = state[key] * factor
    network.load_state_dict(state)
    torch.testing.assert_close(restored(network, image), with_scores)
    assert (without - with_scores).abs().max() > 1e-3


def test_scores_get_the_gradient_of_their_channel() -> None:
    network = built("swinir").double()
    channels = channels_in(network, "mlp_msa")
    scores = random_scores(channels).double()
    for pair in zip(channels, scores, strict=True):
        scored(*pair)
    image, task = torch.rand(1, 3, 8, 8, dtype=torch.float64), Task()

    def loss(*values: Tensor) -> Tensor:
        with torch.no_grad():
            for score, value in zip(scores, values, strict=True):
                score.copy_(value)
        return network(image, task)[0].square().mean()

    start = [score.detach().clone() for score in scores]
    loss(*start).backward()
    for number in (0, 3):
        step = torch.zeros_like(start[number])
        step[2] = 1e-5
        moved = [[*start[:number], start[number] + sign * step, *start[number + 1 :]] for sign in (1, -1)]
        slope = (loss(*moved[0]) - loss(*moved[1])).item() / 2e-5
        assert scores[number].grad is not None
        assert scores[number].grad[2].item() == pytest.approx(slope, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- ranking


def layers(*shapes: tuple[str, int, int]) -> list[InnerChannels]:
    return [InnerChannels(kind, heads, width, nn.Linear(1, 1), nn.Linear(1, 1)) for kind, heads, width in shapes]  # type: ignore[arg-type]


def test_the_lowest_of_all_layers_go() -> None:
    channels = layers(("mlp", 1, 4), ("mlp", 1, 4))
    scores = [torch.tensor([0.1, -0.9, 0.2, 0.3]), torch.tensor([0.8, 0.7, -0.05, 0.6])]
    assert [kept.tolist() for kept in ranked(channels, scores, 0.5, "global")] == [[[1]], [[0, 1, 3]]]
    assert [kept.tolist() for kept in ranked(channels, scores, 0.5, "layer")] == [[[1, 3]], [[0, 1]]]


def test_heads_lose_equally_many_by_their_own_order() -> None:
    channels = layers(("msa", 2, 3), ("msa", 2, 3))
    first, second = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.8, 0.6]), torch.tensor([0.3, 0.4, 0.5, 0.4, 0.3, 0.5])
    # means of the n-th: 0.85, 0.55, 0.15 and 0.5, 0.4, 0.3: the two lowest are one of each layer
    assert [kept.tolist() for kept in ranked(channels, [first, second], 1 / 3)] == [
        [[0, 2], [1, 2]],
        [[1, 2], [0, 2]],
    ]


def test_mlps_and_attentions_are_ranked_apart() -> None:
    channels = layers(("msa", 1, 4), ("mlp", 1, 8))
    kept = ranked(channels, [torch.full((4,), 9.0), torch.full((8,), 0.1)], 0.25)
    assert [one.shape[1] for one in kept] == [3, 6]


@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=6), st.floats(0.01, 0.95), st.sampled_from(["global", "layer"])
)
def test_exactly_the_rate_is_cut_and_never_a_whole_layer(widths: list[int], rate: float, ranking: str) -> None:
    channels = layers(*(("msa", 3, width) for width in widths))
    scores = [torch.randn(3 * width) for width in widths]
    try:
        kept = ranked(channels, scores, rate, ranking)
    except ValueError as error:
        assert "lower it" in str(error)
        return
    assert sum(one.shape[1] for one in kept) == sum(widths) - round(rate * sum(widths))
    for one, width in zip(kept, widths, strict=True):
        assert one.shape[0] == 3 and 1 <= one.shape[1] <= width
        assert (one.diff(dim=1) > 0).all() and one.max() < width


@pytest.mark.parametrize(
    ("rate", "ranking", "message"),
    [(0.0, "global", "rate"), (1.0, "global", "rate"), (0.5, "both", "ranking"), (0.99, "global", "lower it")],
)
def test_what_cannot_be_ranked_is_refused(rate: float, ranking: str, message: str) -> None:
    channels = layers(("mlp", 1, 4), ("mlp", 1, 4))
    with pytest.raises(ValueError, match=message):
        ranked(channels, list(fresh_scores(channels)), rate, ranking)


# ---------------------------------------------------------------------------------------------------------- the cut


@pytest.mark.parametrize("ranking", ["global", "layer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_network_is_the_masked_one(name: str, ranking: str) -> None:
    kind = precision(name)
    network = built(name).to(kind)
    channels = channels_in(network, NETWORKS[name][2])
    scores = [score.detach().to(kind) for score in random_scores(channels)]
    kept = ranked(channels, scores, 0.5, ranking)
    smaller = cut(network, channels, kept, scores).eval()
    for inner, score, chosen in zip(channels, scores, kept, strict=True):
        mask = torch.zeros(inner.heads, inner.width, dtype=kind).scatter_(1, chosen, 1.0)
        scored(inner, score * mask.flatten())
    image = torch.rand(2, 3, 17, 22, dtype=kind)
    masked = restored(network, image)
    torch.testing.assert_close(
        restored(smaller, image), masked, rtol=0, atol=1e-6 * max(1.0, masked.abs().max().item())
    )
    if name == "tadt":  # samples that disagree, and every branch off once
        decisions = torch.tensor([[1, 0, 1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0, 0, 1]], dtype=torch.float64)
        routing = Routing(decisions, decisions, None, ())
        torch.testing.assert_close(
            restored(smaller, image, routing), restored(network, image, routing), rtol=0, atol=1e-9
        )
    assert count_parameters(smaller) < count_parameters(network)


def test_one_channel_a_head_is_enough() -> None:
    """A layer cut down to its last channel works; ranking never cuts that one."""
    network = built("swinir")
    channels = channels_in(network, "mlp_msa")
    scores = [
        torch.full_like(score.detach(), 10.0 if number else 1e-6)
        for number, score in enumerate(random_scores(channels))
    ]
    kept = ranked(channels, scores, 0.25)
    assert kept[0].shape == (3, 1)  # its four channels a head were the least of the attentions'
    smaller = cut(network, channels, kept, scores)
    assert restored(smaller.eval(), torch.rand(1, 3, 9, 9)).isfinite().all()


@pytest.mark.parametrize("option", ["mlp_widths", "head_widths"])
def test_a_layer_of_no_channels_is_refused(option: str) -> None:
    backbone, head, _ = NETWORKS["swinir"]
    with pytest.raises(UserError, match=rf"{option} must be at least 1.* got 0 at number 2"):
        Restorer.from_description({"backbone": {**backbone, option: [2, 0, 2]}, "upsampler": UP[head]})
    with pytest.raises(UserError, match=f"{option} has 2 widths"):
        Restorer.from_description({"backbone": {**backbone, option: [2, 2]}, "upsampler": UP[head]})


@pytest.mark.parametrize("name", ["swinir", "mstb", "tadt"])
def test_the_cut_network_is_saved_and_costs_what_it_runs(name: str, tmp_path: Any) -> None:
    network = built(name)
    channels = channels_in(network, NETWORKS[name][2])
    scores = list(random_scores(channels))
    smaller = cut(network, channels, ranked(channels, scores, 0.5), scores).eval()
    smaller.save_pretrained(tmp_path)
    again, image = Restorer.from_pretrained(tmp_path), torch.rand(1, 3, 16, 16)
    assert torch.equal(restored(again, image), restored(smaller, image))
    task = Task(torch.tensor([2.0]), budget=1.0)
    assert smaller.backbone.cost(16, 16).full == count_macs(lambda: smaller.backbone(image, task))
    assert smaller.backbone.cost(16, 16).full < network.backbone.cost(16, 16).full


def test_networks_without_such_channels_are_refused() -> None:
    edsr = Restorer.from_description(
        {
            "backbone": {"_target_": BODY + "edsr.EDSR", "channels": 4, "blocks": 1, "residual_scale": 1.0},
            "upsampler": UP["shuffle"],
        }
    )
    with pytest.raises(ValueError, match="EDSR has no MLPs"):
        channels_in(edsr, "mlp")
    with pytest.raises(ValueError, match=r"CAT has no attentions.*scope=mlp"):
        channels_in(built("cat"), "mlp_msa")
    with pytest.raises(ValueError, match="scope must be one of mlp, mlp_msa"):
        channels_in(built("swinir"), "everything")


CLASSICAL = {
    "backbone": {"_target_": BODY + "swinir.SwinIR"},
    "upsampler": UP["shuffle"],
}


@pytest.mark.parametrize("ranking", ["global", "layer"])
@pytest.mark.parametrize(
    ("scope", "rate", "parameters"),
    [
        ("mlp", 0.25, 10_582_847),
        ("mlp", 0.5, 9_413_207),
        ("mlp", 0.75, 8_243_567),
        ("mlp_msa", 0.25, 9_411_587),
        ("mlp_msa", 0.5, 7_070_687),
        ("mlp_msa", 0.75, 4_729_787),
    ],
)
def test_parameters_of_the_pruned_classical_network(scope: str, rate: float, parameters: int, ranking: str) -> None:
    """The counts that follow from the paper's network and rates (11 752 487 before), whatever is ranked how."""
    with torch.device("meta"):
        network = Restorer.from_description(CLASSICAL)
    assert count_parameters(network) == 11_752_487
    channels = channels_in(network, scope)
    torch.manual_seed(0)
    scores = [torch.rand(inner.heads * inner.width) for inner in channels]
    kept = ranked(channels, scores, rate, ranking)
    widths = {
        kind: [k.shape[1] for k, c in zip(kept, channels, strict=True) if c.kind == kind] for kind in ("mlp", "msa")
    }
    options = {"mlp_widths": widths["mlp"], **({"head_widths": widths["msa"]} if scope == "mlp_msa" else {})}
    with torch.device("meta"):
        smaller = Restorer.from_description({**CLASSICAL, "backbone": {**CLASSICAL["backbone"], **options}})
    assert count_parameters(smaller) == parameters
