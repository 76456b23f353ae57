"""Draw and write the plans of `layouts`: PNG, JPEG, TIFF, 16-bit, MHA, DICOM and CIFAR records."""

from __future__ import annotations

import os
import pickle
import zlib
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from medssl_data.errors import MissingExtraError
from medssl_data.files import replacing, write_atomically
from medssl_data.images.parallel import watched
from medssl_data.synthetic.drawing import draw_lateral, draw_radiograph, stamp
from medssl_data.synthetic.layouts import LAYOUTS, Plan, Scene
from medssl_data.synthetic.scenes import draw_fundus, draw_objects, draw_thorax, draw_tissue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Literal

    import numpy.typing as npt

    from medssl_data.images.parallel import Progress

__all__ = ["write_layout"]

_SIDE = 128
_DIFFICULTY = 0.3
_SHARED = 24
"""Pictures of each kind and level that the many files of `--size full` share."""

_BLOCK = 1000
"""CIFAR records that are drawn at a time."""

_MOST_LINKS = 20_000
"""Links to one file; ext4 allows 65,000."""


def write_layout(
    name: str,
    directory: Path,
    *,
    size: Literal["small", "full"] = "small",
    seed: int = 0,
    archive: Literal["binary", "python"] = "binary",
    progress: Progress | None = None,
) -> int:
    """Write a synthetic stand-in of a data set; see `phantom.write_phantom`.

    Args:
        name: One of `LAYOUTS`.
        directory: The data set's own folder.
        size: "small" draws every file; the files of "full" are links to a few pictures.
        seed: Of everything that is drawn.
        archive: Which of the owner's two archives of CIFAR.
        progress: Makes a progress display.

    Returns:
        Number of images.

    Raises:
        MissingExtraError: DICOM files are part of the layout and pydicom is not installed.
    """
    layout = LAYOUTS[name]
    rows = layout.full if size == "full" else layout.small
    plan = layout.plan(rows, np.random.default_rng([seed, 7]))
    records = sum(len(labels) for labels, _ in plan.batches.values())
    with watched(progress, "drawing", len(plan.scenes) + records) as advance:
        _write_scenes(plan, directory, seed, share=size == "full", advance=advance)
        for batch, (path, (labels, leading)) in enumerate(plan.batches.items()):
            pixels = _records(labels, leading, [seed, 9, batch])
            write = _pickled if archive == "python" else _binary
            place = _python_path(path) if archive == "python" else path
            write_atomically(directory / place, write(pixels, labels, leading))
            advance(len(labels))
    for path, text in plan.tables.items():
        write_atomically(directory / path, text.encode())
    return len(plan.scenes) + records


def _write_scenes(
    plan: Plan, directory: Path, seed: int, *, share: bool, advance: Callable[[int], None]
) -> None:
    drawn: dict[tuple[str, float], list[Path]] = defaultdict(list)
    made: set[Path] = set()
    for number, scene in enumerate(plan.scenes):
        target = directory / scene.path
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        models = drawn[scene.kind + target.suffix, scene.level]
        if share and len(models) >= _SHARED:
            _link(models[number % _SHARED], target)
        else:
            _draw(scene, number, target, seed)
            models.append(target)
        advance(1)


def _link(model: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        if model.stat().st_nlink < _MOST_LINKS:
            os.link(model, target)
            return
    except OSError:  # no links on this file system
        pass
    write_atomically(target, model.read_bytes())


def _draw(scene: Scene, number: int, target: Path, seed: int) -> None:
    generator = np.random.default_rng([seed, 8, number])
    if scene.kind == "thorax":
        voxels = draw_thorax(generator, scene.level)
        grain = 1600 * _grain(seed, number, voxels.shape[1])
        write_atomically(
            target, _mha(np.where(voxels < -950, voxels, voxels + grain).astype("<i2"))
        )
    elif scene.kind == "tissue":
        _save(draw_tissue(generator, scene.level, size=(144, 192)), target)
    elif scene.kind in {"left", "right"}:
        left = scene.kind == "left"
        eye = draw_fundus(generator, scene.level, left=left, size=_SIDE).astype(np.float32)
        grain = 220 * _grain(seed, number, _SIDE)[..., None] * (eye > 25)
        _save(np.clip(eye + grain, 0, 255).astype(np.uint8), target)
    else:
        _draw_radiograph(scene, number, target, seed)


def _draw_radiograph(scene: Scene, number: int, target: Path, seed: int) -> None:
    draw = draw_lateral if scene.kind == "lateral" else draw_radiograph
    plane = draw(
        scene.patient,
        number,
        opacity=scene.level > 0,
        difficulty=1 - (1 - _DIFFICULTY) * max(scene.level, 0.01),
        seed=seed,
        size=_SIDE,
    )
    plane = np.clip(plane + _grain(seed, number, _SIDE), 0, 1)
    if scene.kind == "deep":
        deep = np.rint(plane * 4095).astype(np.uint16)
        stamp(deep)
        _save(deep, target)
    elif scene.kind == "dicom":
        deep = np.rint((1 - plane) * 4095).astype(np.uint16)
        stamp(deep)
        _save_dicom(deep, target, scene.patient)
    else:
        grey = np.rint(plane * 255).astype(np.uint8)
        stamp(grey)
        _save(grey, target)


def _grain(seed: int, number: int, size: int) -> npt.NDArray[np.float32]:
    """Draw soft structure of one picture alone, (size, size), as vessels and bones have.

    Without it two patients of few random numbers look like one picture twice.
    """
    coarse = np.random.default_rng([seed, 10, number]).normal(0, 0.05, (size // 4, size // 4))
    soft = Image.fromarray(coarse.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(soft, np.float32)


def _save(pixels: npt.NDArray[np.uint8 | np.uint16], target: Path) -> None:
    with replacing(target) as draft:
        Image.fromarray(pixels).save(draft, quality=92)  # JPEG's; others pass it over


def _mha(voxels: npt.NDArray[np.int16]) -> bytes:
    """Make a MetaImage file: a text header and the voxels, indexed z, y, x."""
    depth, height, width = voxels.shape
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        "ElementSpacing = 3.5 3.5 20\nComment = SYNTHETIC PHANTOM\n"
        f"DimSize = {width} {height} {depth}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return header.encode() + voxels.astype("<i2").tobytes()


def _save_dicom(pixels: npt.NDArray[np.uint16], target: Path, patient: int) -> None:
    """Write a 12-bit MONOCHROME1 radiograph, as digital X-ray machines do."""
    try:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import (
            UID,
            DigitalXRayImageStorageForPresentation,
            ExplicitVRLittleEndian,
        )
    except ImportError as error:
        message = "this layout has DICOM files: pip install 'medssl-data[dicom]'"
        raise MissingExtraError(message) from error
    unique = UID(f"1.2.826.0.1.3680043.8.498.{patient}.{zlib.crc32(target.name.encode())}")
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = unique
    data = FileDataset(str(target), {}, file_meta=meta, preamble=b"\0" * 128)
    data.PatientName, data.PatientID = "Synthetic^Phantom", f"P{patient:04d}"
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, unique
    data.Modality, data.ImageComments = "DX", "SYNTHETIC PHANTOM"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME1"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = pixels.tobytes()
    with replacing(target) as draft:
        data.save_as(draft, enforce_file_format=True)


def _records(labels: list[int], leading: int, seed: list[int]) -> npt.NDArray[np.uint8]:
    """Draw (N, 3072) pixels of CIFAR records, each for itself."""
    classes = 10 if leading == 1 else 100
    blocks = range(0, len(labels), _BLOCK)
    drawn = [
        draw_objects(
            np.random.default_rng([*seed, start]), np.array(labels[start : start + _BLOCK]), classes
        )
        for start in blocks
    ]
    return np.concatenate(drawn).transpose(0, 3, 1, 2).reshape(len(labels), -1)


def _binary(pixels: npt.NDArray[np.uint8], labels: list[int], leading: int) -> bytes:
    """Put one label byte, or a coarse and a fine one, before the pixels of each record."""
    fine = np.array(labels, np.uint8)[:, None]
    return np.hstack([*([fine // 5] if leading == 2 else []), fine, pixels]).tobytes()


def _pickled(pixels: npt.NDArray[np.uint8], labels: list[int], leading: int) -> bytes:
    """Pickle what the owner's Python archive holds, as Python 2 did."""
    coarse = [label // 5 for label in labels]
    named = (
        {b"labels": labels} if leading == 1 else {b"fine_labels": labels, b"coarse_labels": coarse}
    )
    return pickle.dumps({b"data": pixels} | named, protocol=2)


def _python_path(path: str) -> str:
    """Return the place in the Python archive of a batch of the binary one."""
    folder, _, name = path.partition("/")
    twin = {"cifar-10-batches-bin": "cifar-10-batches-py", "cifar-100-binary": "cifar-100-python"}
    return f"{twin[folder]}/{name.removesuffix('.bin')}"
