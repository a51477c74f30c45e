"""The arbitrary-scale decoders as their papers write them: what the fast forms of dynres.upsamplers must equal.

Each takes the weights of the network it is compared with, and nothing else of it. As in the authors' codes, what
depends on the image alone is computed once, and features are unfolded, gathered and concatenated anew for every chunk
of queries. LTE-fast and SRNO, which their authors wrote for whole grids, take a whole image at once.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dynres.contracts import Features
from dynres.layers.galerkin import GalerkinBlock
from dynres.layers.sampling import grid_coords
from dynres.upsamplers.implicit import ImplicitUpsampler
from dynres.upsamplers.liif import LIIF
from dynres.upsamplers.lte import LTE, TextureEstimator
from dynres.upsamplers.lte_fast import LTEFast
from dynres.upsamplers.metasr import MetaSR
from dynres.upsamplers.srno import SRNO

CHUNK = 30_000  # queries at a time, in the published evaluations


def plain_query(network: ImplicitUpsampler, features: Features, coords: Tensor, cell: Tensor) -> Tensor:
    """Colours (B, Q, 3) at coords (B, Q, 2) for pixels of size cell (B, Q, 2)."""
    return _query(network, _maps(network, features), features.image, coords, cell)


def plain_decode(network: ImplicitUpsampler, features: Features, size: tuple[int, int]) -> Tensor:
    """The whole image (B, 3, H', W')."""
    coords = grid_coords(size, features.image.device).expand(len(features.image), -1, -1)
    cell = network.decode_cell(features, size).expand_as(coords)
    maps = _maps(network, features)
    step = coords.shape[1] if isinstance(network, LTEFast | SRNO) else CHUNK
    pieces = zip(coords.split(step, dim=1), cell.split(step, dim=1), strict=True)
    colours = [_query(network, maps, features.image, some, cells) for some, cells in pieces]
    return torch.cat(colours, dim=1).transpose(1, 2).unflatten(2, size)


def _maps(network: ImplicitUpsampler, features: Features) -> Tensor:
    """What is computed once an image."""
    if isinstance(network, TextureEstimator):
        return torch.cat([network.coef(features.cropped), network.freq(features.cropped)], dim=1)
    return features.cropped


def _query(network: ImplicitUpsampler, maps: Tensor, image: Tensor, coords: Tensor, cell: Tensor) -> Tensor:
    if isinstance(network, LIIF):
        return liif(network, maps, coords, cell)
    if isinstance(network, MetaSR):
        return metasr(network, maps, coords, cell)
    if isinstance(network, LTE):
        return lte(network, maps, coords, cell) + _image_at(image, coords)
    if isinstance(network, LTEFast):
        return lte_fast(network, maps, coords, cell) + _image_at(image, coords)
    assert isinstance(network, SRNO)
    return srno(network, maps, coords, cell) + _image_at(image, coords)


def liif(network: LIIF, maps: Tensor, coords: Tensor, cell: Tensor) -> Tensor:
    """LIIF, Eq. 2-5, with feature unfolding, local ensemble and cell decoding where the network has them."""
    maps = _unfolded(maps) if network.reach else maps
    size = coords.new_tensor(maps.shape[-2:])
    predictions, offsets = [], []
    for at in _corners(coords, size) if len(network.sides) == 2 else [coords]:
        offset = _offset(coords, at, size)
        inputs = [_values(maps, at), offset, cell * size] if network.cell_decode else [_values(maps, at), offset]
        predictions.append(_mlp(network.imnet.layers, torch.cat(inputs, dim=-1)))
        offsets.append(offset)
    return _blended(predictions, offsets)


def metasr(network: MetaSR, maps: Tensor, coords: Tensor, cell: Tensor) -> Tensor:
    """Meta-SR: a filter for every query, applied to the 3x3 neighbourhood of the pixel under its top-left corner."""
    size = coords.new_tensor(maps.shape[-2:])
    corner = coords - cell / 2
    at = (corner + 1e-6).clamp(1e-6 - 1, 1 - 1e-6)
    inputs = torch.cat([(_offset(corner, at, size) + 1) / 2, (cell * size / 2)[..., :1]], dim=-1)
    filters = _mlp(network.imnet.layers, inputs).flatten(0, 1).unflatten(1, (-1, 3))
    values = _values(_unfolded(maps), at).flatten(0, 1)[:, None]
    return torch.bmm(values, filters)[:, 0].unflatten(0, coords.shape[:2])


def lte(network: LTE, maps: Tensor, coords: Tensor, cell: Tensor) -> Tensor:
    """LTE, Eq. 2-6: amplitudes times cosines and sines of <frequency, offset> + phase, through an MLP."""
    coefficients, frequencies = maps.chunk(2, dim=1)
    size = coords.new_tensor(maps.shape[-2:])
    predictions, offsets = [], []
    for at in _corners(coords, size):
        offset = _offset(coords, at, size)
        waves = _values(frequencies, at).unflatten(-1, (-1, 2))  # rows and columns alternate
        angle = math.pi * ((waves * offset[..., None, :]).sum(-1) + network.phase((cell * size).to(maps.dtype)))
        texture = _values(coefficients, at) * torch.cat([angle.cos(), angle.sin()], dim=-1)
        predictions.append(_mlp(network.imnet.layers, texture))
        offsets.append(offset)
    return _blended(predictions, offsets)


def lte_fast(network: LTEFast, maps: Tensor, coords: Tensor, cell: Tensor) -> Tensor:
    """LTE on maps of a channel each, (B, C, 1, Q), with 1x1 convolutions; rows and columns of frequency in halves."""
    coefficients, frequencies = maps.chunk(2, dim=1)
    size = coords.new_tensor(maps.shape[-2:])
    predictions, offsets = [], []
    for at in _corners(coords, size):
        offset = _offset(coords, at, size)
        both = _found(frequencies, at).unflatten(1, (2, -1)) * offset.transpose(1, 2)[:, :, None, None]
        angle = math.pi * (both.sum(1) + network.phase((cell * size).to(maps.dtype)).transpose(1, 2)[:, :, None])
        x = _found(coefficients, at) * torch.cat([angle.cos(), angle.sin()], dim=1)
        for layer in network.layers:
            x = F.relu(x) if isinstance(layer, torch.nn.ReLU) else F.conv2d(x, layer.weight, layer.bias)
        predictions.append(x[:, :, 0].transpose(1, 2))
        offsets.append(offset)
    return _blended(predictions, offsets)


def srno(network: SRNO, maps: Tensor, coords: Tensor, cell: Tensor) -> Tensor:
    """SRNO: the four corners' offsets and weighted features; every query attends to all others of the call."""
    size = coords.new_tensor(maps.shape[-2:])
    corners = _corners(coords, size)
    offsets = [_offset(coords, at, size) for at in corners]
    weighted = [_values(maps, at) * share for at, share in zip(corners, _shares(offsets), strict=True)]
    x = network.conv00(torch.cat([*offsets, *weighted, cell * size], dim=-1).to(maps.dtype))
    for block in network.blocks:
        x = _galerkin(block, x)
    return network.fc2(F.gelu(network.fc1(x)))


def _galerkin(block: GalerkinBlock, x: Tensor) -> Tensor:
    """q (k^T v) / N for each head, with normalised keys and values; two layers; two skips."""
    heads = block.qkv_proj(x).unflatten(2, (block.heads, -1)).transpose(1, 2)
    query, key, value = heads.chunk(3, dim=-1)
    attended = query @ (_head_norm(block.kln, key).mT @ _head_norm(block.vln, value) / x.shape[1])
    mixed = attended.transpose(1, 2).flatten(2) + x
    return block.o_proj2(F.gelu(block.o_proj1(mixed))) + x


def _head_norm(norm: torch.nn.Module, x: Tensor) -> Tensor:
    return norm.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5) + norm.bias  # type: ignore[operator]


def _unfolded(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 9 C, H, W), zero beyond the border."""
    return F.unfold(maps, 3, padding=1).unflatten(2, maps.shape[-2:])


def _corners(coords: Tensor, size: Tensor) -> list[Tensor]:
    """Coordinates after half a pixel up or down, left or right, in row-major order."""
    shifts = [coords.new_tensor((down, right)) / size + 1e-6 for down in (-1, 1) for right in (-1, 1)]
    return [(coords + shift).clamp(1e-6 - 1, 1 - 1e-6) for shift in shifts]


def _found(maps: Tensor, at: Tensor) -> Tensor:
    """(B, C, 1, Q) of the pixels nearest to `at`."""
    return F.grid_sample(maps, at.flip(-1)[:, None].to(maps.dtype), mode="nearest", align_corners=False)


def _values(maps: Tensor, at: Tensor) -> Tensor:
    """(B, Q, C) of the pixels nearest to `at`."""
    return _found(maps, at)[:, :, 0].transpose(1, 2)


def _offset(coords: Tensor, at: Tensor, size: Tensor) -> Tensor:
    """(B, Q, 2) of `coords` from the centre of the pixel nearest to `at`, in half pixels."""
    axes = [(2 * torch.arange(int(n), device=coords.device).to(coords.dtype) + 1) / n - 1 for n in size]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return (coords - _values(centres.expand(len(coords), -1, -1, -1), at)) * size


def _shares(offsets: list[Tensor]) -> list[Tensor]:
    """Each corner's weight (B, Q, 1): the area of the opposite corner's rectangle over the sum of all."""
    areas = [offset.prod(dim=-1, keepdim=True).abs() + 1e-9 for offset in offsets]
    return [area / torch.stack(areas).sum(0) for area in reversed(areas)]


def _blended(predictions: list[Tensor], offsets: list[Tensor]) -> Tensor:
    return torch.stack([p * share for p, share in zip(predictions, _shares(offsets), strict=True)]).sum(0)


def _mlp(layers: torch.nn.Sequential, inputs: Tensor) -> Tensor:
    weight = next(layers.parameters())  # coordinates of a whole image are float32, weights may be float64
    return layers(inputs.to(weight.dtype).flatten(0, 1)).unflatten(0, inputs.shape[:2])


def _image_at(image: Tensor, coords: Tensor) -> Tensor:
    grid = coords.flip(-1)[:, None].to(image.dtype)
    found = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found[:, :, 0].transpose(1, 2)
