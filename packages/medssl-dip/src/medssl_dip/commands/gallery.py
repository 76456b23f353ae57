"""`medssl-dip gallery`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medssl_models.console import Console, JsonOption, QuietOption

from medssl_dip.commands.shared import OUTPUT

__all__ = ["gallery"]


def gallery(
    runs: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where reconstruct kept its runs.")
    ] = OUTPUT,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="NAME", help="Which one, of several.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The figure, a PNG.")
    ] = Path("gallery.png"),
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw one picture beside its reconstructions, and set their distances beside the study's."""
    from medssl_dip.gallery.figure import draw_gallery
    from medssl_dip.gallery.run_summary import as_documents, choose_picture, summarise, table
    from medssl_dip.inversion.run_folder import find_runs

    console = Console(json=json, quiet=quiet)
    shown = choose_picture(summarise(find_runs(runs)), picture, where=runs)
    draw_gallery(shown, output)
    console.table(*table(shown))
    console.document({"summaries": as_documents(shown), "figure": output})
    console.write(str(output))
