"""What a run found, for programs (summary.json), for people (tables) and over many runs.

    python -m dynres.report RUNS_FOLDER       one table over every run below the folder; also summary_table.md and .csv

Numbers are means over the images of a test set at one scale or level of degradation. MACs are the backbone's, counted
by the fvcore convention. PSNR and SSIM without ground truth are unknown: None, a dash in tables, an empty cell in CSV.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dynres.errors import UserError, clean_exit
from dynres.files import write_text

if TYPE_CHECKING:  # the command needs neither torch nor Lightning
    from dynres.contracts import Evaluation

Summary = dict[str, Any]
CSV_COLUMNS = (
    "dataset", "label", "image", "protocol", "plain", "psnr", "psnr_plain", "ssim", "psnr_b", "macs", "ms", "beta",
    "active",
)  # fmt: skip
SUMMARY_KEYS = {"experiment", "profile", "seed", "params", "train_seconds", "metrics"}


@dataclass(frozen=True)
class Record:
    """One restored image in plain numbers: psnr* in dB, macs of the backbone, ms of wall clock for the restoration.

    psnr, psnr_plain, ssim: None without ground truth; plain: what psnr_plain is of; psnr_b: None where its protocol has
    none; size: (H, W) of the input; scale: geometric mean of the axes; beta: TADT's intensity, None for any other
    network; active: mean of the decisions, None for a static network; decisions: U values beside their U unit names,
    empty for a static network.
    """

    dataset: str
    label: str
    image: str
    protocol: str
    psnr: float | None
    psnr_plain: float | None
    ssim: float | None
    macs: float
    ms: float
    beta: float | None
    active: float | None
    scale: float
    size: tuple[int, int]
    decisions: tuple[float, ...] = ()
    units: tuple[str, ...] = ()
    fraction: float = 1.0  # macs over those of the same input with every unit on
    plain: str = "bicubic"
    psnr_b: float | None = None

    @property
    def csv(self) -> list[object]:
        """The line of per_image.csv, in the order of CSV_COLUMNS."""
        return ["" if (value := getattr(self, column)) is None else value for column in CSV_COLUMNS]


def record(evaluation: Evaluation) -> Record:
    """The plain numbers of one evaluation (batch of one image)."""
    sample, restoration = evaluation.sample, evaluation.restoration
    routing = restoration.routing
    decisions = () if routing is None else tuple(routing.decisions[0].double().tolist())
    height, width = sample.image.shape[-2:]
    return Record(
        dataset=sample.dataset,
        label=sample.label,
        image=sample.name,
        protocol=sample.protocol,
        psnr=evaluation.psnr,
        psnr_plain=evaluation.psnr_plain,
        ssim=evaluation.ssim,
        macs=float(restoration.macs[0]),
        ms=float(evaluation.milliseconds),
        beta=None if routing is None or routing.intensity is None else float(routing.intensity[0]),
        active=None if routing is None else fmean(decisions),
        scale=math.sqrt(sample.scale[0] * sample.scale[1]),
        size=(height, width),
        decisions=decisions,
        units=() if routing is None else routing.units,
        fraction=float(restoration.macs[0]) / restoration.full_macs if restoration.full_macs else 1.0,
        plain=sample.plain_name,
        psnr_b=evaluation.psnr_b,
    )


def gain(ours: float | None, plain: float | None) -> float | None:
    """dB that the network adds; 0 where both images are perfect, None without ground truth."""
    if ours is None or plain is None:
        return None
    return ours - plain if ours != plain else 0.0


def axis_name(labels: Iterable[str]) -> str:
    """What a row of labels says: "scale" where each is one ("x2", "x2x3"), else "level" ("sigma25", "q10")."""
    return "scale" if all(re.match(r"x\d", label) for label in labels) else "level"


def grouped(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by (test set, label): sets in their first order, labels by growing scale, then as they came."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for item in records:
        groups.setdefault((item.dataset, item.label), []).append(item)
    sets = list(dict.fromkeys(dataset for dataset, _ in groups))
    return dict(sorted(groups.items(), key=lambda group: (sets.index(group[0][0]), group[1][0].scale)))


def summary(
    records: Sequence[Record], experiment: str, profile: str, seed: int, params: int, train_seconds: float
) -> Summary:
    """The content of summary.json.

    Args:
        params: parameters of the restorer.
        train_seconds: wall clock of training, validation included, over all restarts.

    Raises:
        UserError: a mean that cannot be (see `check`).
    """
    metrics: dict[str, dict[str, object]] = {}
    for (dataset, label), group in grouped(records).items():
        protocols = sorted({item.protocol for item in group})
        if len(protocols) > 1:
            raise UserError(f"{dataset} {label} mixes the protocols {', '.join(protocols)}: their mean says nothing")
        metrics.setdefault(dataset, {})[label] = {
            "psnr": mean([item.psnr for item in group]),
            "psnr_plain": mean([item.psnr_plain for item in group]),
            "plain": _one_name(item.plain for item in group),
            "ssim": mean([item.ssim for item in group]),
            "psnr_b": mean([item.psnr_b for item in group]),
            "protocol": protocols[0],
            "macs": fmean(item.macs for item in group),
            "milliseconds": fmean(item.ms for item in group),
            "beta": mean([item.beta for item in group]),
            "active_fraction": mean([item.active for item in group]),
            "macs_fraction": fmean(item.fraction for item in group),
        }
    result: Summary = {
        "experiment": experiment, "profile": profile, "seed": seed, "params": params,
        "train_seconds": train_seconds, "metrics": metrics,
    }  # fmt: skip
    check(result)
    return result


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _one_name(names: Iterable[str]) -> str:
    """The name that all share, or "plain"."""
    different = set(names)
    return different.pop() if len(different) == 1 else "plain"


def _number(row: Mapping[str, Any], key: str) -> float | None:
    return None if row[key] is None else float(row[key])


def check(result: Summary) -> None:
    """Refuse numbers that cannot be; what is unknown passes.

    Raises:
        UserError: a mean PSNR that is NaN, or finite and outside 5-60 dB (to 100 dB where the input has 45 already); an
            SSIM outside [-1, 1].
    """
    for dataset, label, row in _rows(result):
        where = f"{result['experiment']}, {dataset} {label}"
        most = 100 if (_number(row, "psnr_plain") or 0.0) > 45 else 60
        for key in ("psnr", "psnr_plain", "psnr_b"):
            value = _number(row, key)
            if value is None:
                continue
            if math.isnan(value) or value == -math.inf or (math.isfinite(value) and not 5 <= value <= most):
                raise UserError(
                    f"{where}: {key} {value:.2f} dB cannot be (5-{most} dB): is the range [0, 1], did training diverge?"
                )
        similarity = _number(row, "ssim")
        if similarity is not None and not -1 <= similarity <= 1 + 1e-9:
            raise UserError(f"{where}: ssim {similarity:.4f} cannot be (it lies in [-1, 1]): look at the metric")


def notes(result: Summary) -> list[str]:
    """Sentences about numbers that may be, but deserve a look: PSNR that rises with scale."""
    found = []
    for dataset, rows in result["metrics"].items():
        if axis_name(rows) != "scale":
            continue
        known = {label: value for label, row in rows.items() if (value := _number(row, "psnr")) is not None}
        for (smaller, low), (larger, high) in pairwise(known.items()):
            if high > low:
                found.append(f"note: {dataset}: PSNR rises with scale: {smaller} {low:.2f} dB, {larger} {high:.2f} dB")
    return found


def _rows(result: Summary) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for dataset, rows in result["metrics"].items():
        for label, row in rows.items():
            yield dataset, label, row


def write_summary(folder: Path, result: Summary) -> None:
    """Write summary.json and summary.md into a run's folder."""
    write_text(folder / "summary.md", markdown(result))
    write_json(folder / "summary.json", result)  # last: it says that the run is finished


def read_summary(folder: Path) -> Summary:
    """The summary of a run's folder, checked.

    Raises:
        UserError: there is none, or it is damaged.
    """
    file = folder / "summary.json"
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        if missing := SUMMARY_KEYS - result.keys():
            raise KeyError(*sorted(missing))
        check(result)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file} is not the summary of a run ({reason}): remove it, or test again") from error
    return dict(result)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON, atomically; infinite ones become the string "inf", which float() reads."""
    write_text(path, json.dumps(_json_safe(value), indent=2, allow_nan=False) + "\n")


def _json_safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_safe(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and math.isinf(value) else value


# ------------------------------------------------------------------------------------------------ one run's table

UNKNOWN = "-"


def _table(rows: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headers and lines of one test set; PSNR-B has its column where any row knows it."""
    with_b = any(row["psnr_b"] is not None for row in rows.values())
    headers = [axis_name(rows), _one_name(row["plain"] for row in rows.values()), "ours", "gain", "SSIM"]
    headers += ["PSNR-B"] * with_b + ["GMACs", "of full", "beta", "active", "ms"]
    lines = []
    for label, row in rows.items():
        plain, ours = _number(row, "psnr_plain"), _number(row, "psnr")
        line = [label, shown(plain, ".2f"), shown(ours, ".2f"), shown(gain(ours, plain), "+.2f")]
        line += [shown(row["ssim"], ".4f"), *[shown(row["psnr_b"], ".2f")] * with_b, f"{row['macs'] / 1e9:.3f}"]
        line += [f"{row['macs_fraction']:.1%}", shown(row["beta"], ".3f"), shown(row["active_fraction"], ".0%")]
        lines.append([*line, f"{row['milliseconds']:.0f}"])
    return headers, lines


def shown(value: float | str | None, form: str) -> str:
    """A number in this format; a dash if it is not known."""
    return UNKNOWN if value is None else format(float(value), form)


def _title(result: Summary) -> str:
    seconds = f"{result['train_seconds']:.0f} s of training"
    return (
        f"{result['experiment']}, profile {result['profile']}, seed {result['seed']}: "
        f"{result['params'] / 1e6:.3f} M parameters, {seconds}"
    )


def _heading(dataset: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    protocols = dict.fromkeys(row["protocol"] for row in rows.values() if row["psnr"] is not None)
    measured = f"PSNR in dB, protocol {', '.join(protocols)}" if protocols else "no ground truth"
    return f"{dataset} ({measured}; MACs of the backbone)"


def print_table(result: Summary, console: Console | None = None) -> None:
    """Print one table a test set, and the notes."""
    console = console or _console()
    console.print(f"\n[bold]{_title(result)}[/bold]", highlight=False)
    for dataset, rows in result["metrics"].items():
        table = Table(title=_heading(dataset, rows), title_justify="left")
        headers, lines = _table(rows)
        for header in headers:
            table.add_column(header, justify="right", no_wrap=True)
        for label, plain, ours, more, *others in lines:
            if more != UNKNOWN:
                colour = "green" if float(ours) > float(plain) else "red"
                more = f"[{colour}]{more}[/{colour}]"
            table.add_row(label, plain, ours, more, *others)
        console.print(table)
    for note in notes(result):
        console.print(note, highlight=False)


def _console() -> Console:
    """A terminal as wide as it is; a log file, which has room, 200 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def markdown(result: Summary) -> str:
    """The table as Markdown."""
    parts = [f"# {_title(result)}\n"]
    for dataset, rows in result["metrics"].items():
        parts.append(f"## {_heading(dataset, rows)}\n")
        parts.append(markdown_table(*_table(rows)))
    parts += [f"{note}\n" for note in notes(result)]
    return "\n".join(parts)


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, every column to the right."""
    lines = [headers, ["---:"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


# ------------------------------------------------------------------------------------------------ many runs


def collect(folder: Path) -> list[dict[str, str]]:
    """One row a run below `folder`: what ran (run ... overrides, params), then dB and GMACs per set and label.

    Overrides that every run shares are left out.

    Raises:
        UserError: no folder, no run in it, or a summary.json that cannot be read.
    """
    files = sorted(folder.rglob("summary.json"))
    if not files:
        raise UserError(f"no summary.json below {folder}: give the folder of finished runs, such as runs/")
    overrides = [_overrides(file.parent) for file in files]
    shared = set.intersection(*map(set, overrides)) if len(files) > 1 else set()
    rows = []
    for file, changed in zip(files, overrides, strict=True):
        result = read_summary(file.parent)
        row = {"run": file.parent.relative_to(folder).as_posix()}
        row |= {key: str(result[key]) for key in ("experiment", "profile", "seed")}
        row |= {"overrides": " ".join(item for item in changed if item not in shared and "seed=" not in item)}
        row |= {"params": f"{result['params'] / 1e6:.3f} M"}
        for dataset, label, numbers in _rows(result):
            row[f"{dataset} {label} dB"] = shown(numbers["psnr"], ".2f")
            if numbers["psnr_b"] is not None:
                row[f"{dataset} {label} PSNR-B dB"] = shown(numbers["psnr_b"], ".2f")
            row[f"{dataset} {label} GMACs"] = f"{numbers['macs'] / 1e9:.3f}"
        rows.append(row)
    return rows


def _overrides(run: Path) -> list[str]:
    """The command-line overrides in a run's provenance.json, or none."""
    file = run / "provenance.json"
    return list(json.loads(file.read_text(encoding="utf-8"))["overrides"]) if file.is_file() else []


def print_collection(folder: Path, console: Console | None = None, failed: Sequence[Mapping[str, str]] = ()) -> None:
    """Write summary_table.md and summary_table.csv over the runs below `folder`, and print the table.

    Args:
        failed: rows of runs that have no summary, with a column of reasons.
    """
    finished = any(folder.glob("**/summary.json"))
    rows: list[Mapping[str, str]] = [*(collect(folder) if finished or not failed else []), *failed]
    if failed:
        rows.sort(key=lambda row: row["run"])
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[row.get(column, "") for column in columns] for row in rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    write_text(folder / "summary_table.md", markdown_table(columns, cells))
    text = io.StringIO()
    known = [["" if cell == UNKNOWN else cell for cell in line] for line in lines]
    csv.writer(text, lineterminator="\n").writerows([columns, *known])
    write_text(folder / "summary_table.csv", text.getvalue())
    count = f"{len(rows)} runs in {folder}" + (f", {len(failed)} failed" if failed else "")
    table = Table(title=f"{count} (written to summary_table.md and .csv)", title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column.endswith(("dB", "GMACs")) else "left")
    for line in lines:
        table.add_row(*map(escape, line))
    (console or _console()).print(table)


@clean_exit
def main() -> None:
    """Entry point of `python -m dynres.report`."""
    parser = argparse.ArgumentParser(prog="python -m dynres.report", description="One table over many runs.")
    parser.add_argument("folder", type=Path, help="a folder with finished runs, at any depth")
    print_collection(parser.parse_args().folder)


if __name__ == "__main__":
    main()
