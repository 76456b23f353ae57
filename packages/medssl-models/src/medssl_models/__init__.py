"""Pretrained backbones for medical imaging: cards, checkpoints, preprocessing, features."""

from importlib.metadata import version

__version__ = version("medssl-models")
