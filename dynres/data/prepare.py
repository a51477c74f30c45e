"""Download a data set, check it and lay it out: python -m dynres.data.prepare --what div2k set5 --to FOLDER

Everything can be run again: what is there and whole is left alone, a download that was cut goes on where it ended.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from dynres.data.cache import summary
from dynres.data.download import fetch, sha256, unpack
from dynres.data.images import SUFFIXES, find_images, read_rgb
from dynres.errors import UserError, clean_exit

DIV2K_URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K"
BENCHMARK_URL = "https://cv.snu.ac.kr/research/EDSR"
RECORD = "SHA256SUMS"


@dataclass(frozen=True)
class Part:
    """A folder of a data set and where it comes from.

    Attributes:
        folder: the folder that appears, as a path inside the archive and below the target.
        images: how many it must hold.
        url: where the archive lies, without the file name.
        archive: the archive's file name.
        sha256: its SHA-256 where somebody published it (here: TensorFlow Datasets' url_checksums/div2k.txt), or None.
    """

    folder: str
    images: int
    url: str
    archive: str
    sha256: str | None = None


def _div2k(folder: str, images: int, archive: str, checksum: str | None = None) -> Part:
    return Part(folder, images, DIV2K_URL, archive, checksum)


def _benchmark(name: str, images: int) -> tuple[Part, ...]:
    folders = [("HR", images), *((f"LR_bicubic/X{scale}", images) for scale in (2, 3, 4))]
    return tuple(Part(f"benchmark/{name}/{inside}", n, BENCHMARK_URL, "benchmark.tar") for inside, n in folders)


SETS: dict[str, tuple[Part, ...]] = {
    "div2k": (
        _div2k(
            "DIV2K_train_HR",
            800,
            "DIV2K_train_HR.zip",
            "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
        ),
        _div2k(
            "DIV2K_valid_HR",
            100,
            "DIV2K_valid_HR.zip",
            "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
        ),
        _div2k(
            "DIV2K_valid_LR_bicubic/X2",
            100,
            "DIV2K_valid_LR_bicubic_X2.zip",
            "60eed9875c697df51204aa579e2a699e1d5215095788a097ff54dd17e2664d57",
        ),
        _div2k("DIV2K_valid_LR_bicubic/X3", 100, "DIV2K_valid_LR_bicubic_X3.zip"),
        _div2k("DIV2K_valid_LR_bicubic/X4", 100, "DIV2K_valid_LR_bicubic_X4.zip"),
    ),
    "set5": _benchmark("Set5", 5),
    "set14": _benchmark("Set14", 14),
    "b100": _benchmark("B100", 100),
    "urban100": _benchmark("Urban100", 100),
}


def prepare(
    parts: tuple[Part, ...],
    target: Path,
    base_url: str | None = None,
    checksums: Path | None = None,
    keep: bool = False,
) -> None:
    """Make every part appear below `target`, each image decoded once before it does.

    Args:
        parts: what to fetch.
        target: folder to lay it out in; made if missing.
        base_url: where the archives lie instead of their published place.
        checksums: a file in sha256sum's format; what it names must agree. None: `SHA256SUMS` in `target`.
        keep: leave the archives in `target` afterwards.

    Raises:
        UserError: a download that fails, a checksum or an image that is wrong; what was there stays.
    """
    missing = [part for part in parts if not _complete(target / part.folder, part.images)]
    for part in parts:
        if part not in missing:
            _say(f"{part.folder}: {part.images} images, already there and whole")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in dict.fromkeys(part.archive for part in missing):
            _prepare_archive([part for part in missing if part.archive == name], target, base_url, checksums, keep)
    except OSError as error:
        raise UserError(
            f"cannot write in {target}: {error.strerror or error}; mend that and run the same command again to go on"
        ) from error


def _prepare_archive(parts: list[Part], target: Path, base_url: str | None, checksums: Path | None, keep: bool) -> None:
    """Fetch one archive, check it, and move the parts that come from it to their places."""
    archive = target / parts[0].archive
    if not archive.exists():
        fetch(f"{(base_url or parts[0].url).rstrip('/')}/{archive.name}", archive)
    record = checksums or target / RECORD
    checksum = _checked_sum(archive, parts[0].sha256, record)
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as temporary:
        _say(f"{archive.name}: unpacking")
        unpack(archive, Path(temporary), lambda name: any(_inside(name, part.folder) for part in parts))
        for part in parts:
            _verify(Path(temporary) / part.folder, part, archive)
        if checksum is not None:
            _record_sum(archive.name, checksum, record)
        for part in parts:
            place = target / part.folder
            if place.exists():
                shutil.rmtree(place)  # incomplete or damaged, or it would not be among the missing
            place.parent.mkdir(parents=True, exist_ok=True)
            (Path(temporary) / part.folder).replace(place)
            _say(f"{place}: {part.images} images, all of them decoded")
    if not keep:
        archive.unlink()


def _checked_sum(archive: Path, published: str | None, record: Path) -> str | None:
    """Compare with the record, else with the published sum; where there is neither, return it to be recorded.

    A wrong archive is deleted: going on from it can never succeed.
    """
    known = _read_sums(record)
    expected = known.get(archive.name, published)
    found = sha256(archive)
    if expected is None:
        return found
    if found != expected.lower():
        archive.unlink()
        raise UserError(
            f"{archive.name} has SHA-256 {found}, expected {expected}; the download was deleted: run the "
            f"same command again (if the file was renewed, mend {record})"
        )
    return None


def _record_sum(name: str, checksum: str, record: Path) -> None:
    with record.open("a") as stream:
        stream.write(f"{checksum}  {name}\n")
    _say(f"{name}: nobody published its checksum; SHA-256 {checksum} is now recorded in {record}")


def _read_sums(record: Path) -> dict[str, str]:
    """File name -> SHA-256, from lines such as those sha256sum writes."""
    sums = {}
    for number, line in enumerate(record.read_text().splitlines() if record.exists() else [], 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if match is None:
            raise UserError(f"{record}, line {number}: expected 64 hexadecimal digits, two spaces and a file name")
        sums[match[2]] = match[1]
    return sums


def _verify(folder: Path, part: Part, archive: Path) -> None:
    """Decode every image of a freshly unpacked part."""
    images = find_images(folder) if folder.is_dir() else []
    if len(images) != part.images:
        raise UserError(
            f"{archive} holds {len(images)} images in {part.folder}, expected {part.images}; delete it to "
            f"download it again"
        )
    problems = []
    for path in track(images, description=f"Checking {part.folder}", console=Console(stderr=True), transient=True):
        try:
            read_rgb(path)
        except UserError as error:
            problems.append(str(error).replace(str(folder), part.folder))
    if problems:
        raise UserError(f"{archive} holds bad images, delete it to download it again: {summary(problems)}")


def _complete(folder: Path, images: int) -> bool:
    """Whether the folder holds that many images, all of which decode."""
    if not folder.is_dir():
        return False
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    if len(found) != images:
        return False
    for path in track(found, description=f"Checking {folder}", console=Console(stderr=True), transient=True):
        try:
            read_rgb(path)
        except UserError:
            return False
    return True


def _inside(name: str, folder: str) -> bool:
    """Whether an archive's member belongs to a folder; one that leaves it counts, for unpacking to see and refuse."""
    clean = name.replace("\\", "/")
    return clean.removeprefix("./").startswith(folder + "/") or ".." in clean.split("/") or clean.startswith("/")


def _say(line: str) -> None:
    print(line, flush=True)


@clean_exit
def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dynres.data.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", required=True, choices=sorted(SETS), help="data sets to fetch")
    parser.add_argument("--to", type=Path, required=True, help="folder to lay them out in")
    parser.add_argument("--base-url", help="folder on a mirror that holds the archives under their usual names")
    parser.add_argument("--checksums", type=Path, help="a file of SHA-256 sums that must agree, as sha256sum writes")
    parser.add_argument("--keep", action="store_true", help="keep the downloaded archives")
    given = parser.parse_args(arguments)
    if given.checksums is not None and not given.checksums.is_file():
        raise UserError(f"no checksum file at {given.checksums}")
    parts = tuple(part for name in dict.fromkeys(given.what) for part in SETS[name])
    prepare(parts, given.to, given.base_url, given.checksums, given.keep)


if __name__ == "__main__":
    main()
