"""What a backbone looks at: exact and fast occlusion maps, and how concentrated they are.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_saliency.checking import check_all as check_all
    from medssl_saliency.concentration import agreement as agreement
    from medssl_saliency.concentration import attentive_diffusion as attentive_diffusion
    from medssl_saliency.concentration import describe as describe
    from medssl_saliency.curves import deletion_and_insertion as deletion_and_insertion
    from medssl_saliency.errors import SaliencyError as SaliencyError
    from medssl_saliency.incremental import IncrementalNetwork as IncrementalNetwork
    from medssl_saliency.map_file import read_map as read_map
    from medssl_saliency.mapping import Maps as Maps
    from medssl_saliency.mapping import Viewer as Viewer
    from medssl_saliency.protocols import MapSettings as MapSettings
    from medssl_saliency.protocols import differences as differences
    from medssl_saliency.protocols import preset as preset
    from medssl_saliency.randomisation import redraw as redraw
    from medssl_saliency.saliency_map import SaliencyMap as SaliencyMap
    from medssl_saliency.saliency_map import compute_map as compute_map
    from medssl_saliency.saliency_map import prepare as prepare
    from medssl_saliency.subjects import Subject as Subject
    from medssl_saliency.subjects import from_dataset as from_dataset
    from medssl_saliency.subjects import from_files as from_files
    from medssl_saliency.surveying import survey_all as survey_all

__version__ = version("medssl-saliency")

_HOMES = {
    "IncrementalNetwork": "incremental",
    "MapSettings": "protocols",
    "Maps": "mapping",
    "SaliencyError": "errors",
    "SaliencyMap": "saliency_map",
    "Subject": "subjects",
    "Viewer": "mapping",
    "agreement": "concentration",
    "attentive_diffusion": "concentration",
    "check_all": "checking",
    "compute_map": "saliency_map",
    "deletion_and_insertion": "curves",
    "describe": "concentration",
    "differences": "protocols",
    "from_dataset": "subjects",
    "from_files": "subjects",
    "prepare": "saliency_map",
    "preset": "protocols",
    "read_map": "map_file",
    "redraw": "randomisation",
    "survey_all": "surveying",
}

__all__ = [
    "IncrementalNetwork",
    "MapSettings",
    "Maps",
    "SaliencyError",
    "SaliencyMap",
    "Subject",
    "Viewer",
    "agreement",
    "attentive_diffusion",
    "check_all",
    "compute_map",
    "deletion_and_insertion",
    "describe",
    "differences",
    "from_dataset",
    "from_files",
    "prepare",
    "preset",
    "read_map",
    "redraw",
    "survey_all",
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
