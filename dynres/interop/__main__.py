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
from dynres.interop.official import family_of, to_official
from dynres.interop.weights import load_pretrained, read_content


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
    if options.official:
        if family is None:
            raise UserError(f"{type(restorer.backbone).__name__} has no authors' form; --folder writes it for others")
        with atomic_file(options.official) as temporary:
            torch.save(to_official(restorer), temporary)
        print(f"written to {options.official}")
    if options.folder:
        restorer.save_pretrained(options.folder)
        print(f"written to {options.folder}")


if __name__ == "__main__":
    main()
