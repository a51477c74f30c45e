"""Checkpoints that are whole or absent on the disk, and that hold tensors and plain values, never code."""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from dynres.errors import UserError
from dynres.files import atomic_file


class CheckpointNotWritten(UserError):
    """The disk refused a checkpoint; the previous one is untouched."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint reader and writer: atomic, `weights_only=True`, one-line errors."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path`, or leave the file there as it was.

        Raises:
            CheckpointNotWritten: the disk is full or not writable.
        """
        # Through memory: torch's own zip writer aborts the process when a file refuses bytes half-way.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            with atomic_file(Path(path)) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OSError as error:
            raise CheckpointNotWritten(
                f"checkpoint {path} ({buffer.tell() / 1e6:.1f} MB) could not be written: {error.strerror or error}; "
                "the previous one is untouched: make room and run again with resume=auto"
            ) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """`read_checkpoint`; the flag is Lightning's, and code is refused whatever it says."""
        return read_checkpoint(path, map_location or "cpu")


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
    """A checkpoint of a dynres run, as the dict Lightning wrote (with "state_dict" in it).

    Raises:
        UserError: missing, truncated, not a checkpoint, or a pickle with code in it (which is not run).
    """
    content = load_plain(path, map_location)
    if not isinstance(content, dict) or "state_dict" not in content:
        found = f"a dict with {sorted(map(str, content))[:5]}" if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path} is not a checkpoint of a dynres run: expected a 'state_dict', found {found}")
    return content


def load_plain(path: str | os.PathLike[str], map_location: Any = "cpu") -> Any:
    """Whatever tensors and plain values a torch file holds, with one-line errors; see `read_checkpoint`."""
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} {'is a folder' if Path(path).is_dir() else 'does not exist'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; a file that cannot be read is an error below
            return torch.load(path, map_location=map_location, weights_only=True)
    except PermissionError as error:
        raise UserError(f"checkpoint {path} may not be read: {error.strerror}") from error
    except Exception as error:  # a broken file makes torch raise nearly anything: OSError, KeyError, RuntimeError ...
        raise UserError(_diagnosis(Path(path), error)) from error


def _diagnosis(path: Path, error: Exception) -> str:
    """One line that says what is wrong with a file torch could not load."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return f"checkpoint {path} does not fit in memory ({path.stat().st_size / 1e6:.0f} MB)"
    forbidden = re.search(r"(?:GLOBAL|global:?) (?:GLOBAL )?([\w.]+\.\w+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and forbidden:
        return f"checkpoint {path} refused: it holds code or objects ({forbidden[1]}) beside tensors and plain values"
    with open(path, "rb") as file:
        magic = file.read(2)
    if magic == b"PK":
        return f"checkpoint {path} is truncated or damaged ({path.stat().st_size} bytes): take another (best.ckpt?)"
    if magic[:1] == b"\x80":
        return f"checkpoint {path} refused: a bare pickle, which could run code; checkpoints are torch archives"
    return f"{path} is not a checkpoint (empty, or not a torch file)"


def restorer_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The restorer's weights a checkpoint recommends: the moving average where the run kept one, else the trained ones.

    Where channels carry scores beside the weights (method=prune before its cut), these are multiplied in.

    Args:
        checkpoint: from `read_checkpoint`.

    Returns:
        Tensors by the names of `Restorer.state_dict()`.

    Raises:
        UserError: the checkpoint holds no restorer.
    """
    weights = dict(checkpoint.get("callbacks", {}).get("Ema", {}).get("weights") or restorer_state(checkpoint))
    for name, factor in checkpoint.get("factors", {}).items():
        weights[name] = weights[name] * factor
    return weights


def restorer_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The restorer's weights as they are trained; see `restorer_weights` for those to restore with."""
    prefix = "restorer."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    if not weights:
        raise UserError(f"checkpoint holds no restorer: its first names are {list(checkpoint['state_dict'])[:3]}")
    return weights
