"""`medssl-dip distance`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medssl_models.console import (
    Console,
    DeviceOption,
    JsonOption,
    ModelsOption,
    PrecisionOption,
    ProtocolOption,
    QuietOption,
)

from medssl_dip.commands.shared import (
    NetOption,
    SizeOption,
    create_models,
    gather_perceptual,
    warn_of_slow_precision,
)

__all__ = ["distance"]

FirstArgument = Annotated[Path, typer.Argument(metavar="A", help="The original.")]
SecondArgument = Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")]


def distance(
    first: FirstArgument,
    second: SecondArgument,
    model: ModelsOption = [],  # noqa: B006 # Typer copies it
    net: NetOption = None,
    size: SizeOption = None,
    protocol: ProtocolOption = "corrected",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how far apart two pictures are: LPIPS, SSIM, PSNR, and in the features of models.

    Pictures of different sizes are an error; with --size, and under published (224), the short side
    of both is brought to one length and the central square is compared.
    """
    from medssl_models.experiments.models import check_models

    from medssl_dip.images import from_files
    from medssl_dip.perceptual.comparison import compare, compare_features
    from medssl_dip.perceptual.metrics import METRICS, meaning
    from medssl_dip.settings import settings_for

    console = Console(json=json, quiet=quiet)
    check_models(model)
    settings = settings_for(protocol)
    one, other = from_files([first, second], reading=settings.reading)
    warn_of_slow_precision(console, precision, device)
    values = compare(
        one,
        other,
        size=size or settings.size,
        perceptual=gather_perceptual(console, net, needed=True),
        device=device,
    )
    for backbone in create_models(model, protocol=protocol, controls=False):
        values[f"feature_distance of {backbone.name}"] = compare_features(
            backbone, one, other, settings, device=device, precision=precision
        )
    rows = [
        (name, f"{value:.4f}", meaning(METRICS[name.partition(" of ")[0]]))
        for name, value in values.items()
    ]
    console.table(("metric", "value", "meaning"), rows, title=f"{first} and {second}")
    console.document({"first": first, "second": second, "distances": values})
