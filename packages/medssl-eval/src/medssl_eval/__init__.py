"""How well pretrained backbones separate the classes of your images."""

from importlib.metadata import version

__version__ = version("medssl-eval")
