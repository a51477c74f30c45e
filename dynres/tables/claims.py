"""What the papers say beyond numbers, each held against the demo's runs, seed by seed.

A claim is a difference that should be above zero. It is supported where its mean over the seeds lies more than twice
its standard error above zero, not supported where it lies as far below, else undecided at this size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from dynres.callbacks.subnets import BY_SCALE
from dynres.tables.demo import Demo
from dynres.tables.results import MEAN_OF_POINTERS, Result
from dynres.tables.sheet import Judgement, Verdict

SET = "demo"  # the photographs' name in results
SR = ("x2", "x4")
ANY = ("x1.5", "x2", "x4")
NOISE = ("sigma25",)
Runs = Mapping[str, Result]  # of one seed, by name


@dataclass(frozen=True)
class Claim:
    """One statement.

    Attributes:
        runs: names in experiments/PAPER/demo.yaml.
        above_zero: of one seed's runs; what `measures` says.
        scale: from that to what is printed (100 for percentage points).
    """

    claim: str
    where: str
    published: str
    measures: str
    unit: str
    digits: int
    runs: tuple[str, ...]
    above_zero: Callable[[Runs], float]
    scale: float = 1.0
    note: str = ""


def mean(result: Result, key: str, levels: tuple[str, ...], way: str = "") -> float:
    """Over levels.

    Raises:
        LookupError: the run has no such number.
    """
    values = [result.value(SET, level, key, way) for level in levels]
    if None in values:
        raise LookupError(f"{result.folder} has no {key} at {', '.join(levels)} {way}".rstrip())
    return fmean(value for value in values if value is not None)


def psnr(result: Result, levels: tuple[str, ...], way: str = "") -> float:
    """In dB, the mean over levels."""
    return mean(result, "psnr", levels, way)


def deepest(result: Result) -> str:
    """The way through all blocks of a network with branches."""
    return max((way for _, _, way in result.ways if way.startswith("P=")), key=lambda way: int(way[2:]))


def widths(result: Result) -> list[str]:
    """Ways of AnySR that run one subnet at every scale, from the narrowest."""
    return sorted({way for _, _, way in result.ways} - {BY_SCALE}, key=float)


def kept(result: Result) -> float:
    """Share of the sampled keys that ACLA keeps, the mean over modules and referred layers."""
    lines = list(result.lines("keys.csv"))
    return fmean(float(line["kept"]) / float(line["keys"]) for line in lines)


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "tadt": (
        Claim(
            "TADT spends less at x2 than at x4", "Sec. 4.4, Table 5, Figure 7",
            "73% of the branches' cost at x2, 77% at x4 (from Table 3's MACs)",
            "share of the Baseline's MACs at x4 less that at x2", "percentage points", 2, ("tadt",),
            lambda run: mean(run["tadt"], "macs_fraction", ("x4",)) - mean(run["tadt"], "macs_fraction", ("x2",)), 100,
        ),
        Claim(
            "The intensity beta grows with the scale", "Figure 7", "a curve from x1 to x30",
            "beta at x4 less beta at x2", "", 3, ("tadt",),
            lambda run: mean(run["tadt"], "beta", ("x4",)) - mean(run["tadt"], "beta", ("x2",)),
        ),
        Claim(
            "Without the beta loss beta saturates", "Sec. 4.4, Figure 7", "saturated beta as the scale increases",
            "beta without the loss less beta with it, mean over x2 and x4", "", 3, ("tadt", "tadt_no_beta_loss"),
            lambda run: mean(run["tadt_no_beta_loss"], "beta", SR) - mean(run["tadt"], "beta", SR),
        ),
        Claim(
            "Without the beta loss the network costs more", "Table 5", "7375.66 against 6986.91 GMACs at x2",
            "share of the Baseline's MACs without the loss less that with it, mean over x2 and x4",
            "percentage points", 2, ("tadt", "tadt_no_beta_loss"),
            lambda run: (
                mean(run["tadt_no_beta_loss"], "macs_fraction", SR) - mean(run["tadt"], "macs_fraction", SR)
            ), 100,
        ),
        Claim(
            "The beta loss costs next to no PSNR", "Table 5", "0.02 dB at x2, 0.01 dB at x3 and x4",
            "0.05 dB less what is lost by the loss, mean over x2 and x4", "dB", 3, ("tadt", "tadt_no_beta_loss"),
            lambda run: 0.05 - (psnr(run["tadt_no_beta_loss"], SR) - psnr(run["tadt"], SR)),
        ),
        Claim(
            "TADT restores better than its Baseline", "Tables 1 and 2", "+0.04 dB at x2 under LIIF",
            "PSNR of TADT less that of the Baseline trained as long, mean over x2 and x4", "dB", 3,
            ("tadt", "baseline"),
            lambda run: psnr(run["tadt"], SR) - psnr(run["baseline"], SR),
        ),
        Claim(
            "TADT restores better than EDSR-baseline", "Tables 1 and 2", "+0.61 dB at x2 under LIIF",
            "PSNR of TADT less that of EDSR-baseline, mean over x2 and x4", "dB", 3, ("tadt", "edsr_baseline"),
            lambda run: psnr(run["tadt"], SR) - psnr(run["edsr_baseline"], SR),
        ),
        Claim(
            "A constant beta of 0.5 falls short at larger scales", "Table 4", "-0.05 dB at x3, -0.03 dB at x6",
            "PSNR of TADT less that with beta = 0.5, at x4", "dB", 3, ("tadt", "tadt_beta_constant"),
            lambda run: psnr(run["tadt"], SR[1:]) - psnr(run["tadt_beta_constant"], SR[1:]),
        ),
        Claim(
            "beta = 0.25 s falls short at small scales", "Table 4", "-0.08 dB at x2",
            "PSNR of TADT less that with beta = 0.25 s, at x2", "dB", 3, ("tadt", "tadt_beta_proportional"),
            lambda run: psnr(run["tadt"], SR[:1]) - psnr(run["tadt_beta_proportional"], SR[:1]),
        ),
    ),
    "anysr": (
        Claim(
            "Small scales need fewer MACs for the same PSNR", "Abstract, Figure 4", "51.6% of the MACs at x1.1 to x1.7",
            "0.1 dB less what the scale's subnet loses against the whole network, mean over x1.5 and x2", "dB", 3,
            ("anysr",),
            lambda run: 0.1 - (psnr(run["anysr"], ANY[:2], widths(run["anysr"])[-1])
                               - psnr(run["anysr"], ANY[:2], BY_SCALE)),
        ),
        Claim(
            "Larger scales are worth the larger subnet", "Abstract", "no number known here",
            "PSNR of the whole network less that of the narrowest subnet, at x4", "dB", 3, ("anysr",),
            lambda run: psnr(run["anysr"], ANY[2:], widths(run["anysr"])[-1])
            - psnr(run["anysr"], ANY[2:], widths(run["anysr"])[0]),
        ),
        Claim(
            "Feature interweaving raises PSNR", "Abstract", "no number known here",
            "PSNR with the gates less that without, each scale on its own subnet, mean over x1.5, x2 and x4", "dB", 3,
            ("anysr", "anysr_not_enhanced"),
            lambda run: psnr(run["anysr"], ANY, BY_SCALE)
            - psnr(run["anysr_not_enhanced"], ANY, BY_SCALE),
        ),
    ),
    "flexir": (
        Claim(
            "Progressive self-distillation beats training all branches at once", "Table 6", "33.059 against 32.982 dB",
            "PSNR of PSD less that of SD, mean over the pointers", "dB", 3, ("psd", "sd"),
            lambda run: psnr(run["psd"], NOISE, MEAN_OF_POINTERS) - psnr(run["sd"], NOISE, MEAN_OF_POINTERS),
            note="the paper starts from a trained SwinIR, the demo from nothing",
        ),
        Claim(
            "Channel-wise scoring adds to it", "Table 6", "33.169 against 33.059 dB",
            "PSNR of PSD + C-WS less that of PSD, mean over the pointers", "dB", 3, ("psd_cws", "psd"),
            lambda run: psnr(run["psd_cws"], NOISE, MEAN_OF_POINTERS) - psnr(run["psd"], NOISE, MEAN_OF_POINTERS),
            note="the demo's teacher is a SwinIR of a hundred steps",
        ),
        Claim(
            "A deeper pointer restores better", "Table 3", "32.81 dB at P = 1, 33.28 at P = 6",
            "PSNR at the last block less that at the first", "dB", 3, ("psd_cws",),
            lambda run: psnr(run["psd_cws"], NOISE, deepest(run["psd_cws"])) - psnr(run["psd_cws"], NOISE, "P=1"),
        ),
        Claim(
            "Adaptive inference keeps the quality of the whole network", "Table 3", "33.27 against 33.28 dB",
            "0.02 dB less what h = 1.1 loses against the last block", "dB", 3, ("psd_cws",),
            lambda run: 0.02 - (psnr(run["psd_cws"], NOISE, deepest(run["psd_cws"]))
                                - psnr(run["psd_cws"], NOISE, "h=1.10")),
        ),
        Claim(
            "Adaptive inference saves compute", "Sec. 3.3.2", "no MACs printed",
            "share of the whole network's MACs that h = 1.1 saves", "percentage points", 1, ("psd_cws",),
            lambda run: 1 - mean(run["psd_cws"], "fraction", NOISE, "h=1.10"), 100,
            note="four overlapping regions, each of whose branches is run to be judged",
        ),
    ),
    "acla": (
        Claim(
            "Cross-layer attention improves EDSR", "Table 1", "38.24 against 38.11 dB on Set5, x2",
            "PSNR of EDSR+CLA less that of EDSR, x2", "dB", 3, ("cla", "edsr"),
            lambda run: psnr(run["cla"], SR[:1]) - psnr(run["edsr"], SR[:1]),
        ),
        Claim(
            "Adaptive cross-layer attention improves it further", "Table 1", "38.31 against 38.24 dB on Set5, x2",
            "PSNR of EDSR+ACLA less that of EDSR+CLA, x2", "dB", 3, ("acla", "cla"),
            lambda run: psnr(run["acla"], SR[:1]) - psnr(run["cla"], SR[:1]),
        ),
        Claim(
            "Fewer keys than are sampled suffice", "Sec. 3.2, Figure 4", "no number printed",
            "share of the sampled keys that ACLA leaves out", "percentage points", 1, ("acla",),
            lambda run: 1 - kept(run["acla"]), 100,
        ),
    ),
    "lightweight_swinir": (
        Claim(
            "Pruning a quarter of the MLPs costs little", "Table 1", "-0.14 dB (Urban100), -0.21 dB (Manga109)",
            "0.22 dB less what is lost against the uncut network", "dB", 3, ("uncut", "mlp_025"),
            lambda run: 0.22 - (psnr(run["uncut"], SR[:1]) - psnr(run["mlp_025"], SR[:1])),
        ),
        Claim(
            "Pruning half of the MLPs costs little", "Table 1", "-0.13 dB (Urban100), -0.47 dB (Manga109)",
            "0.47 dB less what is lost against the uncut network", "dB", 3, ("uncut", "mlp_050"),
            lambda run: 0.47 - (psnr(run["uncut"], SR[:1]) - psnr(run["mlp_050"], SR[:1])),
        ),
        Claim(
            "Pruning the attention too costs more", "Table 1", "26.24 against 27.33 dB at half (Urban100)",
            "PSNR after half of the MLPs less that after half of MLPs and attention", "dB", 3, ("mlp_050", "msa_050"),
            lambda run: psnr(run["mlp_050"], SR[:1]) - psnr(run["msa_050"], SR[:1]),
        ),
        Claim(
            "At three quarters of MLPs and attention quality collapses", "Table 1",
            "-6.5 dB (Urban100), -5.4 dB (Manga109)",
            "what is lost against the uncut network, less 1 dB", "dB", 3, ("uncut", "msa_075"),
            lambda run: psnr(run["uncut"], SR[:1]) - psnr(run["msa_075"], SR[:1]) - 1,
        ),
        Claim(
            "Distillation improves the small network", "Table 1", "27.17 against 27.04 dB (Urban100, lambda 0.25)",
            "PSNR of the student at lambda 0.25 less that of the network alone", "dB", 3, ("kd_025", "student"),
            lambda run: psnr(run["kd_025"], SR[:1]) - psnr(run["student"], SR[:1]),
        ),
        Claim(
            "A larger lambda is worse", "Table 1", "24.61 dB at 0.75, 27.17 at 0.25 (Urban100)",
            "PSNR of the student at lambda 0.25 less that at 0.75", "dB", 3, ("kd_025", "kd_075"),
            lambda run: psnr(run["kd_025"], SR[:1]) - psnr(run["kd_075"], SR[:1]),
        ),
    ),
}  # fmt: skip


def verdicts(demo: Demo) -> list[Verdict]:
    """Of a paper's claims, in its order."""
    return [verdict(demo, claim) for claim in CLAIMS.get(demo.paper, ())]


def verdict(demo: Demo, claim: Claim) -> Verdict:
    """Of one claim, over the seeds of which all its runs are there."""
    named = {run: demo.named(run) for run in claim.runs}
    seeds = sorted(set.intersection(*(set(found) for found in named.values())))
    notes = [claim.note] if claim.note else []
    notes += [f"{run} failed: {demo.failures[run]}" for run in claim.runs if run in demo.failures]
    values = []
    for seed in seeds:
        try:
            values.append(claim.above_zero({run: named[run][seed] for run in claim.runs}))
        except (LookupError, ValueError) as error:
            notes.append(f"seed {seed}: {error}")
    return Verdict(
        demo.paper, claim.claim, claim.where, claim.published, claim.measures, claim.unit, claim.digits,
        tuple(claim.scale * value for value in values), judged(values), "; ".join(notes),
    )  # fmt: skip


def judged(values: list[float]) -> Judgement:
    """By the mean and twice its standard error; fewer than two values decide nothing."""
    if not values:
        return "not measured"
    if len(values) == 1:
        return "undecided"
    middle, error = fmean(values), stdev(values) / len(values) ** 0.5
    if middle - 2 * error > 0:
        return "supported"
    return "not supported" if middle + 2 * error < 0 else "undecided"
