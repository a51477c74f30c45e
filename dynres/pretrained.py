"""A network as a folder to hand on: config.json and model.safetensors, on the disk or on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynres import __version__
from dynres.errors import UserError

_DOWNLOAD_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token")
CONFIG, WEIGHTS = "config.json", "model.safetensors"
# A file names its own classes; nothing outside these packages is ever called because a file says so.
NETWORK_PACKAGES = ("dynres.backbones", "dynres.upsamplers")


class Pretrained(
    ModelHubMixin,
    library_name="dynres",
    tags=["image-restoration", "super-resolution"],
    license="mit",
):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for a module that is built from a description.

    Attributes:
        description: what `from_description` built it from, or None for a network put together by hand.
    """

    description: Mapping[str, Any] | None = None

    @classmethod
    def from_description(cls, network: Mapping[str, Any]) -> Self:
        """Build it, with fresh weights."""
        raise NotImplementedError

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.description is None:
            raise UserError("this network was put together by hand: build it with Restorer.from_description to save it")
        weights = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}  # type: ignore[attr-defined]
        save_file(weights, save_directory / WEIGHTS)
        config = {"dynres": {"format": 1, "version": __version__, "network": self.description}}
        (save_directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """The network of a folder, or of a repository on the hub, in evaluation mode.

        Args:
            name: a folder that `save_pretrained` wrote, or "user/network".
            options: revision, cache_dir, token, local_files_only, force_download; see huggingface_hub.

        Raises:
            UserError: neither is there, or what is there is damaged or asks for anything but the suite's networks.
        """
        try:
            return super().from_pretrained(str(name), **options)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{name} is neither a folder here nor a network that the hub gives: {reason}") from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        folder = Path(model_id)
        if not folder.is_dir():
            wanted = {key: value for key, value in options.items() if key in _DOWNLOAD_OPTIONS}
            hf_hub_download(model_id, WEIGHTS, **wanted)
            folder = Path(hf_hub_download(model_id, CONFIG, **wanted)).parent  # the cache keeps both side by side
        network, weights = read_folder(folder)
        made = cls.from_description(network)
        try:
            made.load_state_dict(weights)  # type: ignore[attr-defined]
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder / WEIGHTS} does not fit its own {CONFIG}: {reason}; take another copy") from error
        return made.eval()  # type: ignore[attr-defined]


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description, weights) of a folder that `save_pretrained` wrote; nothing in it is run.

    Raises:
        UserError: a missing or damaged file, or a description that names anything but the suite's own classes.
    """
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no network: {error.filename or WEIGHTS} is missing") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds a damaged network: {error}") from error
    description = content.get("dynres") if isinstance(content, dict) else None
    return trusted(description, folder / CONFIG), weights


def trusted(description: Any, path: Path) -> dict[str, Any]:
    """The network of a file's description, once it is sure to call nothing but the suite's own classes.

    Hydra follows dots through whatever a module imports, and calls nested targets: neither may come from a file, but
    for the network inside AnySR, which is looked at like the others.
    """
    try:
        network = dict(description["network"])
        parts = [dict(network[part]) for part in ("backbone", "upsampler")]
        if isinstance(parts[0].get("network"), Mapping):
            parts.append(dict(parts[0].pop("network")))
        targets = [str(node.pop("_target_")) for node in parts]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} does not describe its network ({error!r}): take another") from error
    for target, options in zip(targets, parts, strict=True):
        if not re.fullmatch(r"dynres\.(backbones|upsamplers)\.\w+\.\w+", target) or "_target_" in repr(options):
            raise UserError(
                f"checkpoint {path} refused: it asks to call {target} with {options}, and nothing but the classes of "
                f"{' and '.join(NETWORK_PACKAGES)} is built because a file says so"
            )
    return network
