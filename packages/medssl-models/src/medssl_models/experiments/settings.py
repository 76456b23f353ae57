"""Settings with two presets: `published`, the 2022 study's way, and `corrected`, the default.

A preset is a set of values, declared field by field. Where the study's way is a defect, the defect
is a field with a name, and the field carries the reason; entries such as I-14 number the study's
known defects. Importing this module imports no torch.
"""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medssl_models.errors import SettingsError, did_you_mean
from medssl_models.protocols import PROTOCOLS, BatchNormName, ProtocolName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic.fields import FieldInfo

__all__ = [
    "PROTOCOLS",
    "BatchNormName",
    "BatchNormPreset",
    "Difference",
    "ExperimentSettings",
    "Labels",
    "Option",
    "Padding",
    "Preset",
    "ProtocolName",
    "Seed",
    "describe",
    "differences",
    "fault_of",
    "from_preset",
    "kinds_of",
    "make_settings",
    "option_of",
    "parse_value",
    "published_value",
    "setting",
    "words_of",
]

Padding = Literal["published", "model"]
Labels = Literal["published", "corrected"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Option:
    """How a setting is spelled on the command line.

    Args:
        flags: Such as `("--neighbours", "-k")`; empty takes the field's name. Of a boolean setting
            the one flag that names both, such as `--flip/--no-flip`.
        metavar: What stands for the value in the help; empty follows from the type.
        help: A line for the help; empty takes the first sentence of the setting's reason.
        main: Whether it stands among the main options of the help, or below with the rest.
    """

    flags: tuple[str, ...] = ()
    metavar: str = ""
    help: str = ""
    main: bool = True


def setting(
    why: str,
    *,
    corrected: object,
    published: object = ...,
    entries: tuple[str, ...] = (),
    option: Option | None = None,
) -> Any:  # noqa: ANN401 # as pydantic.Field: the annotation beside it is the type
    """Declare a field with the value that each preset gives it.

    Args:
        why: What it decides, and why the presets differ.
        corrected: The default.
        published: The study's value; left out where it is the same.
        entries: Numbers of the study's defects that explain the difference.
        option: Its spelling on the command line; without one it is an option of its field's name,
            below the main options.
    """
    extra: dict[str, Any] = {
        "published": corrected if published is ... else published,
        "entries": list(entries),
        "option": option,
    }
    return Field(default=corrected, description=why, json_schema_extra=extra)


class Preset(BaseModel):
    """What all settings share: they are frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: ProtocolName = setting(
        "The preset that the values started from.", corrected="corrected", published="published"
    )


class ExperimentSettings(Preset):
    """What every experiment on a network and a data set decides."""

    seed: Seed = setting("Seed of everything random.", corrected=0, option=Option(("--seed",)))
    padding: Padding = setting(
        "model: strided layers pad as where the weights were trained. published: as in "
        "torchvision's networks, which moves the features of weights that come from TensorFlow.",
        corrected="model",
        published="published",
    )
    labels: Labels = setting(
        "corrected: uncertain labels, class merges and file selection as documented on the data "
        "set's card. published: as the study's loaders had them, which also opened files whatever "
        "their EXIF tag says and damaged ones as far as they go, and clipped 16-bit grey at 255.",
        corrected="corrected",
        published="published",
        entries=("I-2", "I-17", "I-19", "I-47"),
        option=Option(("--label-protocol",), main=False),
    )


class BatchNormPreset(ExperimentSettings):
    """Of an experiment in which the study's newest code left BatchNorm in training mode."""

    batchnorm: BatchNormName = setting(
        "training: BatchNorm uses the statistics of the batch that it is given, as the study's "
        "newest code does by mistake. Most of the released numbers were made in eval mode, so "
        "both presets say eval; training is for the published protocol only.",
        corrected="eval",
        entries=("I-1",),
        option=Option(help="training repeats a defect of the study; needs --protocol published."),
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
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return make_settings(settings, protocol, given)
    except ValidationError as error:
        raise refusal(fault_of(error, settings)) from error
    except SettingsError as error:
        raise refusal(str(error)) from error


def make_settings(settings: type[S], protocol: ProtocolName, given: Mapping[str, object]) -> S:
    """Make the settings of a protocol, with some fields changed; None is a value here.

    Args:
        settings: A settings class.
        protocol: `published` or `corrected`.
        given: Fields to set.

    Raises:
        SettingsError: There is no such protocol.
        pydantic.ValidationError: A value is not allowed.
    """
    if protocol not in PROTOCOLS:
        message = f"protocol is {protocol!r}; choose from {', '.join(PROTOCOLS)}"
        raise SettingsError(message)
    fields = settings.model_fields.items()
    preset = {name: _of_protocol(field, protocol) for name, field in fields}
    return settings.model_validate(preset | dict(given))


@dataclass(frozen=True)
class Difference:
    """A field that two settings set differently.

    Args:
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


def published_value(field: FieldInfo) -> object:
    """Return the value that the published preset gives a field."""
    extra = field.json_schema_extra
    return extra.get("published", field.default) if isinstance(extra, dict) else field.default


def option_of(field: FieldInfo) -> Option | None:
    """Return how a field was declared to be spelled on the command line."""
    extra: Any = field.json_schema_extra
    return extra.get("option") if isinstance(extra, dict) else None


def parse_value(field: FieldInfo, text: str) -> object:
    """Read the value of a setting from the text of an option; pydantic converts what is left.

    A word that the field's type names is that word, `none` is None where the field takes it, and a
    field that holds several values takes them with commas between.

    Example:
        >>> class Count(Preset):
        ...     shots: tuple[int, ...] | Literal["all"] = setting("How many.", corrected="all")
        >>> parse_value(Count.model_fields["shots"], "1,5"), parse_value(
        ...     Count.model_fields["shots"], "all"
        ... )
        (('1', '5'), 'all')
    """
    kinds = kinds_of(field)
    if text in words_of(field):
        return text
    if text == "none" and NoneType in kinds:
        return None
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    return text


def kinds_of(field: FieldInfo) -> list[Any]:
    """List the types that a field takes: the members of a union, without what annotates them."""
    return list(_kinds(field.annotation))


def words_of(field: FieldInfo) -> list[str]:
    """List the words that a field's type names."""
    literals = (kind for kind in kinds_of(field) if typing.get_origin(kind) is Literal)
    return [str(word) for kind in literals for word in typing.get_args(kind)]


def _kinds(annotation: object) -> Iterator[object]:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(typing.get_args(annotation)[0])
    elif origin in {typing.Union, UnionType}:
        for member in typing.get_args(annotation):
            yield from _kinds(member)
    else:
        yield annotation


def _of_protocol(field: FieldInfo, protocol: ProtocolName) -> object:
    return published_value(field) if protocol == "published" else field.default


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


def fault_of(
    error: ValidationError,
    settings: type[BaseModel],
    spelling: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Say the first thing that is wrong in one line.

    Args:
        error: What pydantic raised.
        settings: The class whose fields were to be set.
        spelling: Field to the word that the user typed for it, such as an option.
    """
    first = error.errors(include_url=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    # Pydantic names the member of a union too, such as `constrained-int` or `tuple[int, int]`.
    parts = [part for part in map(str, first["loc"]) if not re.search(r"[\[-]", part)]
    name = spelling.get(parts[0], ".".join(parts))
    if first["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{did_you_mean(name, settings.model_fields)}"
    return f"{name} is {first['input']!r}: {reason[:1].lower()}{reason[1:]}"
