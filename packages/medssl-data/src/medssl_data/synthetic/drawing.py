"""Procedural pictures that look like a modality from afar and carry a class signal.

No patient is in them, and each says so in its own pixels. Pure functions of a seed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Plane = npt.NDArray[np.float32]

__all__ = ["LABEL", "disc", "draw_lateral", "draw_radiograph", "stamp"]

LABEL = "SYNTHETIC PHANTOM"

_GLYPHS = {  # rows of 3 bits, top to bottom
    "S": (3, 4, 2, 1, 6),
    "Y": (5, 5, 2, 2, 2),
    "N": (6, 5, 5, 5, 5),
    "T": (7, 2, 2, 2, 2),
    "H": (5, 5, 7, 5, 5),
    "E": (7, 4, 6, 4, 7),
    "I": (7, 2, 2, 2, 7),
    "C": (3, 4, 4, 4, 3),
    "P": (6, 5, 6, 4, 4),
    "A": (2, 5, 7, 5, 5),
    "O": (2, 5, 5, 5, 2),
    "M": (5, 7, 7, 5, 5),
    " ": (0, 0, 0, 0, 0),
}


@cache
def _grid(size: int) -> tuple[Plane, Plane]:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return axis[:, None], axis[None, :]


@cache
def _text(words: str, scale: int) -> npt.NDArray[np.bool_]:
    rows = [
        [bit == "1" for letter in words for bit in f"{_GLYPHS[letter][row]:03b}0"]
        for row in range(5)
    ]
    return np.kron(np.array(rows), np.ones((scale, scale), np.bool_)).astype(np.bool_)


def stamp(
    pixels: npt.NDArray[np.generic],
    words: str = LABEL,
    *,
    corner: Literal["lower left", "upper right"] = "lower left",
) -> None:
    """Burn words into a corner, in place; SYNTHETIC PHANTOM stands on every phantom.

    Args:
        pixels: (H, W) or (H, W, 3), at least 69 wide; the lettering takes the array's range.
        words: Of the letters in `LABEL`.
        corner: Where they stand.
    """
    text = _text(words, max(1, pixels.shape[1] // 128))
    height, width = text.shape
    left = corner == "lower left"
    area = pixels[-height - 2 :, : width + 2] if left else pixels[: height + 2, -width - 2 :]
    high = 255 if pixels.dtype == np.uint8 else pixels.max()
    area[...] = 0 if pixels.dtype == np.uint8 else pixels.min()
    area[1:-1, 1:-1][text] = high


def draw_radiograph(
    anatomy: int, image: int, *, opacity: bool, difficulty: float, seed: int, size: int = 256
) -> Plane:
    """Draw a frontal chest radiograph of nobody.

    Args:
        anatomy: Number of the patient: the same build in all their pictures.
        image: Number of the picture: position, exposure, noise and lesions.
        opacity: Whether one to three soft opacities lie in the lungs.
        difficulty: 0 plain to see, 1 invisible.
        seed: Of the whole data set.
        size: Side in pixels.

    Returns:
        (size, size) float32 in [0, 1], bright where dense.
    """
    body = np.random.default_rng([seed, 1, anatomy])
    shot = np.random.default_rng([seed, 2, anatomy, image])
    y, x = _grid(size)
    x = x + np.float32(shot.normal(0, 0.03))
    y = y + np.float32(shot.normal(0, 0.03))
    width, height = body.uniform(0.26, 0.33), body.uniform(0.55, 0.66)
    lungs = [_ellipse(y, x, (-0.08, side * body.uniform(0.4, 0.46)), (height, width), 0.09)
             for side in (-1, 1)]  # fmt: skip
    air = np.maximum(*lungs)
    trunk = _ellipse(y, x, (0.35, 0.0), (1.5, body.uniform(0.88, 1.0)), 0.06)
    picture = 0.08 + 0.62 * trunk - 0.45 * air
    picture += 0.22 * np.exp(-((x / 0.1) ** 2)) * trunk  # spine and mediastinum
    heart = _ellipse(y, x, (0.25, 0.14), (0.34, body.uniform(0.26, 0.36)), 0.08)
    picture += 0.28 * heart * air + _ribs(y, x, body) * (0.35 + 0.65 * air) * trunk
    if opacity:
        picture += _opacities(y, x, shot, 1.0 - difficulty) * air
    picture = (picture - 0.5) * shot.uniform(0.85, 1.1) + 0.5 + shot.normal(0, 0.03)
    picture += shot.normal(0, 0.025, picture.shape)
    return np.clip(picture, 0, 1).astype(np.float32)


def draw_lateral(
    anatomy: int, image: int, *, opacity: bool, difficulty: float, seed: int, size: int = 256
) -> Plane:
    """Draw a lateral chest radiograph of nobody; the arguments are those of `draw_radiograph`."""
    body = np.random.default_rng([seed, 3, anatomy])
    shot = np.random.default_rng([seed, 4, anatomy, image])
    y, x = _grid(size)
    x = x + np.float32(shot.normal(0, 0.03))
    air = _ellipse(y, x, (-0.05, 0.0), (body.uniform(0.6, 0.7), body.uniform(0.42, 0.5)), 0.1)
    trunk = _ellipse(y, x, (0.3, 0.0), (1.5, 0.8), 0.06)
    picture = 0.08 + 0.62 * trunk - 0.4 * air + 0.25 * np.exp(-(((x - 0.5) / 0.12) ** 2)) * trunk
    heart = _ellipse(y, x, (0.3, -0.25), (0.3, 0.25), 0.1)
    picture += 0.25 * heart * air + _ribs(y, 0.5 * x, body) * trunk
    if opacity:
        picture += 0.8 * _opacities(y, 0.7 * x, shot, 1.0 - difficulty) * air
    picture += shot.normal(0, 0.03) + shot.normal(0, 0.025, picture.shape)
    return np.asarray(np.clip(picture, 0, 1), np.float32)


def disc(y: Plane, x: Plane, centre: tuple[float, float], radius: float, soft: float) -> Plane:
    """Draw a disc: 1 inside a circle and 0 outside, with an edge of `soft` radii.

    Args:
        y: Row of each pixel.
        x: Column of each pixel.
        centre: Row and column.
        radius: In the units of `y` and `x`.
        soft: Share of the radius over which it fades.
    """
    return _ellipse(y, x, centre, (radius, radius), soft)


def _ellipse(
    y: Plane, x: Plane, centre: tuple[float, float], radii: tuple[float, float], soft: float
) -> Plane:
    """Draw an ellipse: 1 inside, 0 outside, with an edge about `soft` wide."""
    radius = np.sqrt(((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2)
    return np.clip((1 - radius) / soft + 0.5, 0, 1).astype(np.float32)


def _ribs(y: Plane, x: Plane, body: np.random.Generator) -> Plane:
    arch = y - body.uniform(0.3, 0.5) * x**2
    ribs = np.sin(arch * body.uniform(20, 24) + body.uniform(0, 6.3)) ** 2
    return np.asarray(0.09 * ribs**2, np.float32)


def _opacities(y: Plane, x: Plane, shot: np.random.Generator, contrast: float) -> Plane:
    total = np.zeros(np.broadcast_shapes(y.shape, x.shape), np.float32)
    for _ in range(shot.integers(1, 4)):
        side, depth = shot.choice([-1.0, 1.0]), shot.uniform(-0.35, 0.3)
        across, radius = side * shot.uniform(0.28, 0.55), shot.uniform(0.12, 0.26)
        distance = (y - depth) ** 2 + (x - across) ** 2
        strength = contrast * shot.uniform(0.35, 0.6)
        total += np.asarray(strength * np.exp(-distance / (2 * radius**2)), np.float32)
    return total
