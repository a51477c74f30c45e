"""What is seen of sampled keys: counts that are the modules' own, pictures of the right places."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning import Callback, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from dynres.backbones.acla import CrossLayer, CrossLayerEDSR, CrossLayerRCAN
from dynres.backbones.edsr import EDSR
from dynres.callbacks.keys import ChosenKeys, Kept, print_kept
from dynres.callbacks.keys_picture import QueryKeys, query_keys
from dynres.callbacks.loggers import CsvLog, read_metrics
from dynres.contracts import EvalSample
from dynres.errors import UserError
from dynres.methods.base import Inference, RestorationTraining
from dynres.restorer import Restorer
from dynres.upsamplers.pixelshuffle import PixelShuffle
from dynres.upsamplers.same_size import SameSize

from .conftest import samples
from .test_watchers import lines

POSITIONS, KEYS = (1, 3, 4), 4


def network(kind: Any = "acla", **options: Any) -> CrossLayerEDSR:
    """Keys pixels away, some of them left out."""
    torch.manual_seed(0)
    made = CrossLayerEDSR(8, 4, 1.0, options.pop("positions", POSITIONS), kind, KEYS, heads=2, reduction=4, **options)
    with torch.no_grad():
        for name, parameter in made.inserted.named_parameters():
            parameter.normal_(0, 0.3)
            if ".mask." in name:
                parameter.normal_(0, 0.6)
    return made


def halves(count: int = 2) -> list[EvalSample]:
    """Photographs at x2."""
    return [sample for sample in samples() if sample.label == "x2"][:count]


def watched(
    folder: Path, *watchers: Callback, backbone: Any = None, given: list[EvalSample] | None = None,
    upsampler: Any = None, inference: Inference | None = None, loggers: Any = False,
) -> RestorationTraining:  # fmt: skip
    """A method whose test these callbacks have watched."""
    restorer = Restorer(backbone or network(), upsampler or PixelShuffle(8, 2))
    method = RestorationTraining(restorer, 1e-4, [], 0.5, inference=inference)
    trainer = Trainer(
        accelerator="cpu", logger=loggers, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=list(watchers),
    )  # fmt: skip
    loader: Any = DataLoader(given or halves(), batch_size=None, collate_fn=lambda sample: sample)  # type: ignore[arg-type]
    trainer.test(method, loader, verbose=False)
    return method


def kept_by(backbone: CrossLayer, sample: EvalSample, budget: float | None = None) -> dict[tuple[int, str], float]:
    """Mean number of keys that a query keeps, by `choose` itself."""
    found: dict[tuple[int, str], float] = {}

    def count(position: int, module: Any, args: Any) -> None:
        if args[0].is_meta:
            return
        kept = module.choose(*args).kept.unflatten(2, (module.maps, KEYS)).sum(3).mean((0, 1))
        names = ["head"] * backbone.refer_head + [str(p) for p in POSITIONS if p <= position]
        found.update({(position, name): float(value) for name, value in zip(names, kept, strict=True)})

    hooks = [backbone.inserted[str(p)].register_forward_pre_hook(lambda m, a, p=p: count(p, m, a)) for p in POSITIONS]
    Restorer(backbone, PixelShuffle(8, 2)).eval().restore(sample.image, budget=budget)
    for hook in hooks:
        hook.remove()
    return found


# ------------------------------------------------------------------------------------------------ how many are kept


@pytest.mark.parametrize("refer_head", [False, True])
@pytest.mark.parametrize("budget", [None, 0.985])
def test_counts_are_those_of_the_modules(tmp_path: Path, refer_head: bool, budget: float | None) -> None:
    backbone = network(refer_head=refer_head)
    watched(tmp_path, ChosenKeys(pictures=0), backbone=backbone, inference=Inference(budget), loggers=CsvLog(tmp_path))
    counts = [kept_by(backbone, sample, budget) for sample in halves()]
    rows = lines(tmp_path / "keys.csv")
    assert list(rows[0]) == ["dataset", "label", "layer", "referred", "kept", "keys"]
    found = {(int(row["layer"]), row["referred"]): float(row["kept"]) for row in rows}
    expected = {unit: (counts[0][unit] + counts[1][unit]) / 2 for unit in counts[0]}
    assert found == pytest.approx(expected) and len(rows) == 6 + 3 * refer_head
    assert {(row["dataset"], row["label"], row["keys"]) for row in rows} == {("Toy", "x2", "4")}
    assert 0 < min(found.values()) < max(found.values()) < KEYS
    (logged,) = read_metrics(tmp_path / "metrics.csv")
    for (layer, referred), value in expected.items():
        assert float(logged[f"test/keys/layer{layer}@{referred}"]) == pytest.approx(value)
    assert not (tmp_path / "keys").exists()


def test_means_are_of_each_test_set_and_level(tmp_path: Path) -> None:
    first, second = halves()
    given = [first, second._replace(label="x2 again"), first._replace(dataset="Other")]
    watched(tmp_path, ChosenKeys(pictures=0), given=given, loggers=CsvLog(tmp_path))
    rows = lines(tmp_path / "keys.csv")
    counts = [kept_by(network(), sample) for sample in (first, second)]
    for row in rows:
        expected = counts[row["label"] == "x2 again"][int(row["layer"]), row["referred"]]
        assert float(row["kept"]) == pytest.approx(expected), row
    assert len({(row["dataset"], row["label"]) for row in rows}) == 3 and len(rows) == 18
    (logged,) = read_metrics(tmp_path / "metrics.csv")
    mean = (2 * counts[0][3, "1"] + counts[1][3, "1"]) / 3
    assert float(logged["test/keys/layer3@1"]) == pytest.approx(mean), "over all images"


def test_the_table_has_a_line_a_module_and_a_column_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {(3, "head"): 11.25, (3, "3"): 1.0, (12, "head"): 0.0, (12, "3"): 16.0, (12, "12"): 4.0}
    print_kept([Kept("Set5", "x2", layer, name, value, 16) for (layer, name), value in kept.items()])
    text = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert cells == [["3", "11.2 / 16", "1.0 / 16", "", "38%"], ["12", "0.0 / 16", "16.0 / 16", "4.0 / 16", "42%"]]
    assert [name.strip() for name in text.splitlines()[2].split("┃")[1:-1]] == ["layer", "head", "3", "12", "of all"]
    assert "Set5 x2" in text.splitlines()[0]


def test_the_table_of_a_supernet_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_kept([Kept("Set5", "x2", j, str(i), 8.0, 16) for j in range(1, 33) for i in range(1, j + 1)])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120 and text.count("50%") == 32


# ------------------------------------------------------------------------------------------------ pictures


def test_the_first_images_of_each_level_are_drawn(tmp_path: Path) -> None:
    given = [*halves(), *(sample._replace(label="x2/b") for sample in halves())]
    watched(tmp_path, ChosenKeys(pictures=1), given=given)
    assert sorted(os.listdir(tmp_path / "keys")) == ["Toy_x2-b_photo-0.png", "Toy_x2_photo-0.png"]
    with Image.open(tmp_path / "keys" / "Toy_x2_photo-0.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 600 and pixels.shape[1] > 1200, pixels.shape
    green = (np.abs(pixels.astype(int) - [31, 224, 31]).sum(-1) < 30).sum()
    assert green > 6 * 40, f"the query is not marked: {green} pixels"


def test_more_pictures_when_asked(tmp_path: Path) -> None:
    method = watched(tmp_path, ChosenKeys(pictures=2))
    assert len(os.listdir(tmp_path / "keys")) == 2
    assert not any(part._forward_hooks for part in method.modules()), "nothing is left of the look inside"


def looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watcher: ChosenKeys, **options: Any
) -> tuple[Tensor, QueryKeys]:
    """What `draw` was given for the first image."""
    found: list[tuple[Tensor, QueryKeys]] = []

    def spy(image: Tensor, seen: QueryKeys, title: str) -> Figure:
        found.append((image, seen))
        return Figure()

    monkeypatch.setattr("dynres.callbacks.keys.draw", spy)
    watched(tmp_path, watcher, given=halves(1), **options)
    (one,) = found
    return one


@pytest.mark.parametrize("kind", ["acla", "cla"])
@pytest.mark.parametrize("layer", [None, 3])
def test_the_keys_drawn_are_those_of_the_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layer: int | None
) -> None:
    backbone = network(kind, refer_head=True)
    image, seen = looked_at(tmp_path, monkeypatch, ChosenKeys(1, [0.5, 1.0], layer), backbone=backbone)
    position = layer or 4
    caught: list[Any] = []
    backbone.inserted[str(position)].register_forward_pre_hook(lambda module, args: caught.append(module.choose(*args)))
    Restorer(backbone, PixelShuffle(8, 2)).eval().restore(halves()[0].image)
    (keys,) = caught
    assert seen.query == (24, 71) and seen.size == (48, 72) and seen.layer == position
    assert seen.names == ["head", "layer 1", "layer 3", "layer 4"][: 3 + (position == 4)]
    at, shape = 24 * 72 + 71, (len(seen.names), KEYS)
    torch.testing.assert_close(seen.places, keys.places[0, at].unflatten(0, shape))
    torch.testing.assert_close(seen.weights, keys.weights[0, at].unflatten(0, shape))
    expected = torch.ones(shape) if kind == "cla" else keys.kept[0, at].unflatten(0, shape)
    assert torch.equal(seen.kept.float(), expected)
    torch.testing.assert_close(image, halves()[0].image[0].permute(1, 2, 0), msg="the input is of the maps' size")
    assert (tmp_path / "keys.csv").exists() == (kind == "acla"), "all keys of CLA are kept: nothing to count"


def test_without_a_query_one_of_strong_texture_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = {looked_at(tmp_path, monkeypatch, ChosenKeys())[1].query for _ in range(2)}
    assert len(queries) == 1
    ((row, column),) = queries
    assert row > 24 and column > 28, "the waves of the photograph are at the lower right"


def test_keys_of_a_batch_are_those_of_its_first_image() -> None:
    module = network().inserted["4"].eval()
    maps = [torch.randn(2, 8, 6, 5) for _ in range(3)]
    keys = module.choose(maps[-1], maps)  # type: ignore[operator]
    both, first = (
        query_keys(4, ["a", "b", "c"], maps[-1][:n], [one[:n] for one in maps], keys, (2, 3)) for n in (2, 1)
    )
    for one, other in zip(both[4:], first[4:], strict=True):
        assert torch.equal(one, other)


def test_a_same_size_network_is_drawn_on_the_enlarged_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, found = looked_at(tmp_path, monkeypatch, ChosenKeys(), upsampler=SameSize(8))
    assert found.size == (96, 144)
    torch.testing.assert_close(image, halves()[0].plain[0].permute(1, 2, 0))


def test_tiles_are_drawn_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = network()
    backbone.halo = 4
    _, found = looked_at(tmp_path, monkeypatch, ChosenKeys(), backbone=backbone, inference=Inference(tile=40))
    assert found.size == (48, 72)
    assert lines(tmp_path / "keys.csv"), "counts of tiles are counts, too"


# ------------------------------------------------------------------------------------------------ other networks


@pytest.mark.parametrize("kind", ["nonlocal", "clnl", "mha", "se"])
def test_modules_without_sampled_keys_write_nothing(tmp_path: Path, kind: str) -> None:
    watched(tmp_path, ChosenKeys(), backbone=network(kind), given=halves(1))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("layer", [None, 2])
def test_a_static_network_writes_nothing(tmp_path: Path, layer: int | None) -> None:
    watched(tmp_path, ChosenKeys(layer=layer), backbone=EDSR(8, 2, 1.0), given=halves(1))
    assert os.listdir(tmp_path) == []


def test_rcan_is_watched_as_well(tmp_path: Path) -> None:
    backbone = CrossLayerRCAN([1, 2], channels=8, groups=2, blocks=1, reduction=4, keys=KEYS)
    watched(tmp_path, ChosenKeys(), backbone=backbone, given=halves(1))
    assert len(os.listdir(tmp_path / "keys")) == 1 and len(lines(tmp_path / "keys.csv")) == 3


def test_a_budget_that_pays_for_no_module_has_no_picture(tmp_path: Path) -> None:
    backbone = network()
    cost = backbone.cost(48, 72)
    watched(tmp_path, ChosenKeys(), given=halves(1), backbone=backbone, inference=Inference(cost.fixed / cost.full))
    assert not (tmp_path / "keys").exists()
    assert {row["kept"] for row in lines(tmp_path / "keys.csv")} == {"0.0"}


def test_a_supernet_draws_the_last_module_that_it_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = network(positions="all", searched=True)
    assert backbone.alpha is not None
    with torch.no_grad():
        backbone.alpha.copy_(torch.tensor([1.0, -1.0, 1.0, -1.0]))
    _, found = looked_at(tmp_path, monkeypatch, ChosenKeys(), backbone=backbone)
    assert found.layer == 3 and found.names == ["layer 1", "layer 2", "layer 3"]
    assert not found.kept[1].any() and not found.weights[1].any()


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    "query", [[1.1, 0.5], [0.5, -0.1], [0.5], [0.1, 0.2, 0.3], ["a", 0.5], [True, 0.5], [float("nan"), 0.5], 0.5, "ab"]
)
def test_a_query_beyond_the_image_is_refused(query: Any) -> None:
    with pytest.raises(
        ValueError, match=r"query must be null or \[row, column\] as fractions of the image in \[0, 1\]"
    ):
        ChosenKeys(query=query)


@pytest.mark.parametrize("pictures", [-1, 1.5, True])
def test_a_number_of_pictures_that_cannot_be_is_refused(pictures: Any) -> None:
    with pytest.raises(ValueError, match="pictures must be a whole number of at least 0"):
        ChosenKeys(pictures=pictures)


def test_a_layer_without_module_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"after which a module stands \(1, 3, 4\), got 2"):
        watched(tmp_path, ChosenKeys(layer=2))
    assert os.listdir(tmp_path) == []


def test_the_configuration_builds_it() -> None:
    from .test_configs import callbacks

    built = callbacks("+callbacks=acla", "callbacks.keys.query=[0.25,0.5]")
    keys = built["keys"]
    assert isinstance(keys, ChosenKeys) and keys.query == (0.25, 0.5) and keys.layer is None
    assert [name for name in built if name != "keys"] == list(callbacks())
