"""Weights and inputs that anyone can rebuild from names: how the numbers in this folder were obtained.

The oracles are outputs of the original authors' code (CPU, float32) with weights drawn, key by key, from a generator
that the key's name seeds. `<model>.keys.json` lists the official keys and shapes; `<model>.npz` holds inputs and
outputs.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent
TOLERANCE = 2e-5  # of the largest output: ten times what float32 leaves of a float64 run of the original code
CONSTANTS = {"sub_mean", "add_mean"}
NOT_WEIGHTS = {
    "relative_position_index", "attn_mask", "attn_mask_0", "attn_mask_1", "rpe_biases", "escape_NaN",
    "num_batches_tracked",
}  # fmt: skip


def is_filled(key: str) -> bool:
    """Whether the rule draws this tensor (constants and index tables keep their values)."""
    parts = key.split(".")
    return parts[-1] not in NOT_WEIGHTS and not CONSTANTS & set(parts)


def drawn(key: str, shape: Sequence[int], gain: float) -> Tensor:
    """The float32 tensor that belongs to a key of a given shape."""
    *_, parent, leaf = ("", *key.split("."))
    seed = zlib.crc32(key.encode("utf-8"))
    z = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))
    if leaf == "running_mean":
        value = 0.1 * z
    elif leaf == "running_var":
        value = 1 + 0.2 * np.abs(z)
    elif leaf == "bias":
        value = 0.1 * z
    elif len(shape) <= 1 or "norm" in parent or parent.endswith("ln"):
        value = 1 + 0.1 * z
    else:
        value = gain * z / math.sqrt(math.prod(shape[2 if len(shape) >= 5 else 1 :]))
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def uniform(shape: Sequence[int], seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """float32 input drawn uniformly from [low, high)."""
    unit = np.random.Generator(np.random.PCG64(seed)).random(tuple(shape))
    return torch.from_numpy((low + (high - low) * unit).astype(np.float32))


@dataclass(frozen=True)
class Oracle:
    """One model's description (`keys.json`) and arrays (`npz`)."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def keys(self) -> dict[str, tuple[int, ...]]:
        """Official key -> shape, in the official order."""
        return {key: tuple(shape) for key, shape in self.facts["keys"].items()}

    def weights(self) -> dict[str, Tensor]:
        """The official state dict, filled, without the tensors that the rule leaves alone.

        Names of one tensor share the value drawn for the last of them.
        """
        gain, second = self.facts["fill_gain"], self.facts["aliases"]
        state = {key: drawn(key, shape, gain) for key, shape in self.keys.items() if is_filled(key)}
        last = {first: key for key, first in second.items()}
        return {key: state[last.get(second.get(key, key), key)] for key in state}

    def array(self, name: str) -> Tensor:
        """Stored array, e.g. "query.coord"."""
        return torch.from_numpy(self.arrays[name])


def oracle(model: str) -> Oracle:
    """The oracle of one model."""
    with np.load(FOLDER / f"{model}.npz", allow_pickle=False) as arrays:
        return Oracle(json.loads((FOLDER / f"{model}.keys.json").read_text()), dict(arrays))


def assert_parity(ours: Tensor, theirs: Tensor, what: str) -> None:
    """max |difference| <= 2e-5 max |theirs|."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    error = (ours.double() - theirs.double()).abs().max().item()
    bar = TOLERANCE * theirs.abs().max().item()
    assert error <= bar, f"{what}: largest difference {error:.3g} exceeds {bar:.3g}"
