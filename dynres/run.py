"""python -m dynres.run +experiment=tadt_liif: compose, check, build, then fit | validate | test | predict."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from dynres.build import build_restorer, configuration_errors, network_description
from dynres.callbacks.checkpoints import SelfDescription
from dynres.callbacks.loggers import build_loggers, finish
from dynres.callbacks.predictions import Predictions
from dynres.callbacks.summary import SummaryCallback
from dynres.checkpoint_io import SafeCheckpointIO
from dynres.checks import check
from dynres.errors import UserError, clean_exit
from dynres.files import write_text
from dynres.folders import claim, experiment_name, register_resolvers, settings, unfinished
from dynres.interop.weights import load_weights, read_content
from dynres.methods.base import Inference, RestorationTraining
from dynres.nodes import make, plain
from dynres.paths import conf_dir
from dynres.provenance import provenance
from dynres.restorer import way_out
from dynres.sweep.job import perform
from dynres.sweep.watch import watched


def run(cfg: DictConfig) -> float:
    """One run of a resolved command; returns the mean PSNR in dB over test sets and scales (what sweeps maximise)."""
    hydra_cfg = HydraConfig.get()
    folder, choices = Path(hydra_cfg.runtime.output_dir), dict(hydra_cfg.runtime.choices)
    cfg.experiment_name = experiment_name(choices)
    single = hydra_cfg.mode == RunMode.RUN
    try:
        if single and (cfg.sweep.resume or cfg.sweep.folder):
            raise UserError("sweep.resume is for a sweep: add -m, or say resume=auto for a single run")
        if cfg.network == "ckpt":
            _take_network(cfg, choices, list(hydra_cfg.overrides.task))
        check(cfg, choices)
        _one_folder(list(hydra_cfg.overrides.hydra))
        resumed = _last_checkpoint(cfg, folder)
        data = make(cfg.data, "data")
        data.check(None if cfg.mode == "fit" else "validate" if cfg.mode == "validate" else "test")
        pl.seed_everything(cfg.seed, workers=True, verbose=False)
        method = build_method(cfg)
        if cfg.mode == "fit":
            method.ready()
        callbacks = _callbacks(cfg)
        trainer = _trainer(cfg, folder, callbacks) if cfg.mode == "fit" else None
        alone = _alone(cfg, folder, callbacks)
        name = cfg.experiment_name if single else f"{cfg.experiment_name} {folder.name}"
        loggers = build_loggers(plain(cfg.logger), folder, name, plain(cfg))
    except UserError:
        _leave_nothing(folder, Path(cfg.out))
        raise
    lock = claim(folder) if _first_process() else None
    _announce(cfg, folder, method, resumed)
    _record(cfg, folder, list(hydra_cfg.overrides.task))
    incomplete, failed = f"{folder} is incomplete", True
    try:
        if trainer is not None:
            trainer.loggers = loggers
            with _stopping(f"the same command with resume=auto continues from {folder}" if single else incomplete):
                trainer.fit(method, datamodule=data, ckpt_path=resumed, weights_only=True)
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
                torch.distributed.destroy_process_group()
        if getattr(rank_zero_only, "rank", 0) != 0:
            return 0.0  # the first process alone measures
        alone.loggers = loggers
        with _stopping("resume=auto goes on to the test" if trainer is not None and single else incomplete):
            (alone.validate if cfg.mode == "validate" else alone.test)(method, datamodule=data, verbose=False)
        failed = False
    finally:
        finish(loggers, failed)
        if lock is not None:
            lock.close()
    print(f"results: {folder}")
    if cfg.profile_name != "paper":
        images = "folder data.root=/path/to/images" if data.batches == "patches" else "div2k data.root=/path/to/DIV2K"
        print(f"this was profile={cfg.profile_name}; the paper's: profile=paper data={images}")
    return mean_psnr(folder)


def _take_network(cfg: DictConfig, choices: dict[str, str], overrides: list[str]) -> None:
    """network=ckpt: the file's own backbone, upsampler and pixels in place of the configured ones and of `choices`."""
    for override in overrides:
        if re.match(r"\+*(backbone|upsampler|image_skip|pixels)[.=]", override) and override != "image_skip=false":
            raise UserError(f"network=ckpt takes the network of the file: leave out {override}, or network=ckpt")
    if cfg.ckpt is None:
        raise UserError("network=ckpt takes the network of a file: give ckpt=PATH")
    path = Path(cfg.ckpt)
    network = read_content(path).network
    for part in ("backbone", "upsampler"):
        choices[part] = str(network[part]["_target_"]).rpartition(".")[2]
    with open_dict(cfg):
        cfg.experiment_name = path.stem
        for part in ("backbone", "upsampler", "image_skip"):
            cfg[part] = network[part]
        cfg.pixels = network.get("pixels") or {}


def build_method(cfg: DictConfig) -> RestorationTraining:
    """The LightningModule of a configuration, its network loaded with `ckpt` when one is given."""
    network = network_description(cfg)
    restorer = build_restorer(network)
    if cfg.ckpt is not None:
        load_weights(restorer, Path(cfg.ckpt), start=cfg.mode == "fit")
    inference = Inference(**plain(cfg.inference))
    try:
        if isinstance(inference.tile, int):
            restorer.check_tile(inference.tile)
        way = way_out(inference.pointer, inference.threshold, inference.regions)
        restorer.backbone.check_exit(way, inference.budget)
    except ValueError as error:
        option = re.match(r"[a-z_]+", str(error))
        prefix = "inference." if option and option[0] in Inference._fields else "inference: "
        raise UserError(f"{prefix}{error}") from error
    return make(cfg.method, "method", restorer=restorer, inference=inference, seed=cfg.seed)


def _callbacks(cfg: DictConfig) -> list[pl.Callback]:
    """What watches training and test."""
    description = {
        "format": 1,
        "network": network_description(cfg),
        "experiment": cfg.experiment_name,
        "profile": cfg.profile_name,
        "seed": cfg.seed,
        "task": plain(cfg.task),
        "versions": provenance()["versions"],
    }
    callbacks = [make(node, f"callbacks.{name}") for name, node in (cfg.callbacks or {}).items()]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    callbacks.append(SelfDescription(description))
    if cfg.mode == "predict":
        callbacks.append(Predictions())
    # summary.json says that a run is finished: it comes when everything else is written.
    return sorted(callbacks, key=lambda callback: isinstance(callback, SummaryCallback))


def _trainer(cfg: DictConfig, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """The trainer of mode=fit."""
    with _refusals("trainer or strategy"):
        strategy = cfg.strategy.strategy
        return pl.Trainer(
            **plain(cfg.trainer) | {"profiler": _profiler(cfg.trainer.get("profiler"), folder)},
            **{key: value for key, value in plain(cfg.strategy).items() if key != "strategy"},
            strategy=make(strategy, "strategy.strategy") if OmegaConf.is_dict(strategy) else strategy,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            use_distributed_sampler=False,
            **_common(folder, callbacks),
        )


def _profiler(name: str | None, folder: Path) -> Profiler | None:
    """trainer.profiler, writing its table into the run's folder (fit-profile.txt)."""
    known = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    if name is None:
        return None
    if name not in known:
        raise UserError(f"trainer.profiler must be one of {', '.join(known)}, got {name}")
    return known[name](dirpath=folder, filename="profile")


def _alone(cfg: DictConfig, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """A trainer for validation and test: one process, one device, whatever trained and whoever started it."""
    with _refusals("trainer or strategy"):
        common = _common(folder, callbacks)
        return pl.Trainer(
            accelerator=cfg.strategy.accelerator,
            devices=1,
            precision=cfg.trainer.precision,
            enable_progress_bar=cfg.trainer.enable_progress_bar,
            inference_mode=True,
            **{**common, "plugins": [*common["plugins"], LightningEnvironment()]},
        )


def _common(folder: Path, callbacks: list[pl.Callback]) -> dict[str, Any]:
    return {
        "default_root_dir": folder,
        "plugins": [SafeCheckpointIO()],
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "callbacks": callbacks,
        "logger": False,  # loggers open files: they are added once nothing more can be refused
    }


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Lightning's complaints about its arguments as one line."""
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"{what}: {error}") from error


@contextmanager
def _stopping(advice: str) -> Iterator[None]:
    """SIGTERM ends the command with exit code 143, Ctrl-C with 130, after what Lightning does on them."""
    try:
        yield
    except SIGTERMException:
        print(f"stopped by SIGTERM; {advice}", file=sys.stderr)
        sys.exit(143)
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        print(f"interrupted; {advice}", file=sys.stderr)
        raise SystemExit(130) from error


def _one_folder(overrides: list[str]) -> None:
    """Processes that torchrun or SLURM started name their folders each on its own: the name must be given."""
    processes = max(int(os.environ.get(name) or 1) for name in ("WORLD_SIZE", "SLURM_NTASKS"))
    if processes > 1 and not any(override.startswith("hydra.run.dir=") for override in overrides):
        raise UserError(f"{processes} processes were started together and need one folder: add hydra.run.dir=runs/NAME")


def _leave_nothing(folder: Path, out: Path) -> None:
    """Nothing ran: remove the empty folders that Hydra made for it."""
    above = [path.resolve() for path in (folder, *folder.parents)]
    last = above.index(out.resolve()) if out.resolve() in above else 0
    with suppress(OSError):  # one that is not empty, or gone
        for empty in above[: last + 1]:
            empty.rmdir()


def _last_checkpoint(cfg: DictConfig, folder: Path) -> Path | None:
    """The checkpoint to continue from, its run checked to be the same; None to start anew."""
    if cfg.resume != "auto":
        return None
    if not unfinished(folder):
        print("resume=auto: no unfinished run of this command, starting a new one")
        return None
    before, now = (settings(c) for c in (OmegaConf.load(folder / "config.yaml"), cfg))
    if before != now:
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        raise UserError(
            f"{folder} was started with other values of {', '.join(changed)}: set them back to resume it, "
            f"or leave out resume=auto to start a new run"
        )
    last = folder / "checkpoints" / "last.ckpt"
    return last if last.is_file() else None


def _first_process() -> bool:
    return int(getattr(rank_zero_only, "rank", 0)) == 0


@rank_zero_only
def _announce(cfg: DictConfig, folder: Path, method: RestorationTraining, resumed: Path | None) -> None:
    about = f"profile={cfg.profile_name}, mode={cfg.mode}, seed={cfg.seed}"
    print(f"{cfg.experiment_name}, {about}: {method.about()}")
    print(f"writing to {folder}" + (f", continuing from {resumed.name}" if resumed else ""))


@rank_zero_only
def _record(cfg: DictConfig, folder: Path, overrides: list[str]) -> None:
    """The resolved configuration and where the code came from, beside every result."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    write_text(folder / "provenance.json", json.dumps(provenance() | {"overrides": overrides}, indent=2) + "\n")


def mean_psnr(folder: Path) -> float:
    """Mean over test sets and scales or levels of a finished run, in dB; 0 where no image has a ground truth."""
    metrics = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]
    known = [float(row["psnr"]) for rows in metrics.values() for row in rows.values() if row["psnr"] is not None]
    return fmean(known) if known else 0.0


def _job(cfg: DictConfig) -> float | None:
    """`run` as Hydra calls it. A mistake ends a single run here, before Hydra adds its own lines; a sweep goes on."""
    if HydraConfig.get().mode == RunMode.RUN:
        return clean_exit(_explained)(cfg)
    return perform(cfg, _explained, mean_psnr)


def _explained(cfg: DictConfig) -> float:
    with configuration_errors():
        return run(cfg)


@clean_exit
def main() -> None:
    """The command line; configuration mistakes are one line and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra then raises instead of printing
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice about its own defaults
    register_resolvers()
    with configuration_errors(), watched():
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_job)()


if __name__ == "__main__":
    main()
