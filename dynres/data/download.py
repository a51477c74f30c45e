"""Fetching a large file over HTTP so that a cut connection costs nothing, and unpacking archives nobody vouches for."""

from __future__ import annotations

import hashlib
import http.client
import re
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dynres.errors import UserError

_BLOCK = 1 << 20
_REFUSED: type[Exception] = getattr(tarfile, "FilterError", tarfile.TarError)  # Python before 3.11.4 has no filters
_CUT = (ConnectionError, TimeoutError, http.client.HTTPException)


def fetch(url: str, file: Path, attempts: int = 5, pause: float = 2.0, timeout: float = 30.0) -> None:
    """Download `url` to `file`, going on where `<file>.part` ends; `file` appears only when it is complete.

    A server without ranges, or whose file changed since, makes it start over. A connection that is cut is taken up
    again, `attempts` times without a new byte, after `pause` seconds that double each time.

    Raises:
        UserError: another scheme than http(s), a server that refuses, or one that stays away; the part is kept.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"cannot download {url}: give an http:// or https:// address")
    part = file.with_name(file.name + ".part")
    failures, furthest = 0, _length(part)
    with _progress() as bar:
        task = bar.add_task(file.name, total=None)
        while True:
            try:
                _continue(url, part, timeout, lambda done, total: bar.update(task, completed=done, total=total))
                break
            except urllib.error.HTTPError as error:
                if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{_length(part)}":
                    break  # nothing was missing but the last name
                raise UserError(f"cannot download {url}: the server answers {error.code} {error.reason}") from error
            except (urllib.error.URLError, *_CUT) as error:
                failures = 1 if _length(part) > furthest else failures + 1
                furthest = max(furthest, _length(part))
                if failures >= attempts:
                    raise UserError(
                        f"cannot download {url}: {error}; {_length(part)} bytes are kept in {part}: run "
                        f"the same command again to go on"
                    ) from error
                time.sleep(pause * 2 ** (failures - 1))
    part.replace(file)
    _tag(part).unlink(missing_ok=True)


def sha256(file: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the members of a .zip or .tar archive whose name is `wanted` into `folder`, never outside it.

    Raises:
        UserError: not an archive, a damaged one, or one with a member that is a link or leaves the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, folder, wanted)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, folder, wanted)
        else:
            raise UserError(f"{archive} is neither a zip nor a tar archive: delete it and download it again")
    except (zipfile.BadZipFile, tarfile.ReadError, EOFError) as error:
        raise UserError(f"{archive} is damaged: {error}; delete it and download it again") from error
    except _REFUSED as error:
        raise UserError(f"{archive} is refused, nothing of it is used: {error}") from error


def _continue(url: str, part: Path, timeout: float, report: Callable[[int, int | None], None]) -> None:
    """Append to `part` what is missing; returns only when the file is complete."""
    done, tag = _length(part), _tag(part)
    request = urllib.request.Request(url)
    if done and tag.exists():  # without the server's mark for this version, old and new bytes could be mixed
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", tag.read_text())
    else:
        done = 0
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        if answer.status == 206:
            start, total = _content_range(answer.headers.get("Content-Range", ""))
            done = done if start == done else 0
            if not done:
                part.unlink()  # a range nobody asked for
                raise ConnectionError(f"the server sent bytes from {start}, not those asked for")
        else:
            done, length = 0, answer.headers.get("Content-Length")
            total = int(length) if length else None
            _remember(tag, answer.headers)
        with part.open("ab" if done else "wb") as stream:
            while block := answer.read(_BLOCK):
                stream.write(block)
                done += len(block)
                report(done, total)
    if total is not None and done != total:
        raise ConnectionError(f"the connection was cut after {done} of {total} bytes")


def _remember(tag: Path, headers: http.client.HTTPMessage) -> None:
    """Keep the server's mark of this version of the file (a strong ETag, else the date) to ask for more of the same."""
    etag = headers.get("ETag", "")
    mark = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    if mark:
        tag.write_text(mark)
    else:
        tag.unlink(missing_ok=True)


def _content_range(value: str) -> tuple[int, int | None]:
    """(first byte, total bytes or None) of a Content-Range such as "bytes 100-199/200"."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", value.strip())
    if match is None:
        raise ConnectionError(f"the server sent a part of the file without saying which: {value!r}")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _unpack_zip(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    with zipfile.ZipFile(archive) as members:
        chosen = [member for member in members.infolist() if wanted(member.filename)]
        for member in chosen:
            _refuse(archive, member.filename, stat.S_ISLNK(member.external_attr >> 16))
        members.extractall(folder, chosen)


def _unpack_tar(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python cannot unpack tar archives safely: use Python 3.11.4 or newer")
    with tarfile.open(archive) as members:
        chosen = [member for member in members if wanted(member.name)]
        for member in chosen:
            _refuse(archive, member.name, member.issym() or member.islnk())
        members.extractall(folder, chosen, filter="data")


def _refuse(archive: Path, name: str, link: bool) -> None:
    """Raise for a member that is a link or whose name leads out of the folder it is unpacked in."""
    path = PurePosixPath(name.replace("\\", "/"))
    leaves = path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0]
    if leaves or link:
        raise UserError(
            f"{archive} is refused, nothing of it is used: its member {name!r} "
            f"{'leaves the folder' if leaves else 'is a link'}"
        )


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
