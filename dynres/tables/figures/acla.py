"""ACLA: the keys that a query chooses (Figure 2), and how many are kept of each layer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import nan

from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from dynres.errors import UserError
from dynres.tables.figures.found import Published, Runs, networks, over_seeds, photographs, sentence, value
from dynres.tables.figures.maps import heat, write
from dynres.tables.figures.style import COLUMN, png
from dynres.tables.sheet import Measured, Picture

WIDEST = 1140  # pixels of a picture that a run drew


def chosen(runs: Runs, published: Published) -> list[Picture]:
    """Figure 2, as the run's own test drew it (callbacks.keys)."""
    found = runs.of("acla", "acla")
    drawn = sorted((found[0].folder / "keys").glob("*.png")) if found else []
    if not drawn:
        return []
    return [
        Picture(
            "acla",
            "Figure 2: the keys of one query",
            "Above: the sampled keys of the pixel at the green cross in each layer that the last module refers to; "
            "those that ACLA keeps are coloured by their weight, the others gray. Below: the 16 pixels that "
            f"Eq. 3 (CLNL) weighs most. {sentence(networks(found[:1]))}.",
            "Crops with the sampled keys as circles around a green cross, a column a layer; below them the whole "
            "photograph with the top keys of vanilla attention.",
            bounded(drawn[0].read_bytes(), str(drawn[0])),
            wide=True,
        )
    ]


def bounded(image: bytes, name: str) -> bytes:
    """A PNG, opaque and at most WIDEST pixels wide."""
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image)) as given:
            opaque = given.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{name} is not an image: {error}") from error
    if opaque.width > WIDEST:
        opaque = opaque.resize((WIDEST, round(opaque.height * WIDEST / opaque.width)), Image.Resampling.LANCZOS)
    opaque.save(buffer, "png")
    return buffer.getvalue()


def kept(runs: Runs, published: Published) -> list[Picture]:
    """keys.csv: modules by the layers that they refer to."""
    found = runs.of("acla", "acla")
    if not found:
        return []
    shares: dict[tuple[str, str], list[float]] = {}
    keys = set()
    for run in found:
        for line in photographs(run, "keys.csv"):
            shares.setdefault((line["layer"], line["referred"]), []).append(float(line["kept"]))
            keys.add(int(line["keys"]))
    table = {place: over_seeds(values) for place, values in shares.items()}
    most = max(keys)
    return [
        Picture(
            "acla",
            "Kept keys, by layer",
            f"How many of its {most} sampled keys a query of each module keeps in each layer, mean over the queries of "
            f"the held-out photographs. {sentence(networks(found))}.",
            f"A heat map of {len({place[0] for place in table})} modules by the layers that they refer to.",
            png(kept_figure(table, most)),
        )
    ]


def kept_figure(table: Mapping[tuple[str, str], Measured], most: int) -> Figure:
    """(Layer of the module, referred layer) -> kept keys, of `most`."""
    modules, referred = (list(dict.fromkeys(place[axis] for place in table)) for axis in (0, 1))
    figure = Figure(figsize=(COLUMN, 1.3 + 0.55 * len(modules)), layout="constrained")
    axes = figure.subplots()
    known = {place: value(found) for place, found in table.items()}
    cells = [[known.get((one, other), nan) for other in referred] for one in modules]
    drawn = heat(axes, cells, modules, referred, most)
    texts = [[_text(table.get((one, other)), most) for other in referred] for one in modules]
    write(axes, drawn, texts, most, 10.5)
    axes.set(xlabel="referred layer", ylabel="module after layer")
    return figure


def _text(found: Measured | None, most: int) -> str:
    if found is None:
        return ""
    spread = "" if found.spread is None else f" ± {found.spread:.1f}"
    return f"{value(found):.1f}{spread} of {most}"
