"""Non-local sparse attention: each pixel attends to those whose features fall near its own under random hashing.

Mei et al., "Image Super-Resolution with Non-Local Sparse Attention" (CVPR 2021), Sec. 3. Tokens are (B, L, C), L = H W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynres.layers.precision import full_precision
from dynres.layers.widths import check_widths

MAX_BUCKETS = 128
MIN_NORM = 5e-5
CHUNKS_AT_ONCE = 256  # for bounded memory: 64 MB of scores at chunks of 144


class SparseAttention(nn.Module):
    """x + r * attention inside chunks of pixels that spherical hashing sorted together, (B, C, H, W) -> (B, C, H, W).

    A round of hashing projects the pixels' embeddings on random directions, sorts the pixels by the nearest direction,
    cuts the line into chunks and lets each attend to its own and the two beside it, the line's ends being neighbours.
    The rounds are blended by the sums of their exponentiated scores. Where the authors' code fails, on images of fewer
    pixels than a chunk, the whole image is the one chunk.

    Args:
        channels: C.
        reduction: embeddings have C / reduction channels.
        chunk: pixels of a chunk.
        hashes: rounds.
        residual_scale: r.
        seed: fixes the directions in evaluation, so that results repeat; in training each call draws its own.

    Raises:
        ValueError: if a width is below 1, or reduction is more than channels.
    """

    def __init__(
        self, channels: int, reduction: int, chunk: int, hashes: int, residual_scale: float, seed: int = 0
    ) -> None:
        super().__init__()
        check_widths("sparse attention", channels=channels, reduction=reduction, chunk=chunk, hashes=hashes)
        if reduction > channels:
            raise ValueError(f"reduction must be at most channels={channels}, got {reduction}")
        self.chunk, self.hashes, self.residual_scale, self.seed = chunk, hashes, residual_scale, seed
        self.match = nn.Conv2d(channels, channels // reduction, 3, padding=1)
        self.assembly = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        values = self.assembly(x).flatten(2).transpose(1, 2)
        with full_precision(x):  # rounded keys would fall into other buckets
            keys = self.match(x.to(self.match.weight.dtype)).flatten(2).transpose(1, 2)
        chunk = min(self.chunk, height * width)
        buckets = height * width // chunk
        out, mass = None, None
        for directions in self.rotations(min(buckets + buckets % 2, MAX_BUCKETS), keys).unbind(1):
            with full_precision(x):
                order = nearest_direction(keys, directions).argsort(dim=1, stable=True)
            part, part_mass = attend_in_chunks(keys, values, order, chunk)
            if out is None or mass is None:
                out, mass = part, part_mass
                continue
            both = torch.logaddexp(mass, part_mass)
            out = out * (mass - both).exp() + part * (part_mass - both).exp()
            mass = both
        assert out is not None  # there is at least one round
        return x + self.residual_scale * out.transpose(1, 2).unflatten(2, (height, width))

    def rotations(self, buckets: int, like: Tensor) -> Tensor:
        """(C / reduction, hashes, buckets / 2) standard normal directions, of the dtype and on the device of `like`.

        Drawn on the CPU, whose numbers are the same everywhere: in training from torch's own generator, in evaluation
        from one of this module's seed. On the meta device nothing is drawn.
        """
        shape = (self.match.out_channels, self.hashes, buckets // 2)
        if like.is_meta:
            return like.new_empty(shape)
        generator = None if self.training else torch.Generator().manual_seed(self.seed)
        return torch.randn(shape, generator=generator, device="cpu").to(like)


def nearest_direction(keys: Tensor, directions: Tensor) -> Tensor:
    """(B, L) number of the direction nearest to each key (B, L, c), among `directions` (c, D) and their opposites."""
    projected = keys @ directions
    return torch.cat([projected, -projected], dim=-1).argmax(dim=-1)


def attend_in_chunks(keys: Tensor, values: Tensor, order: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Soft-max attention of each pixel to its own chunk of the sorted line and to the two chunks beside it.

    The raw embedding asks, the normalised ones answer. The last chunk is filled up by repeating the line's last pixels.

    Args:
        keys: (B, L, c) embeddings.
        values: (B, L, C).
        order: (B, L) the pixels' numbers in sorted order.
        chunk: at most L.

    Returns:
        (B, L, C), and the logarithm (B, L, 1) of the sum of the exponentiated scores.
    """
    length = order.shape[1]
    filled = torch.cat([order, order[:, length - (-length % chunk) :]], dim=1)
    asking = _picked(keys, filled)
    answering = _with_neighbours(F.normalize(asking, dim=-1, eps=MIN_NORM), chunk)
    answers = _with_neighbours(_picked(values, filled), chunk)
    asking = asking.unflatten(1, (-1, chunk))
    parts, masses = [], []
    for start in range(0, asking.shape[1], CHUNKS_AT_ONCE):
        some = slice(start, start + CHUNKS_AT_ONCE)
        scores = asking[:, some] @ answering[:, some]
        parts.append(scores.softmax(dim=-1) @ answers[:, some].transpose(-1, -2))
        masses.append(scores.logsumexp(dim=-1, keepdim=True))
    back = order.argsort(dim=1)
    part, mass = (torch.cat(pieces, dim=1).flatten(1, 2) for pieces in (parts, masses))
    return _picked(part, back), _picked(mass, back)


def _with_neighbours(line: Tensor, chunk: int) -> Tensor:
    """(B, n * chunk, c) -> (B, n, c, 3 * chunk): each chunk between the one before and the one after, as a view."""
    closed = torch.cat([line[:, -chunk:], line, line[:, :chunk]], dim=1)
    return closed.unfold(1, 3 * chunk, chunk)


def _picked(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, L, c) and indices (B, M) -> (B, M, c); its gradient adds up in one order on any number of threads."""
    first = torch.arange(len(tokens), device=tokens.device)[:, None] * tokens.shape[1]
    return tokens.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)
