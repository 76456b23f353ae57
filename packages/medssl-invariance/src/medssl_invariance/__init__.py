"""What a pretrained backbone ignores: how stable its features are under transforms and views.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_invariance.errors import InvarianceError as InvarianceError
    from medssl_invariance.experiments.settings import SyntheticSettings as SyntheticSettings
    from medssl_invariance.experiments.settings import ViewsSettings as ViewsSettings
    from medssl_invariance.experiments.synthetic import synthetic as synthetic
    from medssl_invariance.experiments.views import views as views
    from medssl_invariance.similarity import Gallery as Gallery
    from medssl_invariance.similarity import compare as compare
    from medssl_invariance.similarity import cosine as cosine
    from medssl_invariance.transforms.families import Family as Family
    from medssl_invariance.transforms.families import find_families as find_families
    from medssl_invariance.whitening import Whitening as Whitening
    from medssl_invariance.whitening import fit_whitening as fit_whitening

__version__ = version("medssl-invariance")

_HOMES = {
    "Family": "transforms.families",
    "Gallery": "similarity",
    "InvarianceError": "errors",
    "SyntheticSettings": "experiments.settings",
    "ViewsSettings": "experiments.settings",
    "Whitening": "whitening",
    "compare": "similarity",
    "cosine": "similarity",
    "find_families": "transforms.families",
    "fit_whitening": "whitening",
    "synthetic": "experiments.synthetic",
    "views": "experiments.views",
}

__all__ = [
    "Family",
    "Gallery",
    "InvarianceError",
    "SyntheticSettings",
    "ViewsSettings",
    "Whitening",
    "compare",
    "cosine",
    "find_families",
    "fit_whitening",
    "synthetic",
    "views",
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
