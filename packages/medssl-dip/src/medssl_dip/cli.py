"""The command line of medssl-dip, put together from `commands`."""

from __future__ import annotations

import sys

from medssl_models.console import create_app, examples, run

from medssl_dip.commands.distance import distance
from medssl_dip.commands.gallery import gallery
from medssl_dip.commands.reconstruct import reconstruct

__all__ = ["app", "main"]

QUICK = "medssl-dip reconstruct scan.png -m moco-v2 --preset quick"

app = create_app(
    "medssl-dip",
    "What pretrained backbones remember of a picture: inversion through a deep image prior.",
    epilog=examples(QUICK, "medssl-dip gallery reconstructions"),
)
app.command(
    epilog=examples(
        QUICK,
        "medssl-dip reconstruct scan.png -m moco-v2 -m byol --layer layer1,layer2,layer3,layer4",
        "medssl-dip reconstruct -d shenzhencxr --picture CHNCXR_0076_0.png -m swav "
        "--protocol published",
    )
)(reconstruct)
app.command(
    epilog=examples(
        "medssl-dip distance scan.png other.png",
        "medssl-dip distance scan.png other.png -m moco-v2 --net none --size 224",
    )
)(distance)
app.command(epilog=examples("medssl-dip gallery reconstructions --picture scan --output scan.png"))(
    gallery
)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
