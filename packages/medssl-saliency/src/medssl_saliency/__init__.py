"""What a backbone looks at: exact and fast occlusion maps, and how concentrated they are."""

from importlib.metadata import version

__version__ = version("medssl-saliency")
