"""The package as users get it: from a clone or a wheel, with any torchvision or none."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import dynres
from dynres.errors import UserError
from dynres.paths import conf_dir

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, *path: Path, cwd: Path) -> str:
    """What a fresh interpreter prints for `code`, with `path` searched first; cwd is searched only if it is in path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == dynres.__version__


def test_configuration_is_found_from_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert conf_dir().is_absolute()
    assert (conf_dir() / "config.yaml").is_file()


def test_a_package_without_configuration_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynres.paths.__file__", str(tmp_path / "dynres" / "paths.py"))
    with pytest.raises(UserError, match=r"no conf/config\.yaml"):
        conf_dir()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that nothing is left in the clone."""
    pytest.importorskip("hatchling", reason="install the dev extra to build the wheel")
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("dynres", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(copy / "dist")]
    done = subprocess.run(build, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_module_and_every_configuration(wheel: Path) -> None:
    assert wheel.name == f"dynres-{dynres.__version__}-py3-none-any.whl"
    modules = {file.relative_to(ROOT).as_posix() for file in (ROOT / "dynres").rglob("*.py")}
    configuration = {f"dynres/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "conf").rglob("*.yaml")}
    assert (modules | configuration) - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_an_installed_wheel_uses_the_configuration_inside_it(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    printed = python("from dynres.paths import conf_dir; print(conf_dir())", site, cwd=tmp_path)
    assert Path(printed) == site / "dynres" / "conf"


# ---- torchvision: present or absent, with operators that load or do not ----

INIT = """
import torch
from . import extension
for name in ("nms", "qnms"):  # as torchvision does: fails unless somebody has defined the operators
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou_threshold: dets)
"""
OPERATORS = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl(name, lambda dets, scores, iou_threshold: dets * 2, "CompositeExplicitAutograd")
"""
NATIVE_EXTENSION = "import compiled_operators\ndef _has_ops(): return True\n"
BROKEN_EXTENSION = "def _has_ops(): return False\n"


def fake_torchvision(folder: Path, extension: str) -> Path:
    """A package that behaves like torchvision at import; its "compiled half" is a module, loaded once as one is."""
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(INIT)
    (package / "extension.py").write_text(extension)
    (folder / "compiled_operators.py").write_text(OPERATORS)
    return folder


def test_a_torchvision_whose_operators_load_is_left_alone(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path / "site", NATIVE_EXTENSION)
    code = """
import sys, dynres, torch
assert not any(name.split(".")[0] == "torchvision" for name in sys.modules), "imported before anybody asked for it"
import torchvision
print(dynres.ensure_torchvision(), torchvision.__file__, torch.ops.torchvision.nms(torch.ones(1), torch.ones(1), 0.5))
"""
    expected = f"native {fake / 'torchvision' / '__init__.py'} tensor([2.])"
    assert python(code, fake, ROOT, cwd=tmp_path) == expected


def test_a_torchvision_whose_operators_do_not_load_imports_after_dynres(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path / "site", BROKEN_EXTENSION)
    attempt = "try:\n    import torchvision\nexcept RuntimeError as error:\n    print(error)\n"
    assert "torchvision::nms does not exist" in python(attempt, fake, cwd=tmp_path)
    code = "import dynres, torchvision; print(dynres.ensure_torchvision(), dynres.ensure_torchvision())"
    assert python(code, fake, ROOT, cwd=tmp_path) == "shimmed shimmed"


def test_a_torchvision_imported_before_dynres_is_left_alone(tmp_path: Path) -> None:
    fake = fake_torchvision(tmp_path / "site", NATIVE_EXTENSION)
    code = "import torchvision as before, sys, dynres; print(sys.modules['torchvision'] is before)"
    assert python(code, fake, ROOT, cwd=tmp_path) == "True"


def test_no_torchvision_is_no_error(tmp_path: Path) -> None:
    code = """
import importlib.util, sys
find, importlib.util.find_spec = importlib.util.find_spec, lambda name: None if name == "torchvision" else find(name)
import dynres
print(dynres.ensure_torchvision())
"""
    assert python(code, ROOT, cwd=tmp_path) == "absent"


def test_everything_that_imports_torchvision_imports_after_dynres() -> None:
    """In this process, where dynres came first (tests/conftest.py)."""
    for name in ("pytorch_lightning", "torchmetrics", "timm", "torchvision"):
        importlib.import_module(name)
    assert dynres.ensure_torchvision() in {"native", "shimmed"}
