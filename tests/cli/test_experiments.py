"""Every experiment file, in its profiles: it composes, passes the checks, and builds the network the paper prints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from dynres.build import build_restorer, network_description
from dynres.checks import check
from dynres.cost.counter import count_parameters
from dynres.folders import register_resolvers
from dynres.paths import conf_dir

EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
PROFILES = sorted(path.stem for path in conf_dir().glob("profile/*.yaml"))
# Millions of parameters: TADT, Table 2 for mstb and tadt; EDSR-baseline without its tail, as LIIF's repository has it;
# FlexIR, Tables 3 and 4, with position tables and all six branches: colour, gray, with tails for real images x2.
# ACLA by hand, without tails: trunk + sum of n_i (C^2 + C + 4 K (C + 1)) + C^2 + C; 83.89 is the supernet.
# AnySR as its authors' networks, gates included.
PAPER = {
    "mstb": {9.17}, "tadt": {9.18}, "edsr_baseline": {1.22}, "identity": {0.0}, "flexir": {12.99, 12.95, 14.04},
    "acla_edsr": {39.92, 83.89}, "acla_rcan": {15.4}, "acla_edsr_denoise": {5.33}, "acla_edsr_car": {5.33},
    "acla_edsr_demosaic": {5.33}, "swinir": {11.6}, "swinir_distilled": {0.9}, "anysr_edsr": {1.5},
    "anysr_rdn": {23.09},
}  # fmt: skip


def composed(*overrides: str) -> tuple[DictConfig, dict[str, str]]:
    """(configuration, choice in each group), as run.py gets them."""
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.experiment_name = choices.get("experiment", "none")
    return cfg, choices


@pytest.mark.parametrize("profile", ["demo", "paper"])  # smoke is what the tests of commands run
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_stands_in_its_profiles(experiment: str, profile: str, tmp_path: Path) -> None:
    weights = tmp_path / "baseline.ckpt"
    weights.touch()  # its content is not looked at here
    mode = "test" if experiment in ("bicubic", "input") else "fit"
    cfg, choices = composed(f"+experiment={experiment}", f"profile={profile}", f"mode={mode}", f"ckpt={weights}")
    check(cfg, choices)
    with torch.device("meta"):
        restorer = build_restorer(network_description(cfg))
    millions = count_parameters(restorer.backbone) / 1e6
    if profile == "paper":
        assert round(millions, 2) in PAPER[choices["backbone"]], f"{choices['backbone']}: {millions:.3f} M parameters"
    else:
        assert millions < 1, f"{choices['backbone']} in profile {profile}: {millions:.3f} M parameters"


def test_the_paper_profile_overrides_nothing() -> None:
    paper, _ = composed("+experiment=tadt_liif", "profile=paper", "data=div2k", "data.root=DIV2K")
    files = {group: OmegaConf.load(conf_dir() / group / f"{name}.yaml") for group, name in
             (("backbone", "tadt"), ("upsampler", "liif"), ("method", "tadt"), ("trainer", "default"))}  # fmt: skip
    for group, file in files.items():
        assert paper[group] == file, f"profile=paper changes {group}"
    assert (paper.data.batch_size, paper.data.lr_size, paper.data.queries) == (16, 48, 2304)
    assert not paper.image_skip


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "debug").glob("*.yaml")))
def test_a_debug_choice_stands_on_every_method(name: str, tmp_path: Path) -> None:
    for experiment in ("tadt_liif", "edsr_baseline_lte"):
        for profile in PROFILES:
            cfg, choices = composed(
                f"+experiment={experiment}", f"+debug={name}", f"profile={profile}", "method.learning_rate=0.001",
                *(["method.dense_fraction=0.5"] if experiment == "tadt_liif" else []),
            )  # fmt: skip
            check(cfg, choices)
            assert cfg.trainer.max_steps <= 100, f"{name}, {experiment}, {profile}: {cfg.trainer.max_steps} steps"
