"""Laws of every arbitrary-scale upsampler: one function in two forms, at any size, in bounded pieces."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from dynres.contracts import Features
from dynres.layers.sampling import bicubic_grid, bilinear_grid, grid_coords
from dynres.upsamplers.base import Upsampler
from dynres.upsamplers.bicubic import Bicubic
from dynres.upsamplers.implicit import ImplicitUpsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.lte_fast import LTEFast
from dynres.upsamplers.metasr import MetaSR
from dynres.upsamplers.srno import SRNO

CONF = Path(__file__).resolve().parents[2] / "conf" / "upsampler"
CHANNELS = 5
BUILD: dict[str, Callable[[], Upsampler]] = {
    "liif": partial(LIIF, CHANNELS, hidden=12, layers=2),
    "liif_no_ensemble": partial(LIIF, CHANNELS, hidden=12, layers=2, local_ensemble=False),
    "liif_no_unfold": partial(LIIF, CHANNELS, hidden=12, layers=1, feat_unfold=False),
    "liif_no_cell": partial(LIIF, CHANNELS, hidden=12, layers=3, cell_decode=False),
    "metasr": partial(MetaSR, CHANNELS, hidden=10),
    "lte": partial(LTE, CHANNELS, hidden_dim=12, layers=2),
    "lte_fast": partial(LTEFast, CHANNELS, hidden_dim=12, layers=2),
    "srno": partial(SRNO, CHANNELS, width=12, heads=3),
    "bicubic": partial(Bicubic, CHANNELS),
}
LEARNED = [name for name in BUILD if name != "bicubic"]
every = pytest.mark.parametrize("name", BUILD)
learned = pytest.mark.parametrize("name", LEARNED)


def build(name: str) -> Upsampler:
    torch.manual_seed(0)
    return BUILD[name]().eval()


def features(batch: int, height: int, width: int) -> Features:
    random = torch.Generator().manual_seed(1)
    return Features(
        torch.randn(batch, CHANNELS, height, width, generator=random),
        torch.rand(batch, 3, height, width, generator=random) * 2 - 1,
    )


def at_pixel_centres(upsampler: Upsampler, given: Features, size: tuple[int, int]) -> torch.Tensor:
    """What `query` gives at every pixel centre, as an image."""
    coords = grid_coords(size).expand(len(given.map), -1, -1)
    cell = torch.tensor([2 / size[0], 2 / size[1]])
    if isinstance(upsampler, ImplicitUpsampler):
        cell = upsampler.decode_cell(given, size)
    with torch.no_grad():
        colour = upsampler.query(given, coords, cell.expand_as(coords))
    return colour.transpose(1, 2).reshape(len(given.map), 3, *size)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


@every
@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    more=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    chunk=st.integers(1, 400),
    lifted=st.integers(1, 40),
)
def test_decode_is_query_at_every_pixel_centre(
    name: str, batch: int, shape: tuple[int, int], more: tuple[int, int], chunk: int, lifted: int
) -> None:
    """Any size, axis by axis, borders included, in whatever pieces it is computed."""
    upsampler, given = build(name), features(batch, *shape)
    upsampler.chunk_pixels, upsampler.lifted_pixels = chunk, lifted  # type: ignore[assignment]
    size = (shape[0] + more[0], shape[1] + more[1])
    with torch.inference_mode():
        decoded = upsampler.decode(given, size)
    error = difference(decoded, at_pixel_centres(upsampler, given, size))
    assert error <= 1e-5, f"decode differs from query by {error:.3g} at {shape} -> {size}"


@every
@pytest.mark.parametrize("size", [(40, 52), (25, 33), (61, 14), (300, 390)])
def test_decode_with_the_pieces_it_ships_with_is_query(name: str, size: tuple[int, int]) -> None:
    upsampler, given = build(name), features(2, 10, 13)
    error = difference(upsampler.decode(given, size).detach(), at_pixel_centres(upsampler, given, size))
    assert error <= 1e-5, f"decode differs from query by {error:.3g} at {size}"


@every
def test_a_sample_alone_equals_the_sample_in_a_batch(name: str) -> None:
    upsampler, both = build(name), features(2, 6, 7)
    coords, cell = torch.rand(2, 50, 2) * 2 - 1, torch.rand(2, 50, 2) * 0.1
    together = upsampler.query(both, coords, cell)
    for i in (0, 1):
        one = Features(both.map[i : i + 1], both.image[i : i + 1])
        alone = upsampler.query(one, coords[i : i + 1], cell[i : i + 1])[0]
        assert difference(together[i], alone) <= 1e-6
        assert difference(upsampler.decode(both, (15, 16))[i], upsampler.decode(one, (15, 16))[0]) <= 1e-6


@learned
def test_decode_reads_no_more_features_at_a_time_than_its_pieces(name: str) -> None:
    """Memory is bounded: no intermediate has more rows than a chunk, no lifted table more than its band."""
    upsampler = build(name)
    assert isinstance(upsampler, ImplicitUpsampler)
    upsampler.chunk_pixels, upsampler.lifted_pixels = 128, 4 * 8
    tables, calls = [], []
    colouring = upsampler.colouring

    def watched(*args):  # type: ignore[no-untyped-def]
        lift, colours = colouring(*args)

        def coloured(lifted, *rest):  # type: ignore[no-untyped-def]
            tables.append(lifted.rows)
            calls.append(len(out := colours(lifted, *rest)))
            return out

        return lift, coloured

    upsampler.colouring = watched  # type: ignore[method-assign]
    upsampler.decode(features(1, 40, 8), (119, 25))  # whole factors take another way in MetaSR
    assert sum(calls) == 119 * 25 and max(calls) <= 128, f"chunks of {max(calls)} pixels"
    assert max(tables) <= 4 + 2, f"bands of {max(tables)} rows"


@learned
@pytest.mark.parametrize("size", [(12, 14), (19, 25)])
def test_macs_formula_is_what_torch_counts(name: str, size: tuple[int, int]) -> None:
    upsampler, given = build(name), features(1, 6, 7)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        upsampler.decode(given, size)
    counted = counter.get_total_flops() // 2
    if name == "metasr" and size == (
        19,
        25,
    ):  # products of a pixel's own with each colour's, which torch does not count
        counted += 3 * BUILD[name]().hidden * 19 * 25  # type: ignore[operator]
    assert upsampler.macs(6, 7, size) == counted


@given(
    batch=st.integers(1, 2), height=st.integers(1, 9), width=st.integers(1, 9), down=st.integers(1, 5),
    right=st.integers(1, 5), rows=st.integers(1, 4),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_filters_that_repeat_give_what_each_pixel_for_itself_does(
    batch: int, height: int, width: int, down: int, right: int, rows: int
) -> None:
    """MetaSR at whole factors by axis, in bands of any height, against the way of all other factors."""
    upsampler, some, size = build("metasr"), features(batch, height, width), (height * down, width * right)
    upsampler.lifted_pixels = rows * width  # type: ignore[assignment]
    with torch.no_grad():
        assert difference(upsampler.decode(some, size), ImplicitUpsampler.decode(upsampler, some, size)) <= 1e-5  # type: ignore[arg-type]


def test_bicubic_spends_no_macs() -> None:
    assert build("bicubic").macs(100, 100, (400, 400)) == 0


@learned
def test_every_parameter_gets_a_gradient_from_query(name: str) -> None:
    upsampler, given = build(name).train(), features(2, 6, 7)
    given.map.requires_grad_()
    upsampler.query(given, torch.rand(2, 200, 2) * 2 - 1, torch.rand(2, 200, 2) * 0.2).pow(2).mean().backward()
    without = [key for key, p in upsampler.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == [] and given.map.grad is not None and bool((given.map.grad != 0).any())


@learned
def test_query_gradient_is_the_derivative(name: str) -> None:
    """The lifted form, in double precision, against finite differences in the features."""
    upsampler, given = build(name).double(), features(1, 3, 4)
    coords, cell = torch.rand(1, 6, 2, dtype=torch.double) * 2 - 1, torch.full((1, 6, 2), 0.1, dtype=torch.double)
    image = given.image.double()

    def colour(feature_map: torch.Tensor) -> torch.Tensor:
        return upsampler.query(Features(feature_map, image), coords, cell)

    assert torch.autograd.gradcheck(colour, (given.map.double().requires_grad_(),))


@learned
def test_autocast_rounds_colours_but_moves_no_pixel(name: str) -> None:
    """A wrong neighbour would show as an error of the order of the features, far above bfloat16's 8 bits."""
    upsampler, given = build(name), features(1, 30, 37)
    exact = upsampler.decode(given, (101, 111)).detach()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rounded = upsampler.decode(given, (101, 111))
        sampled = at_pixel_centres(upsampler, given, (101, 111))
    assert rounded.dtype == torch.float32
    spread = exact.abs().max().item()
    assert difference(rounded, exact) < 0.03 * spread, f"{difference(rounded, exact):.3g} of {spread:.3g}"
    assert difference(sampled, exact) < 0.03 * spread, f"{difference(sampled, exact):.3g} of {spread:.3g}"


@every
def test_half_precision_coordinates_are_refused(name: str) -> None:
    coords = torch.zeros(1, 4, 2, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="half precision picks wrong pixels"):
        build(name).query(features(1, 5, 5), coords, coords)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LIIF(64, hidden=0), "LIIF needs hidden of at least 1, got 0"),
        (lambda: LIIF(64, layers=0), "LIIF needs layers of at least 1, got 0"),
        (lambda: MetaSR(0), "MetaSR needs in_channels of at least 1, got 0"),
        (lambda: MetaSR(64, hidden=-3), "MetaSR needs hidden of at least 1, got -3"),
        (lambda: LTE(64, layers=0), "LTE needs layers of at least 1, got 0"),
        (lambda: LTE(64, hidden_dim=255), "LTE needs an even hidden_dim .* got 255"),
        (lambda: LTEFast(64, hidden_dim=7), "LTEFast needs an even hidden_dim .* got 7"),
        (lambda: SRNO(64, width=0), "SRNO needs width of at least 1, got 0"),
        (lambda: SRNO(64, width=12, heads=5), "heads of 2 channels or more each, got width 12, 5 heads"),
        (lambda: SRNO(64, width=4, heads=4), "heads of 2 channels or more each, got width 4, 4 heads"),
    ],
)
def test_impossible_options_are_refused_by_name_and_value(call: Callable[[], Upsampler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("file", "parameters"),
    [
        ("liif", 346_883),
        ("metasr", 445_120),
        ("lte", 493_827),
        ("lte_fast", 493_827),
        ("srno", 794_883),
        ("arbsr", 10_697),
        ("bicubic", 0),
    ],
)
def test_configuration_builds_the_published_upsampler(file: str, parameters: int) -> None:
    upsampler = instantiate(OmegaConf.load(CONF / f"{file}.yaml"), in_channels=64)
    assert sum(p.numel() for p in upsampler.parameters()) == parameters


def test_every_upsampler_has_a_configuration_here() -> None:
    any_scale = {"liif", "metasr", "lte", "lte_fast", "srno", "arbsr", "bicubic"}
    grids = {"pixelshuffle", "pixelshuffle_direct", "nearest_conv", "same_size", "as_image"}  # test_grid.py
    assert {path.stem for path in CONF.glob("*.yaml")} == any_scale | grids


# What each network is, beyond its numbers.


def test_lte_cell_never_falls_below_that_of_scale_4() -> None:
    """max(s / 4, 1) times the pixel, by axis: exact up to x4, constant relative to the input beyond."""
    lte, given = LTE(CHANNELS, 8, 1), features(1, 6, 7)
    torch.testing.assert_close(lte.decode_cell(given, (24, 28)), torch.tensor([2 / 24, 2 / 28]), rtol=0, atol=0)
    torch.testing.assert_close(lte.decode_cell(given, (39, 14)), torch.tensor([2 / 39 * 6.5 / 4, 2 / 14]))
    torch.testing.assert_close(lte.decode_cell(given, (180, 210)), torch.tensor([0.5 / 6, 0.5 / 7]))


def test_lte_adds_the_bilinear_enlargement() -> None:
    lte, given = LTE(CHANNELS, 8, 1), features(1, 6, 7)
    dark = Features(given.map, torch.zeros_like(given.image))
    gain = lte.decode(given, (17, 20)) - lte.decode(dark, (17, 20))
    torch.testing.assert_close(gain, bilinear_grid(given.image, (17, 20)))


def test_bicubic_upsampler_is_the_bicubic_image() -> None:
    given = features(1, 6, 7)
    assert torch.equal(Bicubic(3).decode(given, (17, 20)), bicubic_grid(given.image, (17, 20)))


def test_liif_without_cell_ignores_it_and_with_it_does_not() -> None:
    given, coords = features(1, 6, 7), torch.rand(1, 30, 2) * 2 - 1
    small, large = torch.full((1, 30, 2), 0.01), torch.full((1, 30, 2), 0.3)
    for name, ignores in (("liif_no_cell", True), ("liif", False)):
        upsampler = build(name)
        assert torch.equal(upsampler.query(given, coords, small), upsampler.query(given, coords, large)) == ignores


@pytest.mark.parametrize(("name", "continuous"), [("liif", True), ("liif_no_ensemble", False)])
def test_the_ensemble_removes_the_jump_between_pixels(name: str, continuous: bool) -> None:
    """Colours just left and right of where the nearest pixel changes: equal to the first order with the ensemble."""
    upsampler, given = build(name), features(1, 8, 8)
    middle = torch.tensor([[[0.07, 0.25], [0.07, -0.25], [0.07, 0.5]]])  # borders of pixels of 8
    centre = torch.tensor([[[0.07, 0.125], [0.07, -0.125], [0.07, 0.375]]])  # where the ensemble's corners change
    at = centre if continuous else middle
    step, cell = torch.tensor([0.0, 2e-5]), torch.full((1, 3, 2), 0.1)
    jump = difference(upsampler.query(given, at - step, cell), upsampler.query(given, at + step, cell))
    assert (jump < 1e-3) == continuous, f"jump of {jump:.3g}"
