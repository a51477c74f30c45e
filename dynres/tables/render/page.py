"""The page: everything in one file that asks nothing of the network; reads on a phone, and printed."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynres.files import write_text
from dynres.tables.render.cards import cards
from dynres.tables.render.digits import percent
from dynres.tables.render.markup import Markup, element, joined, prose
from dynres.tables.render.page_claims import chip, claims_table
from dynres.tables.render.page_table import how_to_read, sheet_section
from dynres.tables.render.summary import PAPERS, TOLERANCE, Costs, costs, counted, paper_name
from dynres.tables.sheet import Picture, Sheet, Verdict

TITLE = "Published tables, and ours beside them"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
COMMON = "all"  # the section of pictures that belong to no single paper
PNG = b"\x89PNG\r\n\x1a\n"

LEAD = (
    "Each table has what the paper prints, what this suite counts or measures, and the difference; each claim has a "
    "verdict with the figures it rests on."
)
COSTS = (
    "Parameters and multiply-accumulates are counted on the networks in their published size, without training. They "
    "are exact, and comparable with what the papers print."
)
QUALITY = "What “ours” is stands above every table."
DEMO = (
    "Columns of ours with nothing published beside them come from demo-size networks, trained for minutes on the "
    "photographs that come with the suite. Their PSNR is not comparable with any published one, which is of far larger "
    "networks, trained for days, on other images. Compare ours with ours: the claims do just that."
)
CLAIMS = (
    "A claim is supported, or not, where the mean over the seeds lies beyond twice its standard error, and undecided "
    "otherwise. Figures are positive where they agree with the claim. A verdict holds for networks of the size trained "
    "here."
)


@dataclass(frozen=True)
class _Part:
    """A paper's section; `place` names it within the page, as each sheet's does."""

    paper: str
    place: str
    sheets: list[tuple[str, Sheet]]
    verdicts: list[Verdict]
    pictures: list[Picture]


def write(
    path: Path,
    sheets: Sequence[Sheet],
    verdicts: Sequence[Verdict],
    pictures: Sequence[Picture],
    about: Mapping[str, str],
) -> None:
    """Write the page, whole or not at all.

    Args:
        about: name -> text at the foot of the page, such as version, revision, profile. What stands between backticks
            is code; a text of several lines is shown as commands.

    Raises:
        ValueError: if a picture is no PNG.
    """
    write_text(path, render(sheets, verdicts, pictures, about))


def render(
    sheets: Sequence[Sheet], verdicts: Sequence[Verdict], pictures: Sequence[Picture], about: Mapping[str, str]
) -> str:
    """The page as text; arguments and errors are those of `write`."""
    parts = _parts(sheets, verdicts, pictures)
    common = _pictures([picture for picture in pictures if picture.section == COMMON])
    main = element(
        "main",
        element("section", *_summary(parts, sheets, verdicts), id="summary"),
        element("section", element("h2", "All papers together"), common, id=COMMON) if common else "",
        *(element("section", *_paper(part), class_="paper", id=part.place) for part in parts),
    )
    foot = element("footer", *_about(about)) if about else ""
    body = element("body", element("header", *_opening(sheets, verdicts)), main, foot)
    return f"<!DOCTYPE html>\n{element('html', _head(), body, lang='en')}\n"


def _parts(sheets: Sequence[Sheet], verdicts: Sequence[Verdict], pictures: Sequence[Picture]) -> list[_Part]:
    """A part a paper, those of PAPERS first, with names that no other place of the page has."""
    named = [*(sheet.paper for sheet in sheets), *(one.paper for one in verdicts), *(one.section for one in pictures)]
    papers = [paper for paper in dict.fromkeys([*PAPERS, *named]) if paper in named and paper != COMMON]
    taken = {"summary", COMMON}

    def place(text: str) -> str:
        base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
        number, name = 1, base
        while name in taken:
            number, name = number + 1, f"{base}-{number + 1}"
        taken.add(name)
        return name

    return [
        _Part(
            paper,
            place(paper),
            [(place(sheet.key), sheet) for sheet in sheets if sheet.paper == paper],
            [verdict for verdict in verdicts if verdict.paper == paper],
            [picture for picture in pictures if picture.section == paper],
        )
        for paper in papers
    ]


def _head() -> Markup:
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"dynres: {TITLE}"),
        element("style", Markup(style)),
    )


def _opening(sheets: Sequence[Sheet], verdicts: Sequence[Verdict]) -> Iterator[Markup]:
    yield element("p", "dynres", class_="suite")
    yield element("h1", TITLE)
    yield element("p", LEAD, class_="lead")
    demo = any(column.ours for sheet in sheets for column in sheet.columns)
    told: dict[str, str] = {"Costs": COSTS, "Quality": f"{QUALITY} {DEMO}" if demo else QUALITY}
    told |= {"Claims": CLAIMS} if verdicts else {}
    told |= {"Tables": how_to_read()} if sheets else {}
    pairs = ((element("dt", name), element("dd", text)) for name, text in told.items())
    yield element("dl", *(element("div", *pair) for pair in pairs), class_="how")


def _summary(parts: Sequence[_Part], sheets: Sequence[Sheet], verdicts: Sequence[Verdict]) -> Iterator[Markup]:
    """The figures of everything, then the papers one by one, which is the table of contents."""
    yield element("h2", "In short")
    tiles = [element("div", *_costs_tile(costs(sheets)), class_="tile")]
    if verdicts:
        tiles.append(element("div", *_claims_tile(verdicts), class_="tile"))
    yield element("div", *tiles, class_="tiles")
    if not parts:
        return
    columns = ["Paper", "Contents", f"Costs within {TOLERANCE:.1%}", "Claims"]
    rows = (list(_overview(part)) for part in parts)
    table = cards("Papers, their tables, and how each stands", columns, rows, named=0, style="overview")
    yield element("nav", table, aria_label="Contents")


def _costs_tile(found: Costs) -> Iterator[Markup]:
    yield element("h3", "Costs")
    if found.compared:
        yield element("p", element("b", f"{found.within} of {found.compared}"), class_="figure")
        yield element("p", f"cost cells that can be compared lie within {TOLERANCE:.1%} of the published number.")
    else:
        yield element("p", "No cost cell has a published number and one of ours to compare.")
    if found.worst:
        yield element("p", "Worst: ", element("b", percent(found.worst.ratio)), f", {found.worst.name}.")
    others = {
        "cannot be reproduced from what the paper says": found.unreachable,
        "of something else than ours": found.incomparable,
        "without a number of ours (cited only, or failed)": found.missing,
    }
    rest = [f"{count} {text}" for text, count in others.items() if count]
    if rest:
        yield element("p", f"Not among them: {'; '.join(rest)}.", class_="aside")


def _claims_tile(verdicts: Sequence[Verdict]) -> Iterator[Markup]:
    found = counted(verdicts)
    yield element("h3", "Claims")
    yield element("p", element("b", f"{found['supported']} of {len(verdicts)}"), class_="figure")
    yield element("p", "qualitative claims of the papers are supported by the networks trained here.")
    bars = (element("span", style=f"flex-grow:{n}", class_=f"v{place}") for place, n in enumerate(found.values()) if n)
    yield element("div", *bars, class_="bar", aria_hidden="true")
    yield element("p", joined((chip(verdict, count) for verdict, count in found.items() if count), " "))


def _overview(part: _Part) -> Iterator[Markup]:
    """Name, links, costs, claims."""
    name = element("a", paper_name(part.paper), href=f"#{part.place}")
    yield joined([name, element("small", PAPERS.get(part.paper, ("", ""))[1])])
    links = [(f"#{part.place}-claims", "claims")] if part.verdicts else []
    links += [(f"#{part.place}-figures", "figures")] if part.pictures else []
    firsts: dict[str, str] = {}  # the first sheet of each table
    for place, sheet in part.sheets:
        firsts.setdefault(sheet.title.partition(":")[0], place)
    links += [(f"#{place}", text) for text, place in firsts.items()]
    yield joined((element("a", text, href=to) for to, text in links), ", ")
    found = costs([sheet for _, sheet in part.sheets])
    share = f"{found.within} of {found.compared}" if found.compared else "–"
    yield joined([share, element("small", f"worst {percent(found.worst.ratio)}") if found.worst else ""])
    counts = counted(part.verdicts)
    yield joined((chip(verdict, count) for verdict, count in counts.items() if count), " ") or Markup("–")


def _paper(part: _Part) -> Iterator[Markup]:
    """Claims, figures, tables."""
    title = PAPERS.get(part.paper, ("", ""))[1]
    yield element("h2", paper_name(part.paper), element("small", title) if title else "")
    if part.verdicts:
        yield element("h3", "Claims", id=f"{part.place}-claims")
        yield claims_table(part.verdicts, f"Claims of {paper_name(part.paper)}")
    if part.pictures:
        yield element("h3", "Figures", id=f"{part.place}-figures")
        yield _pictures(part.pictures)
    if part.sheets:
        yield element("h3", "Tables")
        yield from (sheet_section(sheet, place) for place, sheet in part.sheets)


def _pictures(pictures: Sequence[Picture]) -> Markup:
    return element("div", *map(_picture, pictures), class_="pictures") if pictures else Markup()


def _picture(picture: Picture) -> Markup:
    """Raises: ValueError: if it is no PNG, whose first chunk gives its size."""
    if not picture.image.startswith(PNG) or picture.image[12:16] != b"IHDR":
        raise ValueError(f"picture {picture.title!r} is no PNG")
    width, height = (int.from_bytes(picture.image[start : start + 4], "big") for start in (16, 20))
    source = f"data:image/png;base64,{b64encode(picture.image).decode()}"
    image = element("img", src=source, alt=picture.alt or picture.title, width=width, height=height)
    if picture.wide:
        image = element("div", image, class_="pan", role="region", tabindex=0, aria_label=f"{picture.title}: picture")
    caption = element("figcaption", element("b", prose(picture.title)), " ", prose(picture.caption))
    return element("figure", image, caption, class_="wide" if picture.wide else None)


def _about(about: Mapping[str, str]) -> Iterator[Markup]:
    yield element("h2", "About this page")
    pairs = (
        (element("dt", name), element("dd", element("pre", text) if "\n" in text else prose(text)))
        for name, text in about.items()
    )
    yield element("dl", *(element("div", *pair) for pair in pairs))
