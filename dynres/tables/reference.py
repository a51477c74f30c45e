"""Published rows of none of the five papers, by which protocols are held against real weights and images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynres.tables.rows import measures
from dynres.tables.sheet import Ours, Sheet, TableMaker


def protocols(published: Mapping[str, Any], ours: Ours) -> list[Sheet]:
    """A sheet a protocol."""
    tables = published["table1"].values()
    return [measures("reference/1", table, ours, f"Reference: {table['title']}") for table in tables]


TABLES: dict[str, TableMaker] = {"reference/1": protocols}
