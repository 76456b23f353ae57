"""What can be told of a picture without knowing what it shows: size, light, corners, scanner."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from medssl_data.errors import DataError
from medssl_data.images.decoding import read_image
from medssl_data.images.parallel import each, quietly

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from medssl_data.images.parallel import Progress
    from medssl_data.manifest import Manifest

__all__ = ["CONTENT", "Facts", "columns_of", "header_facts", "measure_picture", "measure_pictures"]

Facts = dict[str, float | str]
"""Name of a property to a number or a word."""

CONTENT = frozenset({"mean brightness", "contrast", "file size"})
"""Properties that a disease itself may change."""

_CORNERS = {
    "upper left": (0, 0),
    "upper right": (0, 1),
    "lower left": (1, 0),
    "lower right": (1, 1),
}
"""Whether a corner is down, and whether it is on the right."""

_HEADER = {
    "Manufacturer": "manufacturer",
    "ManufacturerModelName": "scanner",
    "InstitutionName": "institution",
    "ViewPosition": "view in the header",
    "PatientSex": "sex in the header",
    "PatientAge": "age in the header",
}
_AGE = re.compile(r"^0*(\d+)Y$")
"""An age in years, as DICOM writes it."""
_BRIGHT = 0.9
"""Share of white from which a pixel of a corner counts as burnt in."""


def measure_pictures(
    manifest: Manifest, rows: Sequence[int], progress: Progress | None = None
) -> list[Facts | None]:
    """Decode some pictures, measure each and read its header; None where one cannot be read.

    Args:
        manifest: The images.
        rows: Positions of the pictures.
        progress: Makes a progress display.
    """

    def measure(place: int) -> Facts | None:
        row = rows[place]
        try:
            if manifest.drawer is not None:
                return measure_picture(np.asarray(manifest.drawer(manifest.items[row])))
            path = manifest.root / manifest.paths[row]
            found = read_image(path, item=manifest.items[row], reading=manifest.reading)
        except DataError:
            return None
        return measure_picture(found.pixels) | header_facts(path)

    return list(each(measure, len(rows), "measuring pictures", progress))


def measure_picture(pixels: npt.NDArray[np.generic]) -> Facts:
    """Measure one picture.

    Args:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8 or uint16.

    Returns:
        Width, height and aspect in pixels; colour and depth in words; brightness and contrast of
        the whole, brightness of the edges (a twentieth on each side, where no finding lies), and
        the share of bright pixels in each corner (a fifth of each side), all in percent.

    Example:
        >>> facts = measure_picture(np.full((10, 20), 255, np.uint8))
        >>> facts["width"], facts["colour"], facts["brightness at the edges"]
        (20.0, 'grey', 100.0)
    """
    height, width = pixels.shape[:2]
    colour = pixels.ndim == 3
    channels = pixels.astype(np.float32)
    grey = channels.mean(axis=2) if colour else channels
    low, high = (0.0, 255.0) if pixels.dtype == np.uint8 else (grey.min(), grey.max())
    light = (grey - low) / max(float(high - low), 1.0)
    flat = colour and bool((pixels == pixels[..., :1]).all())
    margin, reach = max(1, min(height, width) // 20), max(1, min(height, width) // 5)
    inner = light[margin:-margin, margin:-margin]
    edges = (light.sum() - inner.sum()) / max(light.size - inner.size, 1)
    facts: Facts = {
        "width": float(width),
        "height": float(height),
        "aspect ratio": width / height,
        "colour": "grey" if flat or not colour else "colour",
        "depth": "8 bit" if pixels.dtype == np.uint8 else "16 bit",
        "mean brightness": 100 * float(light.mean()),
        "contrast": 100 * float(light.std()),
        "brightness at the edges": 100 * float(edges),
    }
    for name, (down, right) in _CORNERS.items():
        rows = slice(-reach, None) if down else slice(reach)
        columns = slice(-reach, None) if right else slice(reach)
        corner = light[rows, columns]
        facts[f"bright pixels in the {name} corner"] = 100 * float((corner > _BRIGHT).mean())
    return facts


def header_facts(path: Path) -> Facts:
    """Read what a DICOM file says of machine, place, view and person; nothing of other files."""
    try:
        with path.open("rb") as stream:
            if not stream.read(132).endswith(b"DICM"):
                return {}
        from pydicom import dcmread

        with quietly():
            header = dcmread(path, stop_before_pixels=True, specific_tags=[*_HEADER])
            found: Facts = {
                name: _AGE.sub(r"\1", str(header[tag].value))
                for tag, name in _HEADER.items()
                if tag in header and header[tag].value
            }
    except Exception:  # noqa: BLE001 - its readers fail in any way on damaged headers
        return {}
    return found


def columns_of(facts: Iterable[Mapping[str, float | str] | None]) -> dict[str, list[float | str]]:
    """Turn rows of facts into columns; a picture that cannot be read has none."""
    rows = list(facts)
    names = dict.fromkeys(name for row in rows if row for name in row)
    return {name: [row.get(name, "") if row else "" for row in rows] for name in names}
