"""Which image files belong to what: the sources of training images and the layouts of test sets."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dynres.data.images import find_images
from dynres.errors import UserError

SOURCES = ("demo", "folder", "div2k")

# scikit-image's photographs, inside its wheel. Those for testing are never trained on nor used to pick a checkpoint.
# The stereo pair is one scene, so both its views are for training. Left out: what is no photograph of a scene or a
# texture (retina, cell, clock_motion, moon, hubble), smaller than a crop (page, text) or drawn (logo, color, phantom).
DEMO = {
    "train": (
        "motorcycle_left.png",
        "motorcycle_right.png",
        "rocket.jpg",
        "ihc.png",
        "brick.png",
        "grass.png",
        "gravel.png",
    ),
    "val": ("camera.png", "coins.png"),
    "test": ("astronaut.png", "chelsea.png", "coffee.png"),
}
# For networks that see the noise of colours: the photographs above that have some.
DEMO_COLOUR = {
    "train": ("motorcycle_left.png", "motorcycle_right.png", "ihc.png"),
    "val": ("rocket.jpg",),
    "test": DEMO["test"],
}
FOLDER_HELD_OUT = 10  # of a plain folder, every tenth image by name is held out for validation
DIV2K_TRAIN, DIV2K_VALID = "DIV2K_train_HR", "DIV2K_valid_HR"


@dataclass(frozen=True)
class ImageSet:
    """Whole images to restore.

    Attributes:
        name: what tables call it.
        images: full-size images.
        protocol: how PSNR and SSIM crop and convert.
        published: integer scale -> folder of low-resolution images that came with the set, named `<name>x<scale>.png`.
        plain: a folder that was named, of no known layout.
    """

    name: str
    images: tuple[Path, ...]
    protocol: str
    published: dict[int, Path] = field(default_factory=dict)
    plain: bool = False

    def low_resolution(self, image: Path, scale: tuple[float, float]) -> Path | None:
        """The published low-resolution file of an image at a scale, or None where the set has none for that scale."""
        if scale[0] != scale[1] or scale[0] not in self.published:
            return None
        folder = self.published[int(scale[0])]
        return folder / f"{image.stem}x{int(scale[0])}.png"


def training_images(source: str, root: str | None, colour: bool = False) -> tuple[Path, ...]:
    """The images to train on; `colour`: of the demo's only those in colour."""
    return _split(source, root, colour)[0]


def validation_set(source: str, root: str | None, first: int | None = None, colour: bool = False) -> ImageSet:
    """The first few (or all) images of the same source that are held out: never trained on."""
    return ImageSet("val", _split(source, root, colour)[1][:first], "div2k")


def default_tests(source: str) -> list[str]:
    """What to test on when nothing is named. For `folder` that is its held-out images."""
    return [source if source != "folder" else "held-out"]


def open_test_set(name: str, source: str, root: str | None, protocol: str | None, colour: bool = False) -> ImageSet:
    """A test set by name (`demo`, `div2k`, `held-out`) or by the folder that holds it.

    A folder with an `HR` folder inside is a benchmark (with `LR_bicubic/X<scale>` where it has one), one with
    `DIV2K_valid_HR` is DIV2K, any other is a plain folder of full-size images.

    Raises:
        UserError: no such set, or no image in it.
    """
    if name == "demo":
        return ImageSet("demo", _demo("test"), protocol or "div2k")
    if name == "held-out":
        return ImageSet("held-out", _split(source, root, colour)[1], protocol or "div2k")
    folder = Path(_required_root("div2k", root) if name == "div2k" else name).expanduser()
    if not folder.is_dir():
        raise UserError(f"no test set at {folder}: data.test takes folders, or the names demo, div2k, held-out")
    if (folder / "HR").is_dir():
        return ImageSet(
            folder.name, tuple(find_images(folder / "HR")), protocol or "benchmark", _published(folder / "LR_bicubic")
        )
    if (folder / DIV2K_VALID).is_dir() or name == "div2k":
        return ImageSet(
            "DIV2K",
            tuple(find_images(folder / DIV2K_VALID)),
            protocol or "div2k",
            _published(folder / "DIV2K_valid_LR_bicubic"),
        )
    return ImageSet(folder.name, tuple(find_images(folder)), protocol or "div2k", plain=True)


def _split(source: str, root: str | None, colour: bool = False) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """(training, validation) images, the same split on every machine."""
    if source == "demo":
        return _demo("train", colour), _demo("val", colour)
    if source == "folder":
        return _split_folder(find_images(_required_root(source, root)), root)
    if source == "div2k":
        folder = Path(_required_root(source, root)).expanduser()
        if not (folder / DIV2K_TRAIN).is_dir():
            raise UserError(
                f"no {DIV2K_TRAIN} in {folder}: data.root must hold {DIV2K_TRAIN} and {DIV2K_VALID} "
                f"(python -m dynres.data.prepare --what div2k --to {folder} downloads them)"
            )
        return tuple(find_images(folder / DIV2K_TRAIN)), tuple(find_images(folder / DIV2K_VALID))
    raise UserError(f"unknown data source {source!r}: choose one of {', '.join(SOURCES)}")


def _split_folder(images: Sequence[Path], root: str | None) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    if len(images) < 2:
        raise UserError(f"{root} holds one image; training needs at least two, one of them held out for validation")
    held_out = images[FOLDER_HELD_OUT - 1 :: FOLDER_HELD_OUT] or images[-1:]
    return tuple(image for image in images if image not in set(held_out)), tuple(held_out)


def _demo(part: str, colour: bool = False) -> tuple[Path, ...]:
    spec = importlib.util.find_spec("skimage")  # the folder is all that is needed; importing the package takes long
    if spec is None or spec.origin is None:
        raise UserError("data=demo needs scikit-image: pip install 'scikit-image>=0.24'")
    folder = Path(spec.origin).parent / "data"
    paths = tuple(folder / name for name in (DEMO_COLOUR if colour else DEMO)[part])
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"the installed scikit-image has no {', '.join(missing)} in {folder}: reinstall it from its "
            f"wheel (scikit-image>=0.24), or use data=folder data.root=YOUR_IMAGES"
        )
    return paths


def _published(folder: Path) -> dict[int, Path]:
    """Integer scale -> folder, for the folders X2, X3, ... inside `folder`."""
    inside = sorted(folder.glob("X*")) if folder.is_dir() else []
    return {int(path.name[1:]): path for path in inside if path.is_dir() and path.name[1:].isdecimal()}


def _required_root(source: str, root: str | None) -> str:
    if root is None:
        raise UserError(f"data={source} needs data.root=/path/to/the/images")
    return root
