"""Images from and to disk: any image a person has, read right or refused in one line.

What "right" means here: EXIF orientation is applied; gray, palette and 1-bit images become RGB; CMYK is converted (no
colour profile is applied); of several frames or pages the first is read. 16-bit gray is scaled by 255/65535 and
rounded; 16-bit colour keeps the high byte of each sample, all that Pillow decodes (less than one 8-bit level away).
"""

from __future__ import annotations

import os
import struct
import tempfile
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageMode, ImageOps, UnidentifiedImageError

from dynres.errors import UserError

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif"})
SMALLEST_SIDE = 2

_SIXTEEN_BITS_AS_I = frozenset({"PNG", "PPM"})  # formats whose 16-bit samples Pillow may hand over in its 32-bit mode
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, MemoryError)


def read_rgb(path: str | Path) -> Pixels:
    """The image at `path` as (H, W, 3) uint8; transparency is composited over white, as for training and testing.

    Raises:
        UserError: missing, not an image, truncated, corrupt, smaller than 2x2 or of a depth that has no 8-bit meaning.
    """
    rgb, alpha = read_rgba(path)
    if alpha is None:
        return rgb
    opacity = alpha[..., None].astype(np.uint32)
    return ((rgb * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def read_rgba(path: str | Path) -> tuple[Pixels, Pixels | None]:
    """The image at `path` as ((H, W, 3) uint8 colours, (H, W) uint8 alpha or None where it has no transparency).

    Raises:
        UserError: as `read_rgb`.
    """
    image = _decode(Path(path))
    if min(image.size) < SMALLEST_SIDE:
        raise UserError(
            f"{path} is {image.width}x{image.height} pixels; an image needs at least {SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )
    if image.mode.startswith("I"):
        return np.repeat(_eight_bits(np.asarray(image))[..., None], 3, axis=2), None
    try:
        if image.has_transparency_data:
            both = np.asarray(image.convert("RGBA"))
            return np.ascontiguousarray(both[..., :3]), np.ascontiguousarray(both[..., 3])
        return np.array(image.convert("RGB")), None
    except ValueError as error:
        raise UserError(f"{path} has colour mode {image.mode}, which cannot be converted to RGB: {error}") from error


def is_gray(path: str | Path) -> bool:
    """Whether the file at `path` holds gray values and no colours; only its header is read.

    Raises:
        UserError: missing or not an image.
    """
    with _opened(Path(path)) as image:
        return ImageMode.getmode(image.mode).basemode == "L"


def find_images(root: str | Path) -> list[Path]:
    """Every image file below `root`, sorted by its path from there; hidden files and folders are passed over.

    Raises:
        UserError: `root` is missing, is no folder, or holds no file with a known suffix.
    """
    folder = Path(root).expanduser()
    if not folder.exists():
        raise UserError(f"no folder at {folder}: give the folder that holds the images")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: give the folder that holds the images")
    inside = {path.relative_to(folder): path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}
    visible = [relative for relative in inside if not any(part.startswith(".") for part in relative.parts)]
    found = [inside[relative] for relative in sorted(visible, key=lambda p: p.as_posix()) if inside[relative].is_file()]
    if not found:
        raise UserError(f"no image in {folder}: looked for {', '.join(sorted(SUFFIXES))}")
    return found


def write_png(path: str | Path, rgb: Pixels, alpha: Pixels | None = None) -> None:
    """Write (H, W, 3) uint8 colours, with (H, W) uint8 alpha if given. Folders are made; the file appears whole or not.

    Raises:
        ValueError: another shape or type, a programmer's mistake.
        UserError: the file cannot be written (folder, permission, disk full).
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"rgb must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != rgb.shape[:2]):
        raise ValueError(f"alpha must be {rgb.shape[:2]} uint8, got {alpha.shape} {alpha.dtype}")
    target = Path(path)
    pixels = rgb if alpha is None else np.dstack([rgb, alpha])
    part: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            Image.fromarray(pixels).save(stream, format="PNG")
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, target)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def _umask() -> int:
    """The permissions this process withholds; mkstemp withholds more than an image should."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _opened(path: Path) -> Image.Image:
    if not path.exists():
        raise UserError(f"no image at {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large to decode at once: {error}") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image in a known format") from error
    except _DECODING_ERRORS as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error


def _decode(path: Path) -> Image.Image:
    """The first frame, every byte checked, turned upright."""
    with _opened(path) as probe:
        try:
            probe.verify()  # a PNG cut after its last pixel still decodes; only its chunk checksums tell
        except _DECODING_ERRORS as error:
            raise UserError(f"{path} is truncated or corrupt: {error}") from error
    with _opened(path) as image:
        try:
            image.load()
            if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS_AS_I):
                raise UserError(f"{path} has 32-bit samples, whose white is not known; save it with 8 or 16 bits")
            return ImageOps.exif_transpose(image)
        except _DECODING_ERRORS as error:
            raise UserError(f"{path} is truncated or corrupt: {error}") from error


def _eight_bits(samples: NDArray[np.generic]) -> Pixels:
    """16-bit samples -> 8 bits, 65535 becoming 255."""
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
