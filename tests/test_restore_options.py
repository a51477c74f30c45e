"""Options of `Restorer.restore` and what it promises of memory: precision, compile, tile="auto", halos, peaks."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynres.backbones.arbrcan import ScaleAwareConv
from dynres.backbones.base import Backbone
from dynres.backbones.edsr import EDSR
from dynres.backbones.han import LayerAttention
from dynres.backbones.identity import Identity
from dynres.backbones.san import SecondOrderAttention
from dynres.backbones.tadt import TADT
from dynres.build import compose_checked
from dynres.contracts import Features, Task
from dynres.cost import memory
from dynres.errors import UserError
from dynres.layers import sparse_attention
from dynres.layers.cross_layer import CrossLayerAttention
from dynres.layers.pixels import Pixels
from dynres.layers.sparse_attention import SparseAttention
from dynres.nodes import make
from dynres.restorer import Restorer
from dynres.tiles import fitting_tile, least_tile
from dynres.upsamplers.arbsr import ArbSRUpsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE
from dynres.upsamplers.metasr import MetaSR
from dynres.upsamplers.same_size import AsImage

CONF = Path(__file__).resolve().parent.parent / "conf"
NAMES = sorted(file.stem for file in (CONF / "backbone").glob("*.yaml"))


def published(name: str, profile: str = "paper") -> Backbone:
    """A backbone of conf/backbone."""
    cfg = compose_checked([f"backbone={name}", "upsampler=liif", "method=assr", f"profile={profile}"])
    backbone: Backbone = make(cfg.backbone, "backbone")
    return backbone


def smoke(name: str) -> Backbone:
    """The same at its smallest size, every weight of which matters."""
    torch.manual_seed(0)
    backbone = published(name, "smoke")
    with torch.no_grad():
        for parameter in backbone.parameters():
            if not parameter.any():  # attention that begins as the identity
                nn.init.normal_(parameter, std=0.2)
        for part in backbone.modules():
            if isinstance(part, CrossLayerAttention) and part.query.bias is not None:
                part.query.bias[: 2 * part.maps * part.keys] *= -200  # offsets begin small, and may go anywhere
    return backbone.eval()


def liif(channels: int = 8, blocks: int = 2, image_skip: bool = False) -> Restorer:
    torch.manual_seed(0)
    return Restorer(EDSR(channels, blocks, 1.0), LIIF(channels, hidden=16, layers=2), image_skip).eval()


def images(height: int = 20, width: int = 26) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------------ halo


@pytest.mark.parametrize("name", NAMES)
def test_a_network_says_how_far_it_looks(name: str) -> None:
    """Pixels farther than `halo` from a column change its features if, and only if, the network is `unbounded`."""
    backbone = smoke(name).double()
    cut = backbone.halo + 48
    image = torch.rand(1, backbone.image_channels, 16, cut + backbone.halo + 50, dtype=torch.double)
    task = Task(scale=torch.full((1,), 2.0), noise=torch.full((1,), 0.1), seed=torch.zeros(1, dtype=torch.long))
    other = image.clone()
    other[..., cut:] = 1 - other[..., cut:]
    with torch.inference_mode():
        before, after = (backbone(x, task).cropped for x in (image, other))
    changed = (before - after).abs().amax(dim=(0, 1, 2)) / before.abs().max()
    far, near = changed[: cut - backbone.halo], changed[cut - backbone.halo :]
    assert near.max() > 1e-3, f"nothing within {backbone.halo} pixels changes"
    if backbone.unbounded:
        assert far.max() > 1e-9, f"says that it is unbounded, and nothing beyond {backbone.halo} pixels changes"
    else:
        assert far.max() < 1e-12, f"pixels beyond {backbone.halo} change the features by {far.max():.1e}"


@pytest.mark.parametrize("name", ["swinir", "cat_r_2", "drunet"])
def test_deep_networks_of_small_windows_are_unbounded_at_their_published_size(name: str) -> None:
    backbone = published(name)
    assert backbone.unbounded and not smoke(name).unbounded


# ------------------------------------------------------------------------------------------------ bfloat16


@pytest.mark.parametrize("name", [name for name in NAMES if name != "identity"])
def test_features_in_bfloat16_are_those_of_float32_to_its_rounding(name: str) -> None:
    """2^-8 a number, and a few layers of that: 3 % of the features' spread."""
    backbone = smoke(name)
    image = 2 * torch.rand(1, backbone.image_channels, 24, 31) - 1
    task = Task(scale=torch.full((1,), 3.3), noise=torch.full((1,), 0.1), seed=torch.zeros(1, dtype=torch.long))
    with torch.inference_mode():
        task = Task(task.scale, seed=task.seed, noise=task.noise, routing=backbone.route(image, task))
        exact = backbone(image, task).cropped
        with torch.autocast("cpu", torch.bfloat16):
            rounded = backbone(image, task).cropped.float()
    error = ((rounded - exact).square().mean().sqrt() / exact.std()).item()
    assert 0 < error < 0.03, f"{error:.4f} of the spread"


@pytest.mark.parametrize("head", [LIIF, LTE, MetaSR, ArbSRUpsampler])
@pytest.mark.parametrize("size", [(40, 52), (47, 90)])
def test_restoring_in_bfloat16_is_close_and_the_image_is_float32(head: Any, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    restorer = Restorer(EDSR(16, 2, 1.0), head(16)).eval()
    image = images()
    exact, rounded = (restorer.restore(image, size=size, precision=p).image for p in ("32", "bf16"))
    assert rounded.dtype == torch.float32
    error = (exact - rounded).abs().max().item()
    assert 0 < error < 3 / 255, f"{255 * error:.2f} levels"


def test_bfloat16_moves_no_branch() -> None:
    """Decisions are drawn against probabilities: one that is rounded would cross many of 64 random numbers."""
    torch.manual_seed(0)
    backbone = TADT(channels=16, groups=2, local_windows=(1, 2, 4), global_window=4, pooled=2, out_channels=8)
    nn.init.normal_(backbone.controller.linear.weight, std=5.0)
    restorer = Restorer(backbone, LIIF(8, hidden=12, layers=2)).eval()
    for seed in range(3):
        args: dict[str, Any] = {"scale": 1.7, "seed": torch.tensor([seed])}
        exact = restorer.restore(images(30), **args).routing
        rounded = [restorer.restore(images(30), precision="bf16", tile=tile, **args) for tile in (None, 20)]
        with torch.autocast("cpu", torch.bfloat16):  # a caller's own, such as Lightning's in a validation
            rounded.append(restorer.restore(images(30), **args))
        for restoration in rounded:
            assert exact is not None and restoration.routing is not None
            assert torch.equal(exact.probabilities, restoration.routing.probabilities)
            assert torch.equal(exact.decisions, restoration.routing.decisions)


def test_pixels_fall_into_the_same_buckets_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    attention, found = SparseAttention(16, 4, 16, 2, 1.0).eval(), []
    real = sparse_attention.nearest_direction

    def recorded(*given: Tensor) -> Tensor:
        found.append(real(*given))
        return found[-1]

    monkeypatch.setattr(sparse_attention, "nearest_direction", recorded)
    x = torch.randn(1, 16, 24, 24)
    with torch.inference_mode():
        attention(x)
        with torch.autocast("cpu", torch.bfloat16):
            attention(x)
    exact, rounded = found[:2], found[2:]
    assert all(torch.equal(a, b) for a, b in zip(exact, rounded, strict=True))


def second_order() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return SecondOrderAttention(16, 4), (torch.randn(1, 16, 20, 20) + torch.randn(1, 1, 20, 20) * 30,)


def layers() -> tuple[nn.Module, tuple[Tensor, ...]]:
    attention = LayerAttention()
    nn.init.constant_(attention.gamma, 1.0)
    x = torch.randn(1, 1, 8, 24, 24).repeat(1, 4, 1, 1, 1) * 3
    return attention, (x + 3e-4 * torch.randn(1, 4, 8, 24, 24),)  # alike: which layer is taken hangs on the last digits


def by_scale() -> tuple[nn.Module, tuple[Tensor, ...]]:
    conv = ScaleAwareConv(8, 4)
    nn.init.constant_(conv.weight_pool, 0.0)
    with torch.no_grad():  # an expert a channel, and shares that hang on the scale: the output shows the shares
        conv.weight_pool[range(4), range(4), range(4), 1, 1] = 1.0
        conv.routing[0].weight.mul_(20)
        conv.routing[2].weight.mul_(20)
    return conv, (torch.ones(1, 8, 4, 4), torch.tensor([[1 / 3.3, 1 / 3.7]]))


@pytest.mark.parametrize("build", [second_order, layers, by_scale])
def test_what_decides_between_channels_layers_and_experts_is_not_rounded(build: Any) -> None:
    """One rounding to bfloat16 may be left, of what is multiplied in the end."""
    module, inputs = build()
    with torch.inference_mode():
        exact = module(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = module(*inputs)
    error = ((exact - rounded).abs().max() / exact.abs().max()).item()
    assert error < 2**-7, f"{error:.4f}"


def test_positions_of_arbsr_and_filters_of_metasr_are_not_rounded() -> None:
    torch.manual_seed(0)
    arbsr = ArbSRUpsampler(8)
    nn.init.normal_(arbsr.offset.weight, std=0.5)
    ramp = torch.linspace(-100, 100, 90).expand(1, 8, 6, 90)
    feature = Features(ramp, torch.zeros(1, 3, 6, 90))
    described: list[Tensor] = []
    arbsr.offset.register_forward_hook(lambda module, inputs, output: described.append(output))
    metasr = MetaSR(8, 16)
    metasr.imnet.layers[-1].register_forward_hook(lambda module, inputs, output: described.append(output))
    with torch.inference_mode():
        for network, size in ((arbsr, (20, 333)), (metasr, (18, 270))):
            described.clear()
            network.decode(feature, size)
            with torch.autocast("cpu", torch.bfloat16):
                network.decode(feature, size)
            half = len(described) // 2
            assert all(torch.equal(a, b) for a, b in zip(described[:half], described[half:], strict=True))


@pytest.mark.parametrize("precision", ["16", "bf16-mixed", 64, None])
def test_another_precision_is_refused_by_name(precision: Any) -> None:
    with pytest.raises(ValueError, match=f"precision must be one of 32, bf16, got {precision}"):
        liif().restore(images(), scale=2, precision=precision)


# ------------------------------------------------------------------------------------------------ compile


@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler on a CPU"
)
def test_a_compiled_backbone_gives_the_same_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = liif()
    first = restorer.restore(images(), scale=2, compile=True).image
    torch.testing.assert_close(first, restorer.restore(images(), scale=2).image, rtol=0, atol=1e-5)
    monkeypatch.setattr(torch, "compile", None)
    again = restorer.restore(images(24, 20), scale=2, compile=True).image
    torch.testing.assert_close(again, restorer.restore(images(24, 20), scale=2).image, rtol=0, atol=1e-5)
    keys = list(restorer.state_dict())
    assert keys == list(liif().state_dict()), "compiling may not add weights"
    for twin in (copy.deepcopy(restorer), pickle.loads(pickle.dumps(restorer))):
        assert twin._compiled is None, "a copy would run the original's weights"
    torch._dynamo.reset()


def test_without_a_compiler_compiling_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(torch._inductor.config, "fx_graph_cache", False)
    torch._dynamo.reset()
    try:
        with pytest.raises(UserError, match=r"compile=true .*C\+\+ compiler") as error:
            liif(channels=6).restore(images(), scale=2, compile=True)
        assert "\n" not in str(error.value)
    finally:
        torch._dynamo.reset()


# ------------------------------------------------------------------------------------------------ tile="auto"


class Greedy(Identity):
    """A backbone that says it needs 1000 bytes a pixel."""

    halo = 4

    def memory(self, height: int, width: int) -> int:
        return 1000 * height * width


def test_an_image_that_fits_is_not_cut_and_another_gets_the_largest_tiles_that_fit() -> None:
    backbone = Greedy()
    for size in ((100, 100), (40, 250), (1000, 300)):
        whole = 1000 * size[0] * size[1]
        assert fitting_tile(backbone, size, 1, whole) is None
        assert fitting_tile(backbone, size, 2, whole) is not None, "a batch of two takes twice the room"
        for room in (whole - 1, whole // 2, whole // 5):
            tile = fitting_tile(backbone, size, 1, room)
            assert (tile is not None and 1000 * tile**2 <= room < 1000 * (tile * 1.2 + 1) ** 2) or tile == max(size) - 1
    assert fitting_tile(backbone, (1000, 1000), 1, -5) == least_tile(backbone)


def test_auto_tiles_follow_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer, image, seen = liif(), images(60, 80), []
    whole = restorer.restore(image, scale=1.5).image
    restorer.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    for free in (10**9, 1_000_000):
        seen.clear()
        monkeypatch.setattr("dynres.restorer.free_memory", lambda device, free=free: free)
        out = restorer.restore(image, scale=1.5, tile="auto").image
        torch.testing.assert_close(out, whole, rtol=0, atol=1e-5)
        real = [size for size in seen if size != (60, 80)]
        assert (len(real) == 0) == (free == 10**9), f"{free} bytes free: {seen}"


@pytest.mark.parametrize("tile", ["large", 2.5, True])
def test_another_tile_is_refused(tile: Any) -> None:
    with pytest.raises(ValueError, match=f"tile must be a whole number of pixels or auto, got {tile}"):
        liif().restore(images(), scale=2, tile=tile)


def test_free_memory_is_what_the_system_says() -> None:
    free = memory.free_memory(torch.device("cpu"))
    assert 10**7 < free < 10**14
    held = torch.ones(50_000_000)  # 200 MB, touched
    less = memory.free_memory(torch.device("cpu"))
    assert held.sum() > 0 and less < free + 10**9


def test_a_system_that_does_not_tell_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", nothing)
    monkeypatch.setattr(memory.os, "sysconf", nothing)
    with pytest.raises(UserError, match="tile=auto cannot see"):
        memory.free_memory(torch.device("cpu"))


def test_counting_memory_sums_what_lives_at_a_time() -> None:
    """Three convolutions hold an input and an output each: two maps, whatever their number."""
    stack = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3)))
    image = torch.empty(1, 8, 100, 100, device="meta")
    assert memory.peak_on_meta(stack, 10_000, image) == 2 * 4 * 8 * 10_000
    assert not any(parameter.is_meta for parameter in stack.parameters())


def test_tables_over_pairs_of_pixels_count_in_pieces() -> None:
    backbone = smoke("rnan")
    small, large = backbone.memory(64, 64), backbone.memory(512, 512)
    assert small < 3 * 4 * 64**4, "at most scores, soft-max and product of 4096 x 4096"
    assert large < 3 * 4 * memory.PAIRS_AT_ONCE + 64 * 4 * 8 * 512**2, f"{large / 1e6:.0f} MB"


# ------------------------------------------------------------------------------------------------ peaks

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
NETWORKS = ["edsr_baseline()", "RCAN(groups=1, blocks=2)", "SwinIR(depths=(2,))", "TADT(groups=1)"]
MEASURE = """
import os, resource, torch
torch.set_num_threads(1)
import dynres
from dynres.backbones.edsr import EDSR, edsr_baseline
from dynres.backbones.rcan import RCAN
from dynres.backbones.swinir import SwinIR
from dynres.backbones.tadt import TADT
from dynres.contracts import Task
from dynres.restorer import Restorer
from dynres.upsamplers.liif import LIIF

def measured(function):
    '''Bytes that a call takes at most, in a process of its own.'''
    read, write = os.pipe()
    if not os.fork():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with torch.inference_mode():
            function()
        os.write(write, str(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)).encode())
        os._exit(0)
    os.wait()
    print(os.read(read, 99).decode())
"""


SIDE = 224
PEAKS = f"""
image = torch.rand(1, 3, {SIDE}, {SIDE}).contiguous(memory_format=torch.channels_last)
task = Task(scale=torch.ones(1), budget=1.0)
for net in ({", ".join(NETWORKS)}):
    measured(lambda: net.eval()(image, task))
    print(net.memory({SIDE}, {SIDE}))

image = torch.rand(1, 3, 338, 510)
for skip in (False, True):
    restorer = Restorer(EDSR(64, 1, 1.0), LIIF(64, 8, 1, local_ensemble=False, feat_unfold=False), skip).eval()
    restorer.restore(image[..., :90, :90], scale=2, tile=60)
    measured(lambda: restorer.restore(image, size=(1352, 2040), tile=96))
"""


@pytest.fixture(scope="module")
def peaks() -> list[int]:
    """Bytes taken and stated for each of NETWORKS, then those taken by two restorations: from one child."""
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE + PEAKS],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},  # every map on its own: no holes in a heap are counted
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [int(line) for line in ended.stdout.split()]


@LINUX
def test_the_memory_a_backbone_states_is_what_it_takes(peaks: list[int]) -> None:
    """Within a factor of 2, at the published width."""
    numbers = peaks[: 2 * len(NETWORKS)]
    for name, taken, stated in zip(NETWORKS, numbers[::2], numbers[1::2], strict=True):
        assert 0.5 < taken / stated < 2, f"{name}: {taken / 1e6:.0f} MB taken, {stated / 1e6:.0f} MB stated"


@LINUX
def test_a_large_image_takes_its_features_and_its_output_and_little_else(peaks: list[int]) -> None:
    """Features of 64 channels, slim networks, to 2040 x 1352: a copy of the output would take 33 MB."""
    kept = 4 * (64 * 338 * 510 + 3 * 1352 * 2040)
    taken = peaks[2 * len(NETWORKS) :]
    assert len(taken) == 2
    for size in taken:
        assert kept <= size < kept + 40e6, f"{size / 1e6:.0f} MB, of which {kept / 1e6:.0f} are features and output"


def test_the_image_given_is_never_overwritten() -> None:
    image = images()
    kept = image.clone()
    restorer = Restorer(Identity(), AsImage(3), pixels=Pixels(0.0, 1.0))
    out = restorer.restore(image, scale=1).image
    assert torch.equal(image, kept) and torch.equal(out, kept)
