"""What the page draws is what the runs and the papers say; what cannot be drawn is left out or says why."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dynres.errors import UserError
from dynres.tables.figures import acla, anysr, flexir, labels, lightweight_swinir, maps, plane, tadt
from dynres.tables.figures.found import Runs, less, lines, metric, networks, over_seeds
from dynres.tables.figures.gallery import FIGURES, drawn
from dynres.tables.figures.labels import Label
from dynres.tables.figures.style import new, styled
from dynres.tables.sheet import FinishedRun, Measured
from tests.tables.fakes import demo_runs, published
from tests.tables.folders import finished

# ------------------------------------------------------------------------------------------------ runs of a test


def on_photographs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"dataset": "demo", **row} for row in rows]


def beta_lines(betas: Sequence[float]) -> list[dict[str, Any]]:
    return [{"scale": scale, "beta": beta, "threshold": 0.6} for scale, beta in zip((1, 2, 4), betas, strict=True)]


def subnet_lines(gains: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Scale -> dB over bicubic of the widths 0.5 and 1; x2 takes the former."""
    rows = []
    for level, (half, whole) in gains.items():
        own = half if level == "x2" else whole
        for way, gain in (("0.5", half), ("1", whole), ("dagger", own)):
            fraction = 0.5 if gain == half else 1.0
            rows.append(
                {"label": level, "way": way, "psnr": 30 + gain, "gain": gain, "macs": 1e9, "fraction": fraction}
            )
    return on_photographs(rows)


def pointer_lines(psnr: Sequence[float], adaptive: float = 28.0) -> list[dict[str, Any]]:
    rows = [{"label": "x2", "way": f"P={p}", "psnr": one, "macs": p * 1e9} for p, one in enumerate(psnr, 1)]
    return on_photographs([*rows, {"label": "x2", "way": "h=1.00", "psnr": adaptive, "macs": 5e9}])


@pytest.fixture
def everything(tmp_path: Path) -> list[FinishedRun]:
    """Two seeds of the runs whose figures need no checkpoint."""
    runs = []
    for seed in (0, 1):
        for name, shift in (("tadt", 0.0), ("tadt_no_beta_loss", 0.4)):
            betas = beta_lines([0.4 + shift, 0.5 + shift, 0.6 + shift + 0.1 * seed])
            spent = {"x2": {"macs_fraction": 0.7 + shift / 2, "psnr": 31.0, "macs": 4e9}, "x4": {"macs_fraction": 0.8}}
            unit = [{"label": level, "unit": "group 1 4x4", "frequency": 1 / 3} for level in spent]
            unit += [{"label": level, "unit": "group 2 global", "frequency": 1} for level in spent]
            tables = {"beta_curve": betas, "routing": on_photographs(unit)}
            runs.append(finished(tmp_path, f"tadt/{name}", seed, spent, **tables))
        gains = {"x2": (1.0 + 0.2 * seed, 1.5), "x4": (0.5, 0.8)}
        runs.append(finished(tmp_path, "anysr/anysr", seed, {"x2": {}}, subnets=subnet_lines(gains)))
        for number, name in enumerate(("sd", "psd", "psd_cws")):
            psnr = [28 + number, 28.5 + number + 0.1 * seed, 29 + number]
            runs.append(finished(tmp_path, f"flexir/{name}", seed, {"x2": {}}, tradeoff=pointer_lines(psnr)))
        kept = [{"label": "x2", "layer": 2, "referred": 2, "kept": 3 + seed, "keys": 6}]
        kept += [{"label": "x2", "layer": 5, "referred": other, "kept": 1, "keys": 6} for other in (2, 5)]
        runs.append(
            finished(tmp_path, "acla/acla", seed, {"x2": {"psnr": 33.0, "macs": 9e9}}, keys=on_photographs(kept))
        )
        runs.append(finished(tmp_path, "acla/edsr", seed, {"x2": {"psnr": 32.0 + seed, "macs": 8e9}}))
        for rate in ("uncut", "msa_025", "msa_075", "mlp_025"):
            cut = [{"kind": kind, "layer": n, "kept": 4 - n + seed, "of": 8} for kind in ("msa", "mlp") for n in (1, 2)]
            run = f"lightweight_swinir/{rate}"
            runs.append(finished(tmp_path, run, seed, {"x2": {"psnr": 30.0 + seed, "macs": 6e9}}, pruning=cut))
    return runs


def points(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    """Places and heights of the line or bars of a legend's entry."""
    for container in axes.containers:
        if container.get_label() == label:
            line = container[0]
            return list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))


def heights(axes: Axes, label: str) -> list[float]:
    return points(axes, label)[1]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# ------------------------------------------------------------------------------------------------ what files say


@pytest.mark.parametrize("content", ["", "scale,beta\n", "scale,beta\n1\n", "scale,beta\n1,2,3\n", "\x00"])
def test_a_damaged_table_is_named(tmp_path: Path, content: str) -> None:
    run = FinishedRun("tadt", "tadt", 0, tmp_path)
    with pytest.raises(UserError, match=r"beta_curve\.csv"):
        lines(run, "beta_curve.csv")
    (tmp_path / "beta_curve.csv").write_text(content)
    with pytest.raises(UserError, match=r"beta_curve\.csv"):
        lines(run, "beta_curve.csv")


def test_numbers_are_means_and_sample_deviations_over_seeds(tmp_path: Path) -> None:
    runs = [finished(tmp_path, "tadt/tadt", seed, {"x2": {"psnr": 30.0 + seed**2}}) for seed in (2, 0, 1)]
    assert [run.seed for run in Runs(runs).of("tadt", "tadt")] == [0, 1, 2]
    assert metric(runs, "x2", "psnr") == Measured(fmean([30, 31, 34]), stdev([30, 31, 34]), 3)
    assert over_seeds([5.0]) == Measured(5.0, None, 1)
    assert networks(runs).endswith("mean and standard deviation of 3 seeds")
    assert networks(runs[:1]).endswith("one seed (2)")
    with pytest.raises(UserError, match=r"summary\.json has no psnr at x3"):
        metric(runs, "x3", "psnr")


# ------------------------------------------------------------------------------------------------ TADT


def test_discs_stand_at_published_costs_and_rings_at_other_counts() -> None:
    found = {
        "RDN": tadt.Disc(35.0, 1000.0, 1004.0, 20.0),  # within half a per cent: one disc
        "TADT": tadt.Disc(35.3, 700.0, 750.0, 9.0),
        "EDSR-baseline": tadt.Disc(34.7, None, 86.0, 1.0),
    }
    (axes,) = tadt.disc_figure(found).axes
    discs = [one for one in axes.collections if len(one.get_offsets())]  # the legend's have no place
    assert {one.get_label(): (one.get_offsets()[0].tolist(), one.get_sizes()[0]) for one in discs} == {
        "RDN": ([1000.0, 35.0], 20 * tadt.AREA),
        "TADT": ([700.0, 35.3], 9 * tadt.AREA),
        "TADT, counted": ([750.0, 35.3], 9 * tadt.AREA),
        "EDSR-baseline, counted": ([86.0, 34.7], tadt.AREA),
    }
    assert [text.get_text() for text in axes.texts] == ["RDN 35.00", "TADT 35.30", "EDSR-baseline 34.70"]


def test_figure_2_has_tadt_at_parts_of_every_branch() -> None:
    figure = tadt.cost_figure({2: 9.7e3, 4: 9.7e3}, 9.75e3, (6e3, 8e3), {2: 0.9, 3: 0.95, 4: 1.0})
    (axes,) = figure.axes
    assert points(axes, "SwinIR, published") == ([2, 4], [9.7e3, 9.7e3])
    assert points(axes, "TADT at Table 3's share of every branch") == ([2, 3, 4], pytest.approx([7.2e3, 7.6e3, 8e3]))
    assert texts(figure) == ["90.0%", "95.0%", "100.0%", "9,750"]


def test_betas_are_means_with_a_band_of_one_deviation(everything: list[FinishedRun]) -> None:
    runs = Runs(everything)
    curves = {name: [lines(run, "beta_curve.csv") for run in runs.of("tadt", name)] for name in tadt.LOSSES}
    (axes,) = tadt.beta_figure(curves).axes
    assert heights(axes, "with the beta loss") == pytest.approx([0.4, 0.5, 0.65])
    assert heights(axes, "without") == pytest.approx([0.8, 0.9, 1.05])
    band = axes.collections[0].get_paths()[0].vertices
    off = stdev([0.6, 0.7])
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.4, 0.65 + off))


def test_published_shares_are_of_our_count_of_the_whole_network() -> None:
    shares = tadt._published_shares({"tadt": published("tadt")})
    assert shares["tadt"]["x2"] == pytest.approx(6986.91 / 7461.66, abs=1e-4)
    assert shares["tadt_no_beta_loss"]["x4"] == pytest.approx(1936.01 / 1954.04, abs=1e-4)
    ours = {"tadt": {"x2": Measured(0.7, 0.1, 3), "x6": Measured(0.9, 0.1, 3)}}
    (axes,) = tadt.share_figure(ours, shares).axes
    assert points(axes, "with the beta loss, published") == ([0, 1, 2], pytest.approx(list(shares["tadt"].values())))
    assert points(axes, "with the beta loss, ours") == (pytest.approx([0, 3], abs=0.05), [0.7, 0.9])


def test_the_routing_map_shows_the_share_of_photographs(everything: list[FinishedRun]) -> None:
    figure = maps.routing_figure(
        {"group 1 4x4": {"x2": 1 / 3, "x4": 0.0}, "group 2 global": {"x2": 1, "x4": 0.5}}, ["x2", "x4"]
    )
    assert texts(figure) == ["33%", "0%", "100%", "50%", "group 1", "group 2"]
    assert figure.axes[0].images[0].get_array().tolist() == [[1 / 3, 0.0], [1.0, 0.5]]
    (picture,) = maps.routing(Runs(everything), {})
    assert "one seed (0)" in picture.caption  # networks of other seeds have routes of their own


# ------------------------------------------------------------------------------------------------ AnySR, FlexIR


def test_figure_4_compares_seed_by_seed(everything: list[FinishedRun]) -> None:
    tables = {"anysr": [anysr.subnets(run) for run in Runs(everything).of("anysr", "anysr")]}
    above, below = anysr.figure(tables).axes
    assert heights(above, "‡ whole network") == pytest.approx([1.5, 0.8])
    assert heights(above, "† the scale's subnet") == pytest.approx([1.1, 0.8])
    line, _, (bars,) = below.containers[0]
    assert list(line.get_ydata()) == pytest.approx([-0.4, 0.0])
    spread = [(top - bottom) / 2 for (_, bottom), (_, top) in bars.get_segments()]
    assert spread == pytest.approx([stdev([-0.5, -0.3]), 0.0])
    assert [text.get_text() for text in below.texts] == ["50%", "100%"]


def test_pointers_stand_beside_the_full_depth_of_their_seed(everything: list[FinishedRun]) -> None:
    seeds = [flexir.ways(run) for run in Runs(everything).of("flexir", "psd_cws")]
    (axes,) = flexir.task_figure({"denoising": {1: 32.0, 2: 33.0, 4: 33.5}}, {"super-resolution x2": seeds}).axes
    assert points(axes, "denoising, published") == ([25, 50, 100], [-1.5, -0.5, 0])
    places, less = points(axes, "super-resolution x2, ours")
    assert places == pytest.approx([100 / 3, 200 / 3, 100])
    assert less == pytest.approx([-1.0, -0.45, 0.0])


def test_published_pointers_are_those_of_tables_3_and_4() -> None:
    found = flexir._published({"flexir": published("flexir")})
    assert found["denoising"] == {1: 32.81, 2: 33.12, 3: 33.25, 4: 33.28, 5: 33.28, 6: 33.28}
    assert list(found["JPEG artifacts"]) == [1, 2, 3, 4, 5, 6] and found["JPEG artifacts"][4] == 34.43


def test_trainings_and_depths_draw_every_pointer(everything: list[FinishedRun]) -> None:
    tables = {
        name: [flexir.ways(run) for run in some]
        for name, some in Runs(everything).named("flexir", flexir.TRAININGS).items()
    }
    (axes,) = flexir.training_figure(tables).axes
    for number, (words, _, _) in enumerate(flexir.TRAININGS.values()):
        assert heights(axes, words) == pytest.approx([28 + number, 28.55 + number, 29 + number])
    depths = flexir.depth_figure(tables["sd"])
    assert points(depths.axes[0], "regular, at pointer P") == ([1, 2, 3], pytest.approx([28, 28.55, 29]))
    assert points(depths.axes[0], "adaptive, at threshold h") == ([5], [28])
    assert texts(depths) == ["P = 1", "P = 2", "P = 3", "h = 1.00"]


# ------------------------------------------------------------------------------------------------ ACLA, SwinIR


def test_kept_keys_are_means_over_seeds(everything: list[FinishedRun]) -> None:
    table = {("2", "2"): Measured(3.5, 0.7, 2), ("5", "2"): Measured(1.0, None, 1), ("5", "5"): Measured(6.0, 0.0, 2)}
    figure = acla.kept_figure(table, 6)
    assert texts(figure) == ["3.5 ± 0.7 of 6", "", "1.0 of 6", "6.0 ± 0.0 of 6"]
    cells = figure.axes[0].images[0].get_array()
    assert cells.filled(-1).tolist() == [[3.5, -1], [1.0, 6.0]]
    (picture,) = acla.kept(Runs(everything), {})
    assert "of its 6 sampled keys" in picture.caption and "2 seeds" in picture.caption


def test_pictures_of_a_run_become_opaque_and_no_wider_than_a_page() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (2 * acla.WIDEST, 300), (10, 20, 30, 255)).save(buffer, "png")
    made = Image.open(io.BytesIO(acla.bounded(buffer.getvalue(), "keys.png")))
    assert (made.size, made.mode) == ((acla.WIDEST, 150), "RGB")
    with pytest.raises(UserError, match=r"keys\.png is not an image"):
        acla.bounded(buffer.getvalue()[:100], "keys.png")


def test_rates_begin_with_the_uncut_network(everything: list[FinishedRun]) -> None:
    (picture,) = lightweight_swinir.rates(Runs(everything), {"lightweight_swinir": published("lightweight_swinir")})
    assert picture.wide and "30.50 dB" in picture.caption
    theirs = lightweight_swinir._published({"lightweight_swinir": published("lightweight_swinir")})
    assert theirs["msa", "Urban100"] == pytest.approx({0: 0, 25: 0.06, 50: -1.22, 75: -6.49})
    ours = {"msa": {0: Measured(0.0), 25: Measured(-0.5), 75: Measured(-10.0)}}
    left, right = lightweight_swinir.rate_figure(ours, theirs).axes
    assert points(left, "MLP + attention") == ([0, 25, 75], [0, -0.5, -10])
    places, lost = points(right, "MLP, Manga109")
    assert places == [0, 25, 50, 75] and lost == pytest.approx([0, -0.21, -0.47, -1.08])
    assert len(lightweight_swinir.rate_figure(ours, {}).axes) == 1  # nothing published: one panel


def test_differences_are_of_the_same_seed(everything: list[FinishedRun]) -> None:
    """Seeds differ by more than networks: one run more or less must not look like a gain."""
    runs = Runs(everything)
    cut, uncut = (runs.of("lightweight_swinir", name) for name in ("msa_025", "uncut"))
    assert less(cut, uncut, "x2", "psnr") == Measured(0.0, 0.0, 2)
    assert less(cut[:1], uncut, "x2", "psnr") == less(cut, uncut[1:], "x2", "psnr") == Measured(0.0, None, 1)
    assert less(cut[:1], uncut[1:], "x2", "psnr") is None


def test_students_stand_below_or_above_their_teacher() -> None:
    students = {0.0: Measured(0.0), 0.25: Measured(0.5, 0.2, 3), 0.75: Measured(-1.0, 0.1, 3)}
    (axes,) = lightweight_swinir.distillation_figure(students, Measured(1.0, 0.3, 3)).axes
    assert points(axes, "student") == ([0, 0.25, 0.75], [0, 0.5, -1])
    assert heights(axes, "teacher") == [1.0, 1.0]


def test_where_pruning_cuts_is_the_mean_of_the_seeds(everything: list[FinishedRun]) -> None:
    some = Runs(everything).of("lightweight_swinir", "msa_025")
    shares = lightweight_swinir._mean([lightweight_swinir._kept(run) for run in some])
    assert shares == {"msa": [3.5 / 8, 2.5 / 8], "mlp": [3.5 / 8, 2.5 / 8]}
    (some[0].folder / "pruning.csv").write_text("kind,layer,kept,of\nmlp,1,four,8\n")
    with pytest.raises(UserError, match=r"pruning\.csv cannot be read"):
        lightweight_swinir._kept(some[0])


# ------------------------------------------------------------------------------------------------ the plane


def test_the_plane_has_every_system_at_its_cost(everything: list[FinishedRun]) -> None:
    found = {line.title: line for line in plane.systems(Runs(everything))}
    assert list(found) == [
        "TADT + LIIF", "AnySR + LIIF, widths", "EDSR + ACLA", "EDSR", "SwinIR, MLP cut", "SwinIR, MLP + attention cut",
    ]  # fmt: skip
    (edsr,) = found["EDSR"].points
    assert (edsr.gmacs, edsr.psnr.value, edsr.psnr.seeds) == (pytest.approx(8.0), 32.5, 2)
    assert [point.name for point in found["AnySR + LIIF, widths"].points] == ["width 0.5", "width 1"]
    assert [point.name for point in found["SwinIR, MLP cut"].points] == ["uncut", ""]


def test_the_front_is_ringed() -> None:
    def line(title: str, *places: tuple[float, float]) -> plane.Line:
        some = tuple(plane.Point("", gmacs, Measured(psnr)) for gmacs, psnr in places)
        return plane.Line(title, "red", "o", points=some)

    figure = plane.figure([line("one", (1, 30), (4, 33)), line("two", (2, 31), (3, 30.5), (0.5, 28))], plain=29.0)
    (ring,) = [one for one in figure.axes[0].collections if one.get_label() == "front"]
    assert sorted(ring.get_offsets().tolist()) == [[1, 30], [2, 31], [4, 33]]  # 28 dB lies below bicubic
    assert points(figure.axes[0], "two") == ([2, 3, 0.5], [31, 30.5, 28])


# ------------------------------------------------------------------------------------------------ texts


def test_texts_of_crowded_points_stand_apart() -> None:
    with styled():
        figure, ((axes,),) = new(5, 4)
        axes.plot([0, 10], [0, 10])
        crowd = [Label(5 + 0.05 * n, 5, f"network {n}", radius=5) for n in range(5)]
        labels.write(axes, [*crowd, Label(0, 10), Label(10, 0, "corner")])
        figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [*(f"network {n}" for n in range(5)), "corner"]
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])
    inside = axes.get_window_extent(renderer).padded(1)
    assert all(inside.contains(*box.min) and inside.contains(*box.max) for box in boxes)


# ------------------------------------------------------------------------------------------------ all of them


def test_nothing_is_drawn_of_nothing() -> None:
    assert list(drawn([], {})) == []


def test_every_run_that_is_looked_for_is_in_the_plan_of_the_demo() -> None:
    class Asked(Runs):
        def __init__(self) -> None:
            super().__init__([])
            self.names: set[tuple[str, str]] = set()

        def of(self, paper: str, name: str) -> list[FinishedRun]:
            self.names.add((paper, name))
            return []

    asked = Asked()
    for _, _, figure in FIGURES:
        figure(asked, {})
    assert len(asked.names) > 20
    assert [name for paper, name in sorted(asked.names) if name not in demo_runs(paper)] == []


def test_pictures_are_the_same_bytes_again_and_leave_matplotlib_as_it_was(everything: list[FinishedRun]) -> None:
    without = [run for run in everything if run.paper != "tadt"]  # whose figures need a checkpoint
    size, found = matplotlib.rcParams["font.size"], []
    for picture in drawn(without, {}):
        assert matplotlib.rcParams["font.size"] == size
        found.append(picture)
    assert {"all", "anysr", "flexir", "acla", "lightweight_swinir"} == {picture.section for picture in found}
    for picture in found:
        with Image.open(io.BytesIO(picture.image)) as image:
            assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
            assert image.width <= 1140
        assert picture.alt and picture.title and ("network" in picture.caption or "not be drawn" in picture.caption)
    assert list(drawn(list(reversed(without)), {})) == found


def test_a_damaged_file_is_named_in_its_figure_and_the_others_are_drawn(everything: list[FinishedRun]) -> None:
    some = [run for run in everything if run.paper in ("anysr", "acla")]
    (some[0].folder / "subnets.csv").write_text("dataset,label\ndemo\n")
    found = {(picture.section, picture.title): picture for picture in drawn(some, {})}
    assert "subnets.csv is damaged" in found["anysr", "Figure 4"].caption
    assert "subnets.csv is damaged" in found["all", "All papers on one plane"].caption
    assert "6 sampled keys" in found["acla", "Kept keys, by layer"].caption
