"""One record for every data set: which images, with which label, patient, view and split.

A manifest holds names, never pixels; nothing here opens an image. `dataset` reads the pixels.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from medssl_data.errors import DuplicateIdError, LabelError, ManifestError
from medssl_data.files import write_atomically
from medssl_data.images.reading import Reading
from medssl_data.tables.paths import confine_all
from medssl_data.tables.text import open_text
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

_FORMAT = "# medssl-manifest 1 "
_COLUMNS = ("id", "path", "item", "label", "group", "view", "split", "target")


class Row(NamedTuple):
    """One image of a manifest."""

    id: str
    path: str
    label: int
    group: str = ""
    view: str = ""
    split: str = ""
    item: str = ""


@dataclass(frozen=True)
class Manifest:
    """Images of one data set in a fixed order, by column.

    Args:
        name: what the data set is called in records.
        root: folder that the paths are relative to.
        classes: class names; a label is an index into them.
        ids: unique names of the images, (N,).
        paths: files relative to `root` with forward slashes, (N,).
        labels: (N,) integers in [0, number of classes), or `UNLABELLED`.
        groups: patient (or eye's owner) of each image, (N,); "" is unknown.
        views: such as "frontal" or "left", (N,); "" is unknown.
        splits: such as "train" or "test", (N,); "" is none.
        items: picture inside a file that holds several, (N,); "" is the file itself.
        targets: soft targets in [0, 1] of class 1, (N,), where a label policy makes them.
        label_policy: how labels came from what the files say.
        split_policy: how the splits were made.
        notes: sentences that every record made from these images must carry.
        synthetic: whether the pictures are phantoms and no patients.
        reading: how files become pixels.
        drawer: makes pictures that no file holds.

    Raises:
        ManifestError: columns of different lengths.
        DuplicateIdError: an id occurs twice.
        LabelError: a label is no class.
        UnsafePathError: a path leads out of the root.
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
    targets: tuple[float, ...] | None = None
    label_policy: str = "as given"
    split_policy: str = ""
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    reading: Reading = field(default_factory=Reading)
    drawer: Drawer | None = None

    def __post_init__(self) -> None:
        for column in ("groups", "views", "splits", "items"):
            if not getattr(self, column):
                object.__setattr__(self, column, ("",) * len(self.ids))
        _check_lengths(self)
        _check_ids(self)
        _check_labels(self)
        if self.drawer is None:
            object.__setattr__(self, "paths", confine_all(self.paths))

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_rows(
        cls, name: str, root: Path, classes: Sequence[str], rows: Iterable[Row], **fields: object
    ) -> Manifest:
        """Build a manifest from rows.

        Args:
            name: name of the data set.
            root: folder of the paths.
            classes: class names in label order.
            rows: the images in order.
            fields: any further field of `Manifest`.

        Example:
            >>> rows = [Row("a", "a.png", 0), Row("b", "b.png", 1)]
            >>> len(Manifest.from_rows("mine", Path("."), ("normal", "ill"), rows))
            2
        """
        columns = list(zip(*rows, strict=True)) or [()] * len(Row._fields)
        ids, paths, labels, groups, views, splits, items = columns
        return cls(
            name,
            root,
            tuple(classes),
            ids,
            paths,
            labels,
            groups,
            views,
            splits,
            items,
            **fields,  # type: ignore[arg-type]  # the dataclass names them
        )

    @property
    def rows(self) -> Iterator[Row]:
        """The images one by one."""
        columns = zip(
            self.ids,
            self.paths,
            self.labels,
            self.groups,
            self.views,
            self.splits,
            self.items,
            strict=True,
        )
        return map(Row._make, columns)

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
        """SHA-256 over labels and the bytes of every file (slow: it reads all of them)."""
        contents = tuple(_content(self.root / path) for path in self.paths)
        return _digest(self.fingerprint, contents)

    def select(self, indices: Iterable[int]) -> Manifest:
        """Keep the rows at these positions, in this order.

        Args:
            indices: (M,) positions in [0, N), each once.
        """
        chosen = [int(index) for index in indices]

        def pick(column: tuple[str, ...]) -> tuple[str, ...]:
            return tuple([column[index] for index in chosen])

        return replace(
            self,
            ids=pick(self.ids),
            paths=pick(self.paths),
            labels=tuple([self.labels[index] for index in chosen]),
            groups=pick(self.groups),
            views=pick(self.views),
            splits=pick(self.splits),
            items=pick(self.items),
            targets=None if self.targets is None else tuple([self.targets[i] for i in chosen]),
        )

    def filter(
        self,
        *,
        split: str | Sequence[str] | None = None,
        view: str | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        labelled: bool = False,
    ) -> Manifest:
        """Keep the rows that meet every condition; labels keep their meaning.

        Args:
            split: names of splits to keep.
            view: names of views to keep.
            classes: names of classes to keep.
            labelled: drop rows that the label policy left out.

        Raises:
            ManifestError: a name does not occur.
        """
        keep = range(len(self))
        for names, column, word in ((split, self.splits, "split"), (view, self.views, "view")):
            if names is not None:
                wanted = _known(names, column, word)
                keep = [i for i in keep if column[i] in wanted]  # type: ignore[assignment]
        if classes is not None:
            labels = {self.classes.index(name) for name in _known(classes, self.classes, "class")}
            keep = [i for i in keep if self.labels[i] in labels]  # type: ignore[assignment]
        if labelled:
            keep = [i for i in keep if self.labels[i] != UNLABELLED]  # type: ignore[assignment]
        return self if len(keep) == len(self) else self.select(keep)

    def counts(self) -> dict[str, int]:
        """Number of images of each class, classes without images included."""
        found = Counter(self.labels)
        return {name: found[label] for label, name in enumerate(self.classes)}

    def pairs(self, first: str, second: str, *, rule: PairRule = "study") -> Pairs:
        """Pair the views of one patient; see `medssl_data.views.pair_views`.

        Args:
            first: view of the left column.
            second: view of the right column.
            rule: how partners are found.

        Returns:
            (P, 2) int64 positions.

        Raises:
            PairError: no pair exists.
        """
        return pair_views(self, first, second, rule=rule)

    def noted(self, *notes: str) -> Manifest:
        """The same rows with further notes, each once."""
        fresh = [note for note in notes if note not in self.notes]
        return replace(self, notes=(*self.notes, *fresh)) if fresh else self

    def to_csv(self, path: Path) -> None:
        """Write the rows under a line that says what they belong to.

        Args:
            path: file to write; it is replaced as a whole.

        Raises:
            ManifestError: the pictures are drawn and lie in no file.
        """
        if self.drawer is not None:
            msg = f"{self.name} is drawn, not read: write it with `medssl-data phantom` first"
            raise ManifestError(msg)
        buffer = io.StringIO()
        buffer.write(_FORMAT + json.dumps(self._header(), ensure_ascii=True) + "\n")
        writer = csv.writer(buffer)  # CRLF, so that cells with a lone CR are quoted too
        writer.writerow(_COLUMNS)
        soft = self.targets or ("",) * len(self)
        for row, target in zip(self.rows, soft, strict=True):
            label = "" if row.label == UNLABELLED else self.classes[row.label]
            cells = (row.id, row.path, row.item, label, row.group, row.view, row.split)
            writer.writerow((*cells, target if target == "" else repr(target)))
        write_atomically(path, buffer.getvalue().encode())

    def _header(self) -> dict[str, object]:
        names = ("name", "classes", "label_policy", "split_policy", "notes", "synthetic")
        header: dict[str, object] = {name: getattr(self, name) for name in names}
        return header | {
            "reading": self.reading.model_dump(mode="json"),
            "soft": self.targets is not None,
        }

    @classmethod
    def from_csv(cls, path: Path, *, root: Path | None = None) -> Manifest:
        """Read what `to_csv` wrote.

        Args:
            path: the file.
            root: folder of the images; by default the file's own folder.

        Raises:
            ManifestError: the file was not written by `to_csv`, or was damaged.
        """
        text = open_text(path)
        first, _, body = text.partition("\n")
        try:
            header = json.loads(first.removeprefix(_FORMAT)) if first.startswith(_FORMAT) else None
            reading = Reading.model_validate(header["reading"]) if header else Reading()
        except (ValueError, KeyError) as error:
            msg = f"{path}: the first line is damaged ({error}); write the manifest again"
            raise ManifestError(msg) from error
        if header is None:
            msg = f"{path} is no manifest of medssl; read a plain table with table:{path}"
            raise ManifestError(msg)
        rows = list(csv.reader(io.StringIO(body, newline="")))
        return _from_cells(path, rows, header, reading, root or path.parent)

    @staticmethod
    def is_manifest(path: Path) -> bool:
        """Whether a file starts like one that `to_csv` wrote."""
        with path.open("rb") as stream:
            return stream.read(len(_FORMAT)) == _FORMAT.encode()


def _from_cells(
    path: Path,
    cells: list[list[str]],
    header: dict[str, object],
    reading: Reading,
    root: Path,
) -> Manifest:
    if not cells or tuple(cells[0]) != _COLUMNS:
        msg = f"{path}: line 2 must name the columns {','.join(_COLUMNS)}"
        raise ManifestError(msg)
    classes = tuple(map(str, header["classes"]))  # type: ignore[call-overload]
    place = {name: index for index, name in enumerate(classes)}
    rows, targets = [], []
    for number, row in enumerate(cells[1:], start=3):
        if len(row) != len(_COLUMNS):
            msg = f"{path}: row {number} has {len(row)} cells instead of {len(_COLUMNS)}"
            raise ManifestError(msg)
        ident, file, item, label, group, view, split, target = row
        if label and label not in place:
            msg = f"{path}: row {number}: label {label!r} is none of {', '.join(classes)}"
            raise LabelError(msg)
        rows.append(Row(ident, file, place.get(label, UNLABELLED), group, view, split, item))
        targets.append(float(target or "nan"))
    return Manifest.from_rows(
        str(header["name"]),
        root,
        classes,
        rows,
        targets=tuple(targets) if header["soft"] else None,
        label_policy=str(header["label_policy"]),
        split_policy=str(header["split_policy"]),
        notes=tuple(map(str, header["notes"])),  # type: ignore[call-overload]
        synthetic=bool(header["synthetic"]),
        reading=reading,
    )


def _check_lengths(manifest: Manifest) -> None:
    columns = ("paths", "labels", "groups", "views", "splits", "items")
    lengths = {name: len(getattr(manifest, name)) for name in columns}
    if manifest.targets is not None:
        lengths["targets"] = len(manifest.targets)
    for name, length in lengths.items():
        if length != len(manifest.ids):
            msg = f"{manifest.name}: {length} {name} for {len(manifest.ids)} ids; one of each a row"
            raise ManifestError(msg)


def _check_ids(manifest: Manifest) -> None:
    if len(set(manifest.ids)) != len(manifest.ids):
        (ident, times), *_ = Counter(manifest.ids).most_common(1)
        rows = [row for row, other in enumerate(manifest.ids) if other == ident]
        where = ", ".join(manifest.paths[row] for row in rows[:3])
        msg = (
            f"{manifest.name}: id {ident!r} occurs {times} times ({where}); "
            "give each image an id of its own"
        )
        error = DuplicateIdError(msg)
        error.row = rows[1]
        raise error


def _check_labels(manifest: Manifest) -> None:
    if len(set(manifest.classes)) != len(manifest.classes):
        msg = f"{manifest.name}: a class name occurs twice in {', '.join(manifest.classes)}"
        raise LabelError(msg)
    strange = set(manifest.labels) - {*range(len(manifest.classes)), UNLABELLED}
    if strange:
        row = next(row for row, label in enumerate(manifest.labels) if label in strange)
        msg = (
            f"{manifest.name}: image {manifest.ids[row]!r} has label {manifest.labels[row]}, but "
            f"there are {len(manifest.classes)} classes (0 to {len(manifest.classes) - 1})"
        )
        error = LabelError(msg)
        error.row = row
        raise error


def _known(names: str | Sequence[str], column: Sequence[str], word: str) -> set[str]:
    wanted = {names} if isinstance(names, str) else set(names)
    present = set(column)
    for name in sorted(wanted - present):
        listed = ", ".join(sorted(present - {""})) or f"no {word}"
        msg = f"{word} {name!r} does not occur; there is {listed}"
        raise ManifestError(msg)
    return wanted


def _stat(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib costs four times as much on 223,414 rows
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def _content(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(*parts: str | Sequence[object]) -> str:
    """Hash texts and columns so that no two different inputs look alike."""
    digest = hashlib.sha256()
    for part in parts:
        text = json.dumps(part, ensure_ascii=True, separators=(",", ":"))
        digest.update(f"{len(text)}:".encode() + text.encode())
    return digest.hexdigest()
