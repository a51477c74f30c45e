"""The page in a real browser: on a desk, a phone, and printed nothing overflows, images load, no request leaves it."""

from __future__ import annotations

import base64
import fcntl
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynres.tables.render import page
from dynres.tables.sheet import METRICS, Cell, Column, Measured, Picture, Row, Sheet, Verdict

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# DevTools is read and written on descriptors 3 and 4, whatever the pipes are here.
ON_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """Headless Chromium, spoken to through a pipe (the DevTools protocol), with one tab."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        ends = [os.pipe(), os.pipe()]
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ends[0][0], ends[1][1])]
        self.writer, self.reader = os.fdopen(ends[0][1], "wb"), os.fdopen(ends[1][0], "rb")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_3_AND_4, *map(str, theirs), CHROMIUM, *flags],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (*theirs, ends[0][0], ends[1][1]):
            os.close(end)
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        number = next(self.numbers)
        self.writer.write(
            json.dumps({"id": number, "method": method, "params": params, **self.session}).encode() + b"\0"
        )
        self.writer.flush()
        while (message := self._message()).get("id") != number:
            self.events.append(message)
        assert "error" not in message, f"{method}: {message['error']}"
        return message["result"]

    def _message(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self.reader.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        return json.loads(text)

    def open(self, path: Path, width: int, height: int, mobile: bool = False, dark: bool = False) -> None:
        """Show a file in a window of so many CSS pixels, and wait until it has loaded."""
        self.media("screen", dark)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def media(self, kind: str, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=kind, features=[scheme])

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: Path, whole: bool = False) -> bytes:
        image = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(image))
        return path.read_bytes()

    def print(self, path: Path) -> bytes:
        self.media("print")
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"]))
        return path.read_bytes()

    def close(self) -> None:
        self.writer.close()
        self.process.terminate()
        self.process.wait(30)
        self.reader.close()


LONG = "runs/tadt/baseline-seed1/" + "a_name_without_any_place_to_break_" * 4
SYSTEMS = ["Bicubic", "SRCNN", "VDSR", "MemNet", "SRMDNF", "RDN", "HAN", "EDSR", "EDSR+CLA", "EDSR+ACLA", "RCAN", LONG]


def wide_sheet(ours: bool) -> Sheet:
    """As ACLA's Table 1, the widest of all: five sets, three scales, two metrics; beside ours, or beside a demo's."""
    places = [(name, f"x{scale}") for name in ("Set5", "Set14", "B100", "Urban100", "Manga109") for scale in (2, 3, 4)]
    columns = [Column("params", METRICS["params"])]
    columns += [Column(f"{level} {key.upper()}", METRICS[key], of, level) for of, level in places for key in METRICS_OF]
    columns += [Column(f"x2 {key.upper()}", METRICS[key], "photographs: ours", "x2", ours=True) for key in METRICS_OF]
    rows = []
    for index, name in enumerate(SYSTEMS):
        measured = Measured(None, note=f"failed: {LONG}") if index == 3 else Measured(27.1 + index, 0.04, 3)
        cells = [Cell(20.0 + index, Measured(20.3 + index), reachable=index != 5, comparable=index != 5)]
        for column in columns[1:-2]:
            value = 30 + index / 7 if column.metric.name == "psnr" else 0.9 + index / 1e3
            cells.append(Cell(value, Measured(value + 0.01) if ours else None))
        cells += [
            Cell(None, measured),
            Cell(None, Measured(0.8, 0.01, 3) if index % 2 else Measured(None, note="no run")),
        ]
        rows.append(Row(name, tuple(cells), "cited" if index < 5 else "ours", remark=LONG if index == 7 else ""))
    label = "demo-size networks trained for minutes on bundled photographs"
    return Sheet(f"acla/{1 + ours}", f"Table {1 + ours}: PSNR (dB) / SSIM", tuple(columns), tuple(rows), label, (LONG,))


METRICS_OF = ("psnr", "ssim")


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "steelblue").save(file, format="PNG")
    return file.getvalue()


def verdict(kind: Any, values: tuple[float, ...], claim: str = "TADT spends less at x2 than at x4") -> Verdict:
    return Verdict(
        "tadt", claim, "Sec. 4.3, Figure 7", "42% and 61% of the branches", "branches at x4 less those at x2", "%", 1,
        values, kind, "" if values else f"failed: {LONG}",
    )  # fmt: skip


def everything() -> str:
    """A page with all that there can be on one."""
    verdicts = [
        verdict("supported", (4.2, 5.1, 3.9)),
        verdict("undecided", (-1.0, 2.0), LONG),
        verdict("not supported", (-3.0,)),
        verdict("not measured", ()),
    ]
    pictures = [
        Picture("all", "The common plane", "Demo-size networks.", "PSNR against MACs", png(1900, 700), wide=True),
        Picture("tadt", "Beta", "Beta over the scale, " + LONG, "A falling curve", png(800, 600)),
        Picture("tadt", "Cost", "Cost a scale", "Bars", png(60, 40)),
    ]
    about = {"Version": "0.9", "Reproduce": f"make reproduce-tables\nmake reproduce-tables DATA={LONG}", "Runs": LONG}
    return page.render([wide_sheet(True), wide_sheet(False)], verdicts, pictures, about)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(everything(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Chrome on PATH (Debian: apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


# Elements whose right edge is beyond the window's, but for those in a container that scrolls by itself.
BEYOND = """[...document.body.querySelectorAll("*")]
    .filter(one => !one.closest(".scroll *, .pan *, .hidden") && one.getBoundingClientRect().right > innerWidth + 0.5)
    .map(one => one.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height", "mobile"), [(390, 844, True), (1280, 900, False)], ids=["phone", "desk"])
def test_nothing_overflows_and_every_image_loads(
    browser: Browser, written: Path, tmp_path: Path, width: int, height: int, mobile: bool, dark: bool
) -> None:
    browser.open(written, width, height, mobile, dark)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.evaluate(BEYOND) == []
    sizes = browser.evaluate("[...document.images].map(one => [one.complete, one.naturalWidth, one.naturalHeight])")
    assert sizes == [[True, 1900, 700], [True, 800, 600], [True, 60, 40]]
    seen = Image.open(io.BytesIO(browser.screenshot(tmp_path / "page.png")))
    assert seen.size == (width, height) and len(seen.convert("RGB").getcolors(1 << 24)) > 50
    corner = sum(seen.convert("RGB").getpixel((2, 2)))
    assert corner < 150 if dark else corner > 700


def test_a_wide_table_scrolls_beside_its_names(browser: Browser, written: Path) -> None:
    browser.open(written, 390, 844, mobile=True)
    names, left, moved, wider = browser.evaluate("""(() => {
        const box = document.querySelector(".scroll"), name = box.querySelector("tbody th[scope=row]");
        const cell = name.nextElementSibling, before = cell.getBoundingClientRect().left;
        box.scrollLeft = 150;
        const edge = box.getBoundingClientRect().left;
        return [name.getBoundingClientRect().left, edge, before - cell.getBoundingClientRect().left,
                box.scrollWidth > box.clientWidth];
    })()""")
    assert wider and moved == 150 and names == pytest.approx(left, abs=1)


def test_no_request_leaves_the_page(browser: Browser, written: Path) -> None:
    browser.open(written, 1280, 900)
    asked = [event["params"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    assert {one["request"]["url"].split(":")[0] for one in asked} == {"file", "data"}
    assert [one["request"]["url"] for one in asked if one["request"]["url"].startswith("file")] == [written.as_uri()]
    told = [event for event in browser.events if event.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert told == []  # no violation of its own policy, no failed load


def test_a_request_would_be_noticed(browser: Browser, written: Path, tmp_path: Path) -> None:
    """What the test above looks at does see a page that asks for something."""
    bad = tmp_path / "bad.html"
    bad.write_text(re.sub(r"<meta http-equiv[^>]*>", "", everything()).replace("</main>", '<img src="x.png"></main>'))
    browser.open(bad, 1280, 900)
    asked = [event["params"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    assert (tmp_path / "x.png").as_uri() in [one["request"]["url"] for one in asked]


def test_printed_tables_are_whole(browser: Browser, written: Path, tmp_path: Path) -> None:
    printed = 695  # CSS pixels between the margins of an A4 page
    browser.open(written, printed, 1000)
    browser.media("print")
    assert browser.evaluate(BEYOND.replace(".scroll *, .pan *, ", "")) == []
    assert browser.evaluate("[...document.querySelectorAll('.scroll')].every(one => one.scrollWidth <= innerWidth)")
    document = browser.print(tmp_path / "page.pdf")
    assert document.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", document)) <= 12


class Outline(HTMLParser):
    """Checks that elements close in order; gathers attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, *names: str) -> list[str]:
        return [value for _, name, value in self.attributes if name in names]


def test_every_link_stays_in_the_page_and_finds_its_place() -> None:
    seen = Outline(everything())
    names = seen.values("id")
    assert len(names) == len(set(names))
    assert {link.removeprefix("#") for link in seen.values("href")} <= set(names) | {""}
    assert all(source.startswith("data:image/png;base64,") for source in seen.values("src"))
    assert all(link.startswith("#") for link in seen.values("href"))
    assert "url(" not in everything() and "@import" not in everything()
    assert {tag for tag, _, _ in seen.attributes} & {"script", "link", "iframe", "form"} == set()


def test_every_image_is_described_and_every_header_has_a_scope() -> None:
    seen = Outline(everything())
    assert seen.values("alt") == ["PSNR against MACs", "A falling curve", "Bars"]
    text = everything()
    assert text.count("<th ") == len(re.findall(r"<th [^>]*scope=", text)) and "<th>" not in text
    assert text.count("<table") == text.count("<caption")


@given(st.text(max_size=30), st.text("<>&\"'`-!/ab", max_size=20))
def test_any_text_is_shown_and_leaves_the_page_well_formed(any_text: str, special: str) -> None:
    text = f"{any_text}|{special}"
    cells = (Cell(1.0, Measured(None, note=text)), Cell(2.0, Measured(2.0)))
    columns = (Column(text, METRICS["psnr"], text, text), Column("x", METRICS["gmacs"]))
    rows = (Row(text, cells, text, remark=text), Row("other", (Cell(), Cell()), status="cited only"))
    sheet = Sheet("tadt/1", text, columns, rows, text or "ours", (text,), text)
    verdicts = [Verdict("tadt", text, text, text, text, text, 2, (1.0, 2.0), "undecided", text)]
    pictures = [Picture("tadt", text, text, text, png(2, 2), wide=True)]
    seen = Outline(page.render([sheet], verdicts, pictures, {text: text}))
    words = re.sub("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ufffd\\s`]", "", text)
    shown = re.sub("[\\s`\ufffd]", "", "".join(seen.text))
    assert shown.count(words) >= 10  # each of the places above


@pytest.mark.parametrize("where", ["", "(prefers-color-scheme: dark)", "@media print"], ids=["light", "dark", "print"])
def test_text_stands_out_from_what_is_behind_it(where: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    style = Path(page.__file__).with_name("page.css").read_text(encoding="utf-8")
    colours: dict[str, str] = {}
    for start in ("", where):
        block = style[style.index(":root", style.index(start)) :]
        colours |= dict(re.findall(r"--(\w+): (#\w+)", block[: block.index("}")]))
    for ink in ("ink", "muted", "link", "good", "fair", "bad"):
        for behind in ("paper", "raised", "ours"):
            light, dim = sorted((luminance(colours[ink]), luminance(colours[behind])), reverse=True)
            assert (light + 0.05) / (dim + 0.05) >= 4.5, (ink, behind)


def luminance(colour: str) -> float:
    """Of "#rgb" or "#rrggbb" (WCAG 2.2, relative luminance)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_what_is_no_png_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'Beta' is no PNG"):
        page.write(tmp_path / "index.html", [], [], [Picture("tadt", "Beta", "", "", b"GIF89a")], {})
    assert list(tmp_path.iterdir()) == []


def test_an_empty_page_is_a_page() -> None:
    assert "No cost cell has" in "".join(Outline(page.render([], [], [], {})).text)
