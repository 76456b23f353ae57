"""Chest radiographs: ChestX-ray14, CheXpert, and the tuberculosis sets of the NLM."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from medssl_data.errors import LabelError, SettingError, TableError
from medssl_data.manifest import UNLABELLED, Manifest
from medssl_data.tables.text import Table, blaming, open_text, read_table, where_among
from medssl_data.targets import finding_policy, normal_label, single_label, suffix_label

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from medssl_data.card import DatasetCard, Options

__all__ = ["read_chestx", "read_chexpert", "read_tuberculosis"]


def read_chestx(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read ChestX-ray14: all rows; those without exactly one of the findings are unlabelled.

    Official splits come from the two lists where they are here.

    Raises:
        LabelError: A finding is not one of the card's, as in a second heading line.
    """
    table = read_table(root / card.tables[0])
    images = table.required("Image Index")
    findings = table.column("Finding Labels")
    labels = {text: single_label(text, card.classes) for text in set(findings)}
    _check_findings(table, findings, card)
    groups = table.column("Patient ID", optional=True)
    if not any(groups):
        groups = tuple([image[:8] for image in images])
    splits = _listed(root, images)
    with blaming(table.where):
        return Manifest(
            card.name,
            root,
            card.classes,
            images,
            tuple([f"{card.images}/{image}" for image in images]),
            tuple([labels[text] for text in findings]),
            groups=groups,
            views=tuple(map(str.casefold, table.column("View Position", optional=True))),
            splits=splits,
            attributes=table.further("Patient Age", "Patient Gender", "Follow-up #"),
            label_policy=options.labels or "",
            split_policy="official" if splits else "",
        )


def _check_findings(table: Table, findings: Sequence[str], card: DatasetCard) -> None:
    known = set(card.findings)
    strange = {text for text in set(findings) if not known.issuperset(text.split("|"))}
    if strange:
        index = next(index for index, text in enumerate(findings) if text in strange)
        name = next(name for name in findings[index].split("|") if name not in known)
        message = f"{table.where(index)}: finding {name!r} is not one of {', '.join(card.findings)}"
        raise LabelError(message)


def _listed(root: Path, images: Sequence[str]) -> tuple[str, ...]:
    """Read the splits of the owner's two lists; none where they are not here."""
    lists = {"train": root / "train_val_list.txt", "test": root / "test_list.txt"}
    if not all(path.is_file() for path in lists.values()):
        return ()
    found = {line: split for split, path in lists.items() for line in open_text(path).split()}
    return tuple([found.get(image, "") for image in images])


def read_chexpert(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read CheXpert's training table; with `options.official` its validation table too.

    Raises:
        SettingError: The target is not a column.
        LabelError: A cell is not one of 1.0, 0.0, -1.0 and blank.
        TableError: A path or a view is not CheXpert's.
    """
    target = options.target or card.target
    policy = finding_policy(options.labels or card.labels[options.protocol])
    parts = [_chexpert_table(root, "train")]
    if options.official:
        parts.append(_chexpert_table(root, "valid"))
    if options.target and target not in parts[0].headings:
        message = f"{card.name} has no finding {target!r}; choose one of {', '.join(card.targets)}"
        raise SettingError(message)
    paths = _forward([path for table in parts for path in table.required("Path")])
    cells = [cell for table in parts for cell in table.column(target)]
    views = [view for table in parts for view in table.column("Frontal/Lateral")]
    splits: tuple[str, ...] = ()
    if options.official:
        splits = ("train",) * len(parts[0]) + ("val",) * len(parts[1])
    where = where_among(parts)
    labelled = policy.apply(cells, where)
    names = card.classes if target == card.target else (f"no {target}", target)
    prefix = _prefix(root, paths[0] if paths else "")
    ids = tuple([path[path.find("/") + 1 :] for path in paths])
    with blaming(where):
        return Manifest(
            card.name,
            root,
            names,
            ids,
            tuple([prefix + ident for ident in ids]),
            labelled.labels,
            groups=_patients(paths, where),
            views=tuple(map(str.casefold, views)),
            splits=splits,
            attributes=_further(parts, "Sex", "Age", "AP/PA"),
            targets=labelled.targets,
            label_policy=policy.name,
            split_policy="official" if options.official else "",
        )


def _chexpert_table(root: Path, name: str) -> Table:
    """Read a table at the top, as in the study, or inside the distribution's own folder."""
    inside = sorted(root.glob(f"CheXpert-v1.0*/{name}.csv"))
    top = root / f"{name}.csv"
    return read_table(inside[0] if inside and not top.is_file() else top)


def _further(parts: Sequence[Table], *names: str) -> dict[str, tuple[str, ...]]:
    """Join the further columns that all tables have."""
    first, *others = [table.further(*names) for table in parts]
    shared = [name for name in first if all(name in found for found in others)]
    return {name: sum((found[name] for found in others), first[name]) for name in shared}


def _prefix(root: Path, path: str) -> str:
    """Find the folder that the images really lie in: the path's own, its -small twin, or none."""
    first, _, rest = path.partition("/")
    if (root / first).is_dir() or not rest:
        return f"{first}/"
    twins = sorted(folder.name for folder in root.glob("CheXpert-v1.0*") if folder.is_dir())
    if twins:
        return f"{twins[0]}/"
    return "" if (root / rest.partition("/")[0]).is_dir() else f"{first}/"


def _forward(paths: list[str]) -> list[str]:
    """Turn the separators of Windows into slashes."""
    turned = any("\\" in path for path in paths)
    return [path.replace("\\", "/") for path in paths] if turned else paths


def _patients(paths: Sequence[str], where: Callable[[int], str]) -> tuple[str, ...]:
    steps = [path.rsplit("/", 3) for path in paths]
    groups = tuple([step[1] if len(step) == 4 else "" for step in steps])
    strange = {group for group in set(groups) if not group.startswith("patient")}
    if strange:
        index = next(index for index, group in enumerate(groups) if group in strange)
        message = f"{where(index)}: path {paths[index]!r} is not .../patientN/studyN/viewN_....jpg"
        raise TableError(message)
    return groups


def read_tuberculosis(card: DatasetCard, root: Path, options: Options) -> Manifest:
    """Read a set of the NLM; labels come from the findings or from the file names.

    The findings are compared as the study did, blanks and capitals included.

    Raises:
        LabelError: A name that does not end in _0.png or _1.png, as in a second heading line.
    """
    table = read_table(root / card.tables[0], strip=False)
    images = tuple(map(str.strip, table.required("study_id")))
    endings = tuple(map(suffix_label, images))
    if UNLABELLED in endings:
        index = endings.index(UNLABELLED)
        message = f"{table.where(index)}: {images[index]!r} ends in neither _0.png nor _1.png"
        raise LabelError(message)
    by_name = options.labels == "suffix"
    labels = endings if by_name else tuple(map(normal_label, table.column("findings")))
    with blaming(table.where):
        return Manifest(
            card.name,
            root,
            card.classes,
            images,
            tuple([f"{card.images}/{image}" for image in images]),
            labels,
            groups=tuple(map(_patient_of, images)),
            attributes=table.further("sex", "age"),
            label_policy=options.labels or "",
        )


def _patient_of(image: str) -> str:
    """Name the patient of an image of the NLM: one image each, so its name without the label."""
    return PurePosixPath(image).stem.rpartition("_")[0]
