"""Does anything stand on two sides of a split? Patients, identical files, near-duplicates."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from medssl_data.errors import LeakError, MissingFileError, UnreadableImageError
from medssl_data.files import sha256_of
from medssl_data.images.parallel import each
from medssl_data.images.preview import draw_row, tile_sheet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from medssl_data.dataset import ImageDataset
    from medssl_data.images.parallel import Progress

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
_HAMMING = 10
"""Bits of 64 in which near-duplicates may differ: a wide net, which `_CORRELATION` empties."""

_CORRELATION = 0.97
"""Least correlation of the detail of two thumbnails; re-encoded pictures reach 0.99."""

_BLOCK = 2048


@dataclass(frozen=True)
class Leak:
    """Two images that should not stand on two sides.

    Args:
        kind: What they share.
        what: The patient, or the likeness.
        left: Id of an image.
        right: Id of the other.
        sides: Their splits.
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
        name: The data set.
        split_policy: How it was split.
        patients: Patients that were compared; 0 where none are known.
        leaks: What was found.
        skipped: Images that could not be read.
    """

    name: str
    split_policy: str
    patients: int
    leaks: tuple[Leak, ...]
    skipped: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON holds it."""
        return asdict(self) | {"counts": self.counts()}

    def counts(self) -> dict[str, int]:
        """Count the leaks of each kind."""
        kinds = ("patient", "identical", "near-duplicate")
        return {kind: sum(leak.kind == kind for leak in self.leaks) for kind in kinds}


def find_leaks(
    data: ImageDataset, *, pixels: bool = True, progress: Progress | None = None
) -> LeakReport:
    """Compare the splits of a data set.

    Args:
        data: With splits; rows without one are left out.
        pixels: Also decode the images and look for near-duplicates.
        progress: Makes a progress display.

    Raises:
        LeakError: There are fewer than two splits to compare.

    Example:
        >>> from medssl_data import load_dataset
        >>> find_leaks(load_dataset("phantom:chest-xray,count=20")).counts()
        {'patient': 0, 'identical': 0, 'near-duplicate': 0}
    """
    manifest = data.manifest
    if len(set(manifest.splits) - {""}) < 2:
        message = f"{data.name} has fewer than two splits; choose a split rule that makes some"
        raise LeakError(message)
    digests = {} if manifest.drawer is not None else _digests(data)
    leaks = [*_patients(data), *_identical(data, digests)]
    skipped: list[str] = []
    if pixels:
        rows = _different(data, digests)
        thumbnails = _thumbnails(data, rows, progress)
        skipped = [data.ids[row] for row in rows if thumbnails[row] is None]
        leaks += _near(data, thumbnails, digests)
    patients = len(set(data.groups) - {""})
    return LeakReport(data.name, manifest.split_policy, patients, tuple(leaks), tuple(skipped))


def report_leaks(reports: Sequence[LeakReport]) -> None:
    """Raise an error where a leak was found.

    Raises:
        LeakError: Names the kinds, their numbers, an example and the remedy.
    """
    for report in reports:
        if report.leaks:
            first = report.leaks[0]
            found = ", ".join(f"{count} {kind}" for kind, count in report.counts().items() if count)
            message = (
                f"{report.name} has leaks between its splits ({found}), such as {first.left} in "
                f"{first.sides[0]} and {first.right} in {first.sides[1]}; split with "
                "`medssl-data split --split patient` and remove duplicates"
            )
            raise LeakError(message)


def leak_sheet(data: ImageDataset, leaks: Sequence[Leak], *, most: int = 40) -> Image.Image:
    """Draw the pairs of pictures side by side, near-duplicates first.

    Args:
        data: The images.
        leaks: What was found.
        most: Pairs to draw.
    """
    order = {"near-duplicate": 0, "identical": 1, "patient": 2}
    place = {ident: index for index, ident in enumerate(data.ids)}
    rows = [
        [
            (draw_row(data, place[ident]), f"{side} | {ident}")
            for ident, side in zip((leak.left, leak.right), leak.sides, strict=True)
        ]
        for leak in sorted(leaks, key=lambda leak: order[leak.kind])[:most]
    ]
    beside = [
        [picture for pair in rows[start : start + 3] for picture in pair]
        for start in range(0, len(rows), 3)
    ]
    return tile_sheet(beside, f"{data.name}: {len(leaks)} leaks between splits, in pairs")


def _patients(data: ImageDataset) -> Iterator[Leak]:
    """Find patients in two splits: one leak for each and pair of splits."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for ident, group, split in zip(data.ids, data.groups, data.splits, strict=True):
        if group and split:
            seen[group].setdefault(split, ident)
    for group, sides in seen.items():
        first, *others = sides.items()
        for split, ident in others:
            yield Leak("patient", group, first[1], ident, (first[0], split))


def _digests(data: ImageDataset) -> dict[int, str]:
    """Hash the files whose size occurs in two splits; only they are read."""
    manifest = data.manifest
    by_size: dict[int, list[int]] = defaultdict(list)
    for index, size in enumerate(manifest.sizes):
        if size > 0 and manifest.splits[index] and not manifest.items[index]:
            by_size[size].append(index)
    found = {}
    for indices in by_size.values():
        if len({manifest.splits[index] for index in indices}) > 1:
            for index in indices:
                found[index] = sha256_of(manifest.root / manifest.paths[index])
    return found


def _different(data: ImageDataset, digests: dict[int, str]) -> list[int]:
    """List the rows to look at: of byte-identical files, the first of each split."""
    seen: set[tuple[str, str]] = set()
    rows = []
    for index, split in enumerate(data.splits):
        key = digests.get(index, f"row {index}"), split
        if split and key not in seen:
            seen.add(key)
            rows.append(index)
    return rows


def _identical(data: ImageDataset, digests: dict[int, str]) -> Iterator[Leak]:
    """Pair each file with the first equal one of another split, each pair once."""
    equal: dict[str, list[int]] = defaultdict(list)
    for index, digest in digests.items():
        equal[digest].append(index)
    for digest, group in equal.items():
        first = {data.splits[index]: index for index in reversed(group)}
        pairs = {
            tuple(sorted((index, other)))
            for index in group
            for other in [next((i for s, i in first.items() if s != data.splits[index]), index)]
            if other != index
        }
        for left, right in sorted(pairs):
            sides = (data.splits[left], data.splits[right])
            yield Leak("identical", digest[:16], data.ids[left], data.ids[right], sides)


def _thumbnails(
    data: ImageDataset, rows: Sequence[int], progress: Progress | None
) -> dict[int, Thumbnails | None]:
    """Make (32, 32) grey thumbnails by row; None where an image cannot be read."""

    def thumbnail(number: int) -> Thumbnails | None:
        try:
            picture = data.image(rows[number])
        except (UnreadableImageError, MissingFileError):
            return None
        small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2)
        return np.asarray(small)

    return dict(zip(rows, each(thumbnail, len(rows), "hashing", progress), strict=True))


def perceptual_hash(thumbnails: Thumbnails) -> npt.NDArray[np.uint64]:
    """Compute 64 bits that hardly change when a picture is re-encoded, resized or brightened.

    The signs of the 8 x 8 lowest cosine frequencies, without the mean, against their median.

    Args:
        thumbnails: (N, 32, 32) uint8 grey.

    Returns:
        (N,) uint64.
    """
    steps = (2 * np.arange(_SIDE) + 1) * np.pi / (2 * _SIDE)
    cosines = np.cos(np.arange(9)[:, None] * steps).astype(np.float32)
    spectrum = cosines @ thumbnails.astype(np.float32) @ cosines.T
    low = spectrum.reshape(len(thumbnails), 81)[:, 1:65]
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _near(
    data: ImageDataset, thumbnails: Mapping[int, Thumbnails | None], digests: dict[int, str]
) -> Iterator[Leak]:
    found = {row: small for row, small in thumbnails.items() if small is not None}
    if not found:
        return
    kept, stack = list(found), np.stack(list(found.values()))
    blocks = range(0, len(stack), _BLOCK)
    hashes = np.concatenate([perceptual_hash(stack[start : start + _BLOCK]) for start in blocks])
    sides = np.array([data.splits[i] for i in kept])
    for left, right in _close(hashes, sides):
        likeness = np.einsum("nd,nd->n", _detail(stack[left]), _detail(stack[right]))
        for pair in np.flatnonzero(likeness >= _CORRELATION):
            first, second = kept[left[pair]], kept[right[pair]]
            if first in digests and digests[first] == digests.get(second):
                continue
            what = f"correlation {likeness[pair]:.3f}"
            splits = data.splits[first], data.splits[second]
            yield Leak("near-duplicate", what, data.ids[first], data.ids[second], splits)


def _detail(stack: Thumbnails) -> npt.NDArray[np.float32]:
    """Compute unit vectors of what a thumbnail has beyond its blurred self, (N, 1024).

    Outliers are cut off, or the letters that a machine burns in would decide alone.
    """
    values = stack.astype(np.float32)
    coarse = values.reshape(-1, 8, 4, 8, 4).mean((2, 4)).repeat(4, 1).repeat(4, 2)
    flat = (values - coarse).reshape(len(stack), -1)
    limit = 3 * np.median(np.abs(flat), axis=1, keepdims=True) + 1
    flat = np.clip(flat, -limit, limit)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(length, 1e-6), np.float32)


def _close(
    hashes: npt.NDArray[np.uint64], sides: npt.NDArray[np.str_]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield blocks of pairs of rows in different splits whose hashes differ in few bits.

    Compares all with all in squares of `_BLOCK`, so that memory does not grow with the set.
    """
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(np.float32) * 2 - 1
    least = 64 - 2 * _HAMMING  # the product of two +-1 vectors that differ in that many places
    _, codes = np.unique(sides, return_inverse=True)
    for top in range(0, len(hashes), _BLOCK):
        rows = slice(top, top + _BLOCK)
        for start in range(top, len(hashes), _BLOCK):
            columns = slice(start, start + _BLOCK)
            close = bits[rows] @ bits[columns].T >= least
            close &= codes[rows][:, None] != codes[columns][None]
            row, column = np.nonzero(close)
            ahead = column + start > row + top
            for part in range(0, int(ahead.sum()), _BLOCK):
                chosen = slice(part, part + _BLOCK)
                yield row[ahead][chosen] + top, column[ahead][chosen] + start
