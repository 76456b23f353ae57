"""`medssl-dip gallery`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medssl_models.console import Console, JsonOption, QuietOption

__all__ = ["gallery"]


def gallery(
    runs: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where reconstruct kept its runs.")
    ] = Path("reconstructions"),
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
    from medssl_models import Records, RunContext
    from medssl_models.experiments.command import show

    from medssl_dip.experiments.declarations import RECONSTRUCTION
    from medssl_dip.experiments.reconstruct import records_of
    from medssl_dip.gallery import draw_gallery
    from medssl_dip.inversion.run_folder import find_runs
    from medssl_dip.inversion.run_summary import choose_picture, summarise

    summaries = choose_picture(summarise(find_runs(runs)), picture, where=runs)
    draw_gallery(summaries, output)
    records = tuple(record for summary in summaries for record in records_of(summary))
    show(
        Console(json=json, quiet=quiet),
        RECONSTRUCTION,
        Records(records),
        RunContext(output=runs, files=[output]),
    )
