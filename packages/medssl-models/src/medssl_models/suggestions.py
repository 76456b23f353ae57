"""Ends of error messages: close matches for a wrong name, and lists that may be long."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["did_you_mean", "some_of"]


def did_you_mean(name: str, known: Iterable[str], *, close_only: bool = False) -> str:
    """Say which known names are close to a wrong one, or which there are at all.

    Args:
        name: The wrong one.
        known: The right ones.
        close_only: Say nothing where none is close: there are too many to list.

    Example:
        >>> did_you_mean("moco_v2", ["moco-v1", "moco-v2", "byol"])
        '; did you mean moco-v2 or moco-v1?'
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if close_only:
        return ""
    return f"; known are {', '.join(names)}"


def some_of(items: Sequence[str], *, most: int = 5, separator: str = "; ") -> str:
    """List the first of some items, and say how many more there are.

    Example:
        >>> some_of(["a", "b", "c"], most=2)
        'a; b and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more
