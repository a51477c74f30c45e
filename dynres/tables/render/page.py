"""The page: everything in one file that asks nothing of the network; reads on a phone, and printed."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dynres.files import write_text
from dynres.tables.render.digits import percent
from dynres.tables.render.markup import Markup, element, escaped, joined, prose
from dynres.tables.render.page_claims import chip, claims_table
from dynres.tables.render.page_table import sheet_section
from dynres.tables.render.summary import PAPERS, TOLERANCE, Costs, costs, counted, paper_name
from dynres.tables.sheet import Picture, Sheet, Verdict

TITLE = "Published tables beside ours"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
COMMON = "all"  # the section of pictures that belong to no single paper
PNG = b"\x89PNG\r\n\x1a\n"


def write(
    path: Path,
    sheets: Sequence[Sheet],
    verdicts: Sequence[Verdict],
    pictures: Sequence[Picture],
    about: Mapping[str, str],
) -> None:
    """Write the page, whole or not at all.

    Args:
        about: name -> text at the foot of the page, such as version, revision, profile; a text of several lines is
            shown as commands, `code` between backticks as such.

    Raises:
        ValueError: if a picture is no PNG.
    """
    write_text(path, render(sheets, verdicts, pictures, about))


def render(
    sheets: Sequence[Sheet], verdicts: Sequence[Verdict], pictures: Sequence[Picture], about: Mapping[str, str]
) -> str:
    """The page as text; arguments and errors are those of `write`."""
    named = [*(sheet.paper for sheet in sheets), *(verdict.paper for verdict in verdicts)]
    found = dict.fromkeys([*named, *(picture.section for picture in pictures if picture.section != COMMON)])
    papers = [paper for paper in PAPERS if paper in found] + [paper for paper in found if paper not in PAPERS]
    places = _places(papers, sheets)
    common = [picture for picture in pictures if picture.section == COMMON]
    sections = [
        _paper(paper, [sheet for sheet in sheets if sheet.paper == paper], verdicts, pictures, places)
        for paper in papers
    ]
    body = element(
        "body",
        element("header", *_opening(sheets)),
        element(
            "main",
            _summary(papers, sheets, verdicts, places),
            _plane(common),
            *sections,
        ),
        element("footer", *_about(about)) if about else "",
    )
    return f'<!DOCTYPE html>\n{element("html", _head(), body, lang="en")}\n'


def _places(papers: Sequence[str], sheets: Sequence[Sheet]) -> dict[int | str, str]:
    """A name within the page for each paper, and for each sheet by its index: "tadt", "tadt-3", "tadt-3-2"."""
    places: dict[int | str, str] = {}
    wanted: list[tuple[int | str, str]] = [(paper, paper) for paper in papers]
    for owner, text in [*wanted, *((id(sheet), sheet.key) for sheet in sheets)]:
        base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
        taken, place, number = set(places.values()), base, 2
        while place in taken or place in ("summary", COMMON):
            place, number = f"{base}-{number}", number + 1
        places[owner] = place
    return places


def _head() -> Markup:
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"dynres: {TITLE.lower()}"),
        element("style", Markup(style)),
    )
