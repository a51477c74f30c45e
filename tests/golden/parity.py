"""A network built from an oracle's state dict alone, and compared with its authors' in all that the oracle records."""

from __future__ import annotations

import torch
from torch import Tensor

from dynres.build import build_restorer
from dynres.contracts import Task
from dynres.interop.official import from_official, official_names, recognise, to_official
from dynres.restorer import Restorer
from tests.golden.fill import Oracle, assert_parity, oracle

GRADIENT = 1e-4  # relative


def rebuilt(model: str) -> tuple[Restorer, Oracle]:
    """The network that `recognise` reads off the official state dict, with the oracle's weights, in evaluation mode."""
    reference = oracle(model)
    state = reference.weights() | mean_shift(reference)
    found = recognise(state)
    assert found is not None, f"{model} is not recognised"
    restorer = build_restorer(found)
    restorer.load_state_dict(from_official(state, restorer), strict=True)
    return restorer.eval(), reference


def mean_shift(reference: Oracle) -> dict[str, Tensor]:
    """The mean shift, which tells the range of values, and which the fill rule leaves as the constructor made it."""
    span, shift = reference.facts["config"].get("rgb_range", 1), {}
    for key in reference.keys:
        *_, module, leaf = ("", *key.split("."))
        if sign := {"sub_mean": -1.0, "add_mean": 1.0}.get(module):
            mean = sign * span * torch.tensor([0.4488, 0.4371, 0.4040])
            shift[key] = mean if leaf == "bias" else torch.eye(3).view(3, 3, 1, 1)
    return shift


def assert_names(restorer: Restorer, reference: Oracle) -> None:
    """Exported keys and shapes are exactly the official ones; so is the number of trainable weights."""
    exported = {key: tuple(value.shape) for key, value in to_official(restorer).items()}
    assert exported == reference.keys


def forward(restorer: Restorer, reference: Oracle, case: str) -> Tensor:
    """The network's output on a case's input, in the oracle's range of values, not clamped.

    Of a network with an implicit upsampler: colours of a whole grid of queries with one cell, or the features alone
    where a case has no queries; its images are stored as the network sees them.
    """
    if f"{case}.inp" in reference.arrays:
        return _queried(restorer, reference, case)
    image, expected = reference.array(f"{case}.input"), reference.array(f"{case}.output")
    span = 255.0 if image.max() > 2 else 1.0  # the classical networks' inputs are stored as 8-bit values
    sigma = f"{case}.sigma"
    noise = reference.array(sigma).flatten() if sigma in reference.arrays else None
    features = restorer.backbone(restorer.pixels.normal(image / span), Task(noise=noise))
    size = (expected.shape[-2], expected.shape[-1])
    return span * restorer.pixels.colours(restorer.upsampler.decode(features, size), 1)


def _queried(restorer: Restorer, reference: Oracle, case: str) -> Tensor:
    image, facts = reference.array(f"{case}.inp"), reference.facts["cases"][case]
    scale = torch.full((len(image),), facts["scale"]) if "scale" in facts else None
    features = restorer.backbone(image, Task(scale, budget=1.0 if case == "entire_net" else None))
    if f"{case}.coord" not in reference.arrays:
        return features.map
    coords = reference.array(f"{case}.coord")
    cell = reference.array(f"{case}.cell")[:, None].expand(-1, coords[0, ..., 0].numel(), -1)
    colours = restorer.upsampler.query(features, coords.flatten(1, 2), cell)
    return colours.transpose(1, 2).unflatten(2, coords.shape[1:3])


def assert_forward(restorer: Restorer, reference: Oracle, case: str, what: str) -> None:
    """Within 2e-5 of the largest output."""
    with torch.no_grad():
        ours = forward(restorer, reference, case)
    assert_parity(ours, reference.array(f"{case}.output"), what)


def assert_gradient(restorer: Restorer, reference: Oracle, case: str) -> None:
    """Sum of |d mean|output| / d parameter| of the recorded parameter, to 1e-4 relative."""
    restorer.zero_grad()
    loss = forward(restorer, reference, case).abs().mean()
    loss.backward()
    ours = {theirs: key for key, theirs in official_names(restorer).items()}
    gradient = restorer.get_parameter(ours[str(reference.arrays[f"{case}.grad_name"])]).grad
    assert gradient is not None
    total, expected = gradient.double().abs().sum().item(), float(reference.arrays[f"{case}.grad_abs_sum"])
    assert abs(loss.item() / float(reference.arrays[f"{case}.loss"]) - 1) <= GRADIENT
    assert abs(total / expected - 1) <= GRADIENT, f"gradient {total:.8g} against {expected:.8g}"
