"""The command line of medssl-dip: a command for each experiment, and the gallery."""

from __future__ import annotations

import sys

from medssl_data.opening import open_datasets
from medssl_models.console import create_app, examples, run
from medssl_models.experiments.command import add_commands

from medssl_dip.commands.gallery import gallery
from medssl_dip.experiments.declarations import DISTANCE, RECONSTRUCTION

__all__ = ["app", "main"]

QUICK = "medssl-dip reconstruct scan.png -m moco-v2 --preset quick"

app = create_app(
    "medssl-dip",
    "What pretrained backbones remember of a picture: inversion through a deep image prior.",
    epilog=examples(QUICK, "medssl-dip gallery reconstructions"),
)
add_commands(app, (RECONSTRUCTION,), open_datasets)
add_commands(app, (DISTANCE,))
app.command(epilog=examples("medssl-dip gallery reconstructions --picture scan --output scan.png"))(
    gallery
)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
