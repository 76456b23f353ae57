"""The settings of an occlusion map and its two presets: `published` and `corrected`.

A preset is a set of values. Where the 2022 study's way is a defect, the defect is a field with a
name, and the field carries the reason; entries such as I-37 number the study's known quirks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from medssl_saliency.choices import BatchNorm, MapMethod, Occluder, Precision, ProtocolName
from medssl_saliency.errors import SettingsError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["FAST_LATTICE", "Difference", "MapSettings", "differences", "preset"]

FAST_LATTICE = (15, 11)
"""Every 15th position of a row, each row shifted by 11: a window's nearest six are almost equally
far, so no lattice of as many windows leaves smaller gaps."""


def setting(
    why: str, *, corrected: object, published: object = ..., entries: tuple[str, ...] = ()
) -> Any:  # noqa: ANN401 # as pydantic.Field: the annotation beside it is the type
    """Declare a field with the value that each preset gives it.

    Args:
        why: What it decides, and why the presets differ.
        corrected: The default.
        published: The study's value; left out where it is the same.
        entries: Numbers of the study's quirks that explain the difference.
    """
    study = corrected if published is ... else published
    return Field(
        default=corrected,
        description=why,
        json_schema_extra={"published": study, "entries": list(entries)},  # type: ignore[dict-item]
    )


class MapSettings(BaseModel):
    """An occlusion map: a window slides over the image, the feature's relative change is drawn.

    Example:
        >>> preset("published", stride=2).occluder
        'zero'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: ProtocolName = setting(
        "The preset that the values started from.", corrected="corrected", published="published"
    )
    method: MapMethod = setting(
        "occlusion, or another way to attribute the feature distance to pixels, through captum.",
        corrected="occlusion",
    )
    window: PositiveInt = setting("Side of the square window in pixels.", corrected=10)
    stride: PositiveInt = setting(
        "Distance of neighbouring windows; above 1 the scores between them are interpolated.",
        corrected=1,
    )
    lattice: tuple[PositiveInt, Annotated[int, Field(ge=0)]] | None = setting(
        "(period, shift): only every period-th position of a row, each row shifted further; the "
        "scores between them are interpolated.",
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
        entries=("F",),
    )
    resize: PositiveInt | None = setting(
        "Short side of the image; none is the model's own geometry.",
        corrected=None,
        published=242,
        entries=("B.1",),
    )
    crop: PositiveInt | None = setting(
        "Side of the centre crop; none is the model's own.",
        corrected=None,
        published=242,
        entries=("B.1",),
    )
    interpolation: Literal["bilinear", "bicubic"] | None = setting(
        "Filter of the resize; none is the model's own.",
        corrected=None,
        published="bicubic",
        entries=("B.1",),
    )
    normalisation: Literal["model", "study"] = setting(
        "model: what the network was pretrained with. study: what the study fed.",
        corrected="model",
        published="study",
        entries=("I-11",),
    )
    batchnorm: BatchNorm = setting(
        "training: BatchNorm uses the statistics of the one image, as the study's newest code does "
        "by mistake; the released numbers were made in eval mode (entry I-1).",
        corrected="eval",
    )
    precision: Precision = setting("fp32, or bf16: faster, its error is stated.", corrected="fp32")
    seed: Annotated[int, Field(ge=0)] = setting("Seed of the noise.", corrected=0)

    @model_validator(mode="after")
    def _one_way_to_skip_windows(self) -> MapSettings:
        if self.lattice is not None and self.stride > 1:
            message = "stride and lattice both leave out windows: give one of them"
            raise ValueError(message)
        return self

    @property
    def leaves_windows_out(self) -> bool:
        """Whether only some windows are measured."""
        return self.stride > 1 or self.lattice is not None

    @property
    def is_exact(self) -> bool:
        """Whether every window is measured, in full precision."""
        return not self.leaves_windows_out and self.precision == "fp32"


class Difference(BaseModel):
    """A field that the two presets set differently.

    Args:
        field: Its name.
        published: The study's value.
        corrected: The default.
        entries: Numbers of the quirks that explain it.
        why: What the field decides.
    """

    model_config = ConfigDict(frozen=True)

    field: str
    published: Any
    corrected: Any
    entries: tuple[str, ...]
    why: str


def preset(protocol: ProtocolName = "corrected", **changes: object) -> MapSettings:
    """Make the settings of a protocol, with some fields changed.

    Args:
        protocol: `published` or `corrected`.
        changes: Fields to set; None leaves the preset's value.

    Raises:
        SettingsError: A value is not allowed; the message names the field.
    """
    values = _values(protocol)
    values.update({name: value for name, value in changes.items() if value is not None})
    try:
        return MapSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error


def differences() -> list[Difference]:
    """List what the two presets set differently, with the entries that explain it."""
    published, corrected = _values("published"), _values("corrected")
    return [
        Difference(
            field=name,
            published=published[name],
            corrected=corrected[name],
            entries=tuple(_extra(field)["entries"]),
            why=field.description or "",
        )
        for name, field in MapSettings.model_fields.items()
        if name != "protocol" and published[name] != corrected[name]
    ]


def _values(protocol: str) -> dict[str, Any]:
    fields = MapSettings.model_fields
    if protocol == "corrected":
        return {name: field.default for name, field in fields.items()}
    if protocol == "published":
        return {name: _extra(field)["published"] for name, field in fields.items()}
    message = f"protocol is {protocol!r}; choose from published, corrected"
    raise SettingsError(message)


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {"published": field.default, "entries": []}


def _sentence(error: ValidationError) -> str:
    """Say the first thing that is wrong in one line."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    known = ", ".join(MapSettings.model_fields)
    if first["type"] == "extra_forbidden":
        return f"unknown setting {name!r}; there are {known}"
    return f"{name} is {first['input']!r}: {reason.lower()}"
