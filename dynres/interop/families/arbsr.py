"""ArbRCAN (LongguangWang/ArbSR)."""

from __future__ import annotations

from dynres.backbones.arbrcan import ArbRCAN
from dynres.interop.families import edsr, rcan
from dynres.interop.family import Description, Family, Naming, Node, State, mean_shift, network, value_range
from dynres.layers.pixels import DIV2K_MEAN
from dynres.restorer import Restorer
from dynres.upsamplers.arbsr import ArbSRUpsampler
from dynres.upsamplers.implicit import ImplicitUpsampler

COUNTER = ".num_batches_tracked"
_MASK_CONVS, _MASK_NORMS = (0, 4, 7, 11), (1, 5, 8, 12)
_UPSAMPLER = ((r"last\.", "tail.1."), ("", "sa_upsample."))


def extractor(state: State) -> Node | None:
    """Never published under an implicit upsampler."""
    return None


def whole(state: State) -> Description | None:
    """RCAN's body, sa_adapt.N.{mask,adapt}, sa_upsample and tail.1, and nothing else."""
    sizes = rcan.body(state)
    if sizes is None:
        return None
    layers = ["head.0", *rcan.convolutions(sizes), "tail.1"]
    alone = ["sa_upsample.weight_compress", "sa_upsample.weight_expand"]
    layers += [f"sa_upsample.{name}" for name in ("body.0", "body.2", "routing.0", "offset")]
    for adaption in (f"sa_adapt.{group}" for group in range(sizes["groups"])):
        layers += [f"{adaption}.mask.{layer}" for layer in (*_MASK_CONVS, *_MASK_NORMS)]
        layers += [f"{adaption}.adapt.routing.{layer}" for layer in (0, 2)]
        alone += [f"{adaption}.adapt.weight_pool"]
        alone += [f"{adaption}.mask.{norm}.running_{of}" for norm in _MASK_NORMS for of in ("mean", "var")]
    weights = {key: value for key, value in state.items() if not key.endswith(COUNTER)}
    if not edsr.holds_only(weights, *layers, alone=alone):
        return None
    kernels, filters = (len(state[key]) for key in ("sa_adapt.0.adapt.weight_pool", "sa_upsample.weight_compress"))
    backbone = {"_target_": "dynres.backbones.arbrcan.ArbRCAN", **sizes, "experts": kernels}
    upsampler = {"_target_": "dynres.upsamplers.arbsr.ArbSRUpsampler", "experts": filters}
    return network(backbone, upsampler, DIV2K_MEAN, value_range(state))


def naming(restorer: Restorer) -> Naming:
    """The extractor's names are theirs already; with their own upsampler comes their mean shift.

    Raises:
        ValueError: under another head that gives whole images: no public code has that.
    """
    head = restorer.upsampler
    if isinstance(head, ImplicitUpsampler):
        return Naming()
    if not isinstance(head, ArbSRUpsampler):
        raise ValueError(f"ArbRCAN has an authors' form only under upsampler=arbsr, not under {type(head).__name__}")
    return Naming((), _UPSAMPLER, mean_shift(restorer.pixels.factor))


FAMILY = Family("ArbRCAN", (ArbRCAN,), extractor, whole, naming)
