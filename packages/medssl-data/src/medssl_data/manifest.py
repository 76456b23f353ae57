"""One record for every data set: which images, with which label, patient, view and split.

A manifest holds names, never pixels; nothing here opens an image. `dataset` reads the pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from medssl_data.errors import DuplicateIdError, LabelError, ManifestError, UnsafePathError
from medssl_data.files import sha256_of
from medssl_data.images.reading import Reading
from medssl_data.tables.paths import confine_all
from medssl_data.views import PairRule, pair_views

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    Pairs = npt.NDArray[np.int64]

__all__ = ["UNLABELLED", "Drawer", "Manifest", "Row"]

UNLABELLED = -1
"""Label of a row that the label policy leaves out."""

Drawer = Callable[[str], "Image.Image"]
"""Makes the picture of a row from its `item` where no file holds one; must be picklable."""

_COLUMNS = ("ids", "paths", "labels", "groups", "views", "splits", "items")
"""Columns of a manifest in the order of `Row`."""

_LEADING = ("target", "view", "classes")
"""What comes first in a selection."""


class Row(NamedTuple):
    """One image of a manifest."""

    id: str
    path: str
    label: int
    group: str = ""
    view: str = ""
    split: str = ""
    item: str = ""


@dataclass(frozen=True, repr=False)
class Manifest:
    """Images of one data set in a fixed order, by column.

    Args:
        name: What the data set is called in records.
        root: Folder that the paths are relative to.
        classes: Class names; a label is an index into them.
        ids: Unique names of the images, (N,).
        paths: Files relative to `root` with forward slashes, (N,).
        labels: (N,) integers in [0, number of classes), or `UNLABELLED`.
        groups: Patient (or eye's owner) of each image, (N,); "" is unknown.
        views: Such as "frontal" or "left", (N,); "" is unknown.
        splits: Such as "train" or "test", (N,); "" is none.
        items: Picture inside a file that holds several, (N,); "" is the file itself.
        attributes: Further columns by name, such as sex, age and site, each (N,) texts; "" is
            missing. They are no part of the fingerprints: features and records stay valid.
        targets: Soft targets in [0, 1] of class 1, (N,), where a label policy makes them.
        label_policy: How labels came from what the files say.
        split_policy: How the splits were made.
        notes: Sentences that every record made from these images must carry.
        synthetic: Whether the pictures are phantoms and no patients.
        selection: What was taken of the data set where the plain name means another thing, in one
            spelling and order: finding, view, classes, window and slice, a phantom's settings.
            Labels and splits are not in it: they have policies.
        reading: How files become pixels.
        drawer: Makes pictures that no file holds.

    Raises:
        ManifestError: Columns of different lengths.
        DuplicateIdError: An id occurs twice.
        LabelError: A label is not a class.
        UnsafePathError: A path leads out of the root.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    groups: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    targets: tuple[float, ...] | None = None
    label_policy: str = "as given"
    split_policy: str = ""
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    selection: Mapping[str, str] = field(default_factory=dict, hash=False)
    reading: Reading = field(default_factory=Reading)
    drawer: Drawer | None = None

    def __post_init__(self) -> None:
        for column in ("groups", "views", "splits", "items"):
            if not getattr(self, column):
                object.__setattr__(self, column, ("",) * len(self.ids))
        _check_lengths(self)
        _check_ids(self)
        _check_text(self.name, *self.classes, *self.ids, *self.paths)
        _check_labels(self)
        if self.drawer is None:
            object.__setattr__(self, "paths", confine_all(self.paths))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Manifest {self.summary()}>"

    def summary(self) -> str:
        """Say in one line what it holds; classes beyond four are only counted.

        Example:
            >>> from pathlib import Path
            >>> Manifest.from_rows("mine", Path(), ("ill",), [Row("a", "a.png", 0)]).summary()
            'mine: 1 image, 1 class (ill 1), labels as given'
        """
        counts = self.counts()
        named = ", ".join([self.name, *(f"{key}={text}" for key, text in self.selection.items())])
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        parts = [
            f"{named}: {_number(len(self), 'image')}",
            _number(len(counts), "class", "classes") + (f" ({listed})" if len(counts) < 5 else ""),
            f"labels {self.label_policy}" if self.label_policy else "",
            f"split {self.split_policy}" if self.split_policy else "",
        ]
        return " ".join(", ".join(part for part in parts if part).split())

    @classmethod
    def from_rows(
        cls,
        name: str,
        root: Path,
        classes: Sequence[str],
        rows: Iterable[Row],
        **fields: Any,  # noqa: ANN401 - as the dataclass has them
    ) -> Manifest:
        """Build a manifest from rows.

        Args:
            name: Name of the data set.
            root: Folder of the paths.
            classes: Class names in label order.
            rows: The images in order.
            fields: Any further field of `Manifest`.

        Example:
            >>> from pathlib import Path
            >>> rows = [Row("a", "a.png", 0), Row("b", "b.png", 1)]
            >>> len(Manifest.from_rows("mine", Path("."), ("normal", "ill"), rows))
            2
        """
        columns: list[Any] = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
        return cls(name, root, tuple(classes), *columns, **fields)

    @property
    def rows(self) -> Iterator[Row]:
        """The images row by row."""
        return map(Row._make, zip(*(getattr(self, name) for name in _COLUMNS), strict=True))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each row's file, (N,); -1 where it is missing, 0 where it is drawn."""
        if self.drawer is not None:
            return (0,) * len(self)
        return tuple(size for size, _ in self._stats())

    @cached_property
    def stamps(self) -> tuple[str, ...]:
        """Size and mtime_ns of each row's file, (N,): a changed stamp means a changed file."""
        if self.drawer is not None:
            return ("drawn",) * len(self)
        return tuple(f"{size}:{changed}" for size, changed in self._stats())

    def _stats(self) -> Iterator[tuple[int, int]]:
        known: dict[str, tuple[int, int]] = {}
        root = os.fspath(self.root)
        for path in self.paths:
            if path not in known:
                known[path] = _stat(f"{root}/{path}")
            yield known[path]

    @cached_property
    def images_fingerprint(self) -> str:
        """SHA-256 over what decides the pixels, in order: ids, paths, sizes, reading rule."""
        columns = (self.ids, self.paths, self.items, self.sizes)
        return _digest("images", self.reading.model_dump_json(), *columns)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over images, labels, groups, views and splits; the same on another disk."""
        columns = (self.labels, self.groups, self.views, self.splits, self.targets or ())
        return _digest(self.images_fingerprint, *self.classes, *columns)

    def content_fingerprint(self) -> str:
        """Compute the SHA-256 of labels and the bytes of every file; slow, for it reads all."""
        contents = tuple(sha256_of(self.root / path) for path in self.paths)
        return _digest(self.fingerprint, contents)

    def select(self, indices: Iterable[int]) -> Manifest:
        """Keep the rows at these positions, in this order.

        Args:
            indices: (M,) positions in [0, N), each once.
        """
        chosen = [int(index) for index in indices]

        def pick(column: Sequence[Any]) -> tuple[Any, ...]:
            return tuple([column[index] for index in chosen])

        columns: dict[str, Any] = {name: pick(getattr(self, name)) for name in _COLUMNS}
        if self.targets is not None:
            columns["targets"] = pick(self.targets)
        columns["attributes"] = {name: pick(cells) for name, cells in self.attributes.items()}
        return replace(self, **columns)

    def filter(
        self,
        *,
        split: str | Sequence[str] | None = None,
        view: str | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        labelled: bool = False,
    ) -> Manifest:
        """Keep the rows that meet every condition; labels keep their meaning.

        The views and classes that were asked for become part of the selection.

        Args:
            split: Names of splits to keep.
            view: Names of views to keep.
            classes: Names of classes to keep.
            labelled: Drop rows that the label policy left out.

        Raises:
            ManifestError: A name does not occur.

        Example:
            >>> from pathlib import Path
            >>> rows = [Row("a", "a.png", 0, view="frontal"), Row("b", "b.png", 0, view="lateral")]
            >>> manifest = Manifest.from_rows("mine", Path(), ("normal",), rows)
            >>> manifest.filter(view="frontal").ids
            ('a',)
        """
        keep = list(range(len(self)))
        chosen: dict[str, str] = {}
        if split is not None:
            wanted = _known(split, self.splits, "split")
            keep = [i for i in keep if self.splits[i] in wanted]
        if view is not None:
            wanted = _known(view, self.views, "view")
            keep = [i for i in keep if self.views[i] in wanted]
            chosen["view"] = " and ".join(sorted(wanted))
        if classes is not None:
            wanted = _known(classes, self.classes, "class")
            labels = {self.classes.index(name) for name in wanted}
            keep = [i for i in keep if self.labels[i] in labels]
            chosen["classes"] = " and ".join(name for name in self.classes if name in wanted)
        if labelled:
            keep = [i for i in keep if self.labels[i] != UNLABELLED]
        return (self if len(keep) == len(self) else self.select(keep)).selecting(chosen)

    def selecting(self, chosen: Mapping[str, str]) -> Manifest:
        """Return the same rows with further entries of the selection."""
        if not chosen:
            return self
        found = {**self.selection, **chosen}
        leading = {name: found.pop(name) for name in _LEADING if name in found}
        return replace(self, selection=leading | found)

    def counts(self) -> dict[str, int]:
        """Count the images of each class, classes without images included."""
        found = Counter(self.labels)
        return {name: found[label] for label, name in enumerate(self.classes)}

    def split_counts(self) -> dict[str, int]:
        """Count the images of each split; those of no split are left out."""
        return {split: number for split, number in Counter(self.splits).items() if split}

    def pairs(self, first: str, second: str, *, rule: PairRule = "same-folder") -> Pairs:
        """Pair the views of one patient, (P, 2) positions; see `medssl_data.views.pair_views`."""
        return pair_views(self, first, second, rule=rule)

    def noted(self, *notes: str) -> Manifest:
        """Return the same rows with further notes, each once."""
        fresh = [note for note in notes if note not in self.notes]
        return replace(self, notes=(*self.notes, *fresh)) if fresh else self

    def to_csv(self, path: Path) -> None:
        """Write the rows under a line that says what they belong to.

        Args:
            path: File to write; it is replaced as a whole.

        Raises:
            ManifestError: The pictures are drawn and lie in no file.

        Example:
            >>> from pathlib import Path
            >>> manifest = Manifest.from_rows("mine", Path(), ("ill",), [Row("a", "a.png", 0)])
            >>> manifest.to_csv(Path("manifest.csv"))
            >>> Manifest.from_csv(Path("manifest.csv")).ids
            ('a',)
        """
        from medssl_data.tables.manifests import write_manifest

        write_manifest(self, path)

    @classmethod
    def from_csv(cls, path: Path, *, root: Path | None = None) -> Manifest:
        """Read what `to_csv` wrote.

        Args:
            path: The file.
            root: Folder of the images; by default the file's own folder.

        Raises:
            ManifestError: The file was not written by `to_csv`, or was damaged.
        """
        from medssl_data.tables.manifests import read_manifest

        return read_manifest(path, root or path.parent)


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _check_lengths(manifest: Manifest) -> None:
    lengths = {name: len(getattr(manifest, name)) for name in _COLUMNS}
    if manifest.targets is not None:
        lengths["targets"] = len(manifest.targets)
    lengths |= {f"cells of {name!r}": len(cells) for name, cells in manifest.attributes.items()}
    for name, length in lengths.items():
        if length != len(manifest.ids):
            message = (
                f"{manifest.name}: {length} {name} for {len(manifest.ids)} ids; each row needs one"
            )
            raise ManifestError(message)


def _check_text(*names: str) -> None:
    """Refuse names that no record and no table can hold: bytes of a file's name that are no text.

    Raises:
        UnsafePathError: One of them is not text.
    """
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        odd = next(name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name))
        message = f"{odd!r}: the name is not UTF-8 text; rename the file or folder"
        raise UnsafePathError(message) from None


def _check_ids(manifest: Manifest) -> None:
    if len(set(manifest.ids)) != len(manifest.ids):
        (ident, times), *_ = Counter(manifest.ids).most_common(1)
        rows = [row for row, other in enumerate(manifest.ids) if other == ident]
        where = ", ".join(manifest.paths[row] for row in rows[:3])
        message = (
            f"{manifest.name}: id {ident!r} occurs {times} times ({where}); "
            "each image needs an id of its own"
        )
        error = DuplicateIdError(message)
        error.row = rows[1]
        raise error


def _check_labels(manifest: Manifest) -> None:
    if len(set(manifest.classes)) != len(manifest.classes):
        message = f"{manifest.name}: a class name occurs twice in {', '.join(manifest.classes)}"
        raise LabelError(message)
    strange = set(manifest.labels) - {*range(len(manifest.classes)), UNLABELLED}
    if strange:
        row = next(row for row, label in enumerate(manifest.labels) if label in strange)
        message = (
            f"{manifest.name}: image {manifest.ids[row]!r} has label {manifest.labels[row]}, but "
            f"there are {len(manifest.classes)} classes (0 to {len(manifest.classes) - 1})"
        )
        error = LabelError(message)
        error.row = row
        raise error


def _known(names: str | Sequence[str], column: Sequence[str], word: str) -> set[str]:
    wanted = {names} if isinstance(names, str) else set(names)
    present = set(column)
    for name in sorted(wanted - present):
        listed = ", ".join(sorted(present - {""})) or f"no {word}"
        message = f"{word} {name!r} does not occur; there is {listed}"
        raise ManifestError(message)
    return wanted


def _stat(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib costs four times as much on 223,414 rows
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def _digest(*parts: str | Sequence[object]) -> str:
    """Hash texts and columns so that no two different inputs look alike."""
    digest = hashlib.sha256()
    for part in parts:
        text = json.dumps(part, ensure_ascii=True, separators=(",", ":"))
        digest.update(f"{len(text)}:".encode() + text.encode())
    return digest.hexdigest()
