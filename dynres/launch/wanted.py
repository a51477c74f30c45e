"""What is wanted of many runs, found or failed so far; the same for processes here and for jobs of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig

from dynres.errors import UserError
from dynres.launch.find import composed, finished, quoted


@dataclass(frozen=True)
class Wanted:
    """A run to have.

    Attributes:
        name: such as "tadt/baseline, seed 0"; unique.
        command: arguments of `python -m dynres.run`.
        needs: option -> (name of another run, file in its folder), such as ckpt -> (..., "checkpoints/last.ckpt").
        weight: how long it takes beside the others, for the estimate of the time left.
    """

    name: str
    command: tuple[str, ...]
    needs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    weight: float = 1.0


class Wants:
    """Runs that are wanted.

    Args:
        wanted: names in `needs` are among them.
        out: where runs go and are looked for; each command gets `out=` of it.
        say: prints a line.
        code: see launch.find.finished.

    Attributes:
        found: name -> folder of a finished run.
        failed: name -> reason.
    """

    def __init__(self, wanted: Sequence[Wanted], out: Path, say: Callable[[str], None], code: str | None) -> None:
        self.wanted = {one.name: one for one in wanted}
        self.out, self.say, self.code = out, say, code
        self.found: dict[str, Path] = {}
        self.failed: dict[str, str] = {}

    def ready(self, waiting: Sequence[str]) -> str | None:
        """The first whose needs are found, or can no longer be."""
        for name in waiting:
            others = [other for other, _ in self.wanted[name].needs.values()]
            if all(other in self.found for other in others) or any(other in self.failed for other in others):
                return name
        return None

    def prepared(self, wanted: Wanted, out: Path) -> tuple[list[str], DictConfig] | None:
        """The command of a run and its configuration; None where it is finished already, or cannot be."""
        if lost := [other for other, _ in wanted.needs.values() if other in self.failed]:
            self.fail(wanted, f"it needs {lost[0]}, which failed")
            return None
        command = [*wanted.command, f"out={quoted(out)}"]
        command += [f"{key}={quoted(self.found[other] / file)}" for key, (other, file) in wanted.needs.items()]
        try:
            cfg = composed(command)
        except UserError as error:
            self.fail(wanted, str(error))
            return None
        if (folder := finished(self.out, cfg, self.code)) is not None:
            self.found[wanted.name] = folder
            return None
        return command, cfg

    def fail(self, wanted: Wanted, reason: str) -> None:
        """Remember and say why a run failed."""
        self.failed[wanted.name] = reason
        self.say(f"{wanted.name} failed: {reason}")
