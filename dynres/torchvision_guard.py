"""Keeps a torchvision that cannot load its compiled operators from breaking torchmetrics, Lightning and timm.

torchvision's wheel is built against CUDA's libraries. Beside a CPU-only torch its compiled half does not load, and
`import torchvision` then fails where it describes the operators `nms` and `qnms` to torch, which nobody has defined;
torchmetrics, Lightning and timm import torchvision and fail with it. Nothing here calls those two operators, so
declaring their names is cure enough. Where the compiled half does load, nothing is touched.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Literal

import torch

Torchvision = Literal["absent", "native", "shimmed"]

_UNDEFINED_OPERATORS = ("nms", "qnms")
_declared: list[torch.library.Library] = []  # torch forgets the operators when their Library is collected


@functools.cache
def ensure_torchvision() -> Torchvision:
    """Make `import torchvision` possible without importing it: that takes seconds, and many commands never need it.

    Returns:
        "absent": torchvision is not installed. "native": its operators load, nothing was done.
        "shimmed": they do not; `nms` and `qnms` are declared without a body, so that calling them raises
        NotImplementedError. What torchvision does in Python (transforms, models, roi_align) works.
    """
    if "torchvision" in sys.modules:  # imported by the caller, so it needed no help
        return "native"
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return "absent"
    if _operators_load(spec.submodule_search_locations or ()):
        return "native"
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _UNDEFINED_OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    return "shimmed"


def _operators_load(package: Iterable[str]) -> bool:
    """Ask torchvision's own loader, which knows every platform's file names and library folders.

    The loader is the submodule `torchvision.extension`. A bare module stands in for the package while it is imported,
    so that the package's slow, perhaps failing, `__init__` does not run; the stand-in is forgotten afterwards.
    """
    stand_in = ModuleType("torchvision")
    stand_in.__path__ = list(package)
    sys.modules["torchvision"] = stand_in
    try:
        return bool(importlib.import_module("torchvision.extension")._has_ops())
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
