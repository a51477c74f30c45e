"""Checkpoints are whole or absent, hold no code, and say in one line what is wrong with them."""

from __future__ import annotations

import argparse
import errno
import os
import pickle
import resource
import signal
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from dynres.checkpoint_io import CheckpointNotWritten, SafeCheckpointIO, load_plain, read_checkpoint, restorer_weights
from dynres.errors import UserError
from dynres.files import atomic_file, write_text

WEIGHTS = {"restorer.a": torch.arange(4000, dtype=torch.float32)}


def checkpoint(**more: object) -> dict[str, object]:
    return {"state_dict": dict(WEIGHTS), "global_step": 7, **more}


class Harmful:
    """Unpickled, it would create a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.victim),)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(), path)
    loaded = SafeCheckpointIO().load_checkpoint(path)
    assert loaded["global_step"] == 7
    assert torch.equal(loaded["state_dict"]["restorer.a"], WEIGHTS["restorer.a"])
    assert os.listdir(path.parent) == ["last.ckpt"], "a temporary file was left behind"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failed_write_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(), path)
    before = path.read_bytes()

    def half(self: Path, data: memoryview) -> int:
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(CheckpointNotWritten) as error:
        SafeCheckpointIO().save_checkpoint(checkpoint(new=1), path)
    assert str(path) in str(error.value) and os.strerror(number) in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]


def test_a_disk_that_refuses_bytes_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    """The kernel itself refuses: the process may write files of 4 KB only."""
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(), path)
    before = path.read_bytes()
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old_limit[1]))
        with pytest.raises(UserError, match="could not be written: File too large; the previous one is untouched"):
            SafeCheckpointIO().save_checkpoint(checkpoint(new=1), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_one_line_that_names_it(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(4, int(share * len(whole)))])
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert "truncated or damaged" in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"just some text\n", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_another_kind_of_file_is_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.ckpt is not a checkpoint"):
        read_checkpoint(path)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "evil.ckpt", tmp_path / "victim"
    torch.save(checkpoint(x=Harmful(victim)), path)
    with pytest.raises(UserError, match=r"evil\.ckpt refused: it holds code or objects \(posix\.mkdir\)"):
        read_checkpoint(path)
    with open(path, "wb") as file:
        pickle.dump(Harmful(victim), file)
    with pytest.raises(UserError, match="refused: a bare pickle"):
        read_checkpoint(path)
    assert not victim.exists()


def test_objects_beside_tensors_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(checkpoint(hyper_parameters=argparse.Namespace(a=1)), tmp_path / "old.ckpt")
    with pytest.raises(UserError, match=r"argparse\.Namespace"):
        read_checkpoint(tmp_path / "old.ckpt")


def test_a_missing_file_a_folder_and_foreign_content_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="is a folder"):
        read_checkpoint(tmp_path)
    torch.save({"model": {"name": "edsr"}}, tmp_path / "foreign.pth")
    with pytest.raises(UserError, match=r"expected a 'state_dict', found a dict with \['model'\]"):
        read_checkpoint(tmp_path / "foreign.pth")
    assert load_plain(tmp_path / "foreign.pth") == {"model": {"name": "edsr"}}


def test_restorer_weights_prefers_the_average() -> None:
    trained = checkpoint()
    assert list(restorer_weights(trained)) == ["a"]
    averaged = OrderedDict(a=torch.ones(1))
    assert torch.equal(restorer_weights(checkpoint(callbacks={"Ema": {"weights": averaged}}))["a"], averaged["a"])
    assert list(restorer_weights(checkpoint(callbacks={"Ema": {"weights": None}}))) == ["a"]
    with pytest.raises(UserError, match="no restorer"):
        restorer_weights({"state_dict": {"other.a": torch.ones(1)}})


def test_an_interrupted_write_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_text(path, "first")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as temporary:
        temporary.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first" and os.listdir(path.parent) == ["file.json"]
