"""What is compared: for each of the five papers a training command, and what is cut of its network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from dynres.launch.find import quoted

UNCUT = 1e-6  # a pruning rate that rounds to no channel


@dataclass(frozen=True)
class System:
    """One line of the picture.

    Attributes:
        title: what tables and legends call it.
        overrides: of `python -m dynres.run`, to train it; SCALE stands for the factor.
        rates: of method=prune. The first is the command's own; the others cut what that trained (UNCUT leaves it as it
            is) and fine-tune as long. Where there are some, a budget picks the largest network that fits.
        pace: how long a step of the demo takes, for the estimate of the time left, which needs the proportions alone;
            CPU seconds on one core.
    """

    title: str
    overrides: tuple[str, ...]
    rates: tuple[float, ...] = ()
    pace: float = 1.0


SYSTEMS = {
    "tadt": System("TADT + LIIF", ("+experiment=tadt_liif", "data.test_scales=[SCALE]"), pace=0.6),
    "anysr": System("AnySR (EDSR) + LIIF", ("+experiment=anysr_edsr_liif", "data.test_scales=[SCALE]"), pace=0.11),
    "flexir": System(
        "FlexIR",
        (
            "task=sr", "task.scale=SCALE", "method=flexir", "callbacks=flexir",
            "backbone=flexir", "backbone.scale=SCALE", "upsampler=as_image",
            "pixels.mean=[0.4488,0.4371,0.4040]", "pixels.factor=1.0",
        ),
        pace=0.3,
    ),
    "acla": System("ACLA (EDSR)", ("+experiment=acla_edsr_sr", "task.scale=SCALE"), pace=0.4),
    "swinir": System(
        "SwinIR, pruned",
        ("+experiment=swinir_prune", "task.scale=SCALE", "method.scope=mlp_msa"),
        rates=(0.25, UNCUT, 0.5, 0.75),
        pace=0.4,
    ),
}  # fmt: skip


def command(name: str, scale: int, profile: str, out: Path, overrides: Iterable[str]) -> list[str]:
    """Arguments of `python -m dynres.run` for the (first) training of a system.

    Args:
        overrides: KEY=VALUE for every system, NAME:KEY=VALUE for one.
    """
    system = SYSTEMS[name]
    mine = [text for one in overrides if (text := _meant_for(name, one)) is not None]
    logger = [] if any(one.startswith("logger=") for one in mine) else ["logger=csv"]
    own = [one.replace("SCALE", str(scale)) for one in system.overrides]
    rate = [f"method.rate={system.rates[0]}"] if system.rates else []
    return [*own, *rate, f"profile={profile}", *logger, f"out={quoted(out)}", *mine]


def cuts(name: str, first: Sequence[str], cfg: DictConfig, folder: Path) -> list[list[str]]:
    """Arguments of the trainings that cut what a system's first one, of this configuration, left in its folder."""
    commands = []
    for rate in SYSTEMS[name].rates[1:]:
        steps = finetuning(cfg)
        changed = {
            "method.rate": f"{rate:g}",
            "method.trained": quoted(folder / "checkpoints" / "trained.ckpt"),
            "trainer.max_steps": str(steps),
            "trainer.val_check_interval": str(min(steps, cfg.trainer.val_check_interval)),
        }
        kept = [one for one in first if one.partition("=")[0] not in changed]
        commands.append([*kept, *(f"{key}={value}" for key, value in changed.items())])
    return commands


def finetuning(cfg: DictConfig) -> int:
    """Steps of a pruning run after its cut (dynres.methods.phases)."""
    steps = int(cfg.trainer.max_steps)
    return steps - min(max(round(cfg.method.training * steps), 1), steps - 1)


def _meant_for(name: str, override: str) -> str | None:
    system, _, rest = override.partition(":")
    return override if system not in SYSTEMS else rest if system == name else None
