"""Where the package's own files are, in a clone, an editable install or an installed wheel."""

from __future__ import annotations

from pathlib import Path

from dynres.errors import UserError


def conf_dir() -> Path:
    """The absolute folder of the Hydra configuration: inside the package (a wheel), else beside it (a clone).

    Raises:
        UserError: if neither holds a config.yaml.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"no conf/config.yaml in {package} nor beside it: install dynres again, or use a whole clone")
