"""Medical image data sets and your own folders as one manifest of images, labels, patients and splits."""

from importlib.metadata import version

__version__ = version("medssl-data")
