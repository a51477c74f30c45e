"""Where half precision would change what is computed: positions, decisions, sums over whole images."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the tensor's device; casting what enters it is the caller's."""
    if like.device.type == "meta":  # knows no autocast
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)
