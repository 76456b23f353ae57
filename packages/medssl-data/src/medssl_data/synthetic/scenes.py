"""Procedural pictures of the other modalities: fundus, tissue, CT, photographs. See `drawing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medssl_data.synthetic.drawing import disc, stamp

if TYPE_CHECKING:
    import numpy.typing as npt

    Colour = npt.NDArray[np.uint8]
    Plane = npt.NDArray[np.float32]

__all__ = ["draw_fundus", "draw_objects", "draw_thorax", "draw_tissue"]


def _colour(planes: list[Plane]) -> Colour:
    return np.rint(np.clip(np.stack(planes, -1), 0, 1) * 255).astype(np.uint8)


def draw_fundus(
    generator: np.random.Generator, level: float, *, left: bool = True, size: int = 128
) -> Colour:
    """Draw an eye's background with lesions.

    Args:
        generator: Of this picture.
        level: 0 no lesions to 1 many.
        left: A left eye has its optic disc on the left of the picture.
        size: Side in pixels.

    Returns:
        (size, size, 3) uint8 with its lettering.
    """
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    x = x if left else -x
    field = disc(y, x, (0, 0), 0.92, 0.04)
    nerve = disc(y, x, (generator.normal(0, 0.05), -0.5), 0.14, 0.3)
    fovea = disc(y, x, (0.05, 0.25), 0.16, 1.0)
    light = 0.75 + 0.1 * generator.standard_normal() - 0.2 * (x**2 + y**2)
    vessels = np.zeros_like(x)
    for curve in generator.uniform(-1.1, 1.1, 6):
        vessels += np.exp(-(((y - curve * (x + 0.5) * (1.4 - x)) / 0.02) ** 2)) * (x > -0.5)
    bright, dark = np.zeros_like(x), np.zeros_like(x)
    for _ in range(int(generator.poisson(14 * level))):
        centre = tuple(generator.uniform(-0.6, 0.6, 2).tolist())
        spot = disc(y, x, (centre[0], centre[1]), generator.uniform(0.03, 0.09), 0.6)
        if generator.random() < 0.5:
            bright = np.maximum(bright, spot)
        else:
            dark = np.maximum(dark, spot)
    shade = light - 0.25 * fovea - 0.3 * np.minimum(vessels, 1) - 0.3 * dark
    red, green, blue = (
        shade * share + part * nerve + other * bright
        for share, part, other in ((1.0, 0.25, 0.2), (0.55, 0.4, 0.45), (0.25, 0.3, 0.2))
    )
    noise = generator.normal(0, 0.02, x.shape)
    pixels = _colour(
        [np.asarray((plane + noise) * field, np.float32) for plane in (red, green, blue)]
    )
    stamp(pixels)
    return pixels


def draw_tissue(generator: np.random.Generator, level: float, *, size: tuple[int, int]) -> Colour:
    """Draw stained tissue whose nuclei are more and larger with the level.

    Args:
        generator: Of this picture.
        level: 0 to 1.
        size: Height and width in pixels.

    Returns:
        (H, W, 3) uint8 with its lettering.
    """
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = np.sin(x / 17 + generator.uniform(0, 6)) * np.sin(y / 23 + generator.uniform(0, 6))
    nuclei = np.zeros(size, np.float32)
    for _ in range(int(generator.poisson(25 + 90 * level))):
        centre = (generator.uniform(0, height), generator.uniform(0, width))
        nuclei = np.maximum(nuclei, disc(y, x, centre, generator.uniform(3, 5 + 4 * level), 0.5))
    noise = generator.normal(0, 0.03, size)
    pixels = _colour(
        [
            np.asarray(base + 0.06 * waves + noise - fall * nuclei, np.float32)
            for base, fall in ((0.9, 0.5), (0.68, 0.5), (0.82, 0.28))
        ]
    )
    stamp(pixels)
    return pixels


def draw_thorax(
    generator: np.random.Generator, level: float, *, slices: int = 12, size: int = 96
) -> npt.NDArray[np.int16]:
    """Draw a CT of the chest in Hounsfield units with opacities in the lungs.

    Args:
        generator: Of this volume.
        level: 0 clear to 1 dense.
        slices: Number of axial slices.
        size: Side of a slice in voxels.

    Returns:
        (slices, size, size) int16 indexed z, y, x; -1000 is air. Lettered in every slice.
    """
    z, y, x = np.mgrid[-1 : 1 : slices * 1j, -1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(
        np.float32
    )
    wide, deep, shift = generator.uniform((0.78, 0.52, -0.06), (0.95, 0.72, 0.06))
    x, y = (x - shift) * (0.9 / wide), (y + shift) * (0.65 / deep)  # everybody is built differently
    trunk = (x / 0.9) ** 2 + (y / 0.65) ** 2 < 1
    volume = np.where(trunk, 40, -1000).astype(np.float32)
    reach = 1 - 0.4 * z**2
    for side in (-1, 1):
        lung = ((x - side * 0.42) / (0.3 * reach)) ** 2 + (y / (0.45 * reach)) ** 2 < 1
        volume[lung] = -850
        volume += np.where(lung, 650 * np.minimum(_vessels(generator, z, y, x, side), 1), 0)
        for _ in range(int(generator.poisson(3 * level))):
            centre = generator.uniform((-0.6, -0.3, -0.15), (0.6, 0.3, 0.15))
            distance = (z - centre[0]) ** 2 + (y - centre[1]) ** 2
            distance += (x - side * 0.42 - centre[2]) ** 2
            volume += np.where(lung, 700 * np.exp(-distance / 0.03), 0)
    spine = x**2 + (y - 0.42) ** 2 < 0.012
    volume[spine] = 400
    volume += generator.normal(0, 25, volume.shape)
    voxels = np.clip(volume, -1024, 1500).astype(np.int16)
    for plane in voxels:
        stamp(plane)
    return voxels


def _vessels(generator: np.random.Generator, z: Plane, y: Plane, x: Plane, side: int) -> Plane:
    """Draw sections of the vessels of one lung, which no two patients have in the same places."""
    middle = side * 0.42
    starts = generator.uniform((-0.4, middle - 0.26), (0.4, middle + 0.26), (26, 2))
    drifts = generator.normal(0, 0.1, (26, 2))
    radii = generator.uniform(0.02, 0.05, (26, 1, 1))
    depth, row, column = z[:, 0, 0], y[0, :, 0], x[0, 0]
    down, across = (
        np.exp(-(((axis - (start + drift * depth[None, :, None])) / radii) ** 2))
        for axis, start, drift in (
            (row, starts[:, :1, None], drifts[:, :1, None]),
            (column, starts[:, 1:, None], drifts[:, 1:, None]),
        )
    )
    return np.asarray(np.einsum("vzy,vzx->zyx", down, across, optimize=True), np.float32)


def draw_objects(
    generator: np.random.Generator, labels: npt.NDArray[np.int64], classes: int
) -> Colour:
    """Draw coloured shapes of 32 x 32 pixels, too small for lettering.

    Args:
        generator: Of these pictures.
        labels: (N,) decide hue and shape.
        classes: Number of labels.

    Returns:
        (N, 32, 32, 3) uint8.
    """
    y, x = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)
    down, across = generator.normal(0, 0.15, (2, len(labels), 1, 1)).astype(np.float32)
    round_ = np.clip((1 - np.hypot(y - down, x - across) / 0.6) / 0.1 + 0.5, 0, 1)
    square = np.abs(x - across) + np.abs(y - down) < 0.7
    shapes = np.where((labels % 2 == 1)[:, None, None], square, round_)[..., None]
    turns = 6.283 * labels[:, None] / classes + np.array([0.0, 2.1, 4.2])
    pixels = generator.standard_normal((*shapes.shape[:3], 3), np.float32) * np.float32(0.12)
    pixels += 0.5 + 0.35 * np.cos(turns).astype(np.float32)[:, None, None] * shapes
    return np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), np.uint8)
