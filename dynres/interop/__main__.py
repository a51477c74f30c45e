"""python -m dynres.interop FILE: whose network a checkpoint holds; and the same weights in another form."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from dynres.cost.counter import count_parameters
from dynres.errors import UserError, clean_exit
from dynres.files import atomic_file
from dynres.interop.family import State
from dynres.interop.official import family_of, from_official, recognise, to_official
from dynres.interop.weights import describe, hinted, load_pretrained, read_content
from dynres.restorer import Restorer

SCALES = (1.2, 1.7, 2.0, 2.25, 2.9, 4.0)  # at which two networks for any scale are compared


@clean_exit
def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dynres.interop", description=__doc__)
    parser.add_argument("file", type=Path, help="a run's checkpoint, a folder of save_pretrained, or an author's file")
    parser.add_argument("--family", help="whose it is, where names and shapes do not tell: VDSR")
    parser.add_argument("--part", help="which network of a file that holds several, such as IRCNN's noise levels")
    parser.add_argument("--official", type=Path, metavar="OUT.pth", help="write the weights by their authors' names")
    parser.add_argument("--folder", type=Path, metavar="OUT", help="write config.json and model.safetensors")
    options = parser.parse_args()
    content = read_content(options.file, options.family, options.part)
    restorer = load_pretrained(options.file, options.family, options.part)
    family = family_of(restorer)
    table = Table(title=str(options.file), title_justify="left", show_header=False)
    table.add_row("form", "its authors'" if content.official else "dynres")
    table.add_row("family", family.name if family else "only known here")
    for part in ("backbone", "upsampler"):
        node = content.network[part]
        table.add_row(part, str(node["_target_"]).removeprefix("dynres."))
        for key, value in node.items():
            if key != "_target_":
                table.add_row("", f"{key}: {value}")
    pixels = restorer.pixels
    table.add_row("pixels", f"(x - {pixels.mean}) * {pixels.factor:g}")
    table.add_row("parameters", f"{count_parameters(restorer):,}")
    Console().print(table)
    for target in (options.official, options.folder):
        if target is not None and target.exists():
            raise UserError(f"{target} exists: choose a name that is free")
    try:
        if options.official:
            _write_official(restorer, options.official)
        if options.folder:
            restorer.save_pretrained(options.folder)
            print(f"written to {options.folder}")
    except OSError as error:
        raise UserError(f"cannot write: {error}") from error


def _write_official(restorer: Restorer, target: Path) -> None:
    """The weights by their authors' names, once it is sure that the file will be read back as this very network.

    Names and shapes do not hold everything (range of pixels, image_skip, what becomes of the image).
    """
    advice = "--folder keeps everything"
    try:
        state = to_official(restorer)
    except ValueError as error:
        raise UserError(f"{error}; {advice}") from error
    found = recognise(state, hinted(target))
    if found is None or not _same(restorer, Restorer.from_description(found), state):
        read = "nobody's known here" if found is None else f"{describe(found)} with pixels {found['pixels']}"
        raise UserError(f"{target} would be read back as another network, {read}: {advice}")
    with atomic_file(target) as temporary:
        torch.save(state, temporary)
    print(f"written to {target}")


def _same(ours: Restorer, theirs: Restorer, state: State) -> bool:
    """Whether two networks give one picture the same colours, the second with the weights of an authors' file.

    At several scales where any will do: what a network does may depend on them.
    """
    weights = from_official(state, theirs)
    if {name: value.shape for name, value in weights.items()} != {
        name: value.shape for name, value in theirs.state_dict().items()
    }:
        return False
    theirs.load_state_dict(weights)
    image = torch.rand(1, ours.backbone.image_channels, 48, 48, generator=torch.Generator().manual_seed(0))
    noise = 25.0 if ours.backbone.wants_noise else None
    for scale in SCALES if ours.upsampler.scale is None else (ours.upsampler.scale,):
        one, other = (network.eval().restore(image, scale=scale, noise=noise).image for network in (ours, theirs))
        if (one - other).abs().max() >= 1e-4:
            return False
    return True


if __name__ == "__main__":
    main()
