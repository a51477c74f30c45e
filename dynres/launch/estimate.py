"""How long the trainings that wait will take, from how long steps took so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping


class Estimate:
    """Seconds left of several trainings, whose steps take unlike times.

    Args:
        expected: seconds that each training took elsewhere; all are off by one factor here, which shows as they run.
        clock: seconds, monotonic.
    """

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self.waiting, self.clock = dict(expected), clock
        self.expected = self.real = self.now = self.began = 0.0
        self.first: int | None = 0

    def skip(self, name: str) -> None:
        """A training that need not run."""
        self.waiting.pop(name, None)

    def begin(self, name: str) -> None:
        """A training starts."""
        self.now, self.began, self.first = self.waiting.pop(name, 0.0), self.clock(), 0

    def resumed(self) -> None:
        """It goes on from an earlier process; `left` will be told from which step."""
        self.first = None

    def left(self, step: int, total: int) -> float:
        """Seconds until the last training ends, at a step of the present one; inf before anything can be said."""
        if self.first is None:
            self.first, self.now, self.began = step, self.now * (1 - step / total), self.clock()
        share = (step - self.first) / max(total - self.first, 1)
        done = self.expected + share * self.now
        pace = (self.real + self.clock() - self.began) / done if done else math.inf
        return pace * (sum(self.waiting.values()) + (1 - share) * self.now)

    def end(self) -> None:
        """The training that began has ended."""
        self.real, self.expected = self.real + self.clock() - self.began, self.expected + self.now
        self.now = 0.0
