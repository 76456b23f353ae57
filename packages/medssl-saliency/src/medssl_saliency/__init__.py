"""What a backbone looks at: exact and fast occlusion maps, and how concentrated they are.

Public names are resolved on first use, so that importing the package does not import torch.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("medssl-saliency")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
