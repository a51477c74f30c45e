"""Photographs as a run's own test spoils them, and its network on them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dynres.callbacks.panels import most_detailed
from dynres.contracts import EvalSample, Evaluation
from dynres.errors import UserError
from dynres.interop.weights import load_pretrained
from dynres.methods.base import Inference, RestorationTraining
from dynres.nodes import make, plain
from dynres.restorer import Restorer
from dynres.tables.sheet import FinishedRun


def tested(run: FinishedRun) -> Iterator[EvalSample]:
    """What the run was tested on, image by image and level by level.

    Raises:
        UserError: its config.yaml is missing or not one of a run.
    """
    try:
        config: Any = OmegaConf.load(run.folder / "config.yaml")
        data = make({**plain(config.data), "workers": 0}, "data")
    except (OSError, AttributeError, ValueError) as error:
        raise UserError(f"{run.folder / 'config.yaml'} is not the configuration of a run: {error}") from error
    yield from data.test_dataloader()


def square(run: FinishedRun, level: str, side: int) -> EvalSample:
    """The most detailed square of the first photograph, cut out of what the run was tested on at a level.

    Args:
        side: in pixels of the original, less on a small photograph; a multiple of whole scales.

    Raises:
        UserError: the run was not tested at this level.
    """
    sample = next((one for one in tested(run) if one.label == level), None)
    if sample is None or sample.target is None:
        raise UserError(f"{run.folder} was not tested at {level} on images whose original is known")
    scale = round(sample.scale[0])
    side = min(side, *(scale * (length // scale) for length in sample.target.shape[-2:]))
    place = most_detailed(sample.target[0], side)
    top, left = (scale * (start // scale) for start in place)
    high = (..., slice(top, top + side), slice(left, left + side))
    low = (..., slice(top // scale, (top + side) // scale), slice(left // scale, (left + side) // scale))
    return sample._replace(image=sample.image[low], target=sample.target[high], plain=sample.plain[high])


@lru_cache(maxsize=4)
def network(checkpoint: Path) -> Restorer:
    """Of a run's checkpoint."""
    return load_pretrained(checkpoint)


def last(run: FinishedRun) -> Path:
    """The checkpoint that the run's own test measured."""
    return run.folder / "checkpoints" / "last.ckpt"


def restored(run: FinishedRun, sample: EvalSample, **options: Any) -> Evaluation:
    """A sample as the run's network restores it, and its PSNR.

    Args:
        options: of `Inference`, such as budget.
    """
    return RestorationTraining(network(last(run)), 1.0, (), 1.0).evaluate(sample, Inference(**options))
