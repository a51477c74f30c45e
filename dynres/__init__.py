"""dynres: dynamic image restoration, networks that spend compute where the task needs it."""

from __future__ import annotations

from dynres.torchvision_guard import ensure_torchvision

__version__ = "0.1.0"

ensure_torchvision()  # before anything can import torchmetrics, Lightning or timm
