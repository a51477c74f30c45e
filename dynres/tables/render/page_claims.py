"""Claims of a paper on the page: a verdict each, with the figures of every seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynres.tables.render.cards import cards
from dynres.tables.render.digits import over_seeds, signed
from dynres.tables.render.markup import Markup, element, joined, prose
from dynres.tables.render.summary import VERDICTS
from dynres.tables.sheet import Verdict

SIGNS = {"supported": "✓", "not supported": "✗", "undecided": "?", "not measured": "–"}
STRIP = (112, 14)  # pixels of the little picture of the seeds


def chip(verdict: str, count: int | None = None) -> Markup:
    """A verdict in its colour, with its sign; or how many claims have it."""
    text = verdict if count is None else f"{count} {verdict}"
    sign = element("span", SIGNS[verdict], aria_hidden="true")
    return element("span", sign, " ", text, class_=f"chip v{VERDICTS.index(verdict)}")


def claims_table(verdicts: Sequence[Verdict], title: str) -> Markup:
    """A row a claim: its verdict, what the paper says, and what ours say."""
    columns = ["Verdict", "Claim", "In the paper", "Measured here", "Agrees by"]
    return cards(title, columns, (list(_row(verdict)) for verdict in verdicts), named=1, unlabelled=0, style="claims")


def _row(verdict: Verdict) -> Iterator[Markup]:
    yield chip(verdict.verdict)
    yield joined([prose(verdict.claim), element("small", verdict.where)])
    yield prose(verdict.published)
    yield prose(verdict.measures)
    yield joined(_figures(verdict))


def _figures(verdict: Verdict) -> Iterator[Markup]:
    """Mean and spread, the seeds one by one, and a note."""
    if verdict.values:
        yield element("b", over_seeds(verdict.values, verdict.digits, verdict.unit))
        yield _strip(verdict.values)
        seeds = ", ".join(signed(value, verdict.digits) for value in verdict.values)
        yield element("small", f"{'seeds' if len(verdict.values) > 1 else 'one seed'}: {seeds}")
    if verdict.note:
        yield element("small", prose(verdict.note))


def _strip(values: Sequence[float]) -> Markup:
    """A dot a seed on a line, right of the middle where it agrees with the claim."""
    width, height = STRIP
    reach = max(map(abs, values)) or 1.0
    middle, half = width / 2, width / 2 - 6
    dots = [element("circle", cx=f"{middle + half * value / reach:.1f}", cy=height // 2, r=3) for value in values]
    line = element("line", x1=0, y1=height // 2, x2=width, y2=height // 2)
    zero = element("line", x1=int(middle), y1=1, x2=int(middle), y2=height - 1)
    return element("svg", line, zero, joined(dots), width=width, height=height, aria_hidden="true", class_="strip")
