"""What a user has: image sets below DATA by the names that papers give them, and networks in files of CHECKPOINTS."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra.utils import get_object
from omegaconf import OmegaConf

from dynres.checkpoint_io import load_plain
from dynres.data.sources import DIV2K_TRAIN, DIV2K_VALID, ImageSet, open_test_set
from dynres.errors import UserError
from dynres.interop.weights import read_content
from dynres.nodes import plain

# Images of each test set, as the papers' tables use it.
WHOLE = {
    "Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109, "DIV2K": 100, "Kodak24": 24, "CBSD68": 68,
    "BSD68": 68, "McMaster": 18, "LIVE1": 29, "classic5": 5, "Set12": 12,
}  # fmt: skip
OTHER_NAMES = {"bsd100": "B100", "bsds100": "B100", "mcmaster18": "McMaster"}
TRAINING = ("DIV2K", DIV2K_TRAIN, "DF2K_BSD_WED", "DF2K_OST")
DEPTH = 3  # DATA/Set5, DATA/benchmark/Set5, DATA/sr/benchmark/Set5


@dataclass(frozen=True)
class FoundSet:
    """A test set that is there.

    Attributes:
        name: as papers call it.
        folder: for data.test.
        images: its images and layout; `images.name` is what summary.json calls it.
        whole: how many images it has in full.
    """

    name: str
    folder: Path
    images: ImageSet
    whole: int

    @property
    def complete(self) -> bool:
        """Whether results on it compare with published ones."""
        return len(self.images.images) == self.whole

    @property
    def note(self) -> str:
        """ "" of a complete set, else "10 of 100 images"."""
        return "" if self.complete else f"{len(self.images.images)} of {self.whole} images"


class Catalogue:
    """What is below a folder.

    A test set lies in a folder of its name (Set5, LIVE1 ...; capitals, - and _ do not matter), in a layout that
    `data.test` takes (docs/data.md): DATA/Set5 or up to two folders further down. DIV2K is any folder with
    DIV2K_valid_HR inside. Of two folders of one name the complete one is taken, else the one that is less far down.

    Args:
        root: DATA.

    Attributes:
        sets: test sets by name.
        training: folders of training images by name.

    Raises:
        UserError: no such folder, or nothing known in it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser()
        if not self.root.is_dir():
            raise UserError(f"DATA={root} is not a folder: give the one that holds the image sets, such as {_looked()}")
        self.sets: dict[str, FoundSet] = {}
        self.training: dict[str, Path] = {}
        for folder in _folders(self.root):
            self._add(folder)
        if not self.sets and not self.training:
            raise UserError(
                f"DATA={root} holds no image set known here: looked for folders named {_looked()} in it and up to "
                f"{DEPTH - 1} folders further down"
            )

    def _add(self, folder: Path) -> None:
        if (folder / DIV2K_TRAIN).is_dir():
            self.training.setdefault("DIV2K", folder)
        for name in TRAINING[1:]:
            if folder.name == name:
                self.training.setdefault(name, folder)
        found = "DIV2K" if (folder / DIV2K_VALID).is_dir() else known(folder.name)
        if found is None or ((had := self.sets.get(found)) is not None and had.complete):
            return
        try:
            one = FoundSet(found, folder, open_test_set(str(folder), "folder", None, None), WHOLE[found])
        except UserError:  # a folder of this name without images
            return
        if had is None or one.complete:
            self.sets[found] = one

    def get(self, name: str) -> FoundSet | None:
        """A test set by the name that a table has for it; None where it is not there."""
        return self.sets.get(known(name) or name)

    def note(self, name: str) -> str:
        """What keeps results on a set from being compared: not there, a part of it alone; "" for nothing."""
        found = self.get(name)
        return f"{name} is not in DATA" if found is None else found.note

    def training_folder(self, name: str) -> Path:
        """A set of training images.

        Raises:
            UserError: it is not there.
        """
        if name not in self.training:
            raise UserError(
                f"no training images {name} in DATA={self.root}: it holds {', '.join(self.training) or 'none'}"
            )
        return self.training[name]

    def __str__(self) -> str:
        """ "Set5, Urban100 (10 of 100 images)": the test sets."""
        return ", ".join(one.name + (f" ({one.note})" if one.note else "") for one in self.sets.values())


def known(name: str) -> str | None:
    """The papers' name of a test set, for a folder's or a table's; None of others."""
    plain = re.sub("[-_]", "", name).lower()
    return OTHER_NAMES.get(plain, next((known for known in WHOLE if known.lower() == plain), None))


def _looked() -> str:
    return ", ".join(WHOLE)


def _folders(root: Path) -> Iterator[Path]:
    """`root` and the folders below it, the nearest first; not those inside a test set, nor hidden ones."""
    level = [root]
    for depth in range(DEPTH + 1):
        yield from level
        if depth < DEPTH:
            outer = [folder for folder in level if known(folder.name) is None or (folder / DIV2K_TRAIN).is_dir()]
            inside = [inner for folder in outer for inner in sorted(folder.iterdir())]
            level = [inner for inner in inside if inner.is_dir() and not inner.name.startswith(".")]


# ---------------------------------------------------------------------------------------------------------- weights

SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
# What the name of a file says its network is for, by kind of task: words, and how a level is named.
_START = "(?:^|[^a-z0-9])"
SAID: dict[str, tuple[str, str | None]] = {
    "realsr": ("realsr|bsrgan", None),
    "sr": (
        rf"(?:classical|light|lightweight|{_START})sr(?![a-z])|{_START}(?:bi)?x\d",
        rf"{_START}(?:bi)?x(\d+)(?![a-z0-9])",
    ),
    "denoise": ("dn(?![a-z])|denois|noise|sigma|blind", rf"(?:noise|sigma|{_START}n)[_=-]?(\d+)(?![a-z0-9])"),
    "car": (rf"jpe?g|deblock|{_START}car(?![a-z])", rf"(?:jpe?g|quality|{_START}q)[_=-]?(\d+)(?![a-z0-9])"),
    "demosaic": (rf"mosaic|{_START}dm(?![a-z])", None),
}
LAST_NUMBER = r"[_-](\d+)$"  # dncnn_25: a level of noise, where nothing else is said
# Task -> its kind, how levels are labelled in tables, and the option that holds them.
TASKS = {
    "assr": ("sr", "x", "scale"), "sr": ("sr", "x", "scale"), "realsr": ("realsr", "x", "scale"),
    "denoise_color": ("denoise", "sigma", "sigma"), "denoise_gray": ("denoise", "sigma", "sigma"),
    "car": ("car", "q", "quality"), "demosaic": ("demosaic", "", "pattern"),
}  # fmt: skip
DERIVED = ("distill", "prune")  # methods whose networks nobody but a run of theirs can have
IMAGES = ("reduce", "fraction")


@dataclass(frozen=True)
class Weights:
    """A file of weights, and which rows it may stand for.

    Attributes:
        path: a file, or a folder of save_pretrained.
        network: its description.
        task: of the run that wrote it (as in conf/task); None of an authors' file.
        experiment: of that run.
        config: of that run, where the file still lies in its folder.
    """

    path: Path
    network: Mapping[str, Any]
    task: Mapping[str, Any] | None = None
    experiment: str | None = None
    config: Any = None

    def holds(self, overrides: Sequence[str], cfg: Any, network: Mapping[str, Any]) -> bool:
        """Whether it is the network of a recipe, pixels left out, and as far as it tells so trained.

        Args:
            overrides: of the recipe.
            cfg: composed of them.
            network: described by `cfg`.
        """
        if identity(self.network) != identity(network):
            return False
        if self.config is not None:  # every option of the method tells rows of one network apart
            images = all(self.config.data.get(name) == cfg.data.get(name) for name in IMAGES)
            return images and plain(self.config.method) == plain(cfg.method)
        if any(f".{name}." in cfg.method._target_ for name in DERIVED):
            return False
        asked = next((one.split("=", 1)[1] for one in overrides if one.lstrip("+").startswith("experiment=")), None)
        return None in (asked, self.experiment) or asked == self.experiment

    def called(self, system: str) -> bool:
        """Whether its name begins with that of a row: dncnn3.pth or dncnn-3_jpeg.pth of "DnCNN-3"."""
        words = re.split("[-_. ]", self.path.stem.lower())
        return re.sub("[^a-z0-9]", "", system.lower()) in {"".join(words[: n + 1]) for n in range(len(words))}

    def rank(self, task: str, level: str) -> int:
        """How well it fits a level ("x3", "sigma25", "q10", "grbg") of a task: 0 not at all, 3 made for it.

        A run's file knows what it was trained for. An authors' file is taken for what its name says: for the level
        that it names (3), for all levels of the task that it names (2), for all that its network can do (1) if it names
        none.
        """
        kind, label, option = TASKS[task]
        if self.task is not None:
            return 3 if self.task["name"] == task and _within(self.task.get(option), level.removeprefix(label)) else 0
        name = self.path.stem.lower()
        said = {kind: SAID[kind][1] for kind in SAID if re.search(SAID[kind][0], name)}
        if "realsr" in said:  # for whose scale it is not said, too
            said = {"realsr": None}
        if not said and kind == "denoise" and re.search(LAST_NUMBER, name):
            said = {kind: LAST_NUMBER}
        if not said:
            return 1
        pattern = said.get(kind)
        if pattern is None:
            return 2 if kind in said else 0
        levels = re.findall(pattern, name)
        return 2 if not levels else 3 if f"{label}{levels[-1]}" == level else 0


def _within(trained: Any, level: str) -> bool:
    """Whether a level is what (or in the range that) a network was trained on; None is everything."""
    if trained is None:
        return True
    if isinstance(trained, str):
        return trained == level
    low, high = trained if isinstance(trained, Sequence) else (trained, trained)
    return bool(low <= float(level) <= high)


def identity(network: Mapping[str, Any]) -> str:
    """What two descriptions have in common if they build the same network; options left out are their defaults."""
    parts = [_filled(network[part]) for part in ("backbone", "upsampler")]
    return json.dumps([*parts, bool(network.get("image_skip"))], sort_keys=True)


def _filled(node: Mapping[str, Any]) -> dict[str, Any]:
    """With every option; a named constructor (edsr_baseline) is its class with its defaults."""
    made = get_object(node["_target_"])
    kind = made if inspect.isclass(made) else get_type_hints(made)["return"]
    told = _defaults(made) | dict(node)
    options = {name: told.get(name, default) for name, default in _defaults(kind).items()}
    nested = {
        name: _filled(value) for name, value in options.items() if isinstance(value, Mapping) and "_target_" in value
    }
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **options, **nested}


def _defaults(made: Any) -> dict[str, Any]:
    """Option -> default, None where there is none."""
    parameters = inspect.signature(made).parameters.values()
    return {each.name: None if each.default is each.empty else each.default for each in parameters}


def weights_below(folder: Path) -> tuple[list[Weights], list[str]]:
    """Every network in files below a folder (or in one file), and why others are none.

    A run's best.ckpt is passed over beside its last.ckpt, which is what tables are of.

    Raises:
        UserError: nothing there.
    """
    folder = folder.expanduser()
    pretrained = {file.parent for file in folder.rglob("model.safetensors") if (file.parent / "config.json").is_file()}
    files = [file for file in folder.rglob("*") if file.suffix in SUFFIXES and file.parent not in pretrained]
    files = [file for file in files if file.name != "best.ckpt" or not file.with_name("last.ckpt").is_file()]
    paths = sorted([*files, *pretrained]) if folder.is_dir() else [folder] if folder.is_file() else []
    if not paths:
        raise UserError(f"CHECKPOINTS={folder} holds no weights: looked for *{', *'.join(SUFFIXES)} in it and below it")
    found, refused = [], []
    for path in paths:
        try:
            found.append(_weights(path.resolve()))
        except UserError as error:
            refused.append(str(error))
    return found, refused


def _weights(path: Path) -> Weights:
    content = read_content(path)
    if content.official or path.is_dir():
        return Weights(path, content.network)
    about = load_plain(path)["dynres"]
    config = path.parent.parent / "config.yaml"
    cfg = OmegaConf.load(config) if path.parent.name == "checkpoints" and config.is_file() else None
    return Weights(path, content.network, about.get("task"), about.get("experiment"), cfg)
