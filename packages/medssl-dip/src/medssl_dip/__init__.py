"""What a pretrained backbone remembers of a picture: inversion through a deep image prior.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_dip.errors import DipError as DipError
    from medssl_dip.experiments.reconstruct import reconstruct as reconstruct
    from medssl_dip.feature_extractor import FeatureExtractor as FeatureExtractor
    from medssl_dip.gallery import draw_gallery as draw_gallery
    from medssl_dip.images import ImageItem as ImageItem
    from medssl_dip.inversion.objective import Objective as Objective
    from medssl_dip.inversion.optimisation import Inversion as Inversion
    from medssl_dip.inversion.reconstruction import Reconstruction as Reconstruction
    from medssl_dip.inversion.reconstruction import invert as invert
    from medssl_dip.inversion.run_summary import RunSummary as RunSummary
    from medssl_dip.inversion.run_summary import summarise as summarise
    from medssl_dip.perceptual.comparison import compare as compare
    from medssl_dip.perceptual.fidelity import Fidelity as Fidelity
    from medssl_dip.perceptual.fidelity import measure as measure
    from medssl_dip.perceptual.lpips import LPIPS as LPIPS
    from medssl_dip.perceptual.lpips import load_lpips as load_lpips
    from medssl_dip.prior import Hourglass as Hourglass
    from medssl_dip.settings import GeneratorSettings as GeneratorSettings
    from medssl_dip.settings import ReconstructionOptions as ReconstructionOptions
    from medssl_dip.settings import ReconstructionSettings as ReconstructionSettings
    from medssl_dip.settings import settings_for as settings_for

__all__ = [
    "LPIPS",
    "DipError",
    "FeatureExtractor",
    "Fidelity",
    "GeneratorSettings",
    "Hourglass",
    "ImageItem",
    "Inversion",
    "Objective",
    "Reconstruction",
    "ReconstructionOptions",
    "ReconstructionSettings",
    "RunSummary",
    "compare",
    "draw_gallery",
    "invert",
    "load_lpips",
    "measure",
    "reconstruct",
    "settings_for",
    "summarise",
]

__version__ = version("medssl-dip")

_HOMES = {
    "DipError": "errors",
    "FeatureExtractor": "feature_extractor",
    "Fidelity": "perceptual.fidelity",
    "GeneratorSettings": "settings",
    "Hourglass": "prior",
    "ImageItem": "images",
    "Inversion": "inversion.optimisation",
    "LPIPS": "perceptual.lpips",
    "Objective": "inversion.objective",
    "Reconstruction": "inversion.reconstruction",
    "ReconstructionOptions": "settings",
    "ReconstructionSettings": "settings",
    "RunSummary": "inversion.run_summary",
    "compare": "perceptual.comparison",
    "draw_gallery": "gallery",
    "invert": "inversion.reconstruction",
    "load_lpips": "perceptual.lpips",
    "measure": "perceptual.fidelity",
    "reconstruct": "experiments.reconstruct",
    "settings_for": "settings",
    "summarise": "inversion.run_summary",
}


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
