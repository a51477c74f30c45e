"""Where a result came from: revision, versions, device, command line. Plain types only."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import dynres

# Rooms that read results and make none.
READERS = {"tables", "pareto", "launch", "export", "report.py", "sweep.py", "sweep", "upscale.py", "calibrate.py"}
PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "numpy", "pillow", "scikit-image", "kornia", "timm")


def provenance() -> dict[str, object]:
    """What one needs to know to run this again; every value is a str, bool, None, list or dict of those."""
    revision, dirty = git_revision(Path(__file__).parent.parent)
    return {
        "revision": revision,
        "dirty": dirty,
        "code": code_version(),
        "versions": {
            "python": platform.python_version(),
            "dynres": dynres.__version__,
            **{package: _version(package) for package in PACKAGES},
        },
        "device": _device(),
        "platform": platform.platform(),
        "command": list(sys.argv),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def code_version() -> str:
    """A name for the Python files that a run's numbers come from: it changes with any of them, and with torch."""
    package = Path(__file__).parent
    digest = hashlib.sha256(str(_version("torch")).encode())
    for file in sorted(package.rglob("*.py")):
        inner = file.relative_to(package)
        if inner.parts[0] not in READERS:
            digest.update(f"{inner.as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def git_revision(checkout: Path) -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it), or (None, None) outside a checkout or without git."""
    if not (checkout / ".git").exists():  # an installed package may lie inside somebody else's repository
        return None, None
    revision = _git(checkout, "rev-parse", "HEAD")
    changes = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    return revision or None, None if changes is None else bool(changes)


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(checkout), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"cpu, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"
