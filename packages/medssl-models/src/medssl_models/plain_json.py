"""Any value of ours as plain JSON: the one way numbers leave the program.

JSON has no NaN and no infinity; both become null, so that every reader of the output can read it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TypeAlias

__all__ = ["JSON", "canonical_json", "plain"]

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None
"""What `plain` returns."""
_SCALARS = frozenset({str, int, bool, type(None)})


def plain(value: object) -> JSON:
    """Reduce a value to what JSON can hold.

    Args:
        value: Any nesting of scalars, mappings, sequences, sets, paths, enums, dataclasses,
            pydantic models and NumPy or torch scalars and arrays.

    Returns:
        Dictionaries with string keys, lists and scalars; NaN and infinities are None.

    Raises:
        TypeError: The value has no JSON form.

    Example:
        >>> plain({"folder": Path("a"), "values": (1.5, float("nan"))})
        {'folder': 'a', 'values': [1.5, None]}
    """
    if type(value) in _SCALARS:  # nearly all values are, and records have many
        return value  # type: ignore[return-value] # narrowed by the line above
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return _plain_container(value)


def canonical_json(value: object) -> str:
    """Write a value as JSON with sorted keys and no spaces: equal values give equal text.

    Example:
        >>> canonical_json({"b": 1, "a": (2, 3)})
        '{"a":[2,3],"b":1}'
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain_container(value: object) -> JSON:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return _plain_foreign(value)


def _plain_foreign(value: object) -> JSON:
    """Reduce pydantic models, and arrays and scalars of NumPy and torch, importing none of them."""
    for method, options in (("model_dump", {"mode": "json"}), ("tolist", {})):
        dump = getattr(value, method, None)
        if callable(dump):
            return plain(dump(**options))
    message = f"{type(value).__name__} has no JSON form: pass numbers, strings, lists or mappings"
    raise TypeError(message)


def _key(key: object) -> str:
    if isinstance(key, Enum):
        key = key.value
    return key if isinstance(key, str) else str(key)
