"""HTML in small pieces: whatever is not markup already is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from dynres.tables.render.inline import spans

VOID = frozenset({"img", "meta"})
# What a document may not hold: control characters, halves of surrogate pairs, code points that are no characters.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Markup(str):
    """Text that is HTML."""


def escaped(text: str) -> Markup:
    """Text as HTML that shows it, within elements and attributes."""
    return text if isinstance(text, Markup) else Markup(html.escape(FORBIDDEN.sub("\ufffd", text.replace("\r", " "))))


def joined(pieces: Iterable[str], between: str = "") -> Markup:
    """Pieces one after the other, those that are text escaped."""
    return Markup(escaped(between).join(escaped(piece) for piece in pieces))


def element(name: str, /, *content: str, **attributes: str | int | bool | None) -> Markup:
    """<name attribute="...">content</name>.

    Args:
        attributes: with "_" for "-", and one at the end where the name is a word of Python ("class_"); True is an
            attribute without value, False, None and "" are left out.
    """
    given = []
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            given.append(f" {attribute}")
        elif value is not False and value is not None and value != "":
            given.append(f' {attribute}="{escaped(str(value))}"')
    opening = f"<{name}{''.join(given)}>"
    return Markup(opening if name in VOID else f"{opening}{joined(content)}</{name}>")


def prose(text: str) -> Markup:
    """A line of text; what stands between backticks is code."""
    return joined(element("code", piece) if code else piece for piece, code in spans(text))
