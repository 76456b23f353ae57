"""The command line of medssl-invariance: a command for each experiment, made from its settings."""

from __future__ import annotations

import sys

from medssl_data.opening import open_datasets
from medssl_models.console import create_app, examples, run
from medssl_models.experiments.command import add_commands

from medssl_invariance.experiments.declarations import CURVE, SYNTHETIC, VIEWS

__all__ = ["app", "main"]

app = create_app(
    "medssl-invariance",
    "What a pretrained backbone ignores: how stable its features are.",
    epilog=examples(
        "medssl-invariance synthetic -m random_r18 -d folder:scans -t rotation -t h_flip"
    ),
)
add_commands(app, (SYNTHETIC, VIEWS, CURVE), open_datasets)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
