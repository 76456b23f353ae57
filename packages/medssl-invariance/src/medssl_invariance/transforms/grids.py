"""Which members a family has: the 2022 study's grids to the last one, and the corrected ones.

The published grids are equally spaced float32 numbers, as the study made them. Some hold fewer
members than were asked for; whoever takes k of them finds out as the study did. The corrected grids
hold no identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from medssl_invariance.errors import GridError

__all__ = [
    "Maker",
    "Member",
    "compass",
    "corner_crops",
    "corrected_turns",
    "directions",
    "falling_bits",
    "published_bits",
    "published_crops",
    "published_deformations",
    "published_ramp",
    "published_scales",
    "published_shears",
    "published_switch",
    "published_translations",
    "published_turns",
    "ratios",
    "steps",
    "switch",
    "two_sided",
    "whole",
]


@dataclass(frozen=True)
class Member:
    """One transform out of a family.

    Args:
        at: Its place on the axis of a curve.
        values: What the family's function is called with.
        identity: Whether it leaves every picture as it is.
    """

    at: float
    values: Mapping[str, float]
    identity: bool = False


Maker = Callable[[int], Sequence[Member]]
"""From k to members; a published grid may hold fewer, or more, than k."""


def _spaced(start: float, end: float, count: int) -> list[float]:
    """List `count` numbers with equal distances, both ends included, as float32 has them."""
    spaced: list[float] = torch.linspace(start, end, count).tolist()
    return spaced


# ------------------------------------------------------------------------------------- published


def published_turns(k: int) -> list[Member]:
    """List k angles from 0 on, 360 left out."""
    return [
        Member(angle, {"angle": angle}, identity=angle == 0) for angle in _spaced(0, 360, k + 1)[:k]
    ]


def _square(low: float, high: float, k: int) -> list[tuple[float, float]]:
    """List all pairs of floor(sqrt(k)) numbers, the first slowest; (0, 0) has to be one of them."""
    side = math.isqrt(k)
    line = _spaced(low, high, side + 1)[:side]
    pairs = list(product(line, line))
    if (0.0, 0.0) not in pairs:
        message = (
            "(0.0, 0.0) is not in list: the study looked for the identity and stopped; "
            "k must be the square of an even number, such as 16 or 256"
        )
        raise GridError(message)
    return pairs


def published_translations(k: int) -> list[Member]:
    """List offsets of up to 16 pixels, and the shear of 1 degree that slipped into every member."""
    return [
        Member(math.hypot(x, y), {"x": x, "y": y, "shear_x": 1.0})
        for x, y in ((256 * a, 256 * b) for a, b in _square(-0.0625, 0.0625, k))
    ]


def published_shears(k: int) -> list[Member]:
    """List pairs of shears of up to 160 degrees."""
    return [
        Member(math.hypot(x, y), {"shear_x": x, "shear_y": y}, identity=(x, y) == (0.0, 0.0))
        for x, y in _square(-160, 160, k)
    ]


def published_crops(k: int) -> list[Member]:
    """List boxes in pixels of a picture of 256 pixels, cut from the native picture whatever it is.

    `at` is the share of 256 x 256 that the box covers.
    """
    count = math.isqrt(math.isqrt(k))
    corners = [256 * share for share in _spaced(0, 0.25, count)]
    sides = [256 * share for share in _spaced(0.75, 0.25, count)]
    names = ("top", "left", "height", "width")
    return [
        Member(box[2] * box[3] / 256**2, dict(zip(names, box, strict=True)))
        for box in product(corners, corners, sides, sides)
    ]


def published_deformations(k: int) -> list[Member]:
    """List 256 members that cycle through eight widths; k of them are used."""
    del k
    widths = torch.linspace(10, 50, 8).to(torch.int64).tolist()
    return [Member(float(sigma), {"sigma": float(sigma)}) for sigma in widths * 32]


def published_ramp(name: str, low: float, high: float, *, neutral: float | None) -> Maker:
    """List k equally spaced values of a parameter, of which `neutral` changes nothing."""

    def make(k: int) -> list[Member]:
        return [
            Member(value, {name: value}, identity=value == neutral)
            for value in _spaced(low, high, k)
        ]

    return make


def published_scales(k: int) -> list[Member]:
    """List k scales from 0.25 to 2, each with the shear of 1 degree."""
    return [Member(scale, {"scale": scale, "shear_x": 1.0}) for scale in _spaced(0.25, 2, k)]


def published_bits(k: int) -> list[Member]:
    """List 1 to 7 bits."""
    del k
    return [Member(bits, {"bits": bits}) for bits in range(1, 8)]


def published_switch(k: int) -> list[Member]:
    """List the two members off and on."""
    del k
    return [Member(on, {"on": on}, identity=not on) for on in (0, 1)]


# ------------------------------------------------------------------------------------- corrected


def switch(k: int) -> list[Member]:
    """List the one member that switches the transform on."""
    _need(k == 1, "it is on or off, so k is 1")
    return [Member(1, {"on": 1})]


def corrected_turns(k: int) -> list[Member]:
    """List k angles that cut the circle into k + 1 parts, 0 left out."""
    return [
        Member(angle, {"angle": angle}) for angle in (360 * j / (k + 1) for j in range(1, k + 1))
    ]


def steps(name: str, low: float, high: float) -> Maker:
    """List k equally spaced values, ends included; one alone is the far end."""

    def make(k: int) -> list[Member]:
        return [Member(value, {name: value}) for value in _ladder(low, high, k)]

    return make


def ratios(name: str, low: float, high: float) -> Maker:
    """List k values with equal ratios, ends included; one alone is the far end."""

    def make(k: int) -> list[Member]:
        exponents = _ladder(math.log(low), math.log(high), k)
        return [Member(value, {name: value}) for value in map(_tidy, map(math.exp, exponents))]

    return make


def two_sided(name: str, reach: float, *, ratio: bool = False) -> Maker:
    """List k / 2 values on either side of what changes nothing, as far as `reach`.

    Args:
        name: The parameter.
        reach: The far end; its negative, or its inverse, is the other.
        ratio: Whether values multiply, so that 1 changes nothing, not 0.
    """

    def make(k: int) -> list[Member]:
        _need(k % 2 == 0, "half of the members lie on either side of the identity, so k is even")
        far = math.log(reach) if ratio else reach
        upper = [far * step / (k // 2) for step in range(1, k // 2 + 1)]
        both = [-value for value in reversed(upper)] + upper
        return [
            Member(value, {name: value})
            for value in (_tidy(math.exp(place) if ratio else place) for place in both)
        ]

    return make


def compass(reach: float) -> Maker:
    """List k / 8 distances of up to `reach` pixels in eight directions."""

    def make(k: int) -> list[Member]:
        _need(k % 8 == 0, "each distance comes in eight directions, so k is a multiple of 8")
        return [
            Member(_tidy(radius), {"x": radius * math.cos(turn), "y": radius * math.sin(turn)})
            for radius in _fractions(reach, k // 8)
            for turn in (math.pi * eighth / 4 for eighth in range(8))
        ]

    return make


def directions(low: float, high: float) -> Maker:
    """List k / 4 lengths along four directions."""

    def make(k: int) -> list[Member]:
        _need(k % 4 == 0, "each length comes in four directions, so k is a multiple of 4")
        return [
            Member(_tidy(length), {"length": length, "angle": angle})
            for length in _ladder(low, high, k // 4)
            for angle in (0.0, 45.0, 90.0, 135.0)
        ]

    return make


def corner_crops(k: int) -> list[Member]:
    """List k / 5 squares of 90 down to 60 % of the side, at the centre and in the corners."""
    _need(k % 5 == 0, "each size is cut at the centre and in four corners, so k is a multiple of 5")
    return [
        Member(
            _tidy(share),
            {
                "top": 224 * (1 - share) * down,
                "left": 224 * (1 - share) * across,
                "height": 224 * share,
                "width": 224 * share,
            },
        )
        for share in _ladder(0.9, 0.6, k // 5)
        for down, across in ((0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))
    ]


def falling_bits(k: int) -> list[Member]:
    """List k numbers of bits from 7 down."""
    _need(k <= 7, "8 bits can lose at most 7, so k is at most 7")
    return [Member(bits, {"bits": bits}) for bits in range(7, 7 - k, -1)]


def whole(name: str, low: float, high: float) -> Maker:
    """List k whole numbers between two ends, equally spaced and each once."""

    def make(k: int) -> list[Member]:
        numbers = list(dict.fromkeys(round(value) for value in _ladder(low, high, k)))
        _need(len(numbers) == k, f"there are only {len(numbers)} different whole numbers")
        return [Member(number, {name: number}) for number in numbers]

    return make


def _ladder(low: float, high: float, count: int) -> list[float]:
    if count == 1:
        return [high]
    return [_tidy(low + (high - low) * step / (count - 1)) for step in range(count)]


def _fractions(reach: float, count: int) -> Iterator[float]:
    return (reach * step / count for step in range(1, count + 1))


def _tidy(value: float) -> float:
    """Round what would only be noise of binary fractions in tables and files."""
    return round(value, 9)


def _need(holds: bool, rule: str) -> None:  # noqa: FBT001 # reads as a sentence
    if not holds:
        raise GridError(rule)
