"""The settings of an occlusion map and its two presets: `published` and `corrected`.

A preset is a set of values. Where the 2022 study's way is a defect, the defect is a field with a
name, and the field carries the reason; entries such as I-37 number the study's known quirks.
"""

from __future__ import annotations

from typing import Annotated, Literal

from medssl_models.experiments import settings as presets
from medssl_models.experiments.settings import (
    BatchNormPreset,
    Difference,
    ProtocolName,
    from_preset,
    setting,
)
from pydantic import Field, PositiveInt, model_validator

from medssl_saliency.choices import MapMethod, Occluder, Precision  # noqa: TC001 # pydantic reads
from medssl_saliency.errors import SettingsError

__all__ = ["FAST_FIDELITY", "MapSettings", "differences", "preset"]

FAST_FIDELITY = 0.995
"""Correlation with the exact map for which `--fast` measures as few windows as it takes."""


class MapSettings(BatchNormPreset):
    """An occlusion map: a window slides over the image, the feature's relative change is drawn.

    Example:
        >>> preset("published", stride=2).occluder
        'zero'
    """

    method: MapMethod = setting(
        "occlusion, or another way to attribute the feature distance to pixels, through captum.",
        corrected="occlusion",
    )
    window: PositiveInt = setting("Side of the square window in pixels.", corrected=10)
    stride: PositiveInt = setting(
        "Distance of neighbouring windows; above 1 the scores between them are interpolated.",
        corrected=1,
    )
    fidelity: Annotated[float, Field(ge=0.9, lt=1)] | None = setting(
        "Correlation with the exact map that is enough: windows all over the image are measured "
        "until their two halves tell that the map reaches it, a quarter of all at most; the scores "
        "between them are interpolated. none measures every window.",
        corrected=None,
    )
    occluder: Occluder = setting(
        "What is seen in a window. zero: 0 after normalisation, which is the mean colour for some "
        "models and black for others, so models are not comparable. mean, blur, noise: the "
        "picture's own mean colour, the picture blurred, its pixels shuffled; all in pixel space, "
        "so the same for every model.",
        corrected="mean",
        published="zero",
        entries=("I-37",),
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
    )
    crop: PositiveInt | None = setting(
        "Side of the centre crop; none is the model's own.",
        corrected=None,
        published=242,
    )
    interpolation: Literal["bilinear", "bicubic"] | None = setting(
        "Filter of the resize; none is the model's own.",
        corrected=None,
        published="bicubic",
    )
    normalisation: Literal["model", "study"] = setting(
        "model: what the network was pretrained with. study: what the study fed.",
        corrected="model",
        published="study",
        entries=("I-11",),
    )
    precision: Precision = setting("fp32, or bf16: faster, its error is stated.", corrected="fp32")
    seed: Annotated[int, Field(ge=0)] = setting("Seed of the noise.", corrected=0)

    @model_validator(mode="after")
    def _fit_together(self) -> MapSettings:
        if self.batchnorm == "training" and self.method != "occlusion":
            message = f"batchnorm training is for occlusion, as in the study, not for {self.method}"
            raise ValueError(message)
        if self.fidelity is not None and self.stride > 1:
            message = "stride and fidelity both leave out windows: give one of them"
            raise ValueError(message)
        return self

    @property
    def leaves_windows_out(self) -> bool:
        """Whether only some windows are measured."""
        return self.stride > 1 or self.fidelity is not None

    @property
    def is_exact(self) -> bool:
        """Whether every window is measured, in full precision."""
        return not self.leaves_windows_out and self.precision == "fp32"


def preset(protocol: ProtocolName = "corrected", **changes: object) -> MapSettings:
    """Make the settings of a protocol, with some fields changed.

    Args:
        protocol: `published` or `corrected`.
        changes: Fields to set; None leaves the preset's value.

    Raises:
        SettingsError: A value is not allowed; the message names the field.
    """
    return from_preset(MapSettings, protocol, changes, refusal=SettingsError)


def differences() -> list[Difference]:
    """List what the two presets set differently, with the entries that explain it."""
    return presets.differences(preset("published"), preset("corrected"))
