"""Files of DnCNN, VDSR, IRCNN, FFDNet, SRCNN and DRUNet: whose they are, and no one else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynres.backbones.dncnn import DnCNN
from dynres.backbones.drunet import DRUNet
from dynres.backbones.ffdnet import FFDNet
from dynres.backbones.ircnn import IRCNN
from dynres.backbones.srcnn import SRCNN
from dynres.backbones.vdsr import VDSR
from dynres.build import build_restorer
from dynres.contracts import Task
from dynres.errors import UserError
from dynres.interop.families import drunet, plain
from dynres.interop.official import from_official, recognise, to_official
from dynres.interop.weights import load_pretrained
from dynres.restorer import Pixels, Restorer
from dynres.upsamplers.same_size import AsImage, SameSize
from tests.golden.fill import FOLDER, oracle

PIXELS = Pixels(0.0, 1.0)
NETWORKS: dict[str, Callable[[], Restorer]] = {
    "DnCNN": lambda: Restorer(DnCNN(6, 5, 3), SameSize(6, 3, skip="subtract"), pixels=PIXELS),
    "DnCNN with normalisation": lambda: Restorer(
        DnCNN(6, 5, 1, batch_norm=True), SameSize(6, 1, skip="subtract"), pixels=PIXELS
    ),
    "DnCNN of its own repository": lambda: Restorer(
        DnCNN(6, 5, 1, batch_norm=True, bias=False, momentum=0.95),
        SameSize(6, 1, bias=False, skip="subtract"),
        pixels=PIXELS,
    ),
    "VDSR": lambda: Restorer(VDSR(6, 5, 1), SameSize(6, 1, skip="add"), pixels=PIXELS),
    "IRCNN": lambda: Restorer(IRCNN(6, 1), SameSize(6, 1, skip="subtract"), pixels=PIXELS),
    "FFDNet": lambda: Restorer(FFDNet(6, 4, 3), AsImage(3, 3), pixels=PIXELS),
    "SRCNN": lambda: Restorer(SRCNN(6, 4, 9, 1, 1), SameSize(4, 1, 5, skip="none"), pixels=PIXELS),
    "DRUNet": lambda: Restorer(DRUNet((4, 5, 6, 7), 2, 1), SameSize(4, 1, bias=False, skip="none"), pixels=PIXELS),
}
OURS = (*plain.FAMILIES, drunet.FAMILY)
every = pytest.mark.parametrize("name", NETWORKS)


def official(name: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return to_official(NETWORKS[name]())


def family(name: str) -> str | None:
    """What recognition has to be told: VDSR is the one that its names do not show."""
    return name if name == "VDSR" else None


def restored(network: Restorer) -> Tensor:
    """What it makes of one image, before clamping."""
    image = torch.rand(1, network.backbone.image_channels, 9, 10, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        features = network.eval().backbone(image, Task(noise=torch.tensor([0.1])))
        return network.upsampler.decode(features, (9, 10))


@every
def test_exported_and_read_again_it_restores_the_same(name: str) -> None:
    torch.manual_seed(0)
    ours, state = NETWORKS[name](), official(name)
    found = recognise(state, family(name))
    assert found is not None
    again = build_restorer(found)
    again.load_state_dict(from_official(state, again), strict=True)
    assert type(again.backbone) is type(ours.backbone) and again.pixels == ours.pixels
    assert restored(ours).std() > 0.01
    assert torch.equal(restored(ours), restored(again))


@every
def test_a_state_dict_with_a_tensor_more_or_less_is_nobodys(name: str) -> None:
    """Counters of normalisations apart, which old files lack."""
    state = official(name)
    for key in state:
        if not key.endswith("num_batches_tracked"):
            rest = {other: value for other, value in state.items() if other != key}
            assert all(each.whole(rest) is None for each in OURS), key
    more = state | {"model.99.weight": torch.zeros(1)}
    assert all(each.whole(more) is None for each in OURS)


@every
def test_tensors_of_other_shapes_are_nobodys(name: str) -> None:
    state = official(name)
    for key, value in state.items():
        if key.endswith("weight") and value.ndim == 4 and "m_" not in key:
            odd = state | {key: torch.zeros(7, *value.shape[1:2], 3, 2)}
            assert all(each.whole(odd) is None for each in OURS), key
    flat = {key: value.flatten() for key, value in state.items()}
    assert all(each.whole(flat) is None for each in OURS)


@every
def test_every_network_is_one_familys(name: str) -> None:
    takers = [each.name for each in OURS if each.whole(official(name)) is not None]
    assert takers == ["DnCNN" if name == "VDSR" else name.split(" ")[0]]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.keys.json")), ids=lambda file: file.name.split(".")[0])
def test_the_papers_other_networks_are_not_taken(file: Path) -> None:
    model = file.name.split(".")[0]
    state = {key: torch.empty(shape, device="meta") for key, shape in oracle(model).keys.items()}
    takers = [each.name.lower() for each in OURS if each.whole(state) is not None]
    own = model.split("_")[0]
    assert takers == ([own] if own in ("dncnn", "ffdnet", "ircnn", "drunet") else [])
    assert all(each.extractor(state) is None for each in OURS)


def test_nothing_is_nobodys() -> None:
    assert all(each.whole({}) is None and each.extractor({}) is None for each in OURS)
    assert recognise({}, "VDSR") is None and recognise(official("FFDNet"), "VDSR") is None


def test_the_same_tensors_are_a_dncnn_or_by_name_a_vdsr(tmp_path: Path) -> None:
    """The sign of what they estimate is all that differs."""
    state, results = official("VDSR"), {}
    for file, named in (("network.pth", None), ("network.pth", "VDSR"), ("my_VDSR_x2.pth", None)):
        torch.save(state, tmp_path / file)
        results[file, named] = load_pretrained(tmp_path / file, named)
    kinds = [type(network.backbone) for network in results.values()]
    assert kinds == [DnCNN, VDSR, VDSR]
    image = 0.4 + 0.2 * torch.rand(1, 1, 8, 8)
    subtracted, added, hinted = (network.restore(image).image for network in results.values())
    torch.testing.assert_close(added - image, image - subtracted, rtol=0, atol=1e-6)
    assert (added - image).abs().max() > 0.01 and torch.equal(added, hinted)


@pytest.mark.parametrize("name", ["DnCNN with normalisation", "DnCNN of its own repository"])
def test_files_from_before_the_batch_counter_are_recognised(name: str) -> None:
    state = official(name)
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(old) == len(state) - 3 and recognise(old) == recognise(state)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown family VDRS: there are .*DnCNN, VDSR, IRCNN, FFDNet, SRCNN, DRUNet"):
        recognise(official("VDSR"), "VDRS")
