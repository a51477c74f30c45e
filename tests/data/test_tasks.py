"""The files of conf/data, conf/task and conf/profile together: each task has data in each profile, from each source."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from dynres.data.datamodule import SuperResolutionData
from dynres.data.degradations import GaussianNoise, Jpeg, RealWorld
from dynres.data.mosaic import Mosaic
from dynres.data.restoration import RestorationData
from dynres.errors import UserError
from dynres.folders import register_resolvers
from dynres.nodes import check_options, make
from dynres.paths import conf_dir

TASKS = sorted(path.stem for path in conf_dir().glob("task/*.yaml"))

SMALL = ("panet", "rnan", "pa_edsr")  # every pixel attends to every pixel


@cache
def composed(*overrides: str) -> Any:
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(overrides))


def built(*overrides: str) -> Any:
    node = composed(*overrides).data
    check_options(node, "data")
    return make(node, "data")


SOURCES = [("demo", "demo"), ("smoke", "folder"), ("paper", "folder"), ("paper", "div2k")]


@pytest.mark.parametrize(("profile", "source"), SOURCES)
@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_data_from_every_source(task: str, profile: str, source: str) -> None:
    module = built(f"task={task}", f"profile={profile}", f"data={source}")
    assert module.source == source
    if task in ("assr", "sr"):
        assert isinstance(module, SuperResolutionData) and module.batches == "queries"
    else:
        assert isinstance(module, RestorationData) and module.batches == "patches"
        assert (module.patch_size == 128) == (profile == "paper") and module.patch_size <= 128
        assert module.degradation.scale == composed(f"task={task}").task.scale


@pytest.mark.parametrize(("backbone", "profile"), [(SMALL[0], "demo"), (SMALL[1], "demo"), (SMALL[2], "smoke")])
@pytest.mark.parametrize("task", TASKS)
def test_a_network_that_needs_small_images_has_them_in_every_task(task: str, backbone: str, profile: str) -> None:
    module = built(f"task={task}", f"backbone={backbone}", f"profile={profile}")
    if isinstance(module, RestorationData):
        assert module.patch_size // module.degradation.scale == 24
        assert composed(f"task={task}", f"backbone={backbone}", f"profile={profile}").inference.tile is not None
    else:
        assert module.recipe.lr_size == 24


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("debug", sorted(path.stem for path in conf_dir().glob("debug/*.yaml")))
def test_a_debug_choice_stands_on_every_task(debug: str, task: str) -> None:
    module = built(f"task={task}", f"+debug={debug}")
    assert (module.val_images, module.test_images) == (1, 1)


def test_super_resolution_trains_and_tests_at_its_scale() -> None:
    module = built("task=sr", "task.scale=3", "data=div2k", "backbone=rnan")
    assert module.recipe.scales == (3, 3) and module.recipe.queries is None
    assert module.val_scales == module.test_scales == [(3, 3)] and module.test_downsampling == "pillow"


def test_div2k_is_tested_as_in_the_papers_table() -> None:
    module = built("data=div2k", "profile=paper")
    assert [scale for scale, _ in module.test_scales] == [2, 3, 4, 6, 12, 18, 24, 30]
    assert (module.test_downsampling, module.val_images, module.workers) == ("pillow", 10, 8)


def test_what_a_task_says_reaches_the_data() -> None:
    noise = built("task=denoise_color", "task.sigma=[0,75]", "task.test_sigmas=[10]").degradation
    assert isinstance(noise, GaussianNoise)
    assert (noise.channels, noise.sigma, noise.levels) == (3, (0, 75), (10,))
    assert built("task=denoise_gray", "task.sigma=50").degradation.channels == 1
    jpeg = built("task=car", "task.quality=[10,40]").degradation
    assert isinstance(jpeg, Jpeg) and (jpeg.quality, jpeg.levels) == ((10, 40), (10, 20, 30, 40))
    mosaic = built("task=demosaic", "task.pattern=gbrg").degradation
    assert isinstance(mosaic, Mosaic) and mosaic.pattern == "gbrg"
    real = built("task=realsr", "task.scale=4", "task.jpeg_quality=[50,60]", "task.isotropic_width=[1,2]").degradation
    assert isinstance(real, RealWorld)
    assert (real.scale, real.jpeg_quality, real.isotropic_width) == (4, (50, 60), (1, 2))


def test_the_tasks_values_are_the_papers_ones() -> None:
    """conf/task/realsr.yaml says what the class has by itself."""
    assert vars(built("task=realsr").degradation) == vars(RealWorld())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task=denoise_color", "task.sigma=-1"], "task.sigma takes numbers from 0 to 255, got -1"),
        (["task=car", "task.quality=200"], "task.quality takes whole numbers from 1 to 100, got 200"),
        (["task=realsr", "task.scale=3"], "task.scale must be 2 or 4"),
        (["task=demosaic", "task.pattern=rgbg"], "task.pattern must be one of rggb, bggr, grbg, gbrg, got rgbg"),
        (["data.halves=true", "data.batch_size=5"], "data.batch_size=5 "),
        (["task=car", "data.halves=true", "data.batch_size=5"], "with data.halves=true of twice that, 2"),
        (["data.halves=1"], "data.halves must be true or false, got 1"),
        (["data.fraction=0"], "data.fraction must be above 0 and at most 1, got 0"),
        (["task=car", "data.fraction=half"], "data.fraction must be a number, got half"),
        (["task=car", "+data.degradation.qualty=3"], "unknown option data.degradation.qualty; did you mean quality?"),
        (["task=car", "+data.lr_size=3"], "unknown option data.lr_size"),
        (["task=denoise_gray", "data.degradation.channels=red"], "data.degradation.channels must be a whole number"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(overrides: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        built(*overrides)
    assert says in str(caught.value) and "\n" not in str(caught.value)
