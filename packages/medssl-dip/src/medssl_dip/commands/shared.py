"""What the commands share: options, and how models, pictures and LPIPS are found for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medssl_models import Backbone, Record
    from medssl_models.console import Console
    from medssl_models.experiments.settings import ProtocolName

    from medssl_dip.perceptual.lpips import Perceptual
    from medssl_dip.perceptual.metrics import NetName

__all__ = [
    "DATA",
    "OUTPUT",
    "RESULTS",
    "NetOption",
    "SizeOption",
    "create_models",
    "gather_perceptual",
    "keep",
    "warn_of_slow_precision",
]

DATA, OUTPUT, RESULTS = Path("data"), Path("reconstructions"), Path("results.jsonl")

NetOption = Annotated[
    str | None,
    typer.Option("--net", metavar="NET,...|none", help="LPIPS trunks: alex, vgg, squeeze."),
]
SizeOption = Annotated[
    int | None,
    typer.Option("--size", min=32, help="Short side to it, bicubic, then the central square."),
]


def create_models(
    names: Sequence[str], *, protocol: ProtocolName, controls: bool
) -> Iterator[Backbone]:
    """Create each model and, beside it, the same network with random weights and the same input.

    Args:
        names: As for `medssl_models.create_model`; a model that is named twice comes once.
        protocol: Whose padding.
        controls: Give controls too; a control that serves several models comes once.
    """
    from medssl_models import create_model
    from medssl_models.experiments.models import control_of

    seen = set()
    for name in dict.fromkeys(names):
        backbone = create_model(name, protocol=protocol)
        found = [backbone]
        control = control_of(name) if controls else None
        if control:
            found.append(create_model(f"{control}:{backbone.card.padding}"))
            found[-1].preprocessing = backbone.preprocessing
        for one in found:
            identity = one.name, one.preprocessing.fingerprint
            if identity not in seen:
                seen.add(identity)
                yield one


def gather_perceptual(console: Console, text: str | None, *, needed: bool) -> dict[str, Perceptual]:
    """Load LPIPS as `--net` says.

    Args:
        console: Is warned of what is left out.
        text: The option.
        needed: Without the option, all nets must be here; else those that are here are taken.

    Raises:
        SettingsError: No such net.
        MissingWeightsError: A net that is needed is not here.
    """
    from medssl_models.networks.lpips_trunks import missing_trunks

    from medssl_dip.perceptual.lpips import load_perceptual, nets_here, trunk_name
    from medssl_dip.perceptual.metrics import NETS

    nets = _nets(text) if text is not None else NETS
    if text is None and not needed:
        missing = missing_trunks(map(trunk_name, nets))
        if missing:
            console.warn(f"{missing}; or say --net none; measuring without them")
        nets = nets_here()
    return {str(net): metric for net, metric in load_perceptual(nets).items()}


def keep(records: Sequence[Record], path: Path, *, force: bool) -> None:
    """Append to a results file what it does not hold, or all of it."""
    from medssl_models import append_records, read_records

    known = set() if force or not path.exists() else {one.key for one in read_records(path)}
    append_records(path, [one for one in records if one.key not in known])


def warn_of_slow_precision(console: Console, precision: str, device: str) -> None:
    """Warn where bf16 is emulated: several times slower than fp32."""
    from medssl_models.features.runtime import multiplies_in_bf16, resolve_device

    if precision != "fp32" and not multiplies_in_bf16(resolve_device(device)):
        console.warn("this CPU has no bf16 arithmetic: fp32 is several times faster here")


def _nets(text: str) -> tuple[NetName, ...]:
    from medssl_dip.errors import SettingsError
    from medssl_dip.perceptual.metrics import NETS

    if text == "none":
        return ()
    parts = [part.strip() for part in text.split(",")]
    chosen = tuple(net for net in NETS if net in parts)
    if len(chosen) != len(set(parts)):
        message = f"--net is {text!r}; give none, or some of {', '.join(NETS)} with commas between"
        raise SettingsError(message)
    return chosen
