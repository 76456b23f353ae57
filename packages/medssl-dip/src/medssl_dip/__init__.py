"""What a pretrained backbone remembers of a picture: inversion through a deep image prior.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("medssl-dip")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
