"""The versions of what shapes a number, as its provenance tells them."""

from __future__ import annotations

import importlib.metadata
import platform

__all__ = ["package_versions"]

PACKAGES = (
    "medssl-models",
    "medssl-data",
    "medssl-eval",
    "medssl-saliency",
    "medssl-dip",
    "medssl-invariance",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
)


def package_versions(*more: str) -> dict[str, str]:
    """List the installed versions of Python and of the packages that shape a number.

    Args:
        more: Further distribution names.

    Returns:
        Name to version, without what is not installed. Nothing is imported.
    """
    versions = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
