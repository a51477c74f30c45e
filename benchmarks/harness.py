"""How things are measured: forms of one thing in turn, in rounds that count only while the cores are free."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.cores import Watch, at_rest, is_free

Call = Callable[[], object]
GEMM_ROWS = (1024, 1536, 2048)
GEMM_SIDE = 256
PATIENCE = 5.0  # seconds to wait for free cores before something is measured


@dataclass(frozen=True)
class Timing:
    """Rounds in which every form ran once, one after the other.

    Attributes:
        seconds: of each form, one a round.
        cores: how many cores each form kept busy, one a round.
        gemm: multiply-accumulates a second of a GEMM in each round, by data type.
        half: forms that compute in bfloat16.
        others: the most cores that other processes took in a round that is kept, or before or after; None: unknown.
        free: whether all cores were this process's in every round kept, and before and after.
        results: what each form returned last.
    """

    seconds: dict[str, list[float]]
    cores: dict[str, list[float]]
    gemm: dict[torch.dtype, list[float]]
    half: frozenset[str]
    others: float | None
    free: bool
    results: dict[str, Any]
    threads: int

    def ratio(self, slow: str, fast: str) -> float:
        """How many times as long `slow` takes: the median of the rounds' ratios."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def milliseconds(self, form: str) -> float:
        return 1000 * statistics.median(self.seconds[form])

    def gemm_fraction(self, form: str, macs: float) -> float:
        """Achieved multiply-accumulates a second over those of a GEMM in the same round and data type."""
        rates = self.gemm[torch.bfloat16 if form in self.half else torch.float32]
        return statistics.median(macs / s / rate for s, rate in zip(self.seconds[form], rates, strict=True))

    def cores_of(self, form: str) -> float:
        return statistics.median(self.cores[form])


@dataclass
class Bench:
    """What was asked for on the command line.

    Attributes:
        quick: small sizes and few rounds; bars do not apply.
        anyway: report what was measured while others used the cores, marked so.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 1
    quick: bool = False
    anyway: bool = False

    @property
    def bars(self) -> bool:
        """Whether the bars apply: they were set for one thread of a CPU at full size."""
        return not self.quick and self.device.type == "cpu" and self.threads == 1

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def compare(
        self,
        forms: Mapping[str, Call],
        warm_up: Iterable[Call] = (),
        budget: float = 12.0,
        rounds: int = 7,
        least: int = 2,
        threads: int | None = None,
        half: Iterable[str] = (),
    ) -> Timing:
        """Time forms of one thing in turn, so that a slow spell of the machine hits all alike.

        A round in which others used the cores is repeated; what is kept nevertheless (`least` rounds, once the budget
        is spent) is not free.

        Args:
            forms: called without arguments; the first is the plain one.
            warm_up: called once before, on something smaller where a form is slow.
            budget: seconds after which no more than `least` rounds are made.
            threads: of torch; None for those of the command line.
            half: forms that compute in bfloat16.
        """
        if self.quick:
            budget, least = min(budget, 0.2), 1
        half = frozenset(half)
        dtypes = (torch.float32, *((torch.bfloat16,) if half else ()))
        with _threads(threads or self.threads) as count:
            for call in warm_up:
                call()
            before, started = self._wait_for_cores(), time.perf_counter()
            clean: list[_Round] = []
            dirty: list[_Round] = []
            while len(clean) < rounds:
                spent = time.perf_counter() - started
                if spent > budget and (len(clean) >= least or len(clean) + len(dirty) >= 2 * least):
                    break
                one = self._round(forms, dtypes)
                (clean if is_free(one.others) else dirty).append(one)
            after = self._at_rest()
        kept = clean if len(clean) >= least else clean + dirty
        others = [before, after, *(one.others for one in kept)]
        return Timing(
            seconds={name: [one.seconds[name] for one in kept] for name in forms},
            cores={name: [one.cores[name] for one in kept] for name in forms},
            gemm={dtype: [one.gemm[dtype] for one in kept] for dtype in dtypes},
            half=half,
            others=None if None in others else max(x for x in others if x is not None),
            free=len(clean) >= least and is_free(before) and is_free(after),
            results=kept[-1].results,
            threads=count,
        )

    def _wait_for_cores(self) -> float | None:
        until = time.perf_counter() + (0 if self.quick or self.anyway else PATIENCE)
        while True:
            others = self._at_rest()
            if others is None or is_free(others) or time.perf_counter() > until:
                return others

    def _at_rest(self) -> float | None:
        return at_rest(0.05 if self.quick else 0.25)

    def _round(self, forms: Mapping[str, Call], dtypes: Iterable[torch.dtype]) -> _Round:
        watch = Watch()
        rates = {dtype: self._gemm_rate(dtype) for dtype in dtypes}
        seconds, cores, results = {}, {}, {}
        for name, call in forms.items():
            seconds[name], cores[name], results[name] = self._timed(call)
        return _Round(seconds, cores, rates, watch.others(), results)

    def _timed(self, call: Call, share: float = 1.0, most: int = 100) -> tuple[float, float, object]:
        """(seconds, cores kept busy, result): the median of as many calls as fill a share of a quarter of a second."""
        least = share * (0.02 if self.quick else 0.25)
        seconds: list[float] = []
        cpu, wall = time.process_time(), time.perf_counter()
        while sum(seconds) < least and len(seconds) < most:
            took, result = self._once(call)
            seconds.append(took)
        cores = (time.process_time() - cpu) / (time.perf_counter() - wall)
        return statistics.median(seconds), cores, result

    def _once(self, call: Call) -> tuple[float, object]:
        if not self.cuda:
            started = time.perf_counter()
            result = call()
            return time.perf_counter() - started, result
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        result = call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000, result

    def _gemm_rate(self, dtype: torch.dtype) -> float:
        """Multiply-accumulates a second of (rows x 256) times (256 x 256), at the number of rows that is fastest."""
        weight = torch.randn(GEMM_SIDE, GEMM_SIDE, device=self.device, dtype=dtype)
        calls = 8  # in one timing: to launch a kernel takes as long as a small product
        rates = []
        for rows in GEMM_ROWS:
            rows *= 64 if self.cuda else 1
            left = torch.randn(rows, GEMM_SIDE, device=self.device, dtype=dtype)

            def products(left: torch.Tensor = left) -> None:
                for _ in range(calls):
                    F.linear(left, weight)

            products()
            rates.append(calls * rows * GEMM_SIDE**2 / self._timed(products, 0.25)[0])
        return max(rates)


class _Round(NamedTuple):
    seconds: dict[str, float]
    cores: dict[str, float]
    gemm: dict[torch.dtype, float]
    others: float | None
    results: dict[str, Any]


@contextmanager
def _threads(count: int) -> Iterator[int]:
    """torch with so many threads, inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)
