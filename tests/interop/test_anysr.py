"""Files of AnySR's authors: recognised, loaded with the mean shift that they trained, and written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynres.backbones.anysr import AnyEDSR, AnyRDN, AnySR
from dynres.contracts import Task
from dynres.interop.families import anysr
from dynres.interop.official import naming, recognise, to_official
from dynres.interop.weights import load_pretrained
from dynres.restorer import Restorer
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.pixelshuffle import PixelShuffle
from dynres.upsamplers.srno import SRNO

NETWORKS: dict[str, Callable[..., AnySR]] = {
    "AnyEDSR": lambda **options: AnyEDSR(8, 2, **options),
    "AnyRDN": lambda **options: AnyRDN(8, 6, 2, 4, **options),
}
SIZES = {
    "AnyEDSR": {"channels": 8, "blocks": 2},
    "AnyRDN": {"channels": 8, "growth": 6, "blocks": 2, "convs": 4},
}
HEADS: dict[str, Callable[[], Upsampler]] = {"SRNO": lambda: SRNO(8, 8, 2), "LIIF": lambda: LIIF(8, 6, 1)}


def state_of(name: str, head: str = "SRNO") -> dict[str, Tensor]:
    """A file of the authors, mean shift trained."""
    torch.manual_seed(0)
    state = to_official(Restorer(NETWORKS[name](), HEADS[head]()))
    return state | {key: value + torch.randn_like(value) for key, value in state.items() if "sub_mean" in key}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_of_theirs_is_loaded_and_written_as_it_is(name: str, head: str, tmp_path: Path) -> None:
    """As their training saves it; what they trained by mistake, too."""
    state = state_of(name, head)
    torch.save({"model": {"name": "srno", "args": {}, "sd": state}, "epoch": 1000}, tmp_path / "epoch-last.pth")
    loaded = load_pretrained(tmp_path / "epoch-last.pth")
    assert type(loaded.backbone).__name__ == name and type(loaded.upsampler).__name__ == head
    written = to_official(loaded)
    assert written.keys() == state.keys() and all(torch.equal(written[key], state[key]) for key in state)
    shift, image = loaded.backbone.get_submodule("sub_mean"), torch.rand(1, 3, 4, 5)
    assert not torch.allclose(shift(image), image - torch.tensor([0.4488, 0.4371, 0.4040])[:, None, None])
    with torch.no_grad():
        assert loaded.backbone(image, Task(torch.tensor([2.0]))).routing.decisions.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sizes_are_read_off_the_names(name: str) -> None:
    found = recognise(state_of(name))
    assert found is not None
    assert found["backbone"] == {"_target_": f"dynres.backbones.anysr.{name}"} | SIZES[name]
    assert found["pixels"] == {"mean": 0.5, "factor": 2.0}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tensor_more_or_less_is_not_theirs(name: str) -> None:
    state = {k.removeprefix("encoder."): v for k, v in state_of(name).items() if k.startswith("encoder.")}
    assert anysr.extractor(state) is not None
    for key in state:
        assert anysr.extractor({other: value for other, value in state.items() if other != key}) is None, key
    assert anysr.extractor({**state, "tail.weight": torch.zeros(1)}) is None


def test_names_are_the_authors() -> None:
    assert {key.split("body.0.")[1] for key in state_of("AnyEDSR") if "body.0." in key} == {
        f"{layer}.{leaf}" for layer in ("conv1", "conv2", "fc1", "fc2") for leaf in ("weight", "bias")
    }
    inside = {key.split("RDBs.1.")[1] for key in state_of("AnyRDN") if "RDBs.1." in key}
    assert {"convs.3.conv.0.weight", "LFF.bias", "fc1.weight", "fc2.bias"} <= inside and len(inside) == 14


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_they_do_not_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has an authors' form only under upsampler=srno, not under Pixel"):
        naming(Restorer(NETWORKS[name](), PixelShuffle(8, 2)))
    with pytest.raises(ValueError, match=f"{name} with enhanced=false has no authors' form: set enhanced=true"):
        naming(Restorer(NETWORKS[name](enhanced=False), SRNO(8, 8, 2)))
