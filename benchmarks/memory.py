"""Peak memory of one call: on a CPU in a fresh process each, on a GPU by torch's own count."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import torch

MB = 1e6


class Peak(NamedTuple):
    """Bytes above what was there before the call: at most, and of the result, which is part of it."""

    most: int
    result: int

    @property
    def beyond(self) -> int:
        """Bytes beyond the result."""
        return max(0, self.most - self.result)


def peaks(measure: Callable[..., Peak], tasks: Sequence[tuple[Any, ...]], device: torch.device) -> list[Peak]:
    """`measure(*task, device)` for each task; it must be a function of a module, and call `peak`.

    A process's peak never falls, so on a CPU each task has its own, split off from one in which nothing has run.
    Neighbours do not change what a process takes: two run at a time.
    """
    if device.type == "cuda":
        return [measure(*task, device) for task in tasks]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", measure.__module__])
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as pool:
        return [future.result() for future in [pool.submit(measure, *task, device) for task in tasks]]


def peak(call: Callable[[], torch.Tensor], warm_up: Callable[[], object]) -> Peak:
    """Of `call`, which returns a tensor; `warm_up` is a small form of it, for what is allocated once a process."""
    warm_up()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return Peak(torch.cuda.max_memory_allocated() - before, result.nbytes)
    before = _most()
    result = call()
    return Peak(_most() - before, result.nbytes)


def _most() -> int:
    """Bytes that this process had in memory at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
