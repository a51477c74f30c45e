"""The shape of the house, held: no import goes upward; what the configuration names exists (docs/architecture.md)."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_object

ROOT = Path(__file__).resolve().parent.parent

# Known to everyone; they know only each other.
COMMON = frozenset(
    {"checkpoint_io", "contracts", "errors", "files", "paths", "provenance", "torchvision_guard", "dynres"}
)

# A room -> the rooms it may know. A new room is placed here, once.
MAY_KNOW: dict[str, set[str]] = {
    "data": {"metrics"},
    "metrics": set(),
    "cost": set(),
    "report": set(),
    "folders": set(),
    "layers": set(),
    "backbones": {"layers", "cost"},
    "upsamplers": {"layers", "cost"},
    "nodes": set(),
    "pretrained": set(),
    "tiles": {"layers", "backbones"},
    "restorer": {"layers", "backbones", "upsamplers", "cost", "nodes", "pretrained", "tiles"},
    "pruning": {"layers", "restorer"},
    "interop": {"layers", "backbones", "upsamplers", "nodes", "restorer", "pretrained"},
    "methods": {"layers", "backbones", "upsamplers", "restorer", "metrics", "interop", "pretrained", "pruning"},
    "callbacks": {"report"},
    "build": {"folders", "nodes", "restorer"},
    "checks": {"build", "methods", "nodes", "restorer", "tiles", "upsamplers"},
    "sweep": {"build", "callbacks", "folders", "report"},
    "export": {"layers", "backbones", "upsamplers", "restorer"},
}

# Commands put everything together: they may know every room, and no room may know them.
COMMANDS = frozenset(
    {
        "run",
        "upscale",
        "calibrate",
        "launch",
        "tables",
        "pareto",
        "cost.__main__",
        "interop.__main__",
        "export.__main__",
    }
)
PLACED = COMMON | MAY_KNOW.keys() | COMMANDS


def room_of(module: str) -> str:
    """The room of a dotted module name: "dynres.data.cache" -> "data", "dynres.cost.__main__" is its own command."""
    inner = module.removeprefix("dynres").removeprefix(".")
    return inner if inner in COMMANDS else inner.split(".")[0] or "dynres"


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Every dynres module that the source of a module in `package` imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base]
            if base == "dynres":  # `from dynres import metrics` names a room, `from dynres import __version__` does not
                names = [full if room_of(full := f"{base}.{a.name}") in PLACED else base for a in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "dynres")


def upward_imports(module: str, source: str, package: str) -> list[str]:
    """The imports that a module of its room may not make, as "room -> imported module"."""
    room = room_of(module)
    if room in COMMANDS:
        return []
    allowed = COMMON if room in COMMON else COMMON | {room} | MAY_KNOW[room]
    found = imported_modules(source, package)
    return [f"{room} -> {name}" for name in found if room_of(name) not in allowed]


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package; a package goes by the name of its folder."""
    files = sorted((ROOT / "dynres").rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def test_no_two_rooms_know_each_other_even_in_a_round() -> None:
    TopologicalSorter(MAY_KNOW).prepare()  # CycleError names the round


@pytest.mark.parametrize("module", modules())
def test_no_import_goes_upward(module: str) -> None:
    file = modules()[module]
    room = room_of(module)
    assert room in PLACED, f"room {room!r} has no place yet: put it into MAY_KNOW or COMMANDS"
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    assert upward_imports(module, file.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("dynres.layers.gates", "from dynres.backbones.base import Backbone", ["layers -> dynres.backbones.base"]),
        ("dynres.backbones.edsr", "def f():\n    import dynres.restorer", ["backbones -> dynres.restorer"]),
        ("dynres.data.cache", "from dynres import methods", ["data -> dynres.methods"]),
        ("dynres.callbacks.beta", "from ..methods import tadt", ["callbacks -> dynres.methods"]),
        ("dynres.cost.counter", "from .__main__ import main", ["cost -> dynres.cost.__main__"]),
        ("dynres.errors", "from dynres.run import main", ["errors -> dynres.run"]),
        ("dynres.cost.__main__", "from dynres.restorer import Restorer", []),
        ("dynres.methods.tadt", "from dynres.restorer import Restorer\nfrom .base import Training\nimport torch", []),
        ("dynres.provenance", "from dynres import __version__", []),
    ],
)
def test_an_upward_import_is_found_and_a_downward_one_is_not(module: str, source: str, offence: list[str]) -> None:
    assert upward_imports(module, source, module.rpartition(".")[0]) == offence


def targets(node: Any, trail: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every (place, mapping) of a configuration whose mapping has a literal `_target_`."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str) and "${" not in node["_target_"]:
            yield trail or "top", node
        for key, value in node.items():
            yield from targets(value, f"{trail}.{key}".lstrip("."))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{trail}[{index}]")


def unknown_options(node: dict[str, Any]) -> list[str]:
    """Options that the target of a configuration does not take; Hydra's own start and end with an underscore."""
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [key for key in node if key not in parameters and key not in HYDRA_KEYS]


HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_", "defaults"}
CONFIGURED = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "conf").rglob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGURED)
def test_configured_targets_exist_and_take_the_options_given(file: str) -> None:
    content = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    unknown = {f"{place} ({node['_target_']})": unknown_options(node) for place, node in targets(content)}
    assert {place: options for place, options in unknown.items() if options} == {}, "options the target does not take"


def test_a_misspelt_option_of_a_target_is_found() -> None:
    content = yaml.safe_load("optimizer: {_target_: torch.optim.Adam, _partial_: true, lr: 1e-4, wieght_decay: 0}")
    assert [(place, unknown_options(node)) for place, node in targets(content)] == [("optimizer", ["wieght_decay"])]
