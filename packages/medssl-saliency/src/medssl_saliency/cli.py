"""The command line of medssl-saliency, put together from `commands`."""

from __future__ import annotations

import sys

from medssl_models.console import create_app, examples, run

from medssl_saliency.commands.map import map_
from medssl_saliency.commands.sanity import sanity
from medssl_saliency.commands.stats import stats

__all__ = ["app", "main"]

app = create_app(
    "medssl-saliency",
    "What pretrained backbones look at in a picture, exactly and without labels.",
    epilog=examples("medssl-saliency map scan.png -m random_r18 --fast"),
)
app.command(
    "map",
    epilog=examples(
        "medssl-saliency map scan.png -m random_r18 -m random_d121",
        "medssl-saliency map scan.png -m random_r50 --fast --occluder blur",
        "medssl-saliency map -d folder:scans --limit 5 -m random_r18 --protocol published",
        "medssl-saliency map scan.png -m random_r18 --method grad-cam",
    ),
)(map_)
app.command(
    epilog=examples(
        "medssl-saliency stats -d folder:scans --limit 20 -m random_r18 -m random_r50 --fast",
        "medssl-saliency stats -d shenzhencxr --limit 50 -m moco-v2 --masks lungs --fast",
    ),
)(stats)
app.command(
    epilog=examples(
        "medssl-saliency sanity scan.png -m random_r18",
        "medssl-saliency sanity -d folder:scans --limit 5 -m moco-v2 --method grad-cam",
    ),
)(sanity)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
