"""What the papers' tables have in common: what published.yaml says beside numbers, and the networks it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from dynres.build import build_restorer, compose_checked, network_description
from dynres.restorer import Restorer
from dynres.tables.sheet import Recipe


def said(table: Mapping[str, Any]) -> dict[str, Any]:
    """notes, best, best_but and misprints of a table, as `Sheet` and `quality` take them."""
    return {
        "notes": tuple(table.get("notes", ())),
        "best": table.get("best"),
        "best_but": frozenset(map(tuple, table.get("best_but", ()))),
        "misprints": frozenset(map(tuple, table.get("misprints", ()))),
    }


def always(recipe: Recipe) -> Callable[[str], Recipe]:
    """The recipe of a network that serves every level, as `System` takes it."""
    return lambda level: recipe


@cache
def network(overrides: tuple[str, ...]) -> Restorer:
    """What arguments of `python -m dynres.run` train, in the paper's size, on the meta device."""
    with torch.device("meta"):
        return build_restorer(network_description(compose_checked(["profile=paper", *overrides]))).eval()
