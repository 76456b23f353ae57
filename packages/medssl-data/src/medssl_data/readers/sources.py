"""`folder:`, `table:`, `medmnist:`, `phantom:`, and the settings that stand behind any name."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medssl_data.errors import SettingError, UnknownDatasetError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from medssl_data.card import Options
    from medssl_data.manifest import Manifest

__all__ = ["cut_settings", "cut_view", "find_source", "read_as", "read_source"]

_SETTING = re.compile(r",([a-z]+)=([^,=]*)$")
_VIEW = re.compile(r",view=([^,=]+)(?=,|$)")


def find_source(name: str) -> str:
    """Return what stands before the colon of a name; "" for the name of a card.

    Raises:
        UnknownDatasetError: It is not a source.
    """
    prefix, colon, _ = name.partition(":")
    if not colon:
        return ""
    if prefix not in _READERS:
        listed = ", ".join(f"{source}:" for source in _READERS)
        message = f"source {prefix + ':'!r} of {name!r} is unknown; there is {listed}"
        raise UnknownDatasetError(message)
    return prefix


def read_source(name: str, options: Options) -> Manifest:
    """Read the rows of a source.

    Args:
        name: Such as `folder:DIR` or `phantom:chest-xray,seed=1`.
        options: Target, and no label policy.

    Raises:
        UnknownDatasetError: It is not a source.
        SettingError: A setting does not fit.
    """
    if options.labels is not None:
        message = f"{name} has no label policies; leave labels={options.labels!r} out"
        raise SettingError(message)
    return _READERS[find_source(name)](name.partition(":")[2], options)


def cut_settings(text: str) -> tuple[str, dict[str, str]]:
    """Split `NAME,key=value,...` from the end, so that names may hold commas."""
    settings: dict[str, str] = {}
    while match := _SETTING.search(text):
        settings[match[1]] = match[2]
        text = text[: match.start()]
    return text, settings


def cut_view(name: str) -> tuple[str, str]:
    """Take the setting `view` from a name; a path that is there may hold such words itself.

    Args:
        name: As for `load_dataset`.

    Returns:
        The name without it, and its value, "" where there is none.
    """
    match, path = _VIEW.search(name), name.partition(":")[2]
    if match is None or (path and Path(path).exists()):
        return name, ""
    return name[: match.start()] + name[match.end() :], match[1]


def read_as(manifest: Manifest, name: str, settings: Mapping[str, str]) -> Manifest:
    """Decode as the settings behind a name say, and have every record say so.

    Args:
        manifest: The rows.
        name: For messages.
        settings: Text for each of `reading.SETTINGS`.

    Raises:
        SettingError: A setting is unknown, or its text is not what it takes.
    """
    if not settings:
        return manifest
    reading = manifest.reading.changed(name, settings)
    said = ", ".join(f"{key}={settings[key]}" for key in sorted(settings))
    manifest = manifest.noted(f"images read with {said}").selecting(
        reading.differences(manifest.reading)
    )
    return replace(manifest, reading=reading)


def _cut_path(text: str) -> tuple[Path, dict[str, str]]:
    """Split a path from the settings behind it; a path that is there may end like settings."""
    settings: dict[str, str] = {}
    while not Path(text).exists() and (match := _SETTING.search(text)):
        settings[match[1]] = match[2]
        text = text[: match.start()]
    return Path(text), settings


def _read_path(source: str, text: str, options: Options) -> Manifest:
    from medssl_data.readers.folder import read_folder
    from medssl_data.readers.table import read_manifest_table

    del options
    path, settings = _cut_path(text)
    read = read_folder if source == "folder" else read_manifest_table
    return read_as(read(path), f"{source}:{path}", settings)


def _medmnist(text: str, options: Options) -> Manifest:
    from medssl_data.readers.medmnist import read_medmnist

    path, settings = cut_settings(text)
    target = settings.pop("target", options.target)
    if settings:
        message = f"medmnist:{text}: unknown setting {', '.join(settings)}; there is target"
        raise SettingError(message)
    return read_medmnist(Path(path), target)


def _phantom(text: str, options: Options) -> Manifest:
    from medssl_data.synthetic.phantom import phantom_manifest

    del options
    return phantom_manifest(*cut_settings(text))


_READERS: Mapping[str, Callable[[str, Options], Manifest]] = {
    "folder": partial(_read_path, "folder"),
    "table": partial(_read_path, "table"),
    "medmnist": _medmnist,
    "phantom": _phantom,
}
