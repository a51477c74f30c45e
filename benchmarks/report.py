"""The report of a run: report.md, results.json, and the pictures of benchmarks/plots.py beside them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import plots
from benchmarks.harness import Bench
from benchmarks.rows import Form, Point, Row
from dynres.provenance import provenance

SECTIONS = {
    "decoders": "Decoders",
    "backbones": "Backbones",
    "cross_layer": "Cross-layer attention",
    "pruning": "Smaller networks",
    "subnets": "Subnets",
    "data": "Training pairs",
    "training": "Training step",
}
INTRODUCTION = """\
Each fast path beside the plain form of the same formula (`tests/reference/`), called in turn in one process. A value is
the median of the rounds' ratios, milliseconds are medians. A round counts only while no other process uses the cores;
*not measured* stands where they were not free. GFLOP/s are two a multiply-accumulate (MAC) that the form runs;
"of GEMM" is their share of what a matrix product of 1024 to 2048 rows by 256 x 256 reached in the same rounds and data
type. Memory is in MB of 10^6 bytes, above what was there before the call, in a process of its own."""


def write(folder: Path, bench: Bench, rows: Sequence[Row], points: Sequence[Point], seconds: float) -> Path:
    """The report of what is there so far; the Markdown file."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine(bench) | {"seconds": round(seconds)}
    results = {
        "machine": about,
        "rows": [{**asdict(row), "forms": [_form(one) for one in row.forms], "verdict": row.verdict} for row in rows],
        "points": [point._asdict() for point in points],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    pictures = plots.draw(folder, rows, points)
    file = folder / "report.md"
    file.write_text("\n".join(_markdown(about, rows, pictures)) + "\n")
    return file


def machine(bench: Bench) -> dict[str, Any]:
    """What the numbers depend on."""
    known = provenance()
    name = torch.cuda.get_device_name(bench.device) if bench.cuda else processor()
    return {
        "device": name,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": bench.threads,
        "torch": torch.__version__,
        "system": platform.platform(),
        "quick": bench.quick,
        "anyway": bench.anyway,
        "bars_apply": bench.bars,
        **{key: known[key] for key in ("revision", "dirty", "versions", "command", "time")},
    }


def processor() -> str:
    """The CPU's model."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _form(form: Form) -> dict[str, Any]:
    return {**asdict(form), "gflops": form.gflops}


def _markdown(about: dict[str, Any], rows: Sequence[Row], pictures: Sequence[tuple[str, str]]) -> list[str]:
    revision = str(about["revision"] or "unknown")[:10] + (" with changes" if about["dirty"] else "")
    lines = [
        "# What the fast paths are worth",
        "",
        f"{about['device']}, {about['cores']} cores, {about['threads']} thread{'s' * (about['threads'] > 1)} unless a "
        f"row says otherwise; torch {about['torch']}, {about['system']}; dynres revision {revision}; {about['time']}; "
        f"{about['seconds'] / 60:.1f} minutes.",
        "",
        INTRODUCTION,
        "",
        *(
            ["**Bars do not apply here**: they hold for full sizes on one thread of a CPU.", ""]
            * (not about["bars_apply"])
        ),
        summary(rows),
    ]
    for section, title in SECTIONS.items():
        some = [row for row in rows if row.section == section]
        if some:
            lines += ["", f"## {title}", "", *_table(some)]
    if pictures:
        lines += ["", "## Pictures"]
    for file, caption in pictures:
        lines += ["", f"![{caption}]({file})", "", caption]
    return lines


def summary(rows: Sequence[Row]) -> str:
    """How many rows met their bars."""
    verdicts = [row.verdict for row in rows]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    return f"{len(rows)} rows: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "."


def _table(rows: Sequence[Row]) -> list[str]:
    head = [
        "what",
        "measured",
        "bar",
        "verdict",
        "ms, plain -> ours",
        "GMACs",
        "GFLOP/s",
        "of GEMM",
        "peak MB",
        "error",
    ]
    lines = [_line([*head, "threads", "remarks"]), _line(["---", *["---:"] * 2, "---", *["---:"] * 7, "---"])]
    for row in rows:
        cells = [
            row.what,
            value(row),
            "" if row.bar is None else f"{row.sense} {_number(row.bar)} {row.unit}",
            f"**{row.verdict}**" if row.verdict in ("met", "not met") else row.verdict,
            _pair([one.milliseconds for one in row.forms]),
            _pair([None if one.macs is None else one.macs / 1e9 for one in row.forms]),
            _pair([one.gflops for one in row.forms]),
            _pair([None if one.gemm_fraction is None else 100 * one.gemm_fraction for one in row.forms], " %"),
            _pair([one.peak_mb for one in row.forms]),
            "" if row.error is None else f"{row.error:.1e} {row.error_of}",
            str(row.threads),
            remarks(row),
        ]
        lines.append(_line(cells))
    return lines


def value(row: Row) -> str:
    """The measured value with its unit."""
    return "" if row.value is None else f"{_number(row.value)} {row.unit}"


def remarks(row: Row) -> str:
    """The row's note, and why it was not measured."""
    busy = ""
    if row.free is False:
        taken = "the system does not tell" if row.others is None else f"others took {row.others:.2f} cores"
        busy = f"cores not free: {taken}"
    return "; ".join(filter(None, (row.note, busy)))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _pair(values: Sequence[float | None], unit: str = "") -> str:
    known = [f"{_number(one)}{unit}" for one in values if one is not None]
    return " -> ".join(known)


def _number(number: float) -> str:
    """Three digits that count."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"
