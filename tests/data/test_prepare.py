from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dynres.data import prepare as prepare_module
from dynres.data.download import fetch, unpack
from dynres.data.images import read_rgb, write_png
from dynres.data.prepare import SETS, Part, main, prepare
from dynres.errors import UserError

Noise = Callable[..., np.ndarray]


class Server(ThreadingHTTPServer):
    """A file server on 127.0.0.1 that can be told to misbehave.

    Attributes:
        files: path -> content. ranges, mark: whether it knows Range, and whether it sends an ETag.
        cut: the number of bytes after which each answer's connection is cut, or None.
        log: (path, Range header or None, bytes sent) of every answer.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges, self.mark, self.cut = True, True, None
        self.log: list[tuple[str, str | None, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        asked = self.headers.get("Range") if self.server.ranges else None
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.headers.get("If-Range") == tag else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.mark:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = content[start:][: self.server.cut]
        self.server.log.append((self.path, self.headers.get("Range"), len(sent)))  # first: then the client may look
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


needs_filters = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="this Python unpacks no tar archive safely: 3.11.4 and newer do"
)
CONTENT = np.random.default_rng(0).bytes(100_000)


# --- Downloading ----------------------------------------------------------------------------------------------------


def test_a_download_that_is_cut_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.files["/a"], server.cut = CONTENT, 30_000
    fetch(f"{server.url}/a", tmp_path / "a", pause=0)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [(asked, sent) for _, asked, sent in server.log] == [
        (None, 30_000),
        ("bytes=30000-", 30_000),
        ("bytes=60000-", 30_000),
        ("bytes=90000-", 10_000),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_download_that_was_given_up_goes_on_in_the_next_run(server: Server, tmp_path: Path) -> None:
    server.files["/a"], server.cut = CONTENT, 40_000
    with pytest.raises(UserError, match="40000 bytes are kept"):
        fetch(f"{server.url}/a", tmp_path / "a", attempts=1, pause=0)
    assert not (tmp_path / "a").exists()
    server.cut = None
    fetch(f"{server.url}/a", tmp_path / "a", pause=0)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.log[-1] == ("/a", "bytes=40000-", 60_000)


@pytest.mark.parametrize("lacks", ["ranges", "mark"])
def test_a_server_without_ranges_or_marks_starts_over(server: Server, tmp_path: Path, lacks: str) -> None:
    server.files["/a"], server.cut = CONTENT, 40_000
    setattr(server, lacks, False)
    with pytest.raises(UserError):
        fetch(f"{server.url}/a", tmp_path / "a", attempts=1, pause=0)
    server.cut = None
    fetch(f"{server.url}/a", tmp_path / "a", pause=0)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.log[-1][2] == 100_000


def test_a_file_that_changed_on_the_server_is_not_mixed_with_the_old_one(server: Server, tmp_path: Path) -> None:
    server.files["/a"], server.cut = CONTENT, 40_000
    with pytest.raises(UserError):
        fetch(f"{server.url}/a", tmp_path / "a", attempts=1, pause=0)
    server.files["/a"], server.cut = CONTENT[::-1], None
    fetch(f"{server.url}/a", tmp_path / "a", pause=0)
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_a_part_that_is_already_complete_only_gets_its_name(server: Server, tmp_path: Path) -> None:
    server.files["/a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT)
    (tmp_path / "a.part.version").write_text(f'"{hashlib.sha256(CONTENT).hexdigest()}"')
    fetch(f"{server.url}/a", tmp_path / "a", pause=0)
    assert (tmp_path / "a").read_bytes() == CONTENT and not server.log


def test_a_server_that_always_cuts_at_the_same_byte_is_given_up(server: Server, tmp_path: Path) -> None:
    server.files["/a"], server.cut, server.ranges = CONTENT, 40_000, False
    with pytest.raises(UserError, match="cut after 40000 of 100000 bytes"):
        fetch(f"{server.url}/a", tmp_path / "a", attempts=3, pause=0)
    assert len(server.log) == 3


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("{}/nothing", "404"),
        ("http://127.0.0.1:9/a", "cannot download"),
        ("file:///etc/hostname", "http:// or https://"),
    ],
)
def test_an_address_that_gives_nothing_is_one_line(server: Server, tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fetch(url.format(server.url), tmp_path / "a", attempts=2, pause=0)


# --- Unpacking ------------------------------------------------------------------------------------------------------


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def linked_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("set/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc")
    return buffer.getvalue()


def linked_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("set/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [zipped, pytest.param(tarred, marks=needs_filters)])
@pytest.mark.parametrize("name", ["../evil.png", "set/../../evil.png", "/tmp/evil.png"])
def test_a_member_that_leaves_the_folder_refuses_the_archive(
    tmp_path: Path, name: str, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    (tmp_path / "a").write_bytes(pack({"set/good.png": b"x", name: b"x"}))
    with pytest.raises(UserError, match="refused"):
        unpack(tmp_path / "a", tmp_path / "out" / "deep", lambda _: True)
    assert not list(tmp_path.rglob("evil.png")) and not Path("/tmp/evil.png").exists()


@pytest.mark.parametrize("archive", [linked_zip(), pytest.param(linked_tar(), marks=needs_filters)], ids=["zip", "tar"])
def test_a_link_in_an_archive_refuses_it(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "a").write_bytes(archive)
    with pytest.raises(UserError, match="is a link"):
        unpack(tmp_path / "a", tmp_path / "out", lambda _: True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"words",
        zipped({"set/a": CONTENT})[:-200],
        pytest.param(tarred({"set/a": CONTENT})[:9000], marks=needs_filters),
    ],
    ids=["empty", "text", "cut zip", "cut tar"],
)
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip .*download it again"):
        unpack(tmp_path / "a.zip", tmp_path / "out", lambda _: True)


# --- Preparing ------------------------------------------------------------------------------------------------------


def png(tmp_path: Path, image: np.ndarray) -> bytes:
    write_png(tmp_path / "one.png", image)
    return (tmp_path / "one.png").read_bytes()


@pytest.fixture
def archive(tmp_path: Path, noise: Noise) -> bytes:
    """Two small parts, and what archives carry besides."""
    members = {f"set/{kind}/{n}.png": png(tmp_path, noise(8, 8, n)) for kind in ("HR", "LR") for n in range(2)}
    return zipped({**members, "set/readme.txt": b"words", "other/3.png": b"not an image"})


def parts(checksum: str | None = None) -> tuple[Part, ...]:
    return tuple(Part(f"set/{kind}", 2, "http://127.0.0.1:9", "set.zip", checksum) for kind in ("HR", "LR"))


def test_a_set_is_laid_out_and_a_second_run_downloads_nothing(
    server: Server, tmp_path: Path, archive: bytes, noise: Noise, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/set.zip"] = archive
    for _ in range(2):
        prepare(parts(), tmp_path / "data", server.url)
    np.testing.assert_array_equal(read_rgb(tmp_path / "data/set/LR/1.png"), noise(8, 8, 1))
    root = tmp_path / "data"
    laid_out = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert laid_out == ["SHA256SUMS", "set/HR/0.png", "set/HR/1.png", "set/LR/0.png", "set/LR/1.png"]
    assert len(server.log) == 1
    assert "already there and whole" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_part_is_fetched_again(
    server: Server, tmp_path: Path, archive: bytes, noise: Noise, damage: str
) -> None:
    server.files["/set.zip"] = archive
    prepare(parts(), tmp_path / "data", server.url)
    victim = tmp_path / "data/set/LR/1.png"
    victim.unlink() if damage == "missing" else victim.write_bytes(victim.read_bytes()[:50])
    prepare(parts(), tmp_path / "data", server.url)
    np.testing.assert_array_equal(read_rgb(victim), noise(8, 8, 1))


def test_a_wrong_checksum_refuses_the_download_and_the_next_run_starts_anew(
    server: Server, tmp_path: Path, archive: bytes
) -> None:
    server.files["/set.zip"] = archive + b"tampered"
    right = hashlib.sha256(archive).hexdigest()
    with pytest.raises(UserError, match=f"expected {right}"):
        prepare(parts(right), tmp_path / "data", server.url)
    assert not (tmp_path / "data/set").exists() and not (tmp_path / "data/set.zip").exists()
    server.files["/set.zip"] = archive
    prepare(parts(right), tmp_path / "data", server.url)
    assert (tmp_path / "data/set/HR/0.png").exists()


def test_a_checksum_nobody_published_is_recorded_and_holds_from_then_on(
    server: Server, tmp_path: Path, archive: bytes, noise: Noise
) -> None:
    server.files["/set.zip"] = archive
    prepare(parts(), tmp_path / "data", server.url)
    assert (tmp_path / "data/SHA256SUMS").read_text() == f"{hashlib.sha256(archive).hexdigest()}  set.zip\n"
    (tmp_path / "data/set/HR/0.png").unlink()
    server.files["/set.zip"] = archive + b"another"
    with pytest.raises(UserError, match="has SHA-256"):
        prepare(parts(), tmp_path / "data", server.url)


def test_a_given_checksum_file_must_agree(server: Server, tmp_path: Path, archive: bytes) -> None:
    server.files["/set.zip"] = archive
    (tmp_path / "sums").write_text(f"{'0' * 64}  set.zip\n")
    with pytest.raises(UserError, match=f"expected {'0' * 64}"):
        prepare(parts(), tmp_path / "data", server.url, tmp_path / "sums")
    (tmp_path / "sums").write_text("set.zip\n")
    with pytest.raises(UserError, match="line 1: expected 64"):
        prepare(parts(), tmp_path / "data", server.url, tmp_path / "sums")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"set/LR/1.png": b"words"}, r"set/LR/1\.png is not an image"),
        ({"set/HR/2.png": b"one too many"}, "holds 3 images in set/HR, expected 2"),
        ({"set/../../evil.png": b""}, "leaves the folder"),
    ],
)
def test_a_bad_archive_leaves_nothing_behind(
    server: Server, tmp_path: Path, archive: bytes, change: dict[str, bytes], says: str
) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        server.files["/set.zip"] = zipped({**{name: old.read(name) for name in old.namelist()}, **change})
    with pytest.raises(UserError, match=says):
        prepare(parts(), tmp_path / "data", server.url)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["set.zip"]


@needs_filters
def test_the_command_lays_out_set5_from_a_mirror(
    server: Server, tmp_path: Path, noise: Noise, capsys: pytest.CaptureFixture[str]
) -> None:
    image = png(tmp_path, noise(8, 8))
    members = {f"{part.folder}/{n}.png": image for part in SETS["set5"] for n in range(5)}
    server.files["/mirror/benchmark.tar"] = tarred({**members, "benchmark/Set14/HR/x.png": b"", "benchmark/._x": b""})
    main(["--what", "set5", "--to", str(tmp_path / "data"), "--base-url", f"{server.url}/mirror/"])
    assert len(list((tmp_path / "data/benchmark/Set5/LR_bicubic/X3").iterdir())) == 5
    assert not (tmp_path / "data/benchmark/Set14").exists()
    assert "5 images, all of them decoded" in capsys.readouterr().out


def test_the_command_ends_with_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "fetch", lambda url, file: fetch(url, file, attempts=1, pause=0))
    with pytest.raises(SystemExit) as ended:
        main(["--what", "div2k", "--to", str(tmp_path), "--base-url", "http://127.0.0.1:9"])
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: cannot download http://127.0.0.1:9/DIV2K_train_HR.zip"), last
