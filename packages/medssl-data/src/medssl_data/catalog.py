"""Names -> data sets: cards of the study, third packages' plug-ins, and sources with a prefix."""

from __future__ import annotations

import gc
import sys
import tomllib
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import cache, partial
from importlib import import_module, metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

from medssl_data.card import DatasetCard, Options, Plugin, ProtocolName
from medssl_data.dataset import ImageDataset
from medssl_data.errors import (
    MissingDatasetError,
    PluginError,
    SettingError,
    UnknownDatasetError,
    did_you_mean,
)
from medssl_data.images.cache import cache_from_environment
from medssl_data.readers.sources import cut_settings, cut_view, find_source, read_as, read_source
from medssl_data.splits import split_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medssl_data.manifest import Manifest

__all__ = [
    "broken_plugins",
    "dataset_card",
    "describe",
    "list_datasets",
    "load_dataset",
    "load_manifest",
    "published_pictures",
]

MARKER = "PHANTOM.txt"
"""A file of this name at the top of a data set's folder says that its pictures are synthetic."""

_GROUP = "medssl.datasets"


def list_datasets() -> list[DatasetCard]:
    """List the cards of all data sets that have a name, sorted by name.

    Example:
        >>> [card.name for card in list_datasets()][:3]
        ['bach', 'chestx', 'chexpert']
    """
    return [plugin.card for _, plugin in sorted(_plugins().items())]


def dataset_card(name: str) -> DatasetCard:
    """Return the card of a data set.

    Args:
        name: Its name or an alias.

    Raises:
        UnknownDatasetError: No such name; close matches are in the message.

    Example:
        >>> dataset_card("shenzhen")
        <DatasetCard shenzhencxr: chest radiograph, 662 images, 2 classes, labels suffix>
    """
    return _plugin(cut_settings(name)[0]).card


def published_pictures(name: str) -> tuple[str, ...]:
    """Return the ids under which a data set may hold the picture that the study took of it.

    Args:
        name: Of a card's data set, as the study's numbers have it; others have none.

    Example:
        >>> published_pictures("bach"), published_pictures("imagenet")
        (('iv001.tif',), ())
    """
    plugin = _plugins().get(name)
    return () if plugin is None else plugin.card.published_pictures


def broken_plugins() -> dict[str, str]:
    """List the entry points that could not be used, with the reason."""
    return dict(_entry_points()[1])


def load_dataset(
    name: str,
    *,
    root: Path | str = "data",
    protocol: ProtocolName = "corrected",
    labels: str | None = None,
    split: str | Path | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Open a data set; nothing is decoded yet.

    The environment variable `MEDSSL_IMAGE_CACHE` gives it a `PictureCache`.

    Args:
        name: A card's name, `folder:DIR`, `table:FILE.csv`, `medmnist:FILE.npz` or `phantom:NAME`.
            Settings stand behind it, as in `phantom:chest-xray,difficulty=0.3,seed=1`; those of
            decoding (`reading.SETTINGS`) behind all but the last two, as in
            `stoic,window=-600..1500,axis=y,slice=0.4`. `target` is the finding that becomes the
            label, as in `chexpert,target=Edema`. `view` keeps the images of one view, as in
            `chexpert,view=frontal`; splits are made before, so they stay as they are.
        root: Folder that holds the data sets of the cards.
        protocol: "published" repeats the 2022 study, how it opened files included (see
            `Reading.as_published`); "corrected" avoids its defects.
        labels: Label policy; None takes the card's.
        split: "published", "patient", "official", "none" or a CSV file; None takes the study's
            under "published", else the owner's where it is part of the files, else by patient.
        seed: Of the patient split.

    Raises:
        UnknownDatasetError: No such name.
        MissingDatasetError: The data set is not under the root.
        DataError: Whatever else is wrong with names, tables and labels.

    Example:
        >>> data = load_dataset("phantom:chest-xray,count=20")
        >>> len(data), data.classes
        (20, ('normal', 'opacity'))
        >>> image, label = data[0]
        >>> image.size, label
        ((256, 256), 0)
    """
    options = Options(protocol, labels, official=split == "official")
    name, view = cut_view(name)
    manifest = load_manifest(name, root=root, options=options)
    card = None if find_source(name) else dataset_card(name)
    manifest = split_manifest(manifest, card, split, protocol=protocol, seed=seed)
    return ImageDataset(_keep_view(manifest, view), card, cache_from_environment())


def load_manifest(
    name: str, *, root: Path | str = "data", options: Options | None = None
) -> Manifest:
    """Read a data set's rows in the order of its files, without splitting them.

    Rows that the label policy leaves out are still there, labelled `UNLABELLED`.

    Args:
        name: As for `load_dataset`.
        root: As for `load_dataset`.
        options: Protocol, label policy and target.

    Example:
        >>> load_manifest("phantom:chest-xray,count=20,seed=1").counts()
        {'normal': 10, 'opacity': 10}
    """
    options = options or Options()
    name, view = cut_view(name)
    with _without_collection():
        if find_source(name):
            manifest = _marked(read_source(name, options))
        else:
            plain, settings = cut_settings(name)
            target = settings.pop("target", options.target)
            manifest = _read(_plugin(plain), Path(root), replace(options, target=target))
            manifest = read_as(manifest, name, settings)
        if options.protocol == "published":
            manifest = replace(manifest, reading=manifest.reading.as_published())
    return _keep_view(manifest, view)


def _keep_view(manifest: Manifest, view: str) -> Manifest:
    return manifest.filter(view=view).noted(f"only images of view {view}") if view else manifest


def describe(
    name: str, *, root: Path = Path("data"), protocol: ProtocolName = "corrected"
) -> dict[str, object]:
    """Collect the facts about a data set; for sources and data sets that are here, counts too.

    Args:
        name: A card's name or a source.
        root: Folder that holds the data sets.
        protocol: Decides labels and splits.

    Returns:
        A flat record for people and JSON.

    Example:
        >>> describe("phantom:chest-xray")["splits"]
        'train 154, test 48, val 38'
    """
    facts: dict[str, object] = {}
    if not find_source(name):
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
    return facts | _describe_rows(load_dataset(name, root=root, protocol=protocol))


def _describe_rows(data: ImageDataset) -> dict[str, object]:
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
        "further columns": ", ".join(manifest.attributes) or None,
        "synthetic": manifest.synthetic,
        "notes": "; ".join(manifest.notes) or None,
        "fingerprint": manifest.fingerprint,
    }


def _read(plugin: Plugin, root: Path, options: Options) -> Manifest:
    card, directory = plugin.card, root / plugin.card.name
    if not directory.is_dir():
        message = (
            f"{card.name} is not in {directory}: get it from {card.address}, or write a synthetic "
            f"stand-in with `medssl-data phantom {card.name} --root {directory.parent}`"
        )
        raise MissingDatasetError(message)
    policy = options.labels or card.labels.get(options.protocol, "as given")
    if policy not in card.label_policies and policy.removesuffix(",blank=0") not in (
        card.label_policies
    ):
        listed = ", ".join(card.label_policies)
        message = f"{card.name} has no label policy {policy!r}; choose {listed}"
        raise SettingError(message)
    if options.target and not card.targets:
        message = f"{card.name} has one label for each image; leave target={options.target} out"
        raise SettingError(message)
    manifest = plugin.read(directory, replace(options, labels=policy))
    if options.target and options.target != card.target:
        manifest = manifest.selecting({"target": options.target})
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
        message = f"data set {name!r} comes from a broken plug-in: {broken[name]}"
        raise PluginError(message)
    message = (
        f"data set {name!r} is unknown, and not folder:DIR, table:FILE.csv, medmnist:FILE.npz or "
        f"phantom:NAME{did_you_mean(name, [*known, *aliases])}"
    )
    raise UnknownDatasetError(message)


def _plugins() -> dict[str, Plugin]:
    """List all data sets; built-in ones win over plug-ins of the same name."""
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
            found[card.name] = Plugin(card, partial(_read_card, card, module, function))
    return found


def _read_card(
    card: DatasetCard, module: str, function: str, root: Path, options: Options
) -> Manifest:
    reader = getattr(import_module(f"medssl_data.readers.{module}"), function)
    manifest: Manifest = reader(card, root, options)
    return manifest


@cache
def _entry_points() -> tuple[dict[str, Plugin], dict[str, str]]:
    found: dict[str, Plugin] = {}
    broken: dict[str, str] = {}
    for entry in metadata.entry_points(group=_GROUP):
        try:
            with redirect_stdout(sys.stderr):  # stdout is ours
                loaded = entry.load()
                plugin = loaded() if callable(loaded) and not isinstance(loaded, Plugin) else loaded
            if not isinstance(plugin, Plugin):
                message = f"{entry.value} is a {type(plugin).__name__}, not a medssl_data.Plugin"
                raise TypeError(message)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a third package may fail in any way
            broken[entry.name] = f"{entry.value}: {type(error).__name__}: {error}"
            continue
        origin = entry.dist.name if entry.dist else "plug-in"
        found[entry.name] = replace(plugin, card=plugin.card.model_copy(update={"origin": origin}))
    return found, broken
