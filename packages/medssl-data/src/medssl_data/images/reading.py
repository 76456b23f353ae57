"""How files become pixels, as data: limits, windows and slices that a card or a user sets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from medssl_data.errors import SettingError, UnreadableImageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PIXEL_LIMIT", "SETTINGS", "Reading", "read_slice_name"]

PIXEL_LIMIT = 89_478_485
"""Pillow's own limit: 1 GiB / 4 / 3 bytes, about 9,459 x 9,459 RGB pixels."""


class Reading(BaseModel):
    """Frozen rules of decoding; part of the fingerprint of images.

    Args:
        pixel_limit: Pictures with more pixels are refused before they are decoded.
        exif_orientation: Turn the picture upright as its EXIF tag says; TIFFs are always turned.
        truncated: Take a damaged picture as far as it can be decoded, the rest black, instead of
            refusing it.
        deep_grey: Whether grey of more than 8 bits is stretched to 0..255 from its own minimum and
            maximum, or clipped at 255.
        reduced: Side in pixels that is enough: JPEGs decode at 1/2, 1/4 or 1/8 scale where both
            sides stay at least this large. Off by default, because it changes pixels.
        axis: Axis of a volume (x 0, y 1, z 2) that is cut.
        position: Fraction of the axis in [0, 1], or an index.
        window: Values of a volume or DICOM that become black and white; None is the file's own
            window, else its range.
        transposed: Keep (x, y) as (row, column), the picture of the 2022 study.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixel_limit: int = Field(default=PIXEL_LIMIT, gt=0)
    exif_orientation: bool = True
    truncated: bool = False
    deep_grey: Literal["stretched", "clipped"] = "stretched"
    reduced: int | None = Field(default=None, gt=0)
    axis: Literal[0, 1, 2] = 2
    position: float | int = 0.5
    window: tuple[float, float] | None = None
    transposed: bool = False

    @model_validator(mode="after")
    def _window_ascends(self) -> Self:
        if self.window is not None and not self.window[0] < self.window[1]:
            message = f"window must ascend, got {self.window}"
            raise ValueError(message)
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_off(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep to what version 0.1 wrote where it can: the keys of features and records fit on."""
        fields = type(self).model_fields
        off = {name for name in _LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in dump(self).items() if name not in off}

    def as_published(self) -> Reading:
        """Return the rules with files opened as the study opened them.

        It took pictures as Pillow gives them, whatever their EXIF tag says; where a file was
        damaged, what could be decoded; and of deep grey what Pillow's conversion to RGB keeps.

        Example:
            >>> Reading(position=5).as_published().exif_orientation
            False
        """
        opened = {"exif_orientation": False, "truncated": True, "deep_grey": "clipped"}
        return self.model_copy(update=opened)

    def changed(self, name: str, settings: Mapping[str, str]) -> Reading:
        """Return the rules with what a user set behind a name, as in `stoic,window=-1000..250`.

        Args:
            name: For messages.
            settings: Text for each of `SETTINGS`.

        Raises:
            SettingError: A setting is unknown, or its text is not what it takes.

        Example:
            >>> Reading().changed("stoic", {"window": "-1000..250"}).window
            (-1000.0, 250.0)
        """
        changes: dict[str, object] = {}
        for key, text in settings.items():
            if key not in SETTINGS:
                message = f"{name} has no setting {key!r}; images have {', '.join(SETTINGS)}"
                raise SettingError(message)
            field, pattern, example = _FORMS[key]
            match = re.fullmatch(pattern, text)
            value = _value(key, text) if match else None
            if value is None:
                message = f"{name}: {key}={text!r} is not understood; write {key}={example}"
                raise SettingError(message)
            changes[field] = value
        return Reading.model_validate(self.model_dump() | changes)

    def check_size(self, path: Path, size: tuple[int, int], what: str = "") -> None:
        """Refuse a picture beyond the limit.

        Args:
            path: For messages.
            size: Width and height in pixels.
            what: What has this size, where it is not the file.

        Raises:
            UnreadableImageError: It has more pixels than the limit.
        """
        width, height = size
        if width * height > self.pixel_limit:
            limit = f"more than the limit of {self.pixel_limit:,}"
            raise UnreadableImageError.of(path, f"has {what}{width} x {height} pixels, {limit}")

    def differences(self, other: Reading) -> dict[str, str]:
        """List the settings in which the rules differ from others, each in one spelling.

        Args:
            other: The rules to compare with.

        Returns:
            Text for some of `SETTINGS`, as `changed` takes it.

        Example:
            >>> Reading(position=0.40, axis=0).differences(Reading())
            {'axis': 'x', 'slice': '0.4'}
        """
        values = {name: getattr(self, field) for name, (field, *_) in _FORMS.items()}
        return {
            name: _spelled(name, value)
            for name, value in values.items()
            if repr(value) != repr(getattr(other, _FORMS[name][0]))
        }


_LATER = ("truncated", "deep_grey")
"""Rules that came after version 0.1."""

_NUMBER = r"-?\d+(?:\.\d+)?"
_FORMS = {
    "window": ("window", rf"{_NUMBER}\.\.{_NUMBER}", "LOW..HIGH, such as -1000..250"),
    "axis": ("axis", "[xyz]", "x, y or z"),
    "slice": ("position", r"\d+|[01]\.\d+", "an index such as 60, or a share such as 0.5"),
    "reduced": ("reduced", r"[1-9]\d{0,4}", "the side in pixels that is enough, such as 512"),
    "limit": ("pixel_limit", r"[1-9]\d{0,11}", "the most pixels of a picture, such as 200000000"),
}
"""What a user writes -> the field, the form of its text, and an example."""

SETTINGS = tuple(_FORMS)
"""What can be set behind a name, as in `folder:DIR,window=-1000..250,axis=z,slice=0.5`."""

_SLICE = re.compile(r"([xyz])=(\d+|[01]\.\d+)")


def _spelled(key: str, value: object) -> str:
    """Write a value as a user would."""
    if isinstance(value, tuple):
        return "..".join(repr(bound).removesuffix(".0") for bound in value)
    return "xyz"[value] if key == "axis" and isinstance(value, int) else str(value)


def _value(key: str, text: str) -> object:
    """Return the value of text in the right form; None where it is out of range."""
    if key == "window":
        low, high = map(float, text.split(".."))
        return (low, high) if low < high else None
    if key == "axis":
        return "xyz".index(text)
    if key == "slice":
        return _position(text)
    return int(text)


def _position(text: str) -> float | int | None:
    if "." not in text:
        return int(text)
    return float(text) if float(text) <= 1 else None


def read_slice_name(reading: Reading, item: str) -> Reading | None:
    """Return the rules for one slice of a volume that a table names, such as `z=60` or `x=0.5`.

    Args:
        reading: The other rules.
        item: Axis, equals sign, index or share.

    Returns:
        None where the text names no slice.
    """
    match = _SLICE.fullmatch(item)
    position = _position(match[2]) if match else None
    if match is None or position is None:
        return None
    return reading.model_copy(update={"axis": "xyz".index(match[1]), "position": position})
