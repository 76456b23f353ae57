"""Medical image data sets and your own folders as one manifest of images, labels and splits."""

from importlib.metadata import version

import lazy_loader

__version__ = version("medssl-data")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
