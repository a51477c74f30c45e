"""DnCNN with batch normalisation against its authors' two codes, in training mode; without it, test_plain.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynres.backbones.dncnn import DnCNN
from dynres.interop.official import official_names, to_official
from dynres.restorer import Pixels, Restorer
from dynres.upsamplers.same_size import SameSize
from tests.golden.fill import Oracle, assert_parity
from tests.golden.parity import forward, rebuilt

FORMS = {"dncnn_gray_17_bn": (True, 0.9), "dncnn_pytorch_17": (False, 0.95)}  # bias, momentum


@pytest.fixture(params=FORMS)
def trained(request: pytest.FixtureRequest) -> tuple[str, Restorer, Oracle]:
    """(form, network in training mode, oracle); each test has its own, for the statistics move."""
    restorer, reference = rebuilt(request.param)
    return request.param, restorer.train(), reference


def test_training_uses_the_statistics_of_the_batch(trained: tuple[str, Restorer, Oracle]) -> None:
    form, restorer, reference = trained
    with torch.no_grad():
        ours = forward(restorer, reference, "b")
    assert_parity(ours, reference.array("b.train_output"), form)
    assert (ours - reference.array("b.output")).abs().max() > 0.1, "training and evaluation agree: nothing was tested"


def test_running_statistics_move_as_the_authors(trained: tuple[str, Restorer, Oracle]) -> None:
    form, restorer, reference = trained
    with torch.no_grad():
        forward(restorer, reference, "b")
    ours = {theirs: key for key, theirs in official_names(restorer).items()}
    theirs = str(reference.arrays["b.train_running_mean_key"])
    state = restorer.state_dict()
    for leaf in ("mean", "var"):
        found = state[ours[theirs.removesuffix("mean") + leaf]]
        assert_parity(found, reference.array(f"b.train_running_{leaf}"), f"{form} {leaf}")
        assert not torch.equal(found, reference.weights()[theirs.removesuffix("mean") + leaf])


@pytest.mark.parametrize("form", FORMS)
def test_the_form_is_read_off_the_names(form: str) -> None:
    bias, momentum = FORMS[form]
    body = rebuilt(form)[0].backbone.body
    norms = [layer for layer in body if isinstance(layer, nn.BatchNorm2d)]
    inner = [layer for layer in body if isinstance(layer, nn.Conv2d)][1:]
    assert len(norms) == len(inner) == 15
    assert all((layer.bias is not None) == bias for layer in inner)
    assert all((norm.eps, norm.momentum) == (1e-4, momentum) for norm in norms)


def test_folding_the_normalisation_away_leaves_the_output() -> None:
    """Weights times scale / deviation, and what is left as a bias: how the published plain networks came about."""
    torch.manual_seed(0)
    trained, folded = DnCNN(6, 5, 1, batch_norm=True), DnCNN(6, 5, 1)
    for layer in trained.body:
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight, layer.bias, layer.running_mean):
                nn.init.normal_(value)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    pairs = list(zip(trained.body[:-1], trained.body[1:], strict=True))
    convolutions = [(one, two) for one, two in pairs if isinstance(one, nn.Conv2d)]
    for (convolution, norm), plain in zip(convolutions, folded.body[::2], strict=True):
        factor, shift = torch.ones(6), torch.zeros(6)
        if isinstance(norm, nn.BatchNorm2d):
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            shift = norm.bias - norm.running_mean * factor
        plain.weight.data = convolution.weight.data * factor.view(-1, 1, 1, 1)
        plain.bias.data = convolution.bias.data * factor + shift
    restorers = [Restorer(body.eval(), SameSize(6, 1), pixels=Pixels(0.0, 1.0)).eval() for body in (trained, folded)]
    restorers[1].upsampler.load_state_dict(restorers[0].upsampler.state_dict())
    image = torch.rand(1, 1, 12, 10)
    first, second = (restorer.restore(image).image for restorer in restorers)
    assert first.std() > 0.01
    torch.testing.assert_close(first, second, rtol=0, atol=2e-6)


def test_export_refuses_a_head_that_the_authors_names_would_hide() -> None:
    added = Restorer(DnCNN(4, 3, 1), SameSize(4, 1, skip="add"))
    with pytest.raises(ValueError, match=r"DnCNN has an authors' form only under SameSize\(skip=subtract\)"):
        to_official(added)
