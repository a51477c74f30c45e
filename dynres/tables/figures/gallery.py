"""All pictures of the report page, in its order."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dynres.errors import UserError
from dynres.tables.figures import acla, anysr, flexir, images, lightweight_swinir, maps, plane, tadt
from dynres.tables.figures.found import Published, Runs
from dynres.tables.figures.style import COLUMN, DARK, png, styled
from dynres.tables.sheet import FinishedRun, Picture

# Section, what is drawn, and how.
FIGURES: tuple[tuple[str, str, Callable[[Runs, Published], list[Picture]]], ...] = (
    ("all", "All papers on one plane", plane.plane),
    ("tadt", "Figure 1", tadt.discs),
    ("tadt", "Figure 2", tadt.costs),
    ("tadt", "What TADT spends at each scale", tadt.shares),
    ("tadt", "Figure 7", tadt.betas),
    ("tadt", "Which branches run", maps.routing),
    ("tadt", "Routing, photograph by photograph", maps.routing_by_image),
    ("tadt", "Side by side", images.tadt),
    ("anysr", "Figure 4", anysr.figure4),
    ("anysr", "Side by side", images.anysr),
    ("flexir", "Figure 3", flexir.figure3),
    ("flexir", "Pointers by training", flexir.trainings),
    ("flexir", "Depth, cost, quality", flexir.depths),
    ("flexir", "Side by side", images.flexir),
    ("acla", "Figure 2", acla.chosen),
    ("acla", "Kept keys, by layer", acla.kept),
    ("acla", "Side by side", images.acla),
    ("lightweight_swinir", "What pruning costs", lightweight_swinir.rates),
    ("lightweight_swinir", "What distillation gives", lightweight_swinir.distillation),
    ("lightweight_swinir", "Where pruning cuts", lightweight_swinir.where),
    ("lightweight_swinir", "Side by side", images.lightweight_swinir),
)
DAMAGED = (UserError, OSError, LookupError, ValueError)  # what files of a run raise that are not as runs write them


def drawn(runs: Sequence[FinishedRun], published: Mapping[str, Mapping[str, Any]]) -> Iterator[Picture]:
    """What can be drawn; the same bytes for the same files.

    A figure whose runs are missing is left out, or has its published part alone. One whose files are damaged is a
    picture that says why.

    Args:
        published: paper -> content of its published.yaml.
    """
    found = Runs(runs)
    for section, title, figure in FIGURES:
        with styled():  # and never while the caller has its turn
            try:
                pictures = figure(found, published)
            except DAMAGED as error:
                pictures = [failed(section, title, error)]
        yield from pictures


def failed(section: str, title: str, error: Exception) -> Picture:
    """A picture of the reason."""
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    figure = Figure(figsize=(COLUMN, 1.6), layout="constrained")
    words = textwrap.fill(f"Not drawn: {reason}", 52, max_lines=5)
    figure.text(0.5, 0.5, words, ha="center", va="center", color=DARK, parse_math=False)
    return Picture(
        section, title, f"This figure could not be drawn: {reason}", "No figure, but the reason.", png(figure)
    )
