"""TADT: Figure 1 (PSNR, GFLOPs and parameters), Figure 2 (cost over scales), Figure 7 (beta), and where it routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynres.backbones.base import Backbone
from dynres.cost.counter import count_parameters
from dynres.tables.common import published_network
from dynres.tables.figures.found import Published, Runs, lines, metric, metrics, networks, over_seeds
from dynres.tables.figures.style import COLOURS, COLUMN, DARK, LIGHT, Item, band, bars, labelled, new, png
from dynres.tables.sheet import FinishedRun, Measured, Picture

NAMES = {
    "edsr_baseline": "EDSR-baseline", "rdn": "RDN", "rcan": "RCAN", "swinir": "SwinIR", "nlsa": "NLSA",
    "cat_r_2": "CAT-R-2", "mstb": "Baseline", "tadt": "TADT",
}  # fmt: skip
