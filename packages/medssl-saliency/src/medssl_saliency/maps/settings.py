"""How a map is asked for: its settings and their two presets, `published` and `corrected`.

A preset is a set of values. Where the 2022 study's way is a defect, the defect is a field with a
name, and the field carries the reason; entries such as I-37 number the study's known quirks.
Importing this module imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from medssl_data.images.reading import Reading
from medssl_models.experiments.settings import (
    BatchNormPreset,
    Option,
    ProtocolName,
    from_preset,
    setting,
)
from pydantic import Field, PositiveInt, model_validator

from medssl_saliency.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "FAST_FIDELITY",
    "LIMIT",
    "CaptumMethod",
    "MapMethod",
    "MapSettings",
    "Occluder",
    "PicturesSettings",
    "expand_fast",
    "fit_device",
    "preset",
]

LIMIT = Option(
    ("--limit",), help="Pictures of a data set, drawn evenly over its classes; none is all."
)
FAST_FIDELITY = 0.995
"""Correlation with the exact map for which `fast` measures as few windows as it takes."""

Occluder = Literal["zero", "mean", "blur", "noise"]
CaptumMethod = Literal[
    "integrated-gradients",
    "gradient-shap",
    "grad-cam",
    "guided-grad-cam",
    "feature-ablation",
]
MapMethod = Literal["occlusion", CaptumMethod]


class MapSettings(BatchNormPreset):
    """An occlusion map: a window slides over the image, the feature's relative change is drawn.

    Example:
        >>> preset("published", stride=2).occluder
        'zero'
    """

    method: MapMethod = setting(
        "occlusion, or another way to attribute the feature distance to pixels, through captum.",
        corrected="occlusion",
        option=Option(help="Occlusion, or another method through captum."),
    )
    window: PositiveInt = setting(
        "Side of the square window in pixels.", corrected=10, option=Option()
    )
    stride: PositiveInt = setting(
        "Distance of neighbouring windows; above 1 the scores between them are interpolated.",
        corrected=1,
        option=Option(help="Distance of windows; above 1 the map is approximate."),
    )
    fast: bool = setting(
        f"Stands for a fidelity of {FAST_FIDELITY} and, where the processor has bf16 arithmetic, "
        "the precision bf16.",
        corrected=False,
        option=Option(
            ("--fast",), help=f"As --fidelity {FAST_FIDELITY}, in bf16 where that is native."
        ),
    )
    fidelity: Annotated[float, Field(ge=0.9, lt=1)] | None = setting(
        "Correlation with the exact map that is enough: windows all over the image are measured "
        "until their two halves tell that the map reaches it, a quarter of all at most; the scores "
        "between them are interpolated. none measures every window.",
        corrected=None,
        option=Option(
            metavar="R",
            help="Measure as few windows as the map needs to correlate so with the exact one.",
        ),
    )
    occluder: Occluder = setting(
        "What is seen in a window. zero: 0 after normalisation, which is the mean colour for some "
        "models and black for others, so models are not comparable. mean, blur, noise: the "
        "picture's own mean colour, the picture blurred, its pixels shuffled; all in pixel space, "
        "so the same for every model.",
        corrected="mean",
        published="zero",
        entries=("I-37",),
        option=Option(),
    )
    margin: Literal["cut", "keep"] = setting(
        "cut: only pixels that as many windows cover as any; the outer window-1 rows and columns "
        "are lost, and with them most burnt-in text and markers. keep: the mean over the windows "
        "that there are.",
        corrected="keep",
        published="cut",
    )
    resize: PositiveInt | None = setting(
        "Short side of the image; none is the model's own geometry.",
        corrected=None,
        published=242,
        option=Option(help="Short side; none is the model's own."),
    )
    crop: PositiveInt | None = setting(
        "Side of the centre crop; none is the model's own.",
        corrected=None,
        published=242,
        option=Option(),
    )
    interpolation: Literal["bilinear", "bicubic"] | None = setting(
        "Filter of the resize; none is the model's own.",
        corrected=None,
        published="bicubic",
    )
    normalisation: Literal["model", "published"] = setting(
        "model: what the network was pretrained with. published: what the study fed.",
        corrected="model",
        published="published",
        entries=("I-11",),
    )
    precision: Literal["fp32", "bf16"] = setting(
        "fp32, or bf16: faster, its error is stated.", corrected="fp32"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> MapSettings:
        if self.fast:
            message = "fast stands for fidelity and precision: set them"
            raise ValueError(message)
        if self.batchnorm == "training" and self.method != "occlusion":
            message = f"batchnorm training is for occlusion, as in the study, not for {self.method}"
            raise ValueError(message)
        if self.fidelity is not None and self.stride > 1:
            message = "stride and fidelity both leave out windows: give one of them"
            raise ValueError(message)
        return self

    def of_the_map(self) -> dict[str, object]:
        """Return what a map depends on, as JSON: not which images there are, nor their labels."""
        return self.model_dump(mode="json", include=_OF_THE_MAP)

    @property
    def leaves_windows_out(self) -> bool:
        """Whether only some windows are measured."""
        return self.stride > 1 or self.fidelity is not None

    @property
    def is_exact(self) -> bool:
        """Whether every window is measured, in full precision."""
        return not self.leaves_windows_out and self.precision == "fp32"


_OF_THE_MAP = {"batchnorm", "seed", *MapSettings.__annotations__} - {"fast"}


class PicturesSettings(MapSettings):
    """A map of each of some pictures."""

    reading: Reading | None = setting(
        "Slice and window of volumes that are named as files; a data set has its own. None: the "
        "file's own. The study took the middle slice from -1000 to 250 HU, transposed.",
        corrected=None,
        published=Reading(window=(-1000.0, 250.0), transposed=True),
        entries=("I-19",),
    )
    named: tuple[str, ...] = setting(
        "Pictures of a data set, by id or by the file name that it ends in; none given draws them.",
        corrected=(),
        option=Option(
            ("--picture",), metavar="NAME", help="Pictures of a data set by name, with commas."
        ),
    )

    pictures: PositiveInt | Literal["published"] | None = setting(
        "Pictures of a data set, drawn evenly over its classes; none takes all. published: the one "
        "that stood for the data set in the study, where it is here, else one that is drawn. Files "
        "that are named are all taken.",
        corrected=None,
        published="published",
        entries=("I-38",),
        option=LIMIT,
    )


def preset(protocol: ProtocolName = "corrected", **changes: object) -> MapSettings:
    """Make the settings of a protocol, with some fields changed.

    Args:
        protocol: `published` or `corrected`.
        changes: Fields to set; None leaves the preset's value.

    Raises:
        SettingsError: A value is not allowed; the message names the field.

    Example:
        >>> preset(fast=True).fidelity
        0.995
    """
    return from_preset(MapSettings, protocol, expand_fast(changes), refusal=SettingsError)


def expand_fast(changes: Mapping[str, object]) -> Mapping[str, object]:
    """Put the settings that `fast` stands for in its place.

    Args:
        changes: Fields to set.

    Raises:
        SettingsError: Another field leaves out windows too.

    Example:
        >>> expand_fast({"fast": True})
        {'stride': 1, 'fidelity': 0.995, 'precision': 'bf16'}
    """
    kept = {name: value for name, value in changes.items() if name != "fast"}
    if not changes.get("fast"):
        return kept
    for name in ("stride", "fidelity"):
        if kept.get(name) is not None:
            message = f"fast and {name} leave out windows, each in its way: give one of them"
            raise SettingsError(message)
    return {**kept, "stride": 1, "fidelity": FAST_FIDELITY, "precision": "bf16"}


def fit_device(
    changes: Mapping[str, object], device: str, say: Callable[[str], None]
) -> Mapping[str, object]:
    """Take fp32 where bf16 would only be emulated, and so be slower.

    Args:
        changes: Fields to set.
        device: `auto`, `cpu`, `cuda` or `mps`.
        say: Takes a note for the user.

    Raises:
        SettingsError: As `expand_fast`.
    """
    from medssl_models.features.runtime import multiplies_in_bf16, resolve_device

    fitted = expand_fast(changes)
    if fitted.get("precision") != "bf16" or multiplies_in_bf16(resolve_device(device)):
        return fitted
    say("this processor has no bf16 arithmetic and would only emulate it: fp32 instead")
    return {**fitted, "precision": "fp32"}
