"""ArbSR: parity of ArbRCAN and its upsampler with the authors' numbers, and the laws of its grids at any scale."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dynres.backbones.arbrcan import ArbRCAN
from dynres.backbones.base import Backbone
from dynres.contracts import Features, Task
from dynres.interop.families import FAMILIES
from dynres.interop.official import recognise, to_official
from dynres.layers.sampling import grid_coords
from dynres.restorer import Restorer
from dynres.upsamplers import arbsr
from dynres.upsamplers.arbsr import ArbSRUpsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.pixelshuffle import PixelShuffle
from tests.golden.fill import Oracle, assert_parity
from tests.golden.parity import assert_names, mean_shift, rebuilt

CHANNELS = 9
SMALL = {"channels": 8, "groups": 2, "blocks": 1, "reduction": 4, "experts": 3}


@pytest.fixture(scope="module")
def pair() -> tuple[Restorer, Oracle]:
    """The network that is read off the authors' state dict, with the oracle's weights."""
    return rebuilt("arbrcan")


@pytest.fixture
def arb() -> ArbSRUpsampler:
    torch.manual_seed(0)
    return ArbSRUpsampler(CHANNELS, experts=3)


def features(batch: int = 2, height: int = 6, width: int = 7) -> Features:
    random = torch.Generator().manual_seed(1)
    return Features(
        torch.randn(batch, CHANNELS, height, width, generator=random),
        torch.rand(batch, 3, height, width, generator=random) * 2 - 1,
    )


def forward(restorer: Restorer, reference: Oracle, case: str) -> torch.Tensor:
    """The output of a case, at its nominal scales."""
    facts, image = reference.facts["cases"][case], reference.array(f"{case}.input")
    height, width = facts["output"][2:]
    scale = facts["scale"], facts["scale2"]
    axes = torch.tensor([scale]).expand(len(image), 2)
    given = restorer.backbone(restorer.pixels.normal(image), Task(axes=axes))
    assert isinstance(restorer.upsampler, ArbSRUpsampler)
    restorer.upsampler.align_corners = facts["align_corners"]
    return restorer.pixels.colours(restorer.upsampler.decode(given, (height, width), scale), 1)


def test_it_is_recognised_and_exported_by_the_authors_names(pair: tuple[Restorer, Oracle]) -> None:
    restorer, reference = pair
    assert isinstance(restorer.backbone, ArbRCAN) and isinstance(restorer.upsampler, ArbSRUpsampler)
    assert_names(restorer, reference)
    assert sum(p.numel() for p in restorer.parameters()) == reference.facts["trainable_params"] == 16_926_127


@pytest.mark.parametrize("case", ["a", "b", "c", "d"])
def test_output_equals_the_authors(pair: tuple[Restorer, Oracle], case: str) -> None:
    """a: another scale by axis; c: a size that rounding moved off its scale; d: corners not aligned."""
    with torch.no_grad():
        assert_parity(forward(*pair, case), pair[1].array(f"{case}.output"), case)


def test_gradient_equals_the_authors(pair: tuple[Restorer, Oracle]) -> None:
    restorer, reference = pair
    restorer.zero_grad()
    loss = forward(restorer, reference, "a").abs().mean()
    loss.backward()
    gradient = restorer.get_parameter(f"backbone.{reference.arrays['a.grad_name']}").grad
    assert gradient is not None
    assert loss.item() == pytest.approx(float(reference.arrays["a.loss"]), rel=1e-5)
    expected = float(reference.arrays["a.grad_abs_sum"])
    assert gradient.double().abs().sum().item() == pytest.approx(expected, rel=1e-4)


def test_the_range_of_values_is_read_off_the_mean_shift(pair: tuple[Restorer, Oracle]) -> None:
    """1 in the oracle, 255 in the authors' scripts."""
    state = pair[1].weights() | mean_shift(pair[1])
    for span in (1.0, 255.0):
        found = recognise(state | {"sub_mean.bias": span * state["sub_mean.bias"]})
        assert found is not None and found["pixels"] == {"mean": [0.4488, 0.4371, 0.4040], "factor": span}


def test_sizes_are_read_off_and_a_part_of_it_is_nobodys() -> None:
    state = to_official(Restorer(ArbRCAN(**SMALL), ArbSRUpsampler(8, experts=2)))
    found = recognise(state)
    assert found is not None
    assert found["backbone"] == {"_target_": "dynres.backbones.arbrcan.ArbRCAN", **SMALL}
    assert found["upsampler"] == {"_target_": "dynres.upsamplers.arbsr.ArbSRUpsampler", "experts": 2}
    assert [family.name for family in FAMILIES if family.whole(state)] == ["ArbRCAN"]
    needed = [key for key in state if "_mean." not in key and "num_batches" not in key]
    for missing in needed:
        assert recognise({key: value for key, value in state.items() if key != missing}) is None, missing
    assert recognise(state | {"other": torch.zeros(1)}) is None


def test_other_heads_have_no_authors_form() -> None:
    with pytest.raises(ValueError, match="ArbRCAN has an authors' form only under upsampler=arbsr, not under PixelSh"):
        to_official(Restorer(ArbRCAN(**SMALL), PixelShuffle(8, 2)))
    exported = to_official(Restorer(ArbRCAN(**SMALL), LIIF(8, hidden=4, layers=1)))
    assert {"encoder.sa_adapt.0.adapt.weight_pool", "imnet.layers.0.weight"} <= exported.keys()


@pytest.mark.parametrize("size", [(6, 7), (12, 9), (17, 28)])
def test_query_picks_pixels_of_the_decoded_grid(arb: ArbSRUpsampler, size: tuple[int, int]) -> None:
    given = features()
    pixels = torch.randperm(size[0] * size[1])[:20]
    coords = grid_coords(size)[pixels].expand(2, -1, -1)
    cell = torch.tensor([2 / size[0], 2 / size[1]]).expand_as(coords)
    with torch.no_grad():
        decoded = arb.decode(given, size).flatten(2)[:, :, pixels].transpose(1, 2)
        torch.testing.assert_close(arb.query(given, coords, cell), decoded, rtol=0, atol=1e-6)


def test_images_of_a_batch_may_have_scales_of_their_own(arb: ArbSRUpsampler) -> None:
    given = features()
    coords = torch.rand(2, 30, 2) * 2 - 1
    cell = torch.tensor([[2 / 12, 2 / 14], [2 / 20, 2 / 11]])[:, None].expand_as(coords)
    together = arb.query(given, coords, cell)
    for i in (0, 1):
        one = Features(given.map[i : i + 1], given.image[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], arb.query(one, coords[i : i + 1], cell[i : i + 1]))


def test_cells_that_differ_within_an_image_are_refused(arb: ArbSRUpsampler) -> None:
    cell = torch.full((2, 4, 2), 0.1)
    cell[1, 2, 0] = 0.2
    with pytest.raises(ValueError, match="all queries of an image must have one cell"):
        arb.query(features(), torch.zeros(2, 4, 2), cell)


@pytest.mark.parametrize("band", [1, 40, 97, 10**6])
@pytest.mark.parametrize("size", [(6, 7), (13, 20), (1, 30), (31, 8)])
def test_the_image_does_not_depend_on_the_bands(
    arb: ArbSRUpsampler, size: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = features(2, min(6, size[0]), 7)
    with torch.no_grad():
        whole = arb.decode(given, size)
        monkeypatch.setattr(arbsr, "BAND_PIXELS", band)
        torch.testing.assert_close(arb.decode(given, size), whole, rtol=0, atol=1e-5)


def test_decode_holds_few_rows_at_a_time(arb: ArbSRUpsampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arbsr, "BAND_PIXELS", 4 * 28)
    seen = []
    arb.body.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2]))
    arb.decode(features(1), (48, 28))
    assert max(seen) <= 4 and sum(seen) == 48


@pytest.mark.parametrize("height", [1, 2, 5])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("aligned", [True, False])
def test_any_size_gives_finite_colours(height: int, width: int, aligned: bool) -> None:
    arb = ArbSRUpsampler(CHANNELS, align_corners=aligned)
    size = (round(height * 2.6), round(width * 1.3))
    image = arb.decode(features(1, height, width), size)
    assert image.shape == (1, 3, *size) and bool(image.isfinite().all())


def test_without_offset_and_filters_it_samples_bilinearly(arb: ArbSRUpsampler) -> None:
    """Zero beyond the border, so only pixels away from it can be compared with an interpolation that repeats it."""
    torch.nn.init.zeros_(arb.offset.weight)
    torch.nn.init.zeros_(arb.offset.bias)  # type: ignore[arg-type]
    torch.nn.init.zeros_(arb.weight_expand)
    given = features(1, 8, 9)
    enlarged = torch.nn.functional.interpolate(given.map, (20, 27), mode="bilinear")
    expected = arb.last(enlarged)[..., 4:-4, 4:-4]
    torch.testing.assert_close(arb.decode(given, (20, 27))[..., 4:-4, 4:-4], expected, rtol=0, atol=1e-5)


def test_padding_that_a_backbone_left_is_cropped(arb: ArbSRUpsampler) -> None:
    given = features()
    padded = Features(torch.nn.functional.pad(given.map, (0, 3, 0, 2), value=9.0), given.image)
    assert torch.equal(arb.decode(padded, (13, 20)), arb.decode(given, (13, 20)))


@pytest.mark.parametrize("size", [(12, 14), (19, 25)])
def test_macs_formula_is_what_torch_counts(arb: ArbSRUpsampler, size: tuple[int, int]) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        arb.decode(features(1), size)
    assert 2 * arb.macs(6, 7, size) == counter.get_total_flops()


def test_every_parameter_gets_a_gradient_from_query(arb: ArbSRUpsampler) -> None:
    given = features()
    given.map.requires_grad_()
    coords = torch.rand(2, 90, 2) * 2 - 1
    arb.query(given, coords, torch.full_like(coords, 0.15)).pow(2).mean().backward()
    without = [key for key, p in arb.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == [] and given.map.grad is not None and bool((given.map.grad != 0).any())


def test_zero_output_is_zero(arb: ArbSRUpsampler) -> None:
    arb.zero_output()
    assert not arb.decode(features(), (13, 20)).any()


def test_autocast_keeps_positions_and_gives_float32(arb: ArbSRUpsampler) -> None:
    given = features(1, 30, 37)
    with torch.no_grad():
        exact = arb.decode(given, (101, 111))
        with torch.autocast("cpu", torch.bfloat16):
            half = Features(given.map.bfloat16(), given.image)
            rounded = arb.decode(half, (101, 111))
    assert rounded.dtype == torch.float32
    error, spread = (rounded - exact).abs().max().item(), exact.abs().max().item()
    assert error < 0.03 * spread, f"{error:.3g} of {spread:.3g}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((7, 4), "needs at least 8 channels, got 7"),
        ((8, 0), "ArbSRUpsampler needs experts of at least 1, got 0"),
    ],
)
def test_impossible_options_are_refused_by_name_and_value(options: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArbSRUpsampler(*options)


class Told(Backbone):
    """Keeps the tasks it was given."""

    out_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[Task] = []

    def forward(self, image: torch.Tensor, task: Task) -> Features:
        self.tasks.append(task)
        return Features(image.repeat(1, 3, 1, 1), image)


def test_a_restored_image_tells_its_backbone_both_scales() -> None:
    """The ratios of the sizes, axis by axis; their geometric mean beside them."""
    told = Told()
    Restorer(told, ArbSRUpsampler(CHANNELS)).restore(torch.rand(2, 3, 8, 10), size=(12, 35))
    axes, scale = told.tasks[0].axes, told.tasks[0].scale
    assert axes is not None and torch.equal(axes, torch.tensor([[1.5, 3.5], [1.5, 3.5]]))
    torch.testing.assert_close(scale, torch.tensor([5.25, 5.25]).sqrt())
