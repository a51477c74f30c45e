"""What a configuration may not say: read before anything is built, each mistake one line."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any, get_type_hints

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import Trainer

from dynres.build import known_options
from dynres.errors import UserError
from dynres.methods.base import Inference
from dynres.nodes import check_options, check_type, unknown
from dynres.restorer import check_budget, check_precision
from dynres.tiles import check_tile

MODES = ("fit", "validate", "test", "predict")


def check(cfg: DictConfig, choices: dict[str, str]) -> None:
    """Raise a UserError on the first thing that cannot work.

    Args:
        cfg: the composed configuration.
        choices: the option chosen in each group, for messages.
    """
    _resolvable(cfg)
    known = known_options("")
    if strangers := [str(key) for key in cfg if key not in known]:
        raise UserError(unknown(strangers[0], strangers[0], known))
    if cfg.mode not in MODES:
        raise UserError(f"mode must be one of {', '.join(MODES)}, got {cfg.mode}")
    if cfg.resume not in (None, "auto"):
        raise UserError(f"resume must be auto or left out, got {cfg.resume}")
    if type(cfg.seed) is not int or cfg.seed < 0:
        raise UserError(f"seed must be a whole number >= 0, got {cfg.seed}")
    _scales(cfg, choices)
    _options(cfg)
    _pairs(cfg, choices)
    _files(cfg)
    _steps(cfg)
    _hardware(cfg, choices)


def _resolvable(cfg: DictConfig) -> None:
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration does not resolve: {str(error).splitlines()[0]}") from error


def _scales(cfg: DictConfig, choices: dict[str, str]) -> None:
    """A head of one scale is trained and tested at that scale."""
    upsampler = f"upsampler={choices['upsampler']}"
    if "scale" in cfg.upsampler and not _same_size(cfg):
        scale = cfg.upsampler.scale
        if type(scale) is not int:
            raise UserError(
                f"{upsampler} enlarges by one whole number: add task=sr task.scale=2 (or 3, 4), got {scale}"
            )
        given: dict[str, Any] = {f"data.{name}": cfg.data.get(name) for name in ("scales", "val_scales", "test_scales")}
        if patches := _batches(cfg.data) == "patches":
            given = {"task.scale": cfg.task.scale}
        cure = f"set {'' if patches else 'task=sr '}task.scale={scale}"
        for name, one in given.items():
            values = list(one) if isinstance(one, ListConfig) else [one]
            if any(value != scale for value in values):
                raise UserError(f"{upsampler} gives x{scale} only, and {name}={values}: {cure}")
    elif _same_size(cfg) and cfg.mode == "fit" and not cfg.task.same_size and cfg.task.scale is None:
        raise UserError(
            f"{upsampler} works on the bicubic enlargement and trains at one scale: add task=sr task.scale=2"
        )


def _same_size(cfg: DictConfig) -> bool:
    upsampler: Any = get_class(cfg.upsampler._target_)
    scale = inspect.signature(upsampler).parameters.get("scale")
    return bool(upsampler.same_size) or (scale is not None and cfg.upsampler.get("scale", scale.default) == 1)


def _batches(node: DictConfig) -> str:
    """What a data module yields and what a method trains on: "queries", "patches", or "any" of the two."""
    target: Any = get_class(node._target_)
    return str(target.batches)


def _options(cfg: DictConfig) -> None:
    """Every key is one that its target takes, with a value of the right kind."""
    check_type("image_skip", cfg.image_skip, bool)
    hints = get_type_hints(Inference)
    for key, value in cfg.inference.items():
        if key not in hints:
            raise UserError(unknown(f"inference.{key}", str(key), hints))
        check_type(f"inference.{key}", value, hints[str(key)])
    try:
        check_budget(cfg.inference.budget)
        check_tile(cfg.inference.tile)
        check_precision(cfg.inference.precision)
    except ValueError as error:
        raise UserError(f"inference.{error}") from error
    check_options(cfg.backbone, "backbone")
    check_options(cfg.upsampler, "upsampler", ("in_channels",))
    check_options(cfg.data, "data")
    check_options(cfg.method, "method", ("restorer", "inference"))
    for name, node in (cfg.callbacks or {}).items():
        if node is None:
            raise UserError(f"callbacks.{name} is null: to leave it out, say ~callbacks.{name}")
        check_options(node, f"callbacks.{name}")
    known = set(inspect.signature(Trainer).parameters)
    for group in ("trainer", "strategy"):
        for key in cfg[group]:
            if key not in known:
                raise UserError(unknown(f"{group}.{key}", str(key), known))


def _pairs(cfg: DictConfig, choices: dict[str, str]) -> None:
    """Choices that exclude each other."""
    if cfg.task.same_size and not _same_size(cfg):
        raise UserError(
            f"task={choices['task']} keeps the image's size, upsampler={choices['upsampler']} does not: "
            f"choose another task or another upsampler"
        )
    if _batches(cfg.method) not in ("any", _batches(cfg.data)):
        fitting = "restoration or flexir" if _batches(cfg.data) == "patches" else "assr or tadt"
        raise UserError(
            f"task={choices['task']} trains on {_batches(cfg.data)} and method={choices['method']} on "
            f"{_batches(cfg.method)}: use method={fitting}"
        )
    channels = cfg.backbone.get("image_channels", 3)
    if _batches(cfg.data) == "patches" and channels != cfg.task.image_channels:
        kinds = {1: "gray", 3: "colour"}
        raise UserError(
            f"task={choices['task']} is of {kinds[cfg.task.image_channels]} images and backbone={choices['backbone']} "
            f"has image_channels={channels}: set backbone.image_channels={cfg.task.image_channels}, or another task"
        )
    if choices["method"] == "flexir" and not cfg.backbone._target_.endswith(".FlexIR"):
        raise UserError(
            f"method=flexir trains the branches of backbone=flexir, backbone={choices['backbone']} has none: "
            f"use method=restoration"
        )
    if choices["method"] == "flexir" and cfg.data.get("queries") is not None:
        raise UserError(
            f"method=flexir restores whole patches, data.queries={cfg.data.queries} samples pixels of them: use "
            f"task=sr task.scale=2, or a task of patches (denoise_color, car, realsr)"
        )
    starts = cfg.ckpt or cfg.method.get("pretraining", 0) or cfg.method.get("distillation") == "none"
    if cfg.mode == "fit" and choices["method"] == "flexir" and not (starts or cfg.method.get("teacher")):
        raise UserError(
            "method=flexir starts from a trained SwinIR, which is also its teacher: give ckpt=SWINIR.pth, or set "
            "method.pretraining=0.4 to train it in the same run"
        )
    if choices["method"] == "tadt" and not cfg.backbone._target_.endswith(".TADT"):
        raise UserError(
            f"method=tadt routes the branches of backbone=tadt, backbone={choices['backbone']} has none: "
            f"use method=assr"
        )
    if choices["method"] == "anysr" and not cfg.backbone._target_.endswith(".AnySR"):
        raise UserError(
            f"method=anysr trains the subnets of an AnySR network, backbone={choices['backbone']} has none: use "
            f"backbone=anysr_edsr (or anysr_rdn), or method=assr"
        )
    if choices["method"] == "acla_search" and not (cfg.backbone.get("searched") and cfg.data.get("halves")):
        raise UserError(
            "method=acla_search needs a supernet and two halves of the images: +experiment=acla_search sets "
            "backbone.searched=true backbone.positions=all data.halves=true"
        )
    if cfg.backbone.get("searched") and cfg.mode == "fit" and choices["method"] != "acla_search":
        raise UserError("backbone.searched=true is the supernet of method=acla_search: leave it out to train a network")
    if cfg.ckpt is not None and cfg.mode == "fit" and cfg.method.get("trained"):
        raise UserError("method.trained is a whole network with its scores: leave out ckpt, or method.trained")
    if cfg.network not in ("config", "ckpt"):
        raise UserError(f"network must be config or ckpt, got {cfg.network}")
    if cfg.mode == "fit" and choices["upsampler"] == "bicubic":
        raise UserError("upsampler=bicubic has nothing to train: use mode=test")
    starts_dense = cfg.method.get("dense_fraction", 0) or cfg.ckpt
    if cfg.mode == "fit" and choices["method"] == "tadt" and not starts_dense:
        raise UserError(
            "method=tadt starts from a trained Baseline: train +experiment=baseline_liif (or _metasr, _lte), "
            "then give its last.ckpt as ckpt=PATH, or set method.dense_fraction=0.5 to do both in one run"
        )
    if cfg.mode == "fit" and choices["method"] == "anysr" and not (cfg.ckpt or cfg.method.get("pretraining", 0)):
        raise UserError(
            "method=anysr starts from a trained network: train what is inside (for anysr_edsr: backbone=edsr_baseline "
            "method=assr), then give its last.ckpt as ckpt=PATH, or set method.pretraining=0.3 to do both in one run"
        )


def _files(cfg: DictConfig) -> None:
    for name in ("ckpt", "method.teacher", "method.trained"):
        path = OmegaConf.select(cfg, name)
        if path is not None and not Path(path).exists():
            raise UserError(f"{name}={path} does not exist")
    if cfg.mode != "fit" and cfg.ckpt is None and "identity" not in cfg.backbone._target_:
        raise UserError(f"mode={cfg.mode} needs trained weights: ckpt=RUN_FOLDER/checkpoints/last.ckpt")


def _steps(cfg: DictConfig) -> None:
    for name in ("max_steps", "val_check_interval", "accumulate_grad_batches"):
        value = cfg.trainer[name]
        if type(value) is not int or value < 1:
            raise UserError(f"trainer.{name} must be a whole number of at least 1, got {value}")
    if cfg.trainer.val_check_interval > cfg.trainer.max_steps:
        raise UserError(
            f"trainer.val_check_interval={cfg.trainer.val_check_interval} exceeds trainer.max_steps="
            f"{cfg.trainer.max_steps}: no validation, so no best checkpoint; lower it"
        )


def _hardware(cfg: DictConfig, choices: dict[str, str]) -> None:
    """What the strategy needs is there."""
    strategy, name = cfg.strategy, f"strategy={choices['strategy']}"
    target = str(strategy.strategy.get("_target_")) if OmegaConf.is_dict(strategy.strategy) else ""
    if target.endswith("DeepSpeedStrategy") and importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"{name} needs a package that is not installed: pip install deepspeed")
    wants_gpu = strategy.accelerator in ("gpu", "cuda")
    if wants_gpu and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UserError(f"{name} needs a GPU and none is visible: use strategy=cpu, or strategy=ddp_cpu")
    if not wants_gpu and target.endswith(("FSDPStrategy", "DeepSpeedStrategy")):
        raise UserError(f"{name} needs GPUs, got strategy.accelerator={strategy.accelerator}: use strategy=ddp_cpu")
    devices = torch.cuda.device_count() if strategy.devices == -1 else strategy.devices
    processes = devices * strategy.num_nodes if type(devices) is int and type(strategy.num_nodes) is int else 1
    if cfg.mode == "fit" and processes > 1 and type(cfg.data.batch_size) is int and cfg.data.batch_size % processes:
        raise UserError(
            f"data.batch_size={cfg.data.batch_size} is the batch of all processes together and must be a multiple of "
            f"their number, {processes}"
        )
