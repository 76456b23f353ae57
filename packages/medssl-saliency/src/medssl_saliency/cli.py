"""The command line of medssl-saliency: a command for each experiment."""

from __future__ import annotations

import sys

from medssl_data.opening import open_datasets
from medssl_models.console import create_app, examples, run
from medssl_models.experiments.command import add_commands

from medssl_saliency.experiments.declarations import MAP, SANITY, STATS

__all__ = ["app", "main"]

app = create_app(
    "medssl-saliency",
    "What pretrained backbones look at in a picture, exactly and without labels.",
    epilog=examples("medssl-saliency map scan.png -m random_r18 --fast"),
)
add_commands(app, (MAP, STATS, SANITY), open_datasets)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
