"""What a pretrained backbone ignores: how stable its features are under transforms and views.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("medssl-invariance")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
