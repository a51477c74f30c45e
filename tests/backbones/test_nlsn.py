"""NLSN: parity with the authors' numbers under their random directions, the tables' count, hashing that repeats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dynres.backbones.nlsn import NLSN
from dynres.contracts import Task
from dynres.cost.counter import count_macs
from dynres.interop.families import nlsn
from dynres.interop.official import from_official, recognise, to_official
from dynres.layers.sparse_attention import SparseAttention
from dynres.restorer import Pixels, Restorer
from dynres.upsamplers.liif import LIIF
from tests.golden.fill import FOLDER, Oracle, oracle
from tests.golden.parity import assert_forward, assert_gradient, assert_names, rebuilt

CONF = Path(__file__).resolve().parents[2] / "conf" / "backbone"
ORACLES = sorted(file.name.removesuffix(".keys.json") for file in FOLDER.glob("*.keys.json"))


@pytest.fixture(scope="module")
def golden() -> Iterator[tuple[Restorer, Oracle]]:
    yield rebuilt("nlsn_x2")


@pytest.fixture(scope="module")
def table() -> Iterator[NLSN]:
    """The tables' network, by its configuration."""
    yield instantiate(OmegaConf.load(CONF / "nlsa.yaml"))


def attentions(network: torch.nn.Module) -> list[SparseAttention]:
    return [module for module in network.modules() if isinstance(module, SparseAttention)]


def small(**options: int) -> NLSN:
    return NLSN(
        **{"channels": 8, "blocks": 4, "attention_every": 2, "chunk": 9, "hashes": 2, "out_channels": 5} | options
    )


def test_recognised_as_published(golden: tuple[Restorer, Oracle]) -> None:
    restorer, reference = golden
    assert_names(restorer, reference)
    assert sum(p.numel() for p in restorer.parameters()) == reference.facts["total_params"] - 24
    assert restorer.pixels == Pixels((0.4488, 0.4371, 0.4040), 1.0)
    config = reference.facts["config"]
    assert all((a.chunk, a.hashes) == (config["chunk_size"], config["n_hashes"]) for a in attentions(restorer))
    assert all(a.residual_scale == config["res_scale"] for a in attentions(restorer))


@pytest.mark.parametrize("case", ["a", "b"])
def test_output_equals_the_authors(golden: tuple[Restorer, Oracle], case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer, reference = golden
    for index, attention in enumerate(attentions(restorer)):
        directions = reference.array(f"{case}.rotation{index}")[0]
        monkeypatch.setattr(attention, "rotations", lambda _buckets, _like, drawn=directions: drawn)
    assert_forward(restorer, reference, case, f"nlsn_x2 {case}")
    if case == "a":
        assert_gradient(restorer, reference, case)


def test_configuration_builds_the_published_network(table: NLSN) -> None:
    assert sum(p.numel() for p in table.parameters()) == 39_576_448
    assert (table.out_channels, len(attentions(table))) == (64, 5)


@pytest.mark.parametrize(("height", "width", "filled"), [(128, 144, 0), (145, 129, 15)])
def test_cost_per_pixel_is_the_published_one(table: NLSN, height: int, width: int, filled: int) -> None:
    """The attentions also pay for what fills their last chunk: 4 rounds x 432 pixels x (64 + 256) channels, 5 times."""
    assert (height * width + filled) % 144 == 0
    assert table.cost(height, width).full == 42_404_608 * height * width + 5 * 4 * 432 * (64 + 256) * filled


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 11)])
def test_any_size_is_taken_and_costs_what_torch_counts(height: int, width: int) -> None:
    network, image = small().eval(), torch.randn(1, 3, height, width)
    assert network(image, Task()).map.shape == (1, 5, height, width)
    assert network.cost(height, width).full == count_macs(lambda: network(image, Task()))


def test_evaluation_repeats_whatever_torchs_generator_does() -> None:
    network, image = small().eval(), torch.randn(2, 3, 9, 10)
    first = network(image, Task()).map
    torch.manual_seed(123)
    assert torch.equal(network(image, Task()).map, first)
    torch.testing.assert_close(network(image[:1], Task()).map, first[:1])


def test_hashing_differs_by_attention_and_by_seed_and_not_by_weights() -> None:
    drawn = [
        attention.rotations(4, torch.empty(0)) for seed in (0, 1) for attention in attentions(small(seed=seed).eval())
    ]
    assert len(drawn) == 6
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    again = attentions(small(seed=1).eval())[0].rotations(4, torch.empty(0))
    assert torch.equal(again, drawn[3])


def test_a_training_step_is_a_function_of_its_seed() -> None:
    network, image = small().train(), torch.randn(1, 3, 9, 10)
    maps = []
    for seed in (5, 6, 5):
        torch.manual_seed(seed)
        maps.append(network(image, Task()).map)
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[1])


def test_without_out_channels_the_features_are_the_bodys() -> None:
    whole = NLSN(channels=8, blocks=2, attention_every=1, chunk=9, out_channels=None)
    assert (whole.out_channels, whole(torch.randn(1, 3, 4, 4), Task()).map.shape[1]) == (8, 8)


def test_blocks_that_do_not_fit_between_attentions_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks must be a multiple of attention_every=2, got 3"):
        small(blocks=3)


@pytest.mark.parametrize("option", ["channels", "blocks", "attention_every", "out_channels", "chunk", "hashes"])
def test_impossible_sizes_are_refused_by_name(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} of at least 1, got 0"):
        small(**{option: 0})


def test_export_under_an_implicit_upsampler_is_recognised() -> None:
    backbone = NLSN(channels=64, blocks=4, attention_every=2, out_channels=64, reduction=8)
    restorer = Restorer(backbone, LIIF(64, hidden=16))
    state = to_official(restorer)
    found = recognise(state)
    assert found is not None
    options = {"channels": 64, "blocks": 4, "attention_every": 2, "reduction": 8, "out_channels": 64}
    assert found["backbone"] == {"_target_": "dynres.backbones.nlsn.NLSN"} | options
    assert from_official(state, restorer).keys() == restorer.state_dict().keys()


@pytest.mark.parametrize("model", ORACLES)
def test_no_other_state_dict_is_taken(model: str) -> None:
    state = {key: torch.ones(()).expand(shape) for key, shape in oracle(model).keys.items()}
    inner = {key.removeprefix("encoder."): value for key, value in state.items()}
    assert (nlsn.whole(state) is not None) == (model == "nlsn_x2")
    assert (nlsn.extractor(inner) is not None) == (model == "nlsn_x2")


def test_no_incomplete_state_dict_is_taken() -> None:
    state = {key: torch.ones(()).expand(shape) for key, shape in oracle("nlsn_x2").keys.items()}
    for missing in (key for key in state if key.startswith(("head.", "body."))):
        assert nlsn.whole({key: value for key, value in state.items() if key != missing}) is None, missing
    assert nlsn.whole(state | {"body.50.weight": torch.ones(1)}) is None
    assert nlsn.whole({key: torch.ones(1) for key in state if not key.startswith("tail.")}) is None
