"""Where pruning happened under each gamma (Lightweight SwinIR, Table 2's remark), from finished runs of any profile."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from dynres.build import network_description
from dynres.files import atomic_file

NAMES = {"msa": "attention", "mlp": "MLP"}
Shares = dict[str, list[float]]  # kind -> part of each layer's channels that is kept, first to last


def groups(runs: Path) -> dict[str, dict[float, Shares]]:
    """Title -> gamma -> shares, of runs that differ in gamma alone; the newest of each, two gammas at least."""
    titles: dict[str, str] = {}
    found: dict[str, dict[float, Shares]] = {}
    for file in sorted(runs.rglob("pruning.csv"), key=lambda path: path.stat().st_mtime):
        if not (config := file.with_name("config.yaml")).is_file():
            continue
        cfg: Any = OmegaConf.load(config)
        method = OmegaConf.to_container(cfg.method)
        assert isinstance(method, dict)
        gamma = method.pop("sparsity", None)
        if gamma is None or method.get("trained"):  # of scores that another run trained
            continue
        key = json.dumps([cfg.profile_name, cfg.seed, network_description(cfg), method], sort_keys=True)
        about = f"{cfg.profile_name}_{method['scope']}_rate{method['rate']:g}_seed{cfg.seed}"
        titles.setdefault(key, about if about not in titles.values() else f"{about}_{len(titles)}")
        found.setdefault(key, {})[float(gamma)] = kept(file)
    return {titles[key]: by_gamma for key, by_gamma in found.items() if len(by_gamma) > 1}


def kept(file: Path) -> Shares:
    """Of a run's pruning.csv."""
    shares: Shares = {}
    with open(file, newline="", encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            shares.setdefault(line["kind"], []).append(int(line["kept"]) / int(line["of"]))
    return shares


def draw(by_gamma: Mapping[float, Shares]) -> Figure:
    """A column of axes a kind, a line a gamma."""
    kinds = list(next(iter(by_gamma.values())))
    figure = Figure(figsize=(5.2 * len(kinds), 3.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for gamma, shares in sorted(by_gamma.items()):
            axes.plot(range(1, len(shares[kind]) + 1), shares[kind], "o-", markersize=4, label=f"$\\gamma$ = {gamma:g}")
        axes.set_title(NAMES[kind], fontsize=10)
        axes.set_xlabel("layer, first to last")
        axes.set_ylabel("channels kept")
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1.05)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def pictures(runs: Path) -> str:
    """Draw every group below RUNS/tables; returns Markdown that shows them."""
    parts = []
    for title, by_gamma in groups(runs).items():
        path = runs / "tables" / f"pruned_{title}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            draw(by_gamma).savefig(temporary, format="png", dpi=130, facecolor="white")
        print(f"where pruning happened: {path}")
        parts.append(f"\n![channels kept in each layer, {title}]({path.name})\n")
    if not parts:
        print("where pruning happened is drawn from finished runs of method=prune that differ in method.sparsity alone")
    return "".join(parts)
