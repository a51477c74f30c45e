"""SRNO: parity with the authors' numbers, and attention over all pixels in bounded memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from dynres.contracts import Features, Task
from dynres.layers.galerkin import GalerkinBlock, HeadNorm
from dynres.layers.sampling import bilinear_grid, grid_coords
from dynres.restorer import Restorer
from dynres.upsamplers.srno import SRNO
from tests.golden.fill import Oracle, assert_parity
from tests.golden.parity import assert_names, rebuilt

CASES = ["grid", "grid_int", "strip"]


@pytest.fixture(scope="module")
def pair() -> tuple[Restorer, Oracle]:
    """The network that is read off the authors' state dict, with the oracle's weights."""
    return rebuilt("srno_edsr_baseline")


def sent(reference: Oracle, case: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(image, coords (B, Q, 2), cell (B, Q, 2)) of a case that sends a grid of queries with one cell an image."""
    coords = reference.array(f"{case}.coord").flatten(1, 2)
    return reference.array(f"{case}.inp"), coords, reference.array(f"{case}.cell")[:, None].expand_as(coords)


def small(width: int = 12, heads: int = 3) -> SRNO:
    torch.manual_seed(0)
    return SRNO(5, width, heads)


def features(height: int = 6, width: int = 7) -> Features:
    random = torch.Generator().manual_seed(1)
    return Features(
        torch.randn(2, 5, height, width, generator=random), torch.rand(2, 3, height, width, generator=random)
    )


def test_it_is_recognised_and_exported_by_the_authors_names(pair: tuple[Restorer, Oracle]) -> None:
    restorer, reference = pair
    assert isinstance(restorer.upsampler, SRNO)
    assert_names(restorer, reference)
    assert sum(p.numel() for p in restorer.parameters()) == reference.facts["trainable_params"] == 2_015_299


@pytest.mark.parametrize("case", CASES)
def test_query_equals_the_authors(pair: tuple[Restorer, Oracle], case: str) -> None:
    """Also where only the first rows of the grid are sent, which then attend to nothing else."""
    restorer, reference = pair
    image, coords, cell = sent(reference, case)
    expected = reference.array(f"{case}.output")
    with torch.no_grad():
        colour = restorer.upsampler.query(restorer.backbone(image, Task()), coords, cell)
    assert_parity(colour.transpose(1, 2).unflatten(2, expected.shape[2:]), expected, case)


@pytest.mark.parametrize("case", ["grid", "grid_int"])
@pytest.mark.parametrize(("chunk", "lifted"), [(1, 1), (100, 60), (10**6, 10**6)])
def test_decode_equals_the_authors_in_any_pieces(
    pair: tuple[Restorer, Oracle], case: str, chunk: int, lifted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer, reference = pair
    monkeypatch.setattr(restorer.upsampler, "chunk_pixels", chunk)
    monkeypatch.setattr(restorer.upsampler, "lifted_pixels", lifted)
    expected = reference.array(f"{case}.output")
    with torch.no_grad():
        given = restorer.backbone(reference.array(f"{case}.inp"), Task())
        decoded = restorer.upsampler.decode(given, (expected.shape[2], expected.shape[3]))
    assert_parity(decoded, expected, case)


def test_gradient_equals_the_authors(pair: tuple[Restorer, Oracle]) -> None:
    restorer, reference = pair
    restorer.zero_grad()
    image, coords, cell = sent(reference, "grid")
    loss = restorer.upsampler.query(restorer.backbone(image, Task()), coords, cell).abs().mean()
    loss.backward()
    name = str(reference.arrays["grid.grad_name"]).replace("encoder.", "backbone.")
    gradient = restorer.get_parameter(name).grad
    assert gradient is not None
    assert loss.item() == pytest.approx(float(reference.arrays["grid.loss"]), rel=1e-5)
    expected = float(reference.arrays["grid.grad_abs_sum"])
    assert gradient.double().abs().sum().item() == pytest.approx(expected, rel=1e-4)


def test_decode_spends_two_thirds_of_what_the_public_code_does() -> None:
    """806 144 MACs a query there; at x4, here, with three passes instead of 1 KB held for each pixel."""
    assert SRNO(64).macs(100, 100, (400, 400)) / 400**2 / 806_144 == pytest.approx(0.63, abs=0.02)


def test_decode_holds_no_more_than_a_chunk_of_any_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block sees more pixels at a time, whatever the size of the image; each sees every pixel once."""
    srno = small()
    seen: list[int] = []
    srno.chunk_pixels, srno.lifted_pixels = 64, 30
    for block in srno.blocks:
        monkeypatch.setattr(block, "products", _watched(block.products, seen))
    srno.decode(features(), (48, 28))
    assert max(seen) <= 64 and sum(seen) == 2 * 2 * 48 * 28  # images x blocks x pixels


def _watched(function, seen):  # type: ignore[no-untyped-def]
    def watched(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[0] * x.shape[1])
        return function(x)

    return watched


def test_every_pixel_hears_of_every_other() -> None:
    """A change of the features in one corner reaches the opposite one, in `decode` and in `query` alike."""
    srno, given = small().eval(), features(8, 8)
    changed = given.map.clone()
    changed[..., 0, 0] += 3
    other = Features(changed, given.image)
    coords = grid_coords((16, 16)).expand(2, -1, -1)
    cell = torch.full_like(coords, 2 / 16)
    with torch.no_grad():
        near, far = ((srno.decode(one, (16, 16))[..., -1, -1]) for one in (given, other))
        assert (near - far).abs().max() > 1e-6
        near, far = (srno.query(one, coords, cell)[:, -1] for one in (given, other))
        assert (near - far).abs().max() > 1e-6
        near, far = (srno.query(one, coords[:, -4:], cell[:, -4:]) for one in (given, other))
        assert torch.equal(near, far), "queries that are not sent must not be heard"


def test_cell_never_falls_below_that_of_scale_4() -> None:
    srno, given = small(), features()
    torch.testing.assert_close(srno.decode_cell(given, (24, 14)), torch.tensor([2 / 24, 2 / 14]), rtol=0, atol=0)
    torch.testing.assert_close(srno.decode_cell(given, (180, 210)), torch.tensor([0.5 / 6, 0.5 / 7]))


def test_zero_output_leaves_the_bilinear_image() -> None:
    srno, given = small(), features()
    srno.zero_output()
    assert torch.equal(srno.decode(given, (13, 20)), bilinear_grid(given.image, (13, 20)))


def test_head_norm_is_the_unbiased_one_with_epsilon_outside_the_root() -> None:
    x, norm = torch.randn(2, 3, 5, 4) * 1e-5, HeadNorm(3, 4)
    torch.testing.assert_close(norm(x), (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5))
    flat = torch.ones(1, 3, 1, 4, requires_grad=True)
    norm(flat).sum().backward()
    assert flat.grad is not None and bool(flat.grad.isfinite().all())


def test_contexts_add_up_and_stay_precise_under_autocast() -> None:
    """The sum of k^T v over all queries is the sum over parts of them, in float32 whatever autocast says."""
    torch.manual_seed(0)
    block, x = GalerkinBlock(16, 4), torch.randn(2, 300, 32)
    parts = [block.products(x[:, a:b]) for a, b in pairwise((0, 1, 100, 300))]
    torch.testing.assert_close(sum(parts), block.products(x), rtol=1e-5, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert block.products(x).dtype == torch.float32
