"""Names -> data sets: cards of the study, third packages' plug-ins, and sources with a prefix."""

from __future__ import annotations

import difflib
import gc
import re
import tomllib
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import import_module, metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from medssl_data import splits
from medssl_data.card import DatasetCard, Options, Plugin
from medssl_data.dataset import ImageDataset
from medssl_data.errors import (
    MissingDatasetError,
    PluginError,
    SettingError,
    SplitError,
    UnknownDatasetError,
)
from medssl_data.images.cache import cache_from_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from medssl_data.manifest import Manifest

__all__ = [
    "broken_plugins",
    "cut_view",
    "dataset_card",
    "describe",
    "list_datasets",
    "load_dataset",
    "load_manifest",
    "split_manifest",
]

MARKER = "PHANTOM.txt"
"""A file of this name at the top of a data set's folder says that its pictures are synthetic."""

_GROUP = "medssl.datasets"
_SOURCES = ("folder", "table", "medmnist", "phantom")
_SETTING = re.compile(r",([a-z]+)=([^,=]*)$")
_VIEW = re.compile(r",view=([^,=]+)(?=,|$)")

Split = Literal["published", "patient", "official", "none"]


def list_datasets() -> list[DatasetCard]:
    """The cards of all data sets that can be named, sorted by name."""
    return [plugin.card for _, plugin in sorted(_plugins().items())]


def dataset_card(name: str) -> DatasetCard:
    """The card of a data set.

    Args:
        name: its name or an alias.

    Raises:
        UnknownDatasetError: no such name; close matches are in the message.
    """
    return _plugin(_settings(name)[0]).card


def broken_plugins() -> dict[str, str]:
    """Entry points that could not be used, with the reason."""
    return dict(_entry_points()[1])


def load_dataset(
    name: str,
    *,
    root: Path | str = "data",
    protocol: Literal["published", "corrected"] = "corrected",
    labels: str | None = None,
    split: str | Path | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Open a data set; nothing is decoded yet.

    The environment variable `MEDSSL_IMAGE_CACHE` gives it a `PictureCache`.

    Args:
        name: a card's name, `folder:DIR`, `table:FILE.csv`, `medmnist:FILE.npz` or `phantom:NAME`.
            Settings stand behind it, as in `phantom:chest-xray,difficulty=0.3,seed=1`; those of
            decoding (`reading.SETTINGS`) behind all but the last two, as in
            `stoic,window=-600..1500,axis=y,slice=0.4`. `view` keeps the images of one view, as in
            `chexpert,view=frontal`; splits are made before, so they stay as they are.
        root: folder that holds the data sets of the cards.
        protocol: "published" repeats the 2022 study, "corrected" avoids its defects.
        labels: label policy; None takes the card's.
        split: "published", "patient", "official", "none" or a CSV file; None takes the study's
            under "published", else the owner's where it is part of the files, else by patient.
        seed: of the patient split.

    Raises:
        UnknownDatasetError: no such name.
        MissingDatasetError: the data set is not under the root.
        DataError: whatever else is wrong with names, tables and labels.
    """
    options = Options(protocol, labels, official=split == "official")
    name, view = cut_view(name)
    manifest = load_manifest(name, root=root, options=options)
    card = None if _source(name) else dataset_card(name)
    manifest = split_manifest(manifest, card, split, protocol=protocol, seed=seed)
    return ImageDataset(_keep_view(manifest, view), card, cache_from_environment())


def load_manifest(
    name: str, *, root: Path | str = "data", options: Options | None = None
) -> Manifest:
    """Read a data set's rows in the order of its files, without splitting them.

    Rows that the label policy leaves out are still there, labelled `UNLABELLED`.

    Args:
        name: as for `load_dataset`.
        root: as for `load_dataset`.
        options: protocol, label policy and target.
    """
    options = options or Options()
    name, view = cut_view(name)
    if view:
        return _keep_view(load_manifest(name, root=root, options=options), view)
    source = _source(name)
    if source:
        if options.labels is not None:
            msg = f"{name} has no label policies; leave labels={options.labels!r} out"
            raise SettingError(msg)
        with _without_collection():
            manifest = _READERS[source](name.partition(":")[2], options)
        return _marked(manifest)
    plain, settings = _settings(name)
    plugin = _plugin(plain)
    target = settings.pop("target", options.target)
    manifest = _read(plugin, Path(root) / plugin.card.name, replace(options, target=target))
    return _read_as(manifest, name, settings)


def cut_view(name: str) -> tuple[str, str]:
    """Take the setting `view` from a name; a path that is there may hold such words itself.

    Args:
        name: as for `load_dataset`.

    Returns:
        The name without it, and its value, "" where there is none.
    """
    match, path = _VIEW.search(name), name.partition(":")[2]
    if match is None or (path and Path(path).exists()):
        return name, ""
    return name[: match.start()] + name[match.end() :], match[1]


def _keep_view(manifest: Manifest, view: str) -> Manifest:
    return manifest.filter(view=view).noted(f"only images of view {view}") if view else manifest


def _read_as(manifest: Manifest, name: str, settings: Mapping[str, str]) -> Manifest:
    """Decode as the settings behind a name say, and have every record say so."""
    if not settings:
        return manifest
    reading = manifest.reading.changed(name, settings)
    said = ", ".join(f"{key}={settings[key]}" for key in sorted(settings))
    return replace(manifest, reading=reading).noted(f"images read with {said}")


def split_manifest(
    manifest: Manifest,
    card: DatasetCard | None,
    split: str | Path | None,
    *,
    protocol: Literal["published", "corrected"] = "corrected",
    seed: int = 0,
) -> Manifest:
    """Give the rows their splits.

    Args:
        manifest: all rows in file order.
        card: the data set's card, where it has one.
        split: as for `load_dataset`.
        protocol: decides what None means.
        seed: of the patient split.

    Raises:
        SplitError: this data set has no such split.
    """
    rule = split or _default_split(manifest, card, protocol)
    if rule == "published":
        if card is None or card.study is None:
            msg = f"{manifest.name} was not part of the study: use split patient or a CSV file"
            raise SplitError(msg)
        return splits.published_split(manifest, card.study)
    if rule == "patient":
        return splits.patient_split(manifest, seed=seed)
    if rule == "official":
        if not any(manifest.splits):
            msg = f"{manifest.name} has no official split here: use patient or a CSV file"
            raise SplitError(msg)
        return replace(manifest, split_policy="official")
    if rule == "none":
        return replace(manifest, splits=(), split_policy="")
    if not Path(rule).is_file():
        rules = ", ".join(get_args(Split))
        msg = f"split {rule!r} is none of {rules}, and no CSV file of that name is there"
        raise SplitError(msg)
    return splits.read_split(manifest, Path(rule))


def _default_split(
    manifest: Manifest, card: DatasetCard | None, protocol: Literal["published", "corrected"]
) -> Split:
    if card is not None and card.study is not None and protocol == "published":
        return "published"
    if card is not None and card.groups:
        return "patient"
    if any(manifest.splits):
        return "official"
    patients = set(manifest.groups) - {""}
    known = len(patients) + manifest.groups.count("")
    return "patient" if known >= len(splits.FRACTIONS) else "none"


def describe(
    name: str,
    *,
    root: Path = Path("data"),
    protocol: Literal["published", "corrected"] = "corrected",
) -> dict[str, object]:
    """Collect the facts about a data set; for sources and data sets that are here, counts too.

    Args:
        name: a card's name or a source.
        root: folder that holds the data sets.
        protocol: decides labels and splits.
    """
    facts: dict[str, object] = {}
    if ":" not in name:
        card = dataset_card(name)
        facts = {
            "name": card.name,
            "title": card.title,
            "summary": card.summary,
            "modality": card.modality,
            "classes": ", ".join(card.classes),
            "images": card.rows,
            "licence": card.licence,
            "citation": card.citation,
            "address": card.address,
            "label policies": ", ".join(card.label_policies),
            "views": " and ".join(card.views or ()) or None,
            "origin": card.origin,
            "here": (root / card.name).is_dir(),
            "tree": card.tree,
        }
        if not facts["here"]:
            return facts
    return facts | _describe_rows(name, root, protocol)


def _describe_rows(
    name: str, root: Path, protocol: Literal["published", "corrected"]
) -> dict[str, object]:
    data = load_dataset(name, root=root, protocol=protocol)
    manifest = data.manifest
    splits = {split: manifest.splits.count(split) for split in dict.fromkeys(manifest.splits)}
    return {
        "name": data.name,
        "classes": ", ".join(data.classes),
        "images": len(data),
        "counts": ", ".join(f"{name} {count}" for name, count in manifest.counts().items()),
        "patients": len(set(manifest.groups) - {""}) or None,
        "splits": ", ".join(f"{split or 'none'} {count}" for split, count in splits.items()),
        "split policy": manifest.split_policy or None,
        "label policy": manifest.label_policy,
        "synthetic": manifest.synthetic,
        "notes": "; ".join(manifest.notes) or None,
        "fingerprint": manifest.fingerprint,
    }


def _source(name: str) -> str:
    prefix, colon, _ = name.partition(":")
    if not colon:
        return ""
    if prefix not in _SOURCES:
        listed = ", ".join(f"{source}:" for source in _SOURCES)
        msg = f"source {prefix + ':'!r} of {name!r} is unknown; there is {listed}"
        raise UnknownDatasetError(msg)
    return prefix


def _settings(text: str) -> tuple[str, dict[str, str]]:
    """Split `NAME,key=value,...` from the end, so that names may hold commas."""
    settings: dict[str, str] = {}
    while match := _SETTING.search(text):
        settings[match[1]] = match[2]
        text = text[: match.start()]
    return text, settings


def _path_settings(text: str) -> tuple[Path, dict[str, str]]:
    """A path and the settings behind it; a path that is there may end like settings."""
    settings: dict[str, str] = {}
    while not Path(text).exists() and (match := _SETTING.search(text)):
        settings[match[1]] = match[2]
        text = text[: match.start()]
    return Path(text), settings


def _folder(text: str, options: Options) -> Manifest:
    from medssl_data.readers.folder import read_folder

    del options
    path, settings = _path_settings(text)
    return _read_as(read_folder(path), f"folder:{path}", settings)


def _table(text: str, options: Options) -> Manifest:
    from medssl_data.readers.table import read_manifest_table as read

    del options
    path, settings = _path_settings(text)
    return _read_as(read(path), f"table:{path}", settings)


def _medmnist(text: str, options: Options) -> Manifest:
    from medssl_data.readers.medmnist import read_medmnist

    path, settings = _settings(text)
    target = settings.pop("target", options.target)
    if settings:
        msg = f"medmnist:{text}: unknown setting {', '.join(settings)}; there is target"
        raise SettingError(msg)
    return read_medmnist(Path(path), target)


def _phantom(text: str, options: Options) -> Manifest:
    from medssl_data.synthetic.phantom import phantom_manifest

    del options
    return phantom_manifest(*_settings(text))


_READERS: Mapping[str, Callable[[str, Options], Manifest]] = {
    "folder": _folder,
    "table": _table,
    "medmnist": _medmnist,
    "phantom": _phantom,
}


def _read(plugin: Plugin, directory: Path, options: Options) -> Manifest:
    card = plugin.card
    if not directory.is_dir():
        msg = (
            f"{card.name} is not in {directory}: get it from {card.address}, or write a synthetic "
            f"stand-in with `medssl-data phantom {card.name} --root {directory.parent}`"
        )
        raise MissingDatasetError(msg)
    policy = options.labels or card.labels.get(options.protocol, "as given")
    if policy not in card.label_policies and policy.removesuffix(",blank=0") not in (
        card.label_policies
    ):
        listed = ", ".join(card.label_policies)
        msg = f"{card.name} has no label policy {policy!r}; choose {listed}"
        raise SettingError(msg)
    with _without_collection():
        manifest = plugin.read(directory, replace(options, labels=policy))
    return _marked(manifest.noted(*card.notes), directory)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the garbage collector: millions of texts and no circle would be searched in vain."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _marked(manifest: Manifest, directory: Path | None = None) -> Manifest:
    """Say that the pictures are synthetic where a marker file says so."""
    if manifest.drawer is not None or not ((directory or manifest.root) / MARKER).is_file():
        return manifest
    from medssl_data.synthetic.phantom import NOTE

    told = any(note.startswith(NOTE) for note in manifest.notes)
    manifest = replace(manifest, synthetic=True)
    return manifest if told else manifest.noted(NOTE)


def _plugin(name: str) -> Plugin:
    known = _plugins()
    aliases = {alias: key for key, plugin in known.items() for alias in plugin.card.aliases}
    key = aliases.get(name, name)
    if key in known:
        return known[key]
    broken = broken_plugins()
    if name in broken:
        msg = f"data set {name!r} comes from a broken plug-in: {broken[name]}"
        raise PluginError(msg)
    close = difflib.get_close_matches(name, [*known, *aliases], n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    msg = (
        f"data set {name!r} is unknown; {hint}`medssl-data list` shows all; your own images are "
        "folder:DIR, table:FILE.csv or medmnist:FILE.npz"
    )
    raise UnknownDatasetError(msg)


def _plugins() -> dict[str, Plugin]:
    """Built-in data sets win over plug-ins of the same name."""
    return {**_entry_points()[0], **_built_in()}


@cache
def _built_in() -> dict[str, Plugin]:
    folder = resources.files("medssl_data") / "cards"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            facts = tomllib.loads(file.read_text(encoding="utf-8"))
            module, _, function = str(facts.pop("reader")).partition(":")
            card = DatasetCard.model_validate(facts)
            found[card.name] = Plugin(card, _lazy_reader(card, module, function))
    return found


def _lazy_reader(
    card: DatasetCard, module: str, function: str
) -> Callable[[Path, Options], Manifest]:
    def read(root: Path, options: Options) -> Manifest:
        reader = getattr(import_module(f"medssl_data.readers.{module}"), function)
        manifest: Manifest = reader(card, root, options)
        return manifest

    return read


@cache
def _entry_points() -> tuple[dict[str, Plugin], dict[str, str]]:
    found: dict[str, Plugin] = {}
    broken: dict[str, str] = {}
    for entry in metadata.entry_points(group=_GROUP):
        try:
            loaded = entry.load()
            plugin = loaded() if callable(loaded) and not isinstance(loaded, Plugin) else loaded
            if not isinstance(plugin, Plugin):
                msg = f"{entry.value} is a {type(plugin).__name__}, not a medssl_data.Plugin"
                raise TypeError(msg)
        except Exception as error:  # noqa: BLE001 - a third package may fail in any way
            broken[entry.name] = f"{entry.value}: {type(error).__name__}: {error}"
            continue
        origin = entry.dist.name if entry.dist else "plug-in"
        found[entry.name] = replace(plugin, card=plugin.card.model_copy(update={"origin": origin}))
    return found, broken
