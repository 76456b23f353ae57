"""What a backbone looks at: exact and fast occlusion maps, and how concentrated they are.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_saliency.engine.incremental import IncrementalNetwork as IncrementalNetwork
    from medssl_saliency.errors import SaliencyError as SaliencyError
    from medssl_saliency.experiments.map import map_images as map_images
    from medssl_saliency.experiments.randomisation import redraw as redraw
    from medssl_saliency.experiments.sanity import sanity_checks as sanity_checks
    from medssl_saliency.experiments.settings import SanitySettings as SanitySettings
    from medssl_saliency.experiments.settings import StatsSettings as StatsSettings
    from medssl_saliency.experiments.stats import map_statistics as map_statistics
    from medssl_saliency.images import ImageItem as ImageItem
    from medssl_saliency.images import from_dataset as from_dataset
    from medssl_saliency.images import from_files as from_files
    from medssl_saliency.maps.computing import SaliencyMap as SaliencyMap
    from medssl_saliency.maps.computing import compute_map as compute_map
    from medssl_saliency.maps.curves import deletion_and_insertion as deletion_and_insertion
    from medssl_saliency.maps.folder import MapFolder as MapFolder
    from medssl_saliency.maps.preparation import FeatureExtractor as FeatureExtractor
    from medssl_saliency.maps.preparation import prepare as prepare
    from medssl_saliency.maps.settings import MapSettings as MapSettings
    from medssl_saliency.maps.settings import PicturesSettings as PicturesSettings
    from medssl_saliency.maps.settings import preset as preset
    from medssl_saliency.maps.statistics import agreement as agreement
    from medssl_saliency.maps.statistics import attentive_diffusion as attentive_diffusion
    from medssl_saliency.maps.statistics import describe as describe
    from medssl_saliency.maps.storage import read_map as read_map

__version__ = version("medssl-saliency")

_HOMES = {
    "FeatureExtractor": "maps.preparation",
    "ImageItem": "images",
    "IncrementalNetwork": "engine.incremental",
    "MapFolder": "maps.folder",
    "MapSettings": "maps.settings",
    "PicturesSettings": "maps.settings",
    "SaliencyError": "errors",
    "SaliencyMap": "maps.computing",
    "SanitySettings": "experiments.settings",
    "StatsSettings": "experiments.settings",
    "agreement": "maps.statistics",
    "attentive_diffusion": "maps.statistics",
    "compute_map": "maps.computing",
    "deletion_and_insertion": "maps.curves",
    "describe": "maps.statistics",
    "from_dataset": "images",
    "from_files": "images",
    "map_images": "experiments.map",
    "map_statistics": "experiments.stats",
    "prepare": "maps.preparation",
    "preset": "maps.settings",
    "read_map": "maps.storage",
    "redraw": "experiments.randomisation",
    "sanity_checks": "experiments.sanity",
}

__all__ = [
    "FeatureExtractor",
    "ImageItem",
    "IncrementalNetwork",
    "MapFolder",
    "MapSettings",
    "PicturesSettings",
    "SaliencyError",
    "SaliencyMap",
    "SanitySettings",
    "StatsSettings",
    "agreement",
    "attentive_diffusion",
    "compute_map",
    "deletion_and_insertion",
    "describe",
    "from_dataset",
    "from_files",
    "map_images",
    "map_statistics",
    "prepare",
    "preset",
    "read_map",
    "redraw",
    "sanity_checks",
]


def __getattr__(name: str) -> object:
    """Import the module that owns a public name, on first use (PEP 562)."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
