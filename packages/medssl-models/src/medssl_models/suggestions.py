"""Close matches for a name that is not known: the end of an error message."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(name: str, known: Iterable[str], *, close_only: bool = False) -> str:
    """Say which known names are close to a wrong one, or which there are at all.

    Args:
        name: The wrong one.
        known: The right ones.
        close_only: Say nothing where none is close: there are too many to list.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if close_only:
        return ""
    return f"; known are {', '.join(names)}"
