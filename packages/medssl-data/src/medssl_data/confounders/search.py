"""What could explain the label besides the disease: view, sex, age, site, size, exposure, markers.

Every column that a manifest carries and every property of its pictures is held against the label.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl_data.confounders.association import Property, adjusted_p, strength
from medssl_data.confounders.pictures import CONTENT, Facts, columns_of, measure_pictures
from medssl_data.manifest import UNLABELLED, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medssl_data.confounders.association import Strength
    from medssl_data.dataset import ImageDataset
    from medssl_data.images.parallel import Progress

__all__ = [
    "PICTURES",
    "Association",
    "Confounders",
    "find_confounders",
    "is_missing",
    "number_of",
    "sampled_rows",
]

PICTURES = 5000
"""Images that are looked at; of larger sets a seeded sample."""

LEVEL = 0.05
"""Chance of any false alarm at all on a data set without a confounder."""

LEAST_V, LEAST_AREA = 0.1, 0.06
"""Least V, and distance of an AUROC from 0.5, that rings: what Cohen (Statistical power analysis,
1988) calls small, w = 0.1 and d = 0.2. In 100,000 images any trifle is significant."""

PERMUTATIONS, RESAMPLES = 1999, 1000
_MOST_LEVELS = 50
_CONTENT = "may be the finding itself"
_FEW_NUMBERS = 10
"""Distinct numbers up to which a column is a category, as codes of scanners are."""

_MISSING = frozenset({"", "nan", "na", "n/a", "none", "null", "-"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SHOWN = 40


@dataclass(frozen=True)
class Association:
    """One property against the label.

    Args:
        name: Such as `view` or `brightness at the edges`.
        kind: `category`, `number`, or `missing` where it is tested whether a cell is filled in.
        measure: `Cramer's V` (Bergsma's correction), or `AUROC` of one class against the rest.
        value: From 0 to 1.
        low: Lower end of the 95 % interval, by patient.
        high: Upper end.
        p: From permutations by patient, adjusted over all properties of the data set.
        images: Images in which it is known.
        sentence: What the label follows, with counts.
        excuse: Why it may be no confounder: then it is told, and does not ring.
        rings: Whether p and size together call for an explanation.
    """

    name: str
    kind: Literal["category", "number", "missing"]
    measure: Literal["Cramer's V", "AUROC"]
    value: float
    low: float
    high: float
    p: float
    images: int
    sentence: str
    excuse: str = ""
    rings: bool = False

    @property
    def verdict(self) -> str:
        """What it means, in a few words."""
        if self.rings:
            return "could explain the label"
        return self.excuse if self.p <= LEVEL else ""


@dataclass(frozen=True)
class Confounders:
    """What a search for confounders found.

    Args:
        name: The data set.
        associations: All properties that were tested, the least p-value and largest first.
        skipped: Property to why it was not tested.
        images: Images that were looked at.
        total: Images with a label.
        patients: Patients among them; 0 where they are unknown, and images take their place.
        pictures: Whether pictures were decoded.
    """

    name: str
    associations: tuple[Association, ...]
    skipped: Mapping[str, str]
    images: int
    total: int
    patients: int
    pictures: bool

    @property
    def ringing(self) -> tuple[Association, ...]:
        """What could explain the label."""
        return tuple(one for one in self.associations if one.rings)

    def as_dict(self) -> dict[str, object]:
        """Return the search as JSON holds it."""
        return asdict(self) | {"skipped": dict(self.skipped), "rings": bool(self.ringing)}

    def rows(self, most: int = 12) -> list[tuple[str, ...]]:
        """Lay the associations out as a table, what rings first."""
        shown = self.associations[: max(most, len(self.ringing))]
        return [
            (
                _shortened(one.name),
                f"{one.measure} {one.value:.2f}",
                f"{one.low:.2f} to {one.high:.2f}",
                f"{one.p:.4f}",
                one.verdict,
            )
            for one in shown
        ]


def find_confounders(
    data: ImageDataset | Manifest,
    *,
    pictures: int = PICTURES,
    seed: int = 0,
    progress: Progress | None = None,
    measured: Mapping[int, Facts] | None = None,
) -> Confounders:
    """Hold the label against every other column and against properties of the pictures.

    Categories are measured by Cramer's V, numbers by an AUROC, each with an interval by patient.
    Permutations by patient test all of them at once, so that a data set without any confounder
    rings in at most one case of twenty.

    Args:
        data: The images; rows without a label are left out.
        pictures: Pictures to decode at most, a seeded sample of larger sets; 0 decodes none.
        seed: Of sample, permutations and resamples.
        progress: Makes a progress display.
        measured: Position to what `measure_picture` said, where pictures were decoded already.

    Example:
        >>> from medssl_data import load_dataset
        >>> name = "phantom:chest-xray,count=80,confounder=view,strength=0.9"
        >>> found = find_confounders(load_dataset(name), pictures=0)
        >>> found.ringing[0].name
        'view'
    """
    manifest = data if isinstance(data, Manifest) else data.manifest
    rows = sampled_rows(manifest, pictures or PICTURES, seed=seed)
    chosen = manifest.select(rows)
    present, labels = np.unique(np.array(chosen.labels, np.int64), return_inverse=True)
    names = [g or f"\0{i}" for g, i in zip(chosen.groups, chosen.ids, strict=True)]
    owners, units = np.unique(np.array(names, object), return_inverse=True)
    skipped: dict[str, str] = {}
    found: list[Association] = []
    if len(present) > 1:
        facts: Sequence[Facts | None] = ()
        if measured is not None:
            facts = [measured.get(row) for row in rows]
        elif pictures:
            facts = measure_pictures(chosen, range(len(chosen)), progress)
        listed = [*_of_columns(chosen, len(owners), skipped)]
        listed += _of_pictures(chosen, facts, len(owners), skipped)
        properties = [one for one in listed if len(np.unique(labels[one.present])) > 1]
        classes = [_shortened(chosen.classes[label]) for label in present]
        p_values = adjusted_p(properties, labels, units, permutations=PERMUTATIONS, seed=seed)
        for one, p in zip(properties, p_values, strict=True):
            size = strength(one, labels, units, resamples=RESAMPLES, seed=seed)
            found.append(_association(one, size, p, labels, classes))
    found.sort(key=lambda one: (not one.rings, one.p, -_distance(one.measure, one.value)))
    return Confounders(
        name=manifest.name,
        associations=tuple(found),
        skipped=skipped,
        images=len(rows),
        total=len(manifest) - manifest.labels.count(UNLABELLED),
        patients=len(owners) if any(chosen.groups) else 0,
        pictures=pictures > 0,
    )


def sampled_rows(manifest: Manifest, most: int = PICTURES, *, seed: int = 0) -> list[int]:
    """Return the positions of the labelled images, of many a seeded sample in order.

    Args:
        manifest: The images.
        most: Of the sample.
        seed: Of the sample.
    """
    rows = np.flatnonzero(np.array(manifest.labels, np.int64) != UNLABELLED)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng([seed, 3]).permutation(rows)[:most])
    found: list[int] = rows.tolist()
    return found


def is_missing(cell: str) -> bool:
    """Tell whether a cell of a table says that nothing is known."""
    return cell.strip().casefold() in _MISSING


def number_of(cell: str) -> float:
    """Read a finite number; NaN where the text is none.

    Example:
        >>> number_of("61"), number_of("1e3"), number_of("058Y")
        (61.0, 1000.0, nan)
    """
    text = cell.strip()
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else math.nan


def _of_columns(manifest: Manifest, patients: int, skipped: dict[str, str]) -> Iterator[Property]:
    """Yield the columns that can be tested, and say of the rest why not."""
    columns: dict[str, Sequence[str]] = {"view": manifest.views, **manifest.attributes}
    if manifest.drawer is None:
        columns["file format"] = [_suffix(path) for path in manifest.paths]
    for name, cells in columns.items():
        yield from _tested(name, [str(cell) for cell in cells], patients, skipped)
    for one in _tested("split", manifest.splits, patients, skipped):
        yield replace(one, excuse="parts hold other shares of the classes")
    if any(manifest.groups):
        counts = Counter(manifest.groups)
        images = np.array([counts[group] if group else np.nan for group in manifest.groups])
        yield from _varying(Property("images of the patient", images), skipped)


def _of_pictures(
    manifest: Manifest, facts: Sequence[Facts | None], patients: int, skipped: dict[str, str]
) -> Iterator[Property]:
    """Yield what was measured on pictures, and the sizes of their files."""
    for name, values in columns_of(facts).items():
        if any(isinstance(value, str) and value for value in values):
            yield from _tested(name, [str(value) for value in values], patients, skipped)
        else:
            numbers = np.array([value if value != "" else np.nan for value in values], float)
            yield from _varying(
                Property(name, numbers, excuse=_CONTENT if name in CONTENT else ""), skipped
            )
    if facts and manifest.drawer is None and not any(manifest.items):
        sizes = np.array(manifest.sizes, float)
        yield from _varying(Property("file size", sizes, excuse=_CONTENT), skipped)


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    return name[name.rfind(".") :].casefold() if "." in name else "none"


def _tested(
    name: str, cells: Sequence[str], patients: int, skipped: dict[str, str]
) -> Iterator[Property]:
    """Yield a column as a category or a number, and whether its cells are filled in."""
    missing = np.array([is_missing(cell) for cell in cells])
    if missing.all():
        if name not in {"view", "split"}:
            skipped[name] = "all its cells are empty"
        return
    if missing.any():
        yield Property(f"{name} missing", missing.astype(float), ("given", "missing"))
    yield from _varying(_typed(name, cells, missing), skipped, patients)


def _typed(name: str, cells: Sequence[str], missing: np.ndarray) -> Property:
    given = [cell for cell, without in zip(cells, missing, strict=True) if not without]
    levels = sorted(set(given))
    numbers = {level: number_of(level) for level in levels}
    if len(levels) > _FEW_NUMBERS and not any(math.isnan(number) for number in numbers.values()):
        return Property(name, np.array([numbers.get(cell, np.nan) for cell in cells]))
    place = {level: float(index) for index, level in enumerate(levels)}
    values = np.array([np.nan if without else place[cell]
                       for cell, without in zip(cells, missing, strict=True)])  # fmt: skip
    return Property(name, values, tuple(levels))


def _varying(one: Property, skipped: dict[str, str], patients: int = 0) -> Iterator[Property]:
    """Yield a property that could tell classes apart."""
    distinct = len(one.levels) or len(np.unique(one.values[one.present]))
    if distinct < 2:
        skipped[one.name] = "it has one value"
    elif one.levels and distinct > min(_MOST_LEVELS, max(patients // 2, 2)):
        skipped[one.name] = f"{distinct:,} values for {patients:,} patients: no category"
    else:
        yield one


def _association(
    one: Property, size: Strength, p: float, labels: np.ndarray, classes: Sequence[str]
) -> Association:
    measure: Literal["Cramer's V", "AUROC"] = "Cramer's V" if one.levels else "AUROC"
    least = LEAST_V if one.levels else LEAST_AREA
    missing = one.levels == ("given", "missing")
    rings = p <= LEVEL and _distance(measure, size.value) >= least and not one.excuse
    return Association(
        name=one.name,
        kind="missing" if missing else "category" if one.levels else "number",
        measure=measure,
        value=round(size.value, 4),
        low=round(size.low, 4),
        high=round(size.high, 4),
        p=p,
        images=int(one.present.sum()),
        sentence=_of_category(one, labels, classes)
        if one.levels
        else _of_number(one, size, labels, classes),
        excuse=one.excuse,
        rings=rings,
    )


def _distance(measure: str, value: float) -> float:
    return value if measure == "Cramer's V" else abs(value - 0.5)


def _of_category(one: Property, labels: np.ndarray, classes: Sequence[str]) -> str:
    """Name the category whose share differs most between two classes."""
    kept = one.present
    table = np.zeros((len(classes), len(one.levels)), np.int64)
    np.add.at(table, (labels[kept], one.values[kept].astype(np.int64)), 1)
    sizes = table.sum(axis=1)
    held = np.flatnonzero(sizes)
    shares = table[held] / sizes[held, None]
    # Of two categories that tell the same, the commoner one is the plainer.
    level = int(np.lexsort((-table.sum(axis=0), -np.ptp(shares, axis=0).round(9)))[0])
    most, least = held[int(shares[:, level].argmax())], held[int(shares[:, level].argmin())]
    return (
        f"label follows {_shortened(one.name)}: {_shortened(one.levels[level])} "
        f"{table[most, level]:,} of {sizes[most]:,} in {classes[most]} against "
        f"{table[least, level]:,} of {sizes[least]:,} in {classes[least]}"
    )


def _of_number(one: Property, size: Strength, labels: np.ndarray, classes: Sequence[str]) -> str:
    kept = one.present
    mine = kept & (labels == size.label)
    rest = kept & (labels != size.label)
    others = "the others" if len(classes) > 2 else classes[1 - size.label]
    word, values = "median", [f"{np.median(one.values[part]):.4g}" for part in (mine, rest)]
    if values[0] == values[1]:
        word, values = "mean", [f"{np.mean(one.values[part]):.4g}" for part in (mine, rest)]
    return (
        f"label follows {_shortened(one.name)}: {word} {values[0]} in {classes[size.label]} "
        f"against {values[1]} in {others} (AUROC {size.value:.2f})"
    )


def _shortened(text: str) -> str:
    """Write what a table says as one short, printable line."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return plain if len(plain) <= _SHOWN else f"{plain[: _SHOWN - 1]}…"
