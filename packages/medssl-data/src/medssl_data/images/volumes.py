"""One slice of a volume (MHA, NRRD, NIfTI) -> an 8-bit picture (extra `medssl-data[volumes]`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from medssl_data.errors import MissingExtraError, UnreadableImageError
from medssl_data.images.volume_headers import check_header

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from medssl_data.images.reading import Reading

__all__ = ["read_slice", "slice_index", "to_bytes"]

_AXES = "xyz"


def read_slice(path: Path, reading: Reading) -> tuple[Image.Image, str]:
    """Cut one slice out of a volume.

    Volumes whose axes are not those of the patient are turned to LPS first, unless the reading
    is `transposed`; sagittal and coronal slices show the head above.

    Args:
        path: The file.
        reading: Axis, position, window and transposition.

    Returns:
        A picture of mode L and the rule. Grey is truncated to whole numbers, as in the study.

    Raises:
        MissingExtraError: SimpleITK is not installed.
        UnreadableImageError: No volume, no slices, no such slice, or damaged.
    """
    try:
        values, index = _cut(path, reading)
        window = reading.window or (float(values.min()), float(values.max()))
        grey = to_bytes(values, window)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        reason = str(error).strip().splitlines()[-1]
        raise UnreadableImageError.of(path, f"cannot be decoded ({reason})") from error
    rule = f"slice {_AXES[reading.axis]}={index}, window {window[0]:g}..{window[1]:g}"
    if reading.transposed:
        return Image.fromarray(np.ascontiguousarray(grey.T)), f"{rule}, transposed"
    return Image.fromarray(grey if reading.axis == 2 else np.flipud(grey).copy()), rule


def _cut(path: Path, reading: Reading) -> tuple[npt.NDArray[np.float64], int]:
    try:
        toolkit: Any = import_module("SimpleITK")
    except ImportError as error:
        message = f"{path} is a volume: pip install 'medssl-data[volumes]'"
        raise MissingExtraError(message) from error
    reader = toolkit.ImageFileReader()
    reader.SetImageIO(check_header(path))
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = list(reader.GetSize())
    if len(size) != 3 or reader.GetNumberOfComponents() != 1:
        message = f"{path} has {len(size)} dimensions; a volume needs 3 and one channel"
        raise UnreadableImageError(message)
    if _is_upright(reader.GetDirection()) or reading.transposed:
        index = slice_index(path, size[reading.axis], reading.position)
        width, height = (length for axis, length in enumerate(size) if axis != reading.axis)
        reading.check_size(path, (width, height), "slices of ")
        start = [0, 0, 0]
        start[reading.axis], size[reading.axis] = index, 0
        reader.SetExtractIndex(start)
        reader.SetExtractSize(size)
        return toolkit.GetArrayFromImage(reader.Execute()).astype(np.float64), index
    volume = toolkit.DICOMOrient(reader.Execute(), "LPS")
    array = toolkit.GetArrayViewFromImage(volume)  # indexed z, y, x
    index = slice_index(path, array.shape[2 - reading.axis], reading.position)
    return array.take(index, 2 - reading.axis).astype(np.float64), index


def _is_upright(direction: tuple[float, ...]) -> bool:
    return bool(np.allclose(direction, np.eye(3).ravel(), atol=1e-3))


def slice_index(path: Path, length: int, position: float) -> int:
    """Compute the index of a slice: floor(fraction x length), or the index itself.

    Args:
        path: For messages.
        length: Number of slices along the axis.
        position: A float in [0, 1] is a fraction, an int an index.

    Raises:
        UnreadableImageError: No slices, or none there.
    """
    if length == 0:
        raise UnreadableImageError.of(path, "has no slices")
    index = min(int(position * length), length - 1) if isinstance(position, float) else position
    if not 0 <= index < length:
        message = f"{path} has {length} slices and none at {position}; choose another position"
        raise UnreadableImageError(message)
    return index


def to_bytes(values: npt.NDArray[np.float64], window: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Clip to a window and scale to 0..255, truncated: -500 in -1000..250 becomes 102.

    Args:
        values: (H, W) in the volume's own units.
        window: Values that become black and white.

    Raises:
        ValueError: NaN or infinite values.
    """
    if not np.isfinite(values).all():
        message = "NaN or infinite values"
        raise ValueError(message)
    low, high = window
    scaled = (np.clip(values, low, high) - low) / ((high - low) or 1.0)
    return np.asarray(scaled * 255).astype(np.uint8)
