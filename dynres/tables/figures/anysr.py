"""AnySR: Figure 4, what the subnet of each scale gives up against the whole network, from subnets.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from dynres.callbacks.subnets import BY_SCALE
from dynres.tables.figures.found import Published, Runs, networks, over_seeds, photographs, value
from dynres.tables.figures.style import COLOURS, COLUMN, DARK, LIGHT, band, bars, new, png
from dynres.tables.sheet import FinishedRun, Picture

Scales = dict[str, dict[str, dict[str, str]]]  # scale -> way -> a line of subnets.csv


def figure4(runs: Runs, published: Published) -> list[Picture]:
    """PSNR of † (the scale's subnet) and ‡ (the whole network) over the scales."""
    found = runs.named("anysr", ("anysr", "anysr_not_enhanced"))
    if "anysr" not in found:
        return []
    tables = {name: [subnets(run) for run in some] for name, some in found.items()}
    shares = [float(ways[BY_SCALE]["fraction"]) for ways in tables["anysr"][0].values()]
    return [
        Picture(
            "anysr",
            "Figure 4",
            "Above: what † (each scale by its subnet) and ‡ (every scale by the whole network) gain over bicubic "
            "enlargement of the held-out photographs. Below: † less ‡ of the same seed, and the share of the whole "
            "network's multiply-accumulates that † spends. The paper draws PSNR on benchmark sets, under SRNO; here "
            f"LIIF, {networks(*found.values())}.",
            f"Two plots over the scales {', '.join(tables['anysr'][0])}: the gain of † and ‡, and their difference; † "
            f"spends {min(shares):.0%} to {max(shares):.0%} of ‡.",
            png(figure(tables)),
        )
    ]


def subnets(run: FinishedRun) -> Scales:
    """The subnets.csv of a run, by scale and way, in its order."""
    found: Scales = {}
    for line in photographs(run, "subnets.csv"):
        found.setdefault(line["label"], {})[line["way"]] = line
    return found


def whole(ways: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """The line of the largest subnet."""
    return ways[max((way for way in ways if way != BY_SCALE), key=float)]


def figure(tables: Mapping[str, Sequence[Scales]]) -> Figure:
    """Run -> its subnets.csv of each seed."""
    ours = tables["anysr"]
    levels = list(ours[0])
    places = range(len(levels))
    drawn, ((above,), (below,)) = new(COLUMN, 5.4, 2, sharex=True, height_ratios=[1.5, 1])
    gains = {
        "‡ whole network": (DARK, [[whole(one[level])["gain"] for one in ours] for level in levels]),
        "† the scale's subnet": (COLOURS["anysr"], _gains(ours, levels)),
    }
    if bare := tables.get("anysr_not_enhanced"):
        gains["† without enhancement"] = (LIGHT, _gains(bare, levels))
    for name, (colour, seeds) in gains.items():
        found = [over_seeds(map(float, values)) for values in seeds]
        band(above, list(places), found, color=colour, marker="o", label=name)
    above.set_ylabel("dB over bicubic")
    above.legend(loc="best")
    less = [
        over_seeds(float(one[level][BY_SCALE]["psnr"]) - float(whole(one[level])["psnr"]) for one in ours)
        for level in levels
    ]
    below.axhline(0, color=LIGHT, linewidth=1)
    bars(below, list(places), less, color=COLOURS["anysr"], linestyle="none")
    along = below.get_xaxis_transform()
    for place, level in enumerate(levels):
        share = value(over_seeds(float(one[level][BY_SCALE]["fraction"]) for one in ours))
        text: dict[str, Any] = {"ha": "center", "va": "top", "color": COLOURS["anysr"], "fontsize": 10}
        below.text(place, 0.97, f"{share:.0%}", transform=along, **text)
    below.set_xticks(list(places), levels)
    below.margins(0.07, 0.35)
    below.set(xlabel="scale; above: MACs of †, share of ‡", ylabel="† less ‡, dB")
    return drawn


def _gains(seeds: Sequence[Scales], levels: Sequence[str]) -> list[list[str]]:
    """Of †: for each level what it gains in each seed."""
    return [[one[level][BY_SCALE]["gain"] for one in seeds] for level in levels]
