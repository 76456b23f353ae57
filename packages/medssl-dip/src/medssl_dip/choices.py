"""Closed choices, by their names on the command line; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

__all__ = ["PresetName"]

PresetName = Literal["full", "quick"]
