"""A result says where it came from, in a checkout and out of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dynres
from dynres.provenance import git_revision, provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_provenance_is_json_with_versions_and_command() -> None:
    told = json.loads(json.dumps(provenance()))
    assert told["versions"]["dynres"] == dynres.__version__ and told["versions"]["torch"]
    assert told["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["command"] == sys.argv and told["device"]


def test_a_checkout_has_a_revision_and_says_whether_it_was_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert git_revision(tmp_path) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "new").write_text("untracked results do not count")
    assert git_revision(tmp_path)[1] is False
    (tmp_path / "file").write_text("two")
    assert git_revision(tmp_path)[1] is True


def test_an_installed_package_has_none_even_inside_another_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    inside = tmp_path / "site-packages"
    inside.mkdir()
    assert git_revision(inside) == (None, None)


def test_without_git_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(tmp_path) == (None, None)
