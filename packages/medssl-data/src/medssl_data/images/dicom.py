"""DICOM files -> 8-bit pictures as a viewer shows them (extra `medssl-data[dicom]`).

Modality LUT, then the window, then MONOCHROME1 is inverted. One frame a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medssl_data.errors import DataError, MissingExtraError, UnreadableImageError
from medssl_data.images.parallel import quietly

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from pydicom.dataset import Dataset

    from medssl_data.images.reading import Reading

    Values = npt.NDArray[np.float64]

__all__ = ["apply_window", "read_dicom"]

_NEEDS = "pip install 'medssl-data[dicom]'"


def read_dicom(path: Path, reading: Reading) -> tuple[Image.Image, str]:
    """Decode one DICOM file.

    Args:
        path: The file.
        reading: Limit of pixels, and a window in modality units that overrides the file's.

    Returns:
        A picture of mode L or RGB and the rule.

    Raises:
        MissingExtraError: The package pydicom or the decoder of a compressed file is not installed.
        UnreadableImageError: No pixels, several frames, too large, or damaged.
    """
    try:
        import pydicom
    except ImportError as error:
        message = f"{path} is DICOM: {_NEEDS}"
        raise MissingExtraError(message) from error
    try:
        with quietly():
            dataset = pydicom.dcmread(path)
            _check(path, dataset, reading)
            pixels = _decode(path, dataset)
            return _as_picture(dataset, pixels, reading)
    except (DataError, PermissionError):
        raise
    except Exception as error:  # its readers fail in any way on damaged files
        raise UnreadableImageError.of(path, f"cannot be decoded ({error})") from error


def _check(path: Path, dataset: Dataset, reading: Reading) -> None:
    if "PixelData" not in dataset:
        kind = getattr(dataset, "Modality", "") or "report"
        raise UnreadableImageError.of(path, f"is a DICOM {kind} without pixels", "leave it out")
    frames = int(getattr(dataset, "NumberOfFrames", 1) or 1)
    if frames > 1:
        advice = "export the frame that you mean as a file of its own"
        raise UnreadableImageError.of(path, f"holds {frames} frames", advice)
    reading.check_size(path, (int(dataset.Columns), int(dataset.Rows)))


def _decode(path: Path, dataset: Dataset) -> npt.NDArray[np.generic]:
    try:
        pixels: npt.NDArray[np.generic] = dataset.pixel_array
    except (RuntimeError, NotImplementedError, ImportError) as error:
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_compressed and "missing" in str(error).casefold():
            message = f"{path} is compressed ({syntax.name}) and needs a decoder: {_NEEDS}"
            raise MissingExtraError(message) from error
        raise UnreadableImageError.of(path, f"cannot be decoded ({error})") from error
    return pixels


def _as_picture(
    dataset: Dataset, pixels: npt.NDArray[np.generic], reading: Reading
) -> tuple[Image.Image, str]:
    from pydicom.pixels.processing import (
        apply_color_lut,
        apply_modality_lut,
    )

    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        coloured = apply_color_lut(pixels, dataset)
        top = 255.0 / np.iinfo(coloured.dtype).max
        return Image.fromarray((coloured[..., :3] * top).astype(np.uint8)), "palette -> RGB"
    if pixels.ndim == 3:
        if pixels.dtype != np.uint8:
            pixels = (pixels.astype(np.float64) / (2 ** (dataset.BitsStored - 8))).astype(np.uint8)
        return Image.fromarray(pixels), f"{photometric} -> RGB"
    values = np.asarray(apply_modality_lut(pixels, dataset), np.float64)
    shown, rule = _window(dataset, values, reading)
    if photometric == "MONOCHROME1":
        shown, rule = 1 - shown, f"{rule}; MONOCHROME1 inverted"
    return Image.fromarray(np.rint(shown * 255).astype(np.uint8)), f"DICOM {rule}"


def _window(dataset: Dataset, values: Values, reading: Reading) -> tuple[Values, str]:
    """Scale values in modality units to [0, 1]."""
    if reading.window is not None:
        low, high = reading.window
        return np.clip((values - low) / (high - low), 0, 1), f"window {low:g}..{high:g}"
    if dataset.get("VOILUTSequence"):
        from pydicom.pixels.processing import apply_voi

        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        table = apply_voi(values.astype(np.int64), dataset)
        return np.asarray(table, np.float64) / (2**bits - 1), "VOI LUT"
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        centre, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        return apply_window(values, centre, width, function), f"window {centre:g}/{width:g}"
    low, high = float(values.min()), float(values.max())
    return (values - low) / ((high - low) or 1.0), f"range {low:g}..{high:g}"


def apply_window(values: Values, centre: float, width: float, function: str = "LINEAR") -> Values:
    """Apply a window function of DICOM PS3.3 C.11.2.1.

    Args:
        values: Any shape, modality units.
        centre: Window centre.
        width: Window width; at least 1 for LINEAR, above 0 else.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        The same shape, in [0, 1].

    Raises:
        ValueError: A width or a function that the standard does not know.
    """
    if width <= 0 or (function == "LINEAR" and width < 1):
        message = f"window width {width:g} is too small"
        raise ValueError(message)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR":
        message = f"window function {function!r} is unknown"
        raise ValueError(message)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _first(value: float | str | Sequence[float]) -> float:
    """Convert a number, or the first of several."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return float(value[0])
    return float(value)
