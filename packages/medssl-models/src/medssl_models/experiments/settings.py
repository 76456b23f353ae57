"""Settings with two presets: `published`, the 2022 study's way, and `corrected`, the default.

A preset is a set of values, declared field by field. Where the study's way is a defect, the defect
is a field with a name, and the field carries the reason; entries such as I-14 number the study's
known defects. Importing this module imports no torch.
"""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medssl_models.errors import SettingsError
from medssl_models.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

__all__ = [
    "PROTOCOLS",
    "BatchNormName",
    "BatchNormPreset",
    "Difference",
    "Preset",
    "ProtocolName",
    "describe",
    "differences",
    "fault_of",
    "from_preset",
    "setting",
]

ProtocolName = Literal["published", "corrected"]
BatchNormName = Literal["eval", "training"]
PROTOCOLS: tuple[ProtocolName, ...] = typing.get_args(ProtocolName)


def setting(
    why: str, *, corrected: object, published: object = ..., entries: tuple[str, ...] = ()
) -> Any:  # noqa: ANN401 # as pydantic.Field: the annotation beside it is the type
    """Declare a field with the value that each preset gives it.

    Args:
        why: What it decides, and why the presets differ.
        corrected: The default.
        published: The study's value; left out where it is the same.
        entries: Numbers of the study's defects that explain the difference.
    """
    study = corrected if published is ... else published
    extra: dict[str, Any] = {"published": study, "entries": list(entries)}
    return Field(default=corrected, description=why, json_schema_extra=extra)


class Preset(BaseModel):
    """What all settings share: they are frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: ProtocolName = setting(
        "The preset that the values started from.", corrected="corrected", published="published"
    )


class BatchNormPreset(Preset):
    """Of an experiment in which the study's newest code left BatchNorm in training mode."""

    batchnorm: BatchNormName = setting(
        "training: BatchNorm uses the statistics of the batch that it is given, as the study's "
        "newest code does by mistake. Most of the released numbers were made in eval mode, so "
        "both presets say eval; training is for the published protocol only.",
        corrected="eval",
        entries=("I-1",),
    )

    @model_validator(mode="after")
    def _training_is_a_defect(self) -> BatchNormPreset:
        if self.batchnorm == "training" and self.protocol == "corrected":
            message = "batchnorm training is a defect of the study and needs protocol published"
            raise ValueError(message)
        return self


S = TypeVar("S", bound=Preset)


def from_preset(
    settings: type[S],
    protocol: ProtocolName,
    changes: Mapping[str, object],
    *,
    refusal: type[Exception] = SettingsError,
) -> S:
    """Make the settings of a protocol, with some fields changed.

    Args:
        settings: A settings class.
        protocol: `published` or `corrected`.
        changes: Fields to set; None leaves the preset's value.
        refusal: What is raised, with a sentence, where a value is not allowed.

    Example:
        >>> class Count(Preset):
        ...     images: int = setting("How many.", corrected=20, published=1)
        >>> from_preset(Count, "published", {}).images
        1
    """
    if protocol not in PROTOCOLS:
        message = f"protocol is {protocol!r}; choose from {', '.join(PROTOCOLS)}"
        raise refusal(message)
    values = {name: _value(field, protocol) for name, field in settings.model_fields.items()}
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return settings.model_validate(values | given)
    except ValidationError as error:
        raise refusal(fault_of(error, settings)) from error


@dataclass(frozen=True)
class Difference:
    """A field that two settings set differently.

    Attributes:
        field: Its name.
        published: The study's value.
        corrected: The default.
        entries: Numbers of the study's defects that explain it.
        why: What the field decides.
    """

    field: str
    published: object
    corrected: object
    entries: tuple[str, ...]
    why: str


def differences(
    published: BaseModel, corrected: BaseModel, reasons: Mapping[str, str] | None = None
) -> list[Difference]:
    """List what two settings of one class set differently.

    Args:
        published: The one.
        corrected: The other.
        reasons: Field to why, where the field's own description is not enough.

    Example:
        >>> class Count(Preset):
        ...     images: int = setting("One tells nothing.", corrected=20, published=1)
        >>> [one.why for one in differences(from_preset(Count, "published", {}), Count())]
        ['One tells nothing.']
    """
    found = []
    for name, field in type(corrected).model_fields.items():
        values = _shown(published, name), _shown(corrected, name)
        if name != "protocol" and values[0] != values[1]:
            why = (reasons or {}).get(name) or field.description or ""
            found.append(Difference(name, *values, _entries(field, why), why))
    return found


def describe(
    settings: BaseModel, reasons: Mapping[str, str] | None = None
) -> list[tuple[str, object, str]]:
    """List each field of some settings: name, value, what it decides.

    Args:
        settings: Any settings.
        reasons: Field to what it decides, where it has no description of its own.
    """
    return [
        (name, _shown(settings, name), field.description or (reasons or {}).get(name, ""))
        for name, field in type(settings).model_fields.items()
    ]


def _value(field: FieldInfo, protocol: ProtocolName) -> object:
    extra = field.json_schema_extra
    if protocol == "published" and isinstance(extra, dict):
        return extra.get("published", field.default)
    return field.default


def _shown(settings: BaseModel, name: str) -> object:
    """A value as people and JSON read it; of nested settings what differs from their defaults."""
    value = getattr(settings, name)
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_defaults=True)
    return settings.model_dump(include={name})[name]


def _entries(field: FieldInfo, why: str) -> tuple[str, ...]:
    """Numbers of defects: declared with the field, or named in the reason."""
    extra = field.json_schema_extra
    declared: Any = extra.get("entries", ()) if isinstance(extra, dict) else ()
    return tuple(declared) or tuple(re.findall(r"\bI-\d+\b", why))


def fault_of(error: ValidationError, settings: type[BaseModel]) -> str:
    """Say the first thing that is wrong in one line.

    Args:
        error: What pydantic raised.
        settings: The class whose fields were to be set.
    """
    first = error.errors(include_url=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    # Pydantic names the member of a union too, such as `constrained-int` or `tuple[int, int]`.
    parts = [part for part in map(str, first["loc"]) if not re.search(r"[\[-]", part)]
    name = ".".join(parts)
    if first["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{did_you_mean(name, settings.model_fields)}"
    return f"{name} is {first['input']!r}: {reason[:1].lower()}{reason[1:]}"
