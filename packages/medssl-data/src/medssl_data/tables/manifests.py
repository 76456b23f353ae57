"""Manifests as CSV files: a line that says what the rows belong to, then one row for each image."""

from __future__ import annotations

import csv
import io
import json
from itertools import repeat
from typing import TYPE_CHECKING, Any

from medssl_data.errors import LabelError, ManifestError
from medssl_data.files import open_plain, write_atomically
from medssl_data.images.reading import Reading
from medssl_data.manifest import UNLABELLED, Manifest, Row
from medssl_data.tables.text import open_text

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["is_manifest", "read_manifest", "write_manifest"]

_FORMAT = "# medssl-manifest 1 "
_COLUMNS = ("id", "path", "item", "label", "group", "view", "split", "target")


def is_manifest(path: Path) -> bool:
    """Tell whether a file starts like one of `write_manifest`."""
    with open_plain(path) as stream:
        return stream.read(len(_FORMAT)) == _FORMAT.encode()


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest; see `Manifest.to_csv`."""
    if manifest.drawer is not None:
        message = f"{manifest.name} is drawn, not read: write it with `medssl-data phantom` first"
        raise ManifestError(message)
    buffer = io.StringIO()
    buffer.write(_FORMAT + json.dumps(_header(manifest), ensure_ascii=True) + "\n")
    writer = csv.writer(buffer)  # CRLF, so that cells with a lone CR are quoted too
    writer.writerow((*_COLUMNS, *manifest.attributes))
    soft = manifest.targets or ("",) * len(manifest)
    further = zip(*manifest.attributes.values(), strict=True) if manifest.attributes else repeat(())
    for row, target, more in zip(manifest.rows, soft, further, strict=False):
        label = "" if row.label == UNLABELLED else manifest.classes[row.label]
        cells = (row.id, row.path, row.item, label, row.group, row.view, row.split)
        writer.writerow((*cells, target if target == "" else repr(target), *more))
    write_atomically(path, buffer.getvalue().encode())


def _header(manifest: Manifest) -> dict[str, object]:
    names = ("name", "classes", "label_policy", "split_policy", "notes", "synthetic")
    header: dict[str, object] = {name: getattr(manifest, name) for name in names}
    return header | {
        "selection": dict(manifest.selection),
        "reading": manifest.reading.model_dump(mode="json"),
        "soft": manifest.targets is not None,
    }


def read_manifest(path: Path, root: Path) -> Manifest:
    """Read a manifest whose images lie under `root`; see `Manifest.from_csv`."""
    text = open_text(path)
    first, _, body = text.partition("\n")
    try:
        header = json.loads(first.removeprefix(_FORMAT)) if first.startswith(_FORMAT) else None
        reading = Reading.model_validate(header["reading"]) if header else Reading()
    except (ValueError, KeyError) as error:
        message = f"{path}: the first line is damaged ({error}); write the manifest again"
        raise ManifestError(message) from error
    if header is None:
        message = f"{path} is not a manifest of medssl; read a plain table with table:{path}"
        raise ManifestError(message)
    rows = list(csv.reader(io.StringIO(body, newline="")))
    return _from_cells(path, rows, header, reading, root)


def _from_cells(
    path: Path, cells: list[list[str]], header: dict[str, Any], reading: Reading, root: Path
) -> Manifest:
    known = len(_COLUMNS)
    if not cells or tuple(cells[0][:known]) != _COLUMNS:
        message = f"{path}: line 2 must name the columns {','.join(_COLUMNS)}"
        raise ManifestError(message)
    further = cells[0][known:]
    classes = tuple(map(str, header["classes"]))
    place = {name: index for index, name in enumerate(classes)}
    rows, targets = [], []
    for number, row in enumerate(cells[1:], start=3):
        if len(row) != len(cells[0]):
            message = f"{path}: row {number} has {len(row)} cells instead of {len(cells[0])}"
            raise ManifestError(message)
        ident, file, item, label, group, view, split, target = row[:known]
        if label and label not in place:
            message = f"{path}: row {number}: label {label!r} is not one of {', '.join(classes)}"
            raise LabelError(message)
        rows.append(Row(ident, file, place.get(label, UNLABELLED), group, view, split, item))
        targets.append(float(target or "nan"))
    return Manifest.from_rows(
        str(header["name"]),
        root,
        classes,
        rows,
        attributes={
            name: tuple(row[place] for row in cells[1:])
            for place, name in enumerate(further, start=known)
        },
        targets=tuple(targets) if header["soft"] else None,
        label_policy=str(header["label_policy"]),
        split_policy=str(header["split_policy"]),
        notes=tuple(map(str, header["notes"])),
        synthetic=bool(header["synthetic"]),
        selection=dict(header.get("selection") or {}),
        reading=reading,
    )
