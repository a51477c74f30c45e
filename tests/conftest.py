"""What every test may rely on: one thread, a fixed seed, no network, no display, a cache of its own."""

from __future__ import annotations

import os
import signal

# One thread everywhere: the workers share the cores, and sums come out the same with one worker as with many.
# The few tests of two threads let a thread that waits give its core away; OpenMP reads that when torch is imported.
# The variables also reach the commands that tests start.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", WANDB_MODE="disabled", MPLBACKEND="Agg")

import dynres  # isort: skip  # before anything imports Lightning, torchmetrics or timm (dynres.torchvision_guard)

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The same examples in every run: a rare one is found at a desk (--hypothesis-profile=default), not in somebody's CI.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("repeatable")

torch.set_num_threads(1)


def pytest_report_header() -> str:
    return f"dynres {dynres.__version__}, torch {torch.__version__}, torchvision {dynres.ensure_torchvision()}"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images are cached outside the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNRES_CACHE", str(tmp_path_factory.mktemp("dynres-cache")))
        yield


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """A test that draws with torch draws the same alone, in any order, and on any worker."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """Lightning leaves its handlers where a run is interrupted, as the process ends; here later tests fork others."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def dynres_data() -> Path:
    """The folder of real image sets; tests that ask for it are skipped where there is none."""
    root = os.environ.get("DYNRES_DATA")
    if not root:
        pytest.skip("set DYNRES_DATA=/path/to/data (layout: docs/data.md) to run")
    if not Path(root).is_dir():
        pytest.fail(f"DYNRES_DATA={root} is not a folder")
    return Path(root)
