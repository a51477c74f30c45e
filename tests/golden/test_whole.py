"""Every whole network of the papers' tables against its authors' numbers: names, shapes, outputs, gradients.

The network is built from the official state dict alone, so this also tests that its checkpoints are recognised.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynres.restorer import Restorer
from tests.golden.fill import Oracle
from tests.golden.parity import assert_forward, assert_gradient, assert_names, rebuilt

MODELS = (
    "edsr_baseline_x2_shift255", "edsr_x2_shift255", "rcan_x2",
    "dncnn_gray_17", "dncnn_gray_17_bn", "dncnn_pytorch_17", "ffdnet_color", "ffdnet_gray", "ircnn_color", "ircnn_gray",
    "drunet_color", "drunet_gray",
    "swinir_classical_x2", "swinir_light_x2", "swinir_dn_color", "swinir_jpeg_car_gray", "cat_r2_x2",
    "rnan_sr_x2", "panet_dn_rgb", "paedsr_x2",
    "anysr_srno_edsr_baseline", "anysr_srno_rdn",
)  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, Restorer, Oracle]]:
    """(name, network, oracle), built once for all tests on it."""
    yield (request.param, *rebuilt(request.param))


def cases(reference: Oracle) -> list[str]:
    """Plain forward passes; "b.train_..." belongs to the tests of batch normalisation."""
    return [case for case in reference.facts["cases"] if "." not in case]


def test_exported_names_and_shapes_are_the_authors(pair: tuple[str, Restorer, Oracle]) -> None:
    assert_names(pair[1], pair[2])


def test_parameter_count(pair: tuple[str, Restorer, Oracle]) -> None:
    """The authors count their mean shift (24) and what they store twice."""
    _, restorer, reference = pair
    shift = 24 if any(key.endswith("sub_mean.bias") for key in reference.keys) else 0
    assert sum(p.numel() for p in restorer.parameters()) == reference.facts["total_params"] - shift


def test_output_equals_the_authors(pair: tuple[str, Restorer, Oracle]) -> None:
    model, restorer, reference = pair
    for case in cases(reference):
        assert_forward(restorer, reference, case, f"{model} {case}")


def test_gradient_equals_the_authors(pair: tuple[str, Restorer, Oracle]) -> None:
    _, restorer, reference = pair
    graded = [case for case in cases(reference) if f"{case}.grad_name" in reference.arrays]
    assert graded
    for case in graded:
        assert_gradient(restorer, reference, case)
