"""Headers of volumes, read before a native library sees the file.

A header says how many bytes follow, and may say that they lie in another file. What is passed on
from here has sizes that fit its file, finite geometry, and its values in the file itself or in a
plain file beside it: no path, no pattern, no list, no link that leads elsewhere.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np

from medssl_data.errors import UnreadableImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from io import BufferedIOBase
    from pathlib import Path

__all__ = ["check_header"]

_HEADER_BYTES = 2**16
_LARGEST = 2**32
"""Bytes of a volume: a thousand slices of 1,024 x 1,024 voxels of 32 bits."""
_DEFLATE = 1032
"""The most that a byte of deflate can stand for."""
_GZIP = b"\x1f\x8b"
_PIECE = 2**20
_NUMBER = re.compile(r"[-+]?[0-9.]{1,40}([eE][-+]?[0-9]{1,2})?")
_AGAIN = "write it again, as one file of binary values"

_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
_META_TRUE = dict.fromkeys(("True", "true", "T", "1"), 1)
_META_TRUTH = _META_TRUE | dict.fromkeys(("False", "false", "F", "0"), 0)
_META_GEOMETRY = {
    *("TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin"),
    *("ElementSpacing", "ElementSize", "CenterOfRotation"),
}
_NRRD_BYTES = {
    **dict.fromkeys(("char", "signed char", "int8", "int8_t", "uchar", "unsigned char"), 1),
    **dict.fromkeys(("uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "float"), 4),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t", "double"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t"), 8),
}
_NRRD_GEOMETRY = {"spacedirections", "spaceorigin", "spacings", "thicknesses", "axismins"}
_NIFTI_BYTES = {  # signed and unsigned whole numbers, then floats
    2: 1,
    256: 1,
    4: 2,
    512: 2,
    8: 4,
    768: 4,
    16: 4,
    64: 8,
    1024: 8,
    1280: 8,
}
_NIFTI_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True)
class _Values:
    """Where a header says that the values are.

    Args:
        sizes: Voxels along each axis.
        voxel: Bytes of a voxel.
        file: What holds them.
        start: Where they begin in it; for compressed ones, where their stream begins.
        compressed: By deflate.
        whole: The whole file is compressed, its header too, and `start` counts unpacked bytes.
        floats: NumPy's name of their kind, where they have to be finite; else "".
    """

    sizes: tuple[int, ...]
    voxel: int
    file: Path
    start: int = 0
    compressed: bool = False
    whole: bool = False
    floats: str = ""


def check_header(path: Path) -> str:
    """Refuse a volume whose header does not fit its file, or leads out of its folder.

    Args:
        path: MHA, MHD, NRRD, NHDR or NIfTI, by its suffix.

    Returns:
        The name of ITK's reader for it.

    Raises:
        UnreadableImageError: The header is damaged, says what cannot be, or names another file
            than a plain one beside it.
    """
    name = path.name.casefold()
    kind = next(kind for kind in _KINDS if name.endswith(kind.suffixes))
    values = kind.read(path)
    count = math.prod(values.sizes) * values.voxel
    found = values.file.stat()
    available = found.st_size - (0 if values.whole else values.start)
    if count > _LARGEST:
        reason = f"has {count:,} bytes of voxels, more than the limit of {_LARGEST:,}"
        raise UnreadableImageError.of(path, reason)
    if count > available * (_DEFLATE if values.compressed else 1):
        reason = f"holds fewer voxels than its header says ({' x '.join(map(str, values.sizes))})"
        raise UnreadableImageError.of(path, reason)
    if values.whole or values.floats:
        _look_through(values, found.st_size, found.st_mtime_ns)
    return kind.reader


@dataclass(frozen=True)
class _Fields:
    """The text fields of a header; what is asked for is checked, or the volume is refused."""

    path: Path
    kind: str
    texts: Mapping[str, str]

    def refuse(self, key: str) -> NoReturn:
        """Say which field is at fault.

        Raises:
            UnreadableImageError: Always.
        """
        raise UnreadableImageError.of(self.path, f"is not a {self.kind} ({key})", _AGAIN)

    def whole(self, key: str, *, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number within bounds."""
        text = self.texts.get(key, "" if default is None else str(default))
        if not re.fullmatch(r"-?[0-9]{1,12}", text) or not low <= int(text) <= high:
            self.refuse(key)
        return int(text)

    def sizes(self, key: str, axes: int) -> tuple[int, ...]:
        """Return one size for each axis; 0 is a volume without slices."""
        words = self.texts.get(key, "").split()
        if len(words) != axes or not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
            self.refuse(key)
        return tuple(map(int, words))

    def among(self, key: str, table: Mapping[str, int], default: str = "") -> int:
        """Return what a table has for the field's text."""
        text = self.texts.get(key, default)
        if text not in table:
            self.refuse(key)
        return table[text]

    def check_finite(self, *keys: str) -> None:
        """Refuse numbers that are infinite or none."""
        for key in keys:
            words = re.split(r"[\s,()]+", self.texts.get(key, "").replace("none", ""))
            if not all(_NUMBER.fullmatch(word) for word in words if word):
                self.refuse(key)

    def beside(self, key: str) -> Path:
        """Return the plain file in the header's own folder that a field names."""
        name = self.texts[key]
        file = self.path.parent / name
        words = {"LIST", "."}
        if "%" in name or "/" in name or "\\" in name or name.partition(" ")[0] in words:
            self.refuse(key)
        if not file.is_file() or file.resolve().parent != self.path.parent.resolve():
            reason = f"keeps its voxels in {name!r}, which is no plain file beside it"
            raise UnreadableImageError.of(self.path, reason)
        return file


# ------------------------------------------------------------------------------------- MetaImage


def _metaimage(path: Path) -> _Values:
    texts, place = _metaimage_texts(path)
    fields = _Fields(path, "binary MetaImage", texts)
    axes = fields.whole("NDims", low=1, high=9)
    fields.among("BinaryData", _META_TRUE)
    fields.check_finite(*_META_GEOMETRY)
    channels = fields.whole("ElementNumberOfChannels", low=1, high=64, default=1)
    values = _Values(
        sizes=fields.sizes("DimSize", axes),
        voxel=channels * fields.among("ElementType", _META_BYTES),
        file=path,
        start=place,
        compressed=bool(fields.among("CompressedData", _META_TRUTH, "False")),
    )
    # -1 says that the values are the end of the file.
    skipped = max(0, fields.whole("HeaderSize", low=-1, high=_LARGEST, default=0))
    if texts["ElementDataFile"].casefold() == "local":
        return replace(values, start=place + skipped)
    return replace(values, file=fields.beside("ElementDataFile"), start=skipped)


def _metaimage_texts(path: Path) -> tuple[dict[str, str], int]:
    """Read `Key = Value` lines up to the one that names the values, and where that ends."""
    texts: dict[str, str] = {}
    place = 0
    for line in _head(path).splitlines(keepends=True):
        place += len(line)
        match = re.fullmatch(rb"[ \t]*(\w+)[ \t]*[=:][ \t]*([^\r\n]*?)[ \t]*\r?\n", line)
        key, value = (part.decode("latin-1") for part in match.groups()) if match else ("", "")
        if not key or key in texts:
            _Fields(path, "binary MetaImage", texts).refuse(repr(line[:40].decode("latin-1")))
        texts[key] = value
        if key == "ElementDataFile":
            return texts, place
    return _Fields(path, "binary MetaImage", texts).refuse("ElementDataFile")


# ------------------------------------------------------------------------------------------ NRRD


def _nrrd(path: Path) -> _Values:
    texts, place = _nrrd_texts(path)
    fields = _Fields(path, "NRRD volume", texts)
    axes = fields.whole("dimension", low=1, high=16)
    fields.check_finite(*_NRRD_GEOMETRY)
    fields.whole("lineskip", low=0, high=0, default=0)
    skipped = max(0, fields.whole("byteskip", low=-1, high=_LARGEST, default=0))
    values = _Values(
        sizes=fields.sizes("sizes", axes),
        voxel=fields.among("type", _NRRD_BYTES),
        file=path,
        start=place,
        compressed=bool(fields.among("encoding", {"raw": 0, "gzip": 1, "gz": 1})),
    )
    if "datafile" in texts:
        values = replace(values, file=fields.beside("datafile"), start=0)
    return values if values.compressed else replace(values, start=values.start + skipped)


def _nrrd_texts(path: Path) -> tuple[dict[str, str], int]:
    """Read `field: value` lines up to an empty one, and where that ends; names without blanks."""
    texts: dict[str, str] = {}
    lines = _head(path).splitlines(keepends=True)
    refuse = _Fields(path, "NRRD volume", texts).refuse
    if not lines or not re.fullmatch(rb"NRRD000[1-6]\r?\n", lines[0]):
        refuse("its first line")
    place = len(lines[0])
    for line in lines[1:]:
        place += len(line)
        text = line.decode("latin-1").strip()
        if not text and line.endswith(b"\n"):
            return texts, place
        if text.startswith("#") or ":=" in text:
            continue
        key, colon, value = text.partition(":")
        key = key.casefold().replace(" ", "")
        if not colon or key in texts:
            refuse(repr(text[:40]))
        texts[key] = value.strip().casefold() if key != "datafile" else value.strip()
    if "datafile" not in texts:
        refuse("the empty line behind the header")
    return texts, place


# ----------------------------------------------------------------------------------------- NIfTI


def _nifti(path: Path) -> _Values:
    """Read the header; all values are to be finite, for ITK makes zeros of others."""
    with _unpacked(path) as file:
        head = file.read(540)
    fields = _Fields(path, "NIfTI volume", {})
    found = next((form for form in _NIFTI_FORMS if form.fits(head)), None)
    if found is None:
        fields.refuse("its first bytes")
    order, form = found.order(head), found
    axes, *lengths = struct.unpack_from(f"{order}8{form.whole}", head, form.sizes)
    if not 1 <= axes <= 7 or min(lengths[:axes]) < 0:
        fields.refuse("dim")
    (kind,) = struct.unpack_from(f"{order}h", head, form.kind)
    if kind not in _NIFTI_BYTES:
        fields.refuse("datatype")
    for name, (place, layout) in form.geometry.items():
        if not all(map(math.isfinite, struct.unpack_from(order + layout, head, place))):
            fields.refuse(name)
    start = int(struct.unpack_from(order + form.start[1], head, form.start[0])[0])
    if not form.length <= start <= _LARGEST:
        fields.refuse("vox_offset")
    sizes = tuple(lengths[: int(axes)])
    floats = order + _NIFTI_FLOATS[kind] if kind in _NIFTI_FLOATS else ""
    packed = _is_gzip(path)
    return _Values(
        sizes, _NIFTI_BYTES[kind], path, start, compressed=packed, whole=packed, floats=floats
    )


@dataclass(frozen=True)
class _NiftiForm:
    """Where a version of the format keeps what is checked here."""

    length: int
    magic: tuple[int, bytes]
    kind: int
    sizes: int
    whole: str
    start: tuple[int, str]
    geometry: Mapping[str, tuple[int, str]]

    def order(self, head: bytes) -> str:
        """Return the byte order in which the header begins with its own length; "" for none."""
        return next((o for o in "<>" if head[:4] == struct.pack(f"{o}i", self.length)), "")

    def fits(self, head: bytes) -> bool:
        """Tell whether a header has this form, values in the same file."""
        place, magic = self.magic
        return bool(self.order(head)) and head[place:].startswith(magic)


_NIFTI_FORMS = (
    _NiftiForm(
        348, (344, b"n+1\0"), 70, 40, "h", (108, "f"),
        {"pixdim": (76, "8f"), "scl_slope": (112, "2f"), "srow": (256, "18f")},
    ),
    _NiftiForm(
        540, (4, b"n+2\0\r\n\x1a\n"), 12, 16, "q", (168, "q"),
        {"pixdim": (104, "8d"), "scl_slope": (176, "2d"), "srow": (352, "18d")},
    ),
)  # fmt: skip


@lru_cache(maxsize=256)
def _look_through(values: _Values, size: int, changed: int) -> None:
    """Read a compressed file to its end, and floats for values that are none.

    Once for each volume, not for each slice of it, as long as its size and time stay.
    """
    del size, changed
    left = math.prod(values.sizes) * values.voxel
    with _unpacked(values.file) as file:
        file.read(values.start)
        while left > 0:
            piece = file.read(min(left, _PIECE))
            if not piece:
                _Fields(values.file, "NIfTI volume", {}).refuse("it ends too early")
            left -= len(piece)
            if values.floats and not np.isfinite(np.frombuffer(piece, values.floats)).all():
                reason = "cannot be decoded (NaN or infinite values)"
                raise UnreadableImageError.of(values.file, reason)
        file.read(1)  # a stream's checksum is compared at its end


# ---------------------------------------------------------------------------------------- reading


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)


def _is_gzip(path: Path) -> bool:
    return _head(path).startswith(_GZIP)


@contextmanager
def _unpacked(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file, through gzip where it is packed; damage is one error."""
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UnreadableImageError.of(path, f"cannot be decoded ({error})") from error


class _Kind(NamedTuple):
    suffixes: tuple[str, ...]
    reader: str
    read: Callable[[Path], _Values]


_KINDS = (
    _Kind((".mha", ".mhd"), "MetaImageIO", _metaimage),
    _Kind((".nrrd", ".nhdr"), "NrrdImageIO", _nrrd),
    _Kind((".nii", ".nii.gz"), "NiftiImageIO", _nifti),
)
