"""Chest radiographs: ChestX-ray14, CheXpert, and the tuberculosis sets of the NLM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl_data.errors import LabelError, SettingError, TableError
from medssl_data.labels import finding_policy, normal_label, single_label, suffix_label
from medssl_data.manifest import UNLABELLED, Manifest
from medssl_data.tables import Table, open_text, read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medssl_data.card import DatasetCard
    from medssl_data.plugin import Options

__all__ = ["read_chestx", "read_chexpert", "read_tuberculosis"]


def read_chestx(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read ChestX-ray14: all rows; those without exactly one of the findings are unlabelled.

    Official splits come from the two lists where they are here.
    """
    table = read_table(root / card.tables[0])
    images = table.required("Image Index")
    labels = {
        findings: single_label(findings, card.classes)
        for findings in set(table.column("Finding Labels"))
    }
    groups = table.column("Patient ID", optional=True)
    if not any(groups):
        groups = tuple([image[:8] for image in images])
    manifest = Manifest(
        card.name,
        root,
        card.classes,
        images,
        tuple([f"{card.images}/{image}" for image in images]),
        tuple([labels[findings] for findings in table.column("Finding Labels")]),
        groups=groups,
        views=tuple(map(str.casefold, table.column("View Position", optional=True))),
        label_policy=options.labels or "",
    )
    return _with_lists(manifest, root)


def _with_lists(manifest: Manifest, root: Path) -> Manifest:
    lists = {"train": root / "train_val_list.txt", "test": root / "test_list.txt"}
    if not all(path.is_file() for path in lists.values()):
        return manifest
    found = {line: split for split, path in lists.items() for line in open_text(path).split()}
    splits = tuple([found.get(ident, "") for ident in manifest.ids])
    return replace(manifest, splits=splits, split_policy="official")


def read_chexpert(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read CheXpert's training table; with `options.official` its validation table too.

    Raises:
        SettingError: the target is no column.
        LabelError: a cell is none of 1.0, 0.0, -1.0 and blank.
        TableError: a path or a view is not CheXpert's.
    """
    target = options.target or card.target
    policy = finding_policy(options.labels or card.labels[options.protocol])
    parts = [_chexpert_table(root, "train")]
    if options.official:
        parts.append(_chexpert_table(root, "valid"))
    if target not in parts[0].columns:
        msg = f"{card.name} has no finding {target!r}; choose one of {', '.join(card.targets)}"
        raise SettingError(msg)
    paths = [path for table in parts for path in table.required("Path")]
    cells = [cell for table in parts for cell in table.column(target)]
    views = [view for table in parts for view in table.column("Frontal/Lateral")]
    splits: tuple[str, ...] = ()
    if options.official:
        splits = ("train",) * len(parts[0]) + ("val",) * len(parts[1])
    labelled = policy.apply(cells, parts[0].where)
    names = card.classes if target == card.target else (f"no {target}", target)
    prefix = _prefix(root, paths[0] if paths else "")
    return Manifest(
        card.name,
        root,
        names,
        tuple([path.partition("/")[2] for path in paths]),
        tuple([prefix + path.partition("/")[2] for path in paths]),
        labelled.labels,
        groups=_patients(parts, paths),
        views=tuple(map(str.casefold, views)),
        splits=splits,
        targets=labelled.targets,
        label_policy=policy.name if target == card.target else f"{policy.name}, target={target}",
        split_policy="official" if options.official else "",
    )


def _chexpert_table(root: Path, name: str) -> Table:
    """The table lies at the top, as in the study, or inside the distribution's own folder."""
    inside = sorted(root.glob(f"CheXpert-v1.0*/{name}.csv"))
    top = root / f"{name}.csv"
    return read_table(inside[0] if inside and not top.is_file() else top)


def _prefix(root: Path, path: str) -> str:
    """The folder that the images really lie in: the path's own, its -small twin, or none."""
    first, _, rest = path.partition("/")
    if (root / first).is_dir() or not rest:
        return f"{first}/"
    twins = sorted(folder.name for folder in root.glob("CheXpert-v1.0*") if folder.is_dir())
    if twins:
        return f"{twins[0]}/"
    return "" if (root / rest.partition("/")[0]).is_dir() else f"{first}/"


def _patients(parts: Sequence[Table], paths: Sequence[str]) -> tuple[str, ...]:
    groups = []
    for index, path in enumerate(paths):
        steps = path.split("/")
        if len(steps) < 4 or not steps[-3].startswith("patient"):
            msg = f"{parts[0].where(index)}: path {path!r} is no .../patientN/studyN/viewN_....jpg"
            raise TableError(msg)
        groups.append(steps[-3])
    return tuple(groups)


def read_tuberculosis(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read a set of the NLM; labels come from the findings or from the file names.

    Raises:
        LabelError: under the policy "suffix", a name that does not end in _0.png or _1.png.
    """
    table = read_table(root / card.tables[0], strip=False)
    images = tuple(map(str.strip, table.required("study_id")))
    if options.labels == "suffix":
        labels = tuple(map(suffix_label, images))
    else:
        labels = tuple(map(normal_label, table.column("findings")))
    if UNLABELLED in labels:
        index = labels.index(UNLABELLED)
        msg = f"{table.where(index)}: {images[index]!r} ends in neither _0.png nor _1.png"
        raise LabelError(msg)
    return Manifest(
        card.name,
        root,
        card.classes,
        images,
        tuple([f"{card.images}/{image}" for image in images]),
        labels,
        groups=tuple([suffix_free(image) for image in images]),
        label_policy=options.labels or "",
    )


def suffix_free(image: str) -> str:
    """The patient of an image of the NLM: one image each, so its name without the label."""
    return Path(image).stem.rpartition("_")[0]
