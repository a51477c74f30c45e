"""Whether the cores are ours: what other processes take while something is timed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

STAT = Path("/proc/stat")
FREE = 0.1  # of a core: what an idle machine's own services may take


class Watch:
    """Opened before what is watched; `others` afterwards says how many cores other processes kept busy meanwhile.

    What the machine's host took away (steal) counts as others'.
    """

    def __init__(self) -> None:
        self.started = _reading()

    def others(self) -> float | None:
        """Cores, 0 or more; None where the system does not tell (no /proc/stat)."""
        if self.started is None or (now := _reading()) is None:
            return None
        wall, busy, own = (after - before for after, before in zip(now, self.started, strict=True))
        ticks = 2 / os.sysconf("SC_CLK_TCK")  # the kernel counts in ticks of 10 ms
        return max(0.0, busy - own - ticks) / max(wall, 1e-3)


def is_free(others: float | None) -> bool:
    return others is not None and others <= FREE


def at_rest(seconds: float = 0.25) -> float | None:
    """What others take while this process sleeps."""
    watch = Watch()
    time.sleep(seconds)
    return watch.others()


def _reading() -> tuple[float, float, float] | None:
    """Seconds: of the clock, of work on the cores that this process may use, of this process and its children."""
    if not STAT.exists():
        return None
    mine: Any = os.sched_getaffinity(0)
    busy = 0
    for line in STAT.read_text().splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in mine:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            busy += user + nice + system + irq + softirq + steal
    times = os.times()
    own = time.process_time() + times.children_user + times.children_system
    return time.perf_counter(), busy / os.sysconf("SC_CLK_TCK"), own
