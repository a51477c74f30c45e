from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dynres.data.images import find_images, read_rgb, read_rgba, write_png
from dynres.errors import UserError

Noise = Callable[..., np.ndarray]


def test_what_is_written_is_read_back(tmp_path: Path, noise: Noise) -> None:
    rgb, alpha = noise(13, 17), noise(13, 17, 1)[..., 0]
    write_png(tmp_path / "new" / "a.png", rgb)
    write_png(tmp_path / "b.png", rgb, alpha)
    np.testing.assert_array_equal(read_rgb(tmp_path / "new" / "a.png"), rgb)
    colours, opacity = read_rgba(tmp_path / "b.png")
    np.testing.assert_array_equal(colours, rgb)
    assert opacity is not None
    np.testing.assert_array_equal(opacity, alpha)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "new"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_comes_upright(tmp_path: Path, noise: Noise, orientation: int) -> None:
    stored = noise(20, 30)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    upright = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x),
    }[orientation]
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), upright(stored))


def test_gray_becomes_three_equal_channels(tmp_path: Path, noise: Noise) -> None:
    gray = noise(9, 11)[..., 0]
    Image.fromarray(gray).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_gray_is_scaled_to_the_nearest_8_bit_level(tmp_path: Path, suffix: str) -> None:
    samples = np.linspace(0, 65535, 600).round().astype(np.uint16).reshape(20, 30)
    Image.fromarray(samples).save(tmp_path / f"a.{suffix}")
    error = np.abs(read_rgb(tmp_path / f"a.{suffix}").astype(float) - (samples / 257)[..., None]).max()
    assert error <= 0.5, f"{error} levels away from the true value"


def test_16_bit_colour_keeps_what_8_bits_can_hold(tmp_path: Path, noise: Noise) -> None:
    import struct
    import zlib

    eight = noise(6, 7)
    rows = b"".join(b"\0" + (row.astype(np.uint16) * 257).astype(">u2").tobytes() for row in eight.reshape(6, -1))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 7, 6, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), eight)


def test_palette_and_1_bit_images_have_their_colours(tmp_path: Path) -> None:
    indices = np.arange(60, dtype=np.uint8).reshape(6, 10) % 3
    palette = Image.new("P", (10, 6))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata(indices.ravel().tolist())
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "p.png"), 255 * np.eye(3, dtype=np.uint8)[indices])
    bits = indices > 0
    Image.fromarray(bits).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "b.png")[..., 1], 255 * bits)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[:4, :, 0] = 255  # pure cyan above, no ink below
    Image.fromarray(ink, mode="CMYK").save(tmp_path / "a.tif")
    rgb = read_rgb(tmp_path / "a.tif")
    assert (rgb[0, 0].tolist(), rgb[7, 7].tolist()) == ([0, 255, 255], [255, 255, 255])


def test_alpha_is_composited_over_white(tmp_path: Path, noise: Noise) -> None:
    rgb, alpha = noise(16, 16), noise(16, 16, 1)[..., 0]
    alpha[0], alpha[1] = 0, 255
    write_png(tmp_path / "a.png", rgb, alpha)
    weight = alpha[..., None] / 255
    error = np.abs(read_rgb(tmp_path / "a.png") - (rgb * weight + 255 * (1 - weight))).max()
    assert error <= 0.5 + 1e-9, f"{error} levels away from the true composite"


def test_transparency_of_a_palette_is_carried(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=0)
    rgb, alpha = read_rgba(tmp_path / "a.png")
    assert alpha is not None
    assert (alpha[0, 0], alpha[1, 1], rgb[1, 1].tolist()) == (0, 255, [200, 100, 50])


def _bad(folder: Path, noise: Noise, kind: str) -> Path:
    path = folder / "bad.png"
    write_png(path, noise(40, 40))
    whole = path.read_bytes()
    if kind == "corrupt":
        path.write_bytes(whole[:900] + bytes([whole[900] ^ 255]) + whole[901:])
    elif kind == "32 bit":
        Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "bad.tif")
        return folder / "bad.tif"
    elif kind == "missing":
        path.unlink()
    elif kind == "folder":
        return folder
    elif kind == "a JPEG cut in half":
        Image.fromarray(noise(64, 64)).save(folder / "bad.jpg")
        (folder / "bad.jpg").write_bytes((folder / "bad.jpg").read_bytes()[:3000])
        return folder / "bad.jpg"
    else:
        path.write_bytes(
            {
                "text": b"hello, this is text",
                "empty": b"",
                "half": whole[: len(whole) // 2],
                "end": whole[:-12],
                "header": whole[:30],
            }.get(kind, whole)
        )
    if kind == "1x1":
        write_png(path, noise(1, 1))
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "not an image"),
        ("empty", "not an image"),
        ("half", "truncated or corrupt"),
        ("end", "truncated or corrupt"),
        ("header", "not an image"),
        ("corrupt", "truncated or corrupt"),
        ("a JPEG cut in half", "truncated or corrupt"),
        ("1x1", "1x1 pixels"),
        ("32 bit", "32-bit"),
        ("missing", "no image at"),
        ("folder", "is a folder"),
    ],
)
def test_a_bad_file_is_one_line_with_its_path(tmp_path: Path, noise: Noise, kind: str, says: str) -> None:
    path = _bad(tmp_path, noise, kind)
    with pytest.raises(UserError) as caught:
        read_rgb(path)
    message = str(caught.value)
    assert says in message and str(path) in message and "\n" not in message, message


@given(cut=st.integers(0, 3000))
def test_no_cut_of_a_png_is_read_as_a_whole_one(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.png"
    write_png(path, np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole) - 12)])  # all but the empty last chunk at most
    with pytest.raises(UserError):
        read_rgb(path)


def test_images_are_found_in_order_and_hidden_files_are_not(tmp_path: Path, noise: Noise) -> None:
    for name in ("b/2.PNG", "a.png", "b/1.jpeg", ".hidden/3.png", "b/._1.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.png", "b/1.jpeg", "b/2.PNG"]


@pytest.mark.parametrize(
    ("name", "says"), [("nowhere", "no folder at"), ("empty", "no image in"), ("file", "is a file")]
)
def test_a_root_without_images_is_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=says) as caught:
        find_images(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, noise: Noise) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    with pytest.raises(UserError, match="cannot write"):
        write_png(blocked / "a.png", noise(4, 4))
    assert blocked.read_text() == "kept"
