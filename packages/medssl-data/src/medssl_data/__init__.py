"""Medical image data sets and your own folders as one manifest of images, labels and splits."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_data.card import DatasetCard, Options, Plugin
    from medssl_data.catalog import dataset_card, list_datasets, load_dataset
    from medssl_data.dataset import ImageDataset
    from medssl_data.errors import DataError
    from medssl_data.images.cache import PictureCache
    from medssl_data.images.decoding import Picture, read_image, read_rgb
    from medssl_data.images.reading import Reading
    from medssl_data.manifest import UNLABELLED, Manifest, Row

__version__ = version("medssl-data")

_HOMES = {
    "UNLABELLED": "manifest",
    "DataError": "errors",
    "DatasetCard": "card",
    "ImageDataset": "dataset",
    "Manifest": "manifest",
    "Options": "card",
    "Picture": "images.decoding",
    "PictureCache": "images.cache",
    "Plugin": "card",
    "Reading": "images.reading",
    "Row": "manifest",
    "dataset_card": "catalog",
    "list_datasets": "catalog",
    "load_dataset": "catalog",
    "read_image": "images.decoding",
    "read_rgb": "images.decoding",
}

__all__ = [
    "UNLABELLED",
    "DataError",
    "DatasetCard",
    "ImageDataset",
    "Manifest",
    "Options",
    "Picture",
    "PictureCache",
    "Plugin",
    "Reading",
    "Row",
    "dataset_card",
    "list_datasets",
    "load_dataset",
    "read_image",
    "read_rgb",
]


def __getattr__(name: str) -> object:
    """Import a public name's module when it is first used."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
