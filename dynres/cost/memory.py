"""Memory: what a network needs at a size, counted on the meta device, and what the machine has left."""

from __future__ import annotations

import os
import re
import weakref
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dynres.errors import UserError

# Numbers of a table over all pairs of pixels that exist at once. On the meta device such tables come whole; layers that
# run make them in pieces of 2^25 (dynres.layers.nonlocal_attention, pyramid_attention), fused kernels not at all.
PAIRS_AT_ONCE = 2**25


def peak_on_meta(module: nn.Module, pixels: int, *inputs: object) -> int:
    """Bytes that one call of `module(*inputs)` in evaluation holds at most, beside its weights and inputs.

    The largest sum of tensors alive at a time; what a kernel needs for itself is not seen. Inputs are on the meta
    device, where nothing is computed.

    Args:
        pixels: of the image; tables over pairs of its pixels are counted as they are made, in pieces.
    """
    stand_ins = {name: tensor.to("meta") for name, tensor in chain(module.named_parameters(), module.named_buffers())}
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode(False), torch.no_grad(), _LiveTensors(pixels) as live:
            functional_call(module, stand_ins, inputs)
            return live.peak
    finally:
        for part, mode in modes:
            part.training = mode


class _LiveTensors(TorchDispatchMode):
    """Sums the storages that operators return, until they are freed."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.side = pixels // 8  # shorter sides than this are channels, patches or rows
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen.add(storage)
                pairs = tensor.ndim > 1 and min(tensor.shape[-2:]) >= self.side
                size = min(storage.nbytes(), PAIRS_AT_ONCE * tensor.itemsize) if pairs else storage.nbytes()
                self._add(size)
                weakref.finalize(storage, self._add, -size)
        return out

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device: a GPU's free memory; else what the system or its control group leaves.

    Raises:
        UserError: where the system does not tell.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for reuse
        return torch.cuda.mem_get_info(device)[0] + kept
    found = []
    with suppress(OSError):  # Linux
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
        found += [int(match[1]) * 1024] if match else []
    with suppress(OSError, ValueError):  # a container; "max" where it sets no limit
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / name).read_text(encoding="utf-8") for name in ("memory.max", "memory.current"))
        found.append(max(int(limit) - int(used), 0))
    if not found:
        with suppress(AttributeError, ValueError, OSError):  # elsewhere the total alone is known: half of it
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    if not found:
        raise UserError("tile=auto cannot see how much memory is free on this system: give a number of pixels")
    return min(found)
