"""What the papers' published.yaml files have in common: what they say of a table beside its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dynres.tables.sheet import Recipe, Sheet


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


def renamed(sheet: Sheet) -> Sheet:
    """Columns of MACs in a table of quality, called so."""
    return replace(
        sheet, columns=tuple(replace(column, name=column.name.replace("GMACS", "MACs")) for column in sheet.columns)
    )
