"""The words for the two protocols, which mean the same everywhere."""

from __future__ import annotations

import typing
from typing import Literal

__all__ = ["PROTOCOLS", "BatchNormName", "ProtocolName"]

ProtocolName = Literal["published", "corrected"]
BatchNormName = Literal["eval", "training"]
PROTOCOLS: tuple[ProtocolName, ...] = typing.get_args(ProtocolName)
