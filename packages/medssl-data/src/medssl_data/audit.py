"""Is this copy of a data set complete and sound? Every finding names a file and a remedy.

Leaks between splits are `leaks`' concern; what the label may follow besides the disease is that of
`confounders`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl_data.card import Options, ProtocolName
from medssl_data.catalog import dataset_card, load_manifest
from medssl_data.confounders.pictures import header_facts, measure_picture
from medssl_data.confounders.search import PICTURES, find_confounders, sampled_rows
from medssl_data.errors import AuditError, MissingFileError, UnreadableImageError
from medssl_data.files import sha256_of
from medssl_data.images.decoding import read_image
from medssl_data.images.parallel import each
from medssl_data.manifest import UNLABELLED
from medssl_data.readers.folder import SUFFIXES
from medssl_data.readers.sources import cut_view, find_source
from medssl_data.targets import suffix_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medssl_data.card import DatasetCard
    from medssl_data.confounders.pictures import Facts
    from medssl_data.confounders.search import Confounders
    from medssl_data.images.parallel import Progress
    from medssl_data.manifest import Manifest

__all__ = ["Finding", "Report", "audit_dataset", "audit_manifest", "report_findings"]

_SHOWN = 20


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or odd.

    Args:
        what: The fault in a few words.
        where: File, class or row.
        remedy: What to do.
        fatal: Whether the check fails for it.
    """

    what: str
    where: str
    remedy: str
    fatal: bool = True


@dataclass(frozen=True)
class Report:
    """What a check found.

    Args:
        name: The data set.
        images: Number of rows.
        counts: Labelled images of each class.
        splits: Images of each of the owner's splits, where the files tell.
        findings: Faults first.
        notes: The manifest's notes.
        fingerprint: Identity of the manifest.
        confounders: What the label was held against; None where there is no second class.
    """

    name: str
    images: int
    counts: dict[str, int]
    splits: dict[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    fingerprint: str = field(default="")
    confounders: Confounders | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing must be repaired."""
        return not any(finding.fatal for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON holds it."""
        held = self.confounders and self.confounders.as_dict()
        return asdict(replace(self, confounders=None)) | {"sound": self.sound, "confounders": held}

    def rows(self) -> list[tuple[str, str, str]]:
        """Lay the findings out as a table; long lists are cut and say so."""
        if not self.findings:
            return [("nothing to repair", f"{self.images} images", "-")]
        rows: list[tuple[str, str, str]] = []
        by_what: dict[str, list[Finding]] = defaultdict(list)
        for finding in self.findings:
            by_what[finding.what].append(finding)
        for what, found in by_what.items():
            rows += [(what, finding.where, finding.remedy) for finding in found[:_SHOWN]]
            if len(found) > _SHOWN:
                rows.append((what, f"and {len(found) - _SHOWN} more", "the JSON report lists all"))
        return rows


def audit_dataset(
    name: str,
    *,
    root: Path = Path("data"),
    protocol: ProtocolName = "corrected",
    labels: str | None = None,
    decode: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Check a data set by its name.

    Args:
        name: A card's name or a source.
        root: Folder that holds the data sets.
        protocol: Decides the labels.
        labels: Label policy.
        decode: Decode every image; else only look at sizes.
        progress: Makes a progress display.

    Raises:
        DataError: The data set cannot be read at all.

    Example:
        >>> audit_dataset("phantom:chest-xray,count=20").sound
        True
    """
    manifest = load_manifest(name, root=root, options=Options(protocol, labels))
    findings = [*_empty_classes(manifest), *_compare(name, manifest, root)]
    return audit_manifest(manifest, decode=decode, progress=progress, further=findings)


def audit_manifest(
    manifest: Manifest,
    *,
    decode: bool = True,
    progress: Progress | None = None,
    further: Sequence[Finding] = (),
) -> Report:
    """Check a manifest's files: missing, empty, unreadable, byte-identical; and its labels.

    Args:
        manifest: The rows.
        decode: Decode every image.
        progress: Makes a progress display.
        further: Findings made elsewhere.
    """
    findings = [*further, *_missing(manifest)]
    measured: dict[int, Facts] | None = None
    if manifest.drawer is None:
        bad = {finding.where for finding in findings}
        findings += _duplicates(manifest)
        if decode:
            measured = {}
            findings += _unreadable(manifest, bad, measured, progress)
    confounders = find_confounders(
        manifest, pictures=PICTURES if decode else 0, progress=progress, measured=measured
    )
    findings += _confounded(confounders)
    findings.sort(key=lambda finding: not finding.fatal)
    return Report(
        manifest.name,
        len(manifest),
        manifest.counts(),
        manifest.split_counts(),
        tuple(findings),
        manifest.notes,
        manifest.fingerprint,
        confounders if confounders.associations else None,
    )


def _confounded(found: Confounders) -> Iterator[Finding]:
    for one in found.ringing:
        remedy = "a good score may come from it: balance it, or score with --by and --adjust"
        yield Finding("confounder", one.sentence, remedy, fatal=False)


def report_findings(reports: Sequence[Report]) -> None:
    """Raise an error where a report is not sound.

    Raises:
        AuditError: Names the data sets and the number of faults.
    """
    unsound = {
        report.name: sum(finding.fatal for finding in report.findings)
        for report in reports
        if not report.sound
    }
    if unsound:
        first = next(f for report in reports for f in report.findings if f.fatal)
        listed = ", ".join(f"{name} ({faults} faults)" for name, faults in unsound.items())
        message = f"not sound: {listed}; first {first.what}: {first.where}; {first.remedy}"
        raise AuditError(message)


def _compare(name: str, manifest: Manifest, root: Path) -> Iterator[Finding]:
    """Compare with the card, where there is one and all images of it are wanted."""
    if find_source(name) or cut_view(name)[1]:
        return
    card = dataset_card(name)
    yield from _compare_rows(card, manifest)
    policy = card.counts_policy or card.labels["corrected"]
    as_card = manifest.label_policy == policy and "target" not in manifest.selection
    if len(manifest) == card.rows and as_card:
        yield from _compare_counts(card, manifest)
    if card.official:
        yield from _compare_splits(card, root, synthetic=manifest.synthetic)
    if card.label_suffix:
        by_table = Options(labels=card.labels["published"])
        yield from _compare_suffixes(load_manifest(name, root=root, options=by_table))
    if manifest.drawer is None and not any(manifest.items):
        yield from _extra(manifest)


def _compare_rows(card: DatasetCard, manifest: Manifest) -> Iterator[Finding]:
    if card.rows is not None and len(manifest) != card.rows:
        remedy = "fetch the missing part" if len(manifest) < card.rows else "remove what is extra"
        where = f"{len(manifest)} rows instead of {card.rows}"
        yield Finding("count", where, remedy, fatal=not manifest.synthetic)


def _compare_counts(card: DatasetCard, manifest: Manifest) -> Iterator[Finding]:
    for (word, count), wanted in zip(manifest.counts().items(), card.counts, strict=False):
        if count != wanted and not manifest.synthetic:
            where = f"{word} has {count} images instead of {wanted}"
            remedy = "compare the table with its source"
            yield Finding("count of a class", where, remedy, fatal=card.counts_certain)


def _compare_splits(card: DatasetCard, root: Path, *, synthetic: bool) -> Iterator[Finding]:
    """Compare the owner's own splits, where their files are here."""
    remedy = "needed only for split official"
    try:
        found = load_manifest(card.name, root=root, options=Options(official=True)).split_counts()
    except MissingFileError as error:
        yield Finding("no official split", str(error), remedy, fatal=False)
        return
    if not found:
        where = f"the lists of {', '.join(card.official)} are not here"
        yield Finding("no official split", where, remedy, fatal=False)
        return
    for split, wanted in card.official.items():
        if found.get(split, 0) != wanted:
            where = f"{split} has {found.get(split, 0)} rows instead of {wanted}"
            remedy = "fetch the owner's tables again"
            yield Finding("count of a split", where, remedy, fatal=not synthetic)


def _compare_suffixes(manifest: Manifest) -> Iterator[Finding]:
    """Compare with the digit in the file name, which shows blanks and capitals in cells."""
    for row in manifest.rows:
        ending = suffix_label(row.path)
        if ending != row.label:
            where = f"{row.path} is {manifest.classes[row.label]} in the table"
            remedy = "look for blanks or capitals in the cell; label policy suffix goes by the name"
            yield Finding("label against name", where, remedy)


def _extra(manifest: Manifest) -> Iterator[Finding]:
    """Find images that no row names; some distributions have a few, so they are only noted."""
    known = set(manifest.paths)
    for folder in _folders(known):
        for above, _, names in os.walk(manifest.root / folder):
            place = Path(above).relative_to(manifest.root)
            for name in sorted(names):
                path = (place / name).as_posix()
                if path not in known and name.casefold().endswith(tuple(SUFFIXES)):
                    remedy = "no row names it; it is not used"
                    yield Finding("extra file", path, remedy, fatal=False)


def _folders(paths: set[str]) -> list[str]:
    """Find the deepest folder that holds all paths, or the top folders where there is none."""
    above = {path.rpartition("/")[0] for path in paths}
    shared = os.path.commonpath(above) if above else ""
    return [shared] if shared else sorted({folder.partition("/")[0] for folder in above} - {""})


def _empty_classes(manifest: Manifest) -> Iterator[Finding]:
    for name, count in manifest.counts().items():
        if count == 0:
            yield Finding("empty class", name, "add images or take the class out", fatal=False)
    left_out = manifest.labels.count(UNLABELLED)
    if left_out:
        where = f"{left_out} of {len(manifest)} rows"
        yield Finding("left out", where, f"label policy {manifest.label_policy}", fatal=False)


def _missing(manifest: Manifest) -> Iterator[Finding]:
    sizes = dict(zip(manifest.paths, manifest.sizes, strict=True))
    if manifest.drawer is not None:
        return
    for path, size in sizes.items():
        if size == -1:
            yield Finding("missing", path, "fetch the file or take its row out")
        elif size == 0:
            yield Finding("empty file", path, "fetch the file again")


def _duplicates(manifest: Manifest) -> Iterator[Finding]:
    """Find byte-identical files; only files of equal size are read."""
    sizes = dict(zip(manifest.paths, manifest.sizes, strict=True))
    common = Counter(sizes.values())
    seen: dict[str, str] = {}
    for path in sorted(path for path, size in sizes.items() if size > 0 and common[size] > 1):
        digest = sha256_of(manifest.root / path)
        if digest in seen:
            where = f"{path} = {seen[digest]}"  # full-size phantoms share their pictures
            yield Finding("duplicate file", where, "keep one of them", fatal=not manifest.synthetic)
        seen.setdefault(digest, path)


def _unreadable(
    manifest: Manifest, bad: set[str], measured: dict[int, Facts], progress: Progress | None
) -> Iterator[Finding]:
    """Find pictures that cannot be decoded; some of those that can are measured on the way."""
    rows = [(place, row) for place, row in enumerate(manifest.rows) if row.path not in bad]
    wanted = frozenset(sampled_rows(manifest))

    def fault(index: int) -> str:
        place, row = rows[index]
        try:
            found = read_image(manifest.root / row.path, item=row.item, reading=manifest.reading)
        except UnreadableImageError as error:
            return str(error)
        if place in wanted:
            header = header_facts(manifest.root / row.path)
            measured[place] = measure_picture(found.pixels) | header
        return ""

    faults = each(fault, len(rows), "decoding", progress)
    for (_, row), reason in zip(rows, faults, strict=True):
        if reason:
            where = f"{row.path}#{row.item}" if row.item else row.path
            yield Finding("unreadable", where, reason)
