"""What a pretrained backbone remembers of a picture: inversion through a deep image prior.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medssl_dip.errors import DipError as DipError
    from medssl_dip.fidelity import Fidelity as Fidelity
    from medssl_dip.fidelity import measure as measure
    from medssl_dip.gallery import draw_gallery as draw_gallery
    from medssl_dip.generator import GeneratorSettings as GeneratorSettings
    from medssl_dip.generator import Hourglass as Hourglass
    from medssl_dip.inversion import Inversion as Inversion
    from medssl_dip.objective import Objective as Objective
    from medssl_dip.perceptual import load_perceptual as load_perceptual
    from medssl_dip.pictures import Picture as Picture
    from medssl_dip.protocols import ReconstructionSettings as ReconstructionSettings
    from medssl_dip.protocols import settings_for as settings_for
    from medssl_dip.reconstruction import Reconstruction as Reconstruction
    from medssl_dip.reconstruction import Work as Work
    from medssl_dip.reconstruction import reconstruct as reconstruct

__all__ = [
    "DipError",
    "Fidelity",
    "GeneratorSettings",
    "Hourglass",
    "Inversion",
    "Objective",
    "Picture",
    "Reconstruction",
    "ReconstructionSettings",
    "Work",
    "draw_gallery",
    "load_perceptual",
    "measure",
    "reconstruct",
    "settings_for",
]

__version__ = version("medssl-dip")

_HOMES = {
    "DipError": "errors",
    "Fidelity": "fidelity",
    "GeneratorSettings": "generator",
    "Hourglass": "generator",
    "Inversion": "inversion",
    "Objective": "objective",
    "Picture": "pictures",
    "Reconstruction": "reconstruction",
    "ReconstructionSettings": "protocols",
    "Work": "reconstruction",
    "draw_gallery": "gallery",
    "load_perceptual": "perceptual",
    "measure": "fidelity",
    "reconstruct": "reconstruction",
    "settings_for": "protocols",
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
