"""Does anything stand on two sides of a split? Patients, identical files, near-duplicates."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from medssl_data.errors import LeakError, UnreadableImageError
from medssl_data.preview import tile_sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from medssl_data.dataset import ImageDataset

    Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    Thumbnails = npt.NDArray[np.uint8]

__all__ = [
    "Leak",
    "LeakReport",
    "find_leaks",
    "leak_sheet",
    "perceptual_hash",
    "report_leaks",
]

_SIDE = 32
_HAMMING = 14
"""Bits of 64 in which near-duplicates may differ: a wide net, which `_CORRELATION` empties."""

_CORRELATION = 0.97
"""Least correlation of the detail of two thumbnails; re-encoded pictures reach 0.99."""

_BLOCK = 2048


@dataclass(frozen=True)
class Leak:
    """Two images that should not stand on two sides.

    Args:
        kind: what they share.
        what: the patient, or the likeness.
        left: id of an image.
        right: id of the other.
        sides: their splits.
    """

    kind: Literal["patient", "identical", "near-duplicate"]
    what: str
    left: str
    right: str
    sides: tuple[str, str]


@dataclass(frozen=True)
class LeakReport:
    """What an audit of splits found.

    Args:
        name: the data set.
        split_policy: how it was split.
        patients: patients that were compared; 0 where none are known.
        leaks: what was found.
        skipped: images that could not be read.
    """

    name: str
    split_policy: str
    patients: int
    leaks: tuple[Leak, ...]
    skipped: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The report as JSON."""
        return asdict(self) | {"counts": self.counts()}

    def counts(self) -> dict[str, int]:
        """Number of leaks of each kind."""
        kinds = ("patient", "identical", "near-duplicate")
        return {kind: sum(leak.kind == kind for leak in self.leaks) for kind in kinds}


def find_leaks(
    data: ImageDataset, *, pixels: bool = True, progress: Progress | None = None
) -> LeakReport:
    """Compare the splits of a data set.

    Args:
        data: with splits; rows without one are left out.
        pixels: also decode the images and look for near-duplicates.
        progress: makes a progress display.

    Raises:
        LeakError: there are fewer than two splits to compare.
    """
    manifest = data.manifest
    if len(set(manifest.splits) - {""}) < 2:
        msg = f"{data.name} has fewer than two splits; choose some with --split"
        raise LeakError(msg)
    leaks = list(_patients(data))
    skipped: list[str] = []
    if manifest.drawer is None:
        leaks += _identical(data)
    if pixels:
        thumbnails = _thumbnails(data, progress)
        skipped = [data.ids[i] for i, found in enumerate(thumbnails) if found is None]
        known = {frozenset((leak.left, leak.right)) for leak in leaks if leak.kind == "identical"}
        leaks += [
            leak
            for leak in _near(data, thumbnails)
            if frozenset((leak.left, leak.right)) not in known
        ]
    patients = len(set(data.groups) - {""})
    return LeakReport(data.name, manifest.split_policy, patients, tuple(leaks), tuple(skipped))


def report_leaks(reports: Sequence[LeakReport]) -> None:
    """Fail where a leak was found.

    Raises:
        LeakError: names the kinds, their numbers, an example and the remedy.
    """
    for report in reports:
        if report.leaks:
            first = report.leaks[0]
            found = ", ".join(f"{count} {kind}" for kind, count in report.counts().items() if count)
            msg = (
                f"{report.name} leaks between its splits ({found}), such as {first.left} in "
                f"{first.sides[0]} and {first.right} in {first.sides[1]}; split with "
                "`medssl-data split --split patient` and remove duplicates"
            )
            raise LeakError(msg)


def leak_sheet(data: ImageDataset, leaks: Sequence[Leak], *, most: int = 40) -> Image.Image:
    """Draw the pairs of pictures side by side, near-duplicates first.

    Args:
        data: the images.
        leaks: what was found.
        most: pairs to draw.
    """
    order = {"near-duplicate": 0, "identical": 1, "patient": 2}
    place = {ident: index for index, ident in enumerate(data.ids)}
    rows = [
        [
            (_drawn(data, place[ident]), f"{side} | {ident}")
            for ident, side in zip((leak.left, leak.right), leak.sides, strict=True)
        ]
        for leak in sorted(leaks, key=lambda leak: order[leak.kind])[:most]
    ]
    return tile_sheet(rows, f"{data.name}: {len(leaks)} leaks between splits")


def _drawn(data: ImageDataset, index: int) -> Image.Image:
    try:
        return data.image(index)
    except UnreadableImageError:
        return Image.new("RGB", (_SIDE, _SIDE), "red")


def _patients(data: ImageDataset) -> Iterator[Leak]:
    """One leak for each patient and pair of splits."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for ident, group, split in zip(data.ids, data.groups, data.splits, strict=True):
        if group and split:
            seen[group].setdefault(split, ident)
    for group, sides in seen.items():
        first, *others = sides.items()
        for split, ident in others:
            yield Leak("patient", group, first[1], ident, (first[0], split))


def _identical(data: ImageDataset) -> Iterator[Leak]:
    """Byte-identical files in two splits; only files of equal size are read."""
    manifest = data.manifest
    by_size: dict[tuple[int, str], list[int]] = defaultdict(list)
    for index, (size, item, split) in enumerate(
        zip(manifest.sizes, manifest.items, manifest.splits, strict=True)
    ):
        if size > 0 and split and not item:
            by_size[size, ""].append(index)
    for indices in by_size.values():
        if len({manifest.splits[index] for index in indices}) > 1:
            yield from _same_bytes(data, indices)


def _same_bytes(data: ImageDataset, indices: Sequence[int]) -> Iterator[Leak]:
    first: dict[str, int] = {}
    for index in indices:
        path = data.manifest.root / data.manifest.paths[index]
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        other = first.setdefault(digest, index)
        if data.splits[other] != data.splits[index]:
            sides = (data.splits[other], data.splits[index])
            yield Leak("identical", digest[:16], data.ids[other], data.ids[index], sides)


def _thumbnails(
    data: ImageDataset, progress: Progress | None
) -> list[npt.NDArray[np.uint8] | None]:
    """(32, 32) grey thumbnails; None where an image cannot be read."""

    def thumbnail(index: int) -> npt.NDArray[np.uint8] | None:
        try:
            picture = data.image(index)
        except UnreadableImageError:
            return None
        small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2)
        return np.asarray(small)

    display = progress("hashing", len(data)) if progress else nullcontext(_ignore)
    found = []
    with display as advance, ThreadPoolExecutor() as pool:
        for small in pool.map(thumbnail, range(len(data))):
            found.append(small)
            advance(1)
    return found


def _ignore(n: int) -> None:
    del n


def perceptual_hash(thumbnails: Thumbnails) -> npt.NDArray[np.uint64]:
    """64 bits that stay nearly the same when a picture is re-encoded, resized or brightened.

    The signs of the 8 x 8 lowest cosine frequencies, without the mean, against their median.

    Args:
        thumbnails: (N, 32, 32) uint8 grey.

    Returns:
        (N,) uint64.
    """
    steps = (2 * np.arange(_SIDE) + 1) * np.pi / (2 * _SIDE)
    cosines = np.cos(np.arange(9)[:, None] * steps).astype(np.float32)
    spectrum = np.einsum("ui,nij,vj->nuv", cosines, thumbnails.astype(np.float32), cosines)
    low = spectrum.reshape(len(thumbnails), 81)[:, 1:65]
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _near(data: ImageDataset, thumbnails: Sequence[npt.NDArray[np.uint8] | None]) -> Iterator[Leak]:
    indices = [i for i, t in enumerate(thumbnails) if t is not None and data.splits[i]]
    if not indices:
        return
    stack = np.stack([small for i in indices if (small := thumbnails[i]) is not None])
    hashes, detail = perceptual_hash(stack), _detail(stack)
    sides = np.array([data.splits[i] for i in indices])
    for left, right in _close(hashes, sides):
        likeness = float(detail[left] @ detail[right])
        if likeness >= _CORRELATION:
            ids = data.ids[indices[left]], data.ids[indices[right]]
            splits = str(sides[left]), str(sides[right])
            yield Leak("near-duplicate", f"correlation {likeness:.3f}", *ids, splits)


def _detail(stack: Thumbnails) -> npt.NDArray[np.float32]:
    """Unit vectors of what a thumbnail has beyond its blurred self, (N, 1024)."""
    values = stack.astype(np.float32)
    coarse = values.reshape(-1, 8, 4, 8, 4).mean((2, 4)).repeat(4, 1).repeat(4, 2)
    flat = (values - coarse).reshape(len(stack), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-6), np.float32)


def _close(
    hashes: npt.NDArray[np.uint64], sides: npt.NDArray[np.str_]
) -> Iterator[tuple[int, int]]:
    """Pairs of rows in different splits whose hashes differ in few bits."""
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32) * 2 - 1
    least = 64 - 2 * _HAMMING  # the product of two +-1 vectors that differ in that many places
    for start in range(0, len(hashes), _BLOCK):
        block = slice(start, start + _BLOCK)
        close = bits[block] @ bits[start:].T >= least
        close &= sides[block][:, None] != sides[start:][None]
        for row, column in np.argwhere(close):
            if column > row:
                yield start + int(row), start + int(column)
