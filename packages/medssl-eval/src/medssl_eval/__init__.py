"""How well pretrained backbones separate the classes of your images.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("medssl-eval")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
