"""make bench: it runs as a user types it, people and programs can read its report, busy cores give no speed."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import __main__ as command
from benchmarks import backbones, cores, cross_layer, decoders, harness, pruning, report, subnets
from benchmarks.harness import Bench
from benchmarks.memory import Peak, peak, peaks
from benchmarks.rows import Form, Measurement, Row, form, timed_row
from dynres.cost.counter import count_parameters
from dynres.errors import UserError

ROOT = Path(command.__file__).parents[1]
FIELDS = {
    "section", "what", "value", "unit", "bar", "sense", "verdict", "free", "others", "error", "threads", "forms", "note"
}  # fmt: skip
FORM_FIELDS = {"name", "milliseconds", "macs", "gflops", "gemm_fraction", "peak_mb"}


def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=250
    )


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nobody else works, whatever runs beside the tests."""
    monkeypatch.setattr(cores.Watch, "others", lambda self: 0.0)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour who keeps one core."""
    monkeypatch.setattr(cores.Watch, "others", lambda self: 1.0)


def test_the_command_writes_a_report_that_people_and_programs_read(tmp_path: Path) -> None:
    ended = typed("--quick", "--anyway", "--only", "data,training", "--device", "cpu", "--out", str(tmp_path / "out"))
    assert ended.returncode == 0, ended.stderr
    assert "[2/2] training step (about " in ended.stdout
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {"processor", "cores", "threads", "torch", "revision"} <= results["machine"].keys()
    assert {row["section"] for row in results["rows"]} == {"data", "training"}
    for row in results["rows"]:
        assert row.keys() >= FIELDS and row["value"] > 0 and row["threads"] == 1
        assert row["verdict"] in ("not applicable", "not measured", "no bar")  # small sizes: never met
        assert len(row["forms"]) == 2 and all(one.keys() == FORM_FIELDS for one in row["forms"])
    exact = [row["error"] for row in results["rows"] if "48s crops" in row["what"]]
    assert exact == [0.0, 0.0]
    text = (tmp_path / "out/report.md").read_text()
    assert all(row["what"] in text for row in results["rows"]) and "Bars do not apply" in text
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert [picture.name for picture in pictures] == ["speedup.png"]
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width > 300 and len(image.convert("L").getcolors(256)) > 2
        assert f"({picture.name})" in text


def test_the_decoders_are_exact_and_have_times_memory_and_curves(idle: None) -> None:
    """In this process, with the cases that are quickest."""
    bench = Bench(quick=True)
    found: dict[decoders.Task, Peak] = {}
    sizes = decoders.Sizes(12, (8,), (8, 12), 8, (1.5,))
    rows, points = _sorted(decoders._memory(bench, sizes, found))
    assert all(row.unit in ("MB", "x") and row.sense == "at most" for row in rows)
    assert {(p.network, p.form) for p in points} == {(n, f) for n in decoders.NETWORKS for f in ("plain", "dynres")}
    for case in (decoders.Case("LIIF", 4, 3.0, 1, 5.0), decoders.Case("MetaSR", 3.7, 12.0, 1)):
        rows, _ = _sorted(decoders._case(bench, case, sizes.side, found))
        exact = rows[0]
        assert exact.error is not None and exact.error <= decoders.EXACT
        assert [one.name for one in exact.forms] == ["plain", "dynres"]
        for one in exact.forms:
            assert one.milliseconds and one.macs and one.gflops and one.gemm_fraction and one.peak_mb is not None
    _, points = _sorted(decoders._over_scale(bench, "SRNO", sizes))
    assert [(p.plot, p.network, p.form, p.x) for p in points] == [
        ("scale", "SRNO", "plain", 1.5), ("scale", "SRNO", "dynres", 1.5)
    ]  # fmt: skip


def test_cross_layer_rows_tell_growth_kept_keys_and_exact_sums(idle: None) -> None:
    bench, sizes = Bench(quick=True), cross_layer.Sizes((8, 16), 8, (16,))
    found: dict[tuple[str, int], Peak] = {}
    _, points = _sorted(cross_layer._memory(bench, sizes._replace(growth=(64,)), found))
    assert [(p.form, p.x) for p in points] == [(name, 64 * 64) for name in cross_layer.NETWORKS]
    assert all(one.most > one.result == 64 * 64 * 64 * 4 for one in found.values())
    found = {(name, side): Peak(10**7 * side, 0) for name in cross_layer.NETWORKS for side in (8, 16)}
    for name in ("CLA, K=8", "CLNL"):
        (row,), points = _sorted(cross_layer._growth(bench, name, sizes, found))
        assert row.value and [one.name for one in row.forms] == ["8", "16"] and all(one.macs for one in row.forms)
        assert [(p.form, p.x) for p in points] == [(name, 64), (name, 256)]
    rows, points = _sorted(cross_layer._kept(bench, 16, 8))
    for part in ("module", "aggregation"):
        *shares, masking = (row for row in rows if row.what.startswith(f"ACLA {part}"))
        macs = [row.forms[1].macs or 0 for row in shares]
        assert len(macs) == 4 and (shares[0].forms[0].macs or 0) > macs[0] and macs == sorted(set(macs), reverse=True)
        assert masking.error is not None and masking.error <= cross_layer.EXACT
    assert len(points) == 2 * 3 * 5
    rows, _ = _sorted(cross_layer._sums(bench, 16, 8))
    assert [row.error is not None and row.error <= 1e-4 for row in rows] == [True, True]


@pytest.mark.parametrize("scope", pruning.SCOPES)
def test_pruned_networks_have_times_beside_macs_and_each_the_one_before_as_its_bar(idle: None, scope: str) -> None:
    rows, points = _sorted(pruning._pruned(Bench(quick=True), 1, scope))
    times = [row.value or 0.0 for row in rows]
    assert len(times) == 3 and all(times) and [row.bar for row in rows] == [1.0, *times[:2]]
    assert all(row.sense == "at most" and row.verdict == "not applicable" and row.threads == 1 for row in rows)
    shares = [(row.forms[1].macs or 0) / (row.forms[0].macs or 1) for row in rows]
    assert 1 > shares[0] > shares[1] > shares[2] > 0
    assert [(point.x, point.y) for point in points] == [(1.0, 1.0), *zip(shares, times, strict=True)]
    for row, share in zip(rows, shares, strict=True):
        assert row.note.startswith(f"{share:.3f} of the MACs; file of ")


@pytest.mark.parametrize("name", subnets.NETWORKS)
def test_subnets_have_times_beside_macs(idle: None, name: str) -> None:
    rows, points = _sorted(subnets._subnets(Bench(quick=True), name))
    shares = [(row.forms[1].macs or 0) / (row.forms[0].macs or 1) for row in rows]
    assert len(rows) == 3 and shares == sorted(set(shares)) and shares[-1] < 1
    bar, verdict = (None, "no bar") if name == "RCAN" else (1.15, "not applicable")
    assert all(row.sense == "at most" and row.bar == bar and row.verdict == verdict for row in rows)
    times = [(row.value or 0.0) * share for row, share in zip(rows, shares, strict=True)]
    assert [point.x for point in points] == pytest.approx([1.0, *shares])
    assert [point.y for point in points] == pytest.approx([1.0, *times])


def test_lightweight_networks_are_told_to_the_classical_one_and_the_token_to_none(idle: None) -> None:
    rows, _ = _sorted(pruning._lightweight(Bench(quick=True), 2))
    assert [tuple(one.name for one in row.forms) for row in rows] == [
        ("classical", "lightweight"), ("lightweight", "lightweight with token")
    ]  # fmt: skip
    assert all(row.value and row.threads == 2 for row in rows)
    without, token = (one.macs or 0 for one in rows[1].forms)
    assert without < token < 1.05 * without


def test_smaller_networks_are_those_of_the_paper_and_their_files_tell_their_parameters() -> None:
    networks = {name: pruning.network(name) for name in pruning.NETWORKS}
    assert [count_parameters(one) for one in networks.values()] == [11_752_487, 910_152, 910_452]
    assert pruning.file_mb(networks["lightweight"]) == pytest.approx(4 * 0.910152, rel=0.01)
    small = pruning.network("classical", quick=True)
    cut = pruning.pruned(small, "mlp", 0.5)
    saved, widths = 4 * (count_parameters(small) - count_parameters(cut)) / 1e6, [len(m.weight) for m in _hidden(cut)]
    assert pruning.file_mb(small) - pruning.file_mb(cut) == pytest.approx(saved, rel=0.01)
    assert sum(widths) == 360 and widths[0] != widths[1], "the layers do not differ"


def _hidden(restorer: Any) -> list[Any]:
    return [inner.into for inner in restorer.backbone.inner_channels() if inner.kind == "mlp"]


@pytest.mark.parametrize("name", cross_layer.NETWORKS)
def test_attention_to_every_pixel_grows_with_the_square_of_the_pixels_and_to_a_few_keys_does_not(name: str) -> None:
    module = cross_layer.network(name, "cpu")
    growth = cross_layer._macs(module, 192) / cross_layer._macs(module, 96)
    assert 15.5 < growth <= 16 if name in ("non-local", "CLNL") else growth == 4


@pytest.mark.parametrize("name", decoders.NETWORKS)
@pytest.mark.parametrize("scale", [2, 3.7])
def test_macs_are_counted_small_and_scaled_by_area(name: str, scale: float) -> None:
    """Those of the plain form at any size, to the rounding of that size."""
    network = decoders.decoder(name, torch.device("cpu"))
    direct = decoders.count_macs(lambda: decoders.decoding(True, network, 20, scale, torch.device("cpu")))
    assert decoders.macs(network, 20, scale, plain=True) == pytest.approx(direct, rel=0.01)


def _sorted(results: Any) -> tuple[list[Row], list[Any]]:
    every = list(results)
    return [one for one in every if isinstance(one, Row)], [one for one in every if not isinstance(one, Row)]


def slept(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


FORMS = {"plain": functools.partial(slept, 0.03), "dynres": functools.partial(slept, 0.01)}


def row_of(bench: Bench) -> Row:
    timing = bench.compare(FORMS, budget=0.5)
    shown = (form(timing, "plain", 1e6), form(timing, "dynres", 1e6))
    return timed_row(bench, timing, "decoders", "sleep", timing.ratio("plain", "dynres"), bar=2.0, forms=shown)


def test_free_cores_give_a_value_and_a_verdict(idle: None) -> None:
    row = row_of(Bench())
    assert row.value is not None and row.value > 1.5
    assert row.verdict == ("met" if row.value >= 2 else "not met")
    plain, ours = (one.milliseconds or 0 for one in row.forms)
    assert plain >= 30 and plain > ours >= 10


def test_busy_cores_give_not_measured(busy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PATIENCE", 0.0)
    row = row_of(Bench())
    assert (row.value, row.verdict, row.forms, row.others) == (None, "not measured", (), 1.0)
    assert "others took 1.00 cores" in report.remarks(row)
    marked = row_of(Bench(anyway=True))
    assert marked.value is not None and marked.value > 1.5
    assert marked.verdict == "not measured" and len(marked.forms) == 2


def test_a_system_that_does_not_tell_is_not_taken_for_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "STAT", Path("/nowhere"))
    monkeypatch.setattr(harness, "PATIENCE", 0.0)
    row = row_of(Bench())
    assert row.verdict == "not measured" and "does not tell" in report.remarks(row)


def test_rounds_that_others_disturbed_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round's neighbour leaves no trace in what is kept."""
    taken = iter([0.0, 1.0])  # at rest before, first round
    monkeypatch.setattr(cores.Watch, "others", lambda self: next(taken, 0.0))
    timing = Bench().compare({"plain": functools.partial(slept, 0.26)}, budget=5.0, rounds=2)
    assert timing.free and timing.others == 0.0 and len(timing.seconds["plain"]) == 2


@pytest.mark.skipif(not cores.STAT.exists(), reason="no /proc/stat")
def test_a_working_neighbour_is_seen_and_own_work_is_not() -> None:
    own, started = cores.Watch(), time.perf_counter()
    deadline = time.process_time() + 0.5
    while time.process_time() < deadline:
        pass
    alone, mine = own.others(), 0.5 / (time.perf_counter() - started)
    loop = "import time\nend = time.process_time() + 0.8\nwhile time.process_time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", loop]) as neighbour:
        time.sleep(0.2)
        watch = cores.Watch()
        time.sleep(0.3)
        seen = watch.others()
        neighbour.wait()
    assert alone is not None and seen is not None
    assert seen > 0.3
    assert cores.is_free(0.02) and not cores.is_free(seen)
    assert alone <= len(os.sched_getaffinity(0)) - mine + 0.1, "own work counted as others'"


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "met"),
        ({"value": 2.9}, "not met"),
        ({"value": None}, "not measured"),
        ({"free": False}, "not measured"),
        ({"applies": False}, "not applicable"),
        ({"bar": None}, "no bar"),
        ({"sense": "at most"}, "not met"),
        ({"error": 2e-5}, "not met"),
        ({"error": None}, "not met"),
        ({"error": None, "error_bar": None}, "met"),
    ],
)
def test_a_bar_is_met_by_a_value_that_is_measured_and_exact(changed: dict[str, Any], verdict: str) -> None:
    row = Row("decoders", "LIIF", 3.1, bar=3.0, free=True, error=1e-6, error_bar=1e-5)
    assert replace(row, **changed).verdict == verdict


def allocated(megabytes: int, device: torch.device) -> Peak:
    return peak(lambda: torch.ones(250_000 * megabytes, device=device), lambda: torch.ones(1))


def test_peak_memory_is_of_one_call_and_not_of_the_one_before() -> None:
    large, small = peaks(allocated, [(200,), (50,)], torch.device("cpu"))
    assert (large.result, small.result) == (200_000_000, 50_000_000)
    assert large.most == pytest.approx(200e6, rel=0.1) and small.most == pytest.approx(50e6, rel=0.1)


@pytest.mark.parametrize("fraction", backbones.FRACTIONS)
def test_mixed_samples_have_as_many_branches_on_and_not_the_same(fraction: float) -> None:
    chosen = backbones.decisions(16, 16, fraction)
    assert chosen.sum(dim=1).tolist() == [16 * fraction] * 16
    assert len({tuple(sample) for sample in chosen.tolist()}) > 8


def test_forms_tell_their_rate() -> None:
    assert Form("dynres", milliseconds=10.0, macs=1e9).gflops == pytest.approx(200)
    assert Form("dynres", milliseconds=10.0).gflops is None


def test_what_is_left_shrinks_and_the_report_is_written_after_each_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def first() -> list[Row]:
        return [Row("data", "first", 1.0, bar=2.0, free=True, applies=False)]

    def stopped() -> list[Row]:
        raise KeyboardInterrupt

    plan = [Measurement("first", 1.0, first), Measurement("second", 3.0, stopped)]
    monkeypatch.setitem(command.SECTIONS, "data", lambda bench: plan)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "data", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 130
    assert "[2/2] second" in capsys.readouterr().out
    assert [row["what"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]] == ["first"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "decoder"],
            "--only takes sections out of decoders, backbones, cross_layer, pruning, subnets, data, "
            "training, got 'decoder'",
        ),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--device", "abacus"], "--device takes cpu or cuda, got 'abacus'"),
        (["--device", "meta"], "--device takes cpu, or cuda where torch sees a GPU, got 'meta'"),
    ],
)
def test_impossible_requests_are_refused_by_name_and_value(arguments: list[str], message: str) -> None:
    options = command.parsed(arguments)
    with pytest.raises(UserError, match=message):
        command.bench_of(options)
        command.asked(options.only)
