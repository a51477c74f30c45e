"""Many runs: found again, started in the order that needs allow, failures named while the others go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynres.launch.session import Session
from dynres.launch.wanted import Wanted
from dynres.provenance import code_version
from tests.cli.conftest import UNDRAWN, write_scenes

SMALL = ("profile=smoke", "logger=csv", "trainer.max_steps=2", "trainer.val_check_interval=2", "data.test_scales=[2]")


@pytest.fixture
def wanted(tmp_path: Path) -> list[Wanted]:
    """A network, one that starts from it, one that cannot be, and one that needs that."""
    data = ("data=folder", f"data.root={write_scenes(tmp_path / 'photos')}", "data.lr_size=16", "data.val_crop=48")
    small = (*SMALL, *UNDRAWN, *data)
    return [
        Wanted("after", ("+experiment=tadt_liif", *small), {"ckpt": ("first", "checkpoints/last.ckpt")}, 2.0),
        Wanted("first", ("+experiment=baseline_liif", *small)),
        Wanted("wrong", ("+experiment=baseline_liif", "backbone.chanels=8", *small)),
        Wanted("lost", ("+experiment=tadt_liif", *small), {"ckpt": ("wrong", "checkpoints/last.ckpt")}),
    ]


def session(wanted: list[Wanted], out: Path, said: list[str], code: str | None = None) -> Session:
    found = Session(wanted, out, said.append, jobs=2, threads=1, code=code)
    found.run()
    return found


def test_runs_wait_for_what_they_need_and_are_found_again(wanted: list[Wanted], tmp_path: Path) -> None:
    said: list[str] = []
    one = session(wanted, tmp_path / "runs", said, code_version())
    assert one.found.keys() == {"first", "after"}
    assert "chanels" in one.failed["wrong"] and one.failed["lost"] == "it needs wrong, which failed"
    assert any(line.startswith("wrong failed: ") for line in said)
    start = json.loads((one.found["after"] / "provenance.json").read_text())["overrides"]
    assert f"ckpt={one.found['first'] / 'checkpoints' / 'last.ckpt'}" in start

    written = {path: path.stat().st_mtime_ns for path in one.found.values() for path in path.rglob("*")}
    again = session(wanted, tmp_path / "runs", said, code_version())
    assert again.found == one.found
    assert written == {path: path.stat().st_mtime_ns for path in written}, "nothing ran again"

    log = (tmp_path / "runs" / "logs" / "first.log").read_text()
    (one.found["after"] / "summary.json").unlink()
    resumed = session(wanted, tmp_path / "runs", said, code_version())
    assert resumed.found == one.found and (tmp_path / "runs" / "logs" / "first.log").read_text() == log
    assert "continuing from last.ckpt" in (tmp_path / "runs" / "logs" / "after.log").read_text()


def test_a_run_of_other_code_is_out_of_date(wanted: list[Wanted], tmp_path: Path) -> None:
    first = [wanted[1]]
    old = session(first, tmp_path / "runs", [], code_version()).found["first"]
    history = json.loads((old / "provenance.json").read_text())
    (old / "provenance.json").write_text(json.dumps(history | {"code": "older"}))
    new = session(first, tmp_path / "runs", [], code_version()).found["first"]
    assert new != old
    assert session(first, tmp_path / "runs", [], None).found["first"] == new, "the newest, where code does not matter"
