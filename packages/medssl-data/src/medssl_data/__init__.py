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
    "card": ("DatasetCard", "Options", "Plugin"),
    "catalog": ("dataset_card", "list_datasets", "load_dataset"),
    "dataset": ("ImageDataset",),
    "errors": ("DataError",),
    "images.cache": ("PictureCache",),
    "images.decoding": ("Picture", "read_image", "read_rgb"),
    "images.reading": ("Reading",),
    "manifest": ("UNLABELLED", "Manifest", "Row"),
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
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
