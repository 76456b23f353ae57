"""A report as one HTML file: no network, opens from the disk, prints, works without a mouse."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from medssl_eval.report import figures
from medssl_eval.report.exports import cell_text
from medssl_eval.report.overview import draw_overview, leading_boards
from medssl_eval.report.pictures import gather_pictures
from medssl_eval.report.relations import relations
from medssl_eval.statistics.average_ranks import FEWEST
from medssl_eval.statistics.intervals import intervals_overlap

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from medssl_eval.report.content import Board, Content, Entry
    from medssl_eval.report.figures import Drawing
    from medssl_eval.report.relations import Relation

__all__ = ["write_page"]

BOARDS = 40
"""Tables of models and data sets in a page; what is beyond is in the list of all numbers."""
SCATTERS = 18
GROWTH = 18
"""Curves over what was given to learn from."""
STATIC_ROWS = 100
"""Rows that a reader without JavaScript, or a printer, gets of the list of all numbers."""
TEXTS = ("dataset", "experiment", "setting", "metric", "model", "protocol", "unit")


@dataclass(frozen=True)
class HeatCell:
    """One cell of a heat table.

    Args:
        value: The number.
        interval: Its interval, empty where there is none, and on how many images it rests where
            the column does not say it.
        shade: 0 for the worst of the column to 1 for the best.
        best: The best of its column.
        flags: Notes on it.
    """

    value: str
    interval: str
    shade: float
    best: bool
    flags: str


@dataclass(frozen=True)
class Leader:
    """The best model of a data set, and whether the next one can be told from it."""

    best: Entry
    text: str
    runner_up: str
    overlap: bool | None


def write_page(content: Content) -> str:
    """Render a report.

    Args:
        content: Entries and warnings.

    Returns:
        A whole HTML document that refers to nothing outside of itself.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medssl_eval.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures, missing = gather_pictures(content.entries)
    found = relations(content)
    boards = content.boards
    transfer = [board for board in boards if board.is_transfer]
    return environment.get_template("page.html.j2").render(
        content=content,
        warnings=[*content.warnings, *_left_out(content), *missing],
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        version=metadata.version("medssl-eval"),
        style=_asset("page.css"),
        script=_asset("page.js"),
        counts=_counts(content),
        overview=draw_overview(transfer),
        leaders=_leaders(leading_boards(transfer)[:BOARDS]),
        boards=[(board, _heat(board)) for board in boards[:BOARDS]],
        more_boards=len(boards) - BOARDS,
        ranks=figures.drawn(figures.critical_difference(board) for board in transfer[:BOARDS]),
        unranked=_unranked(transfer),
        radars=figures.drawn(figures.radar(board) for board in transfer[:6]),
        relations=found,
        scatters=[figures.scatter(relation) for relation in _first_outcome(found)],
        growth=[figures.growth_curve(curve) for curve in content.growth[:GROWTH]],
        more_growth=len(content.growth) - GROWTH,
        curves=_curves(content),
        galleries=[
            (name, list(group))
            for name, group in itertools.groupby(pictures, key=lambda picture: picture.experiment)
        ],
        rows=content.entries[:STATIC_ROWS],
        cell_text=cell_text,
        data=_data(content),
    )


def _asset(name: str) -> str:
    return (resources.files("medssl_eval.report") / name).read_text("utf-8")


def _counts(content: Content) -> str:
    entries = content.entries
    models = len({entry.model for entry in entries})
    datasets = len({entry.dataset for entry in entries})
    return f"{len(entries):,} numbers, {models} models, {datasets} data sets"


def _left_out(content: Content) -> list[str]:
    """Warn about what a reader could take for more than it is."""
    found = []
    if any(entry.synthetic for entry in content.entries):
        found.append(
            "Some data sets are synthetic phantoms; their numbers say nothing of patients."
        )
    gaps = sum(len(b.models) * len(b.datasets) - len(b.cells) for b in content.boards)
    if gaps:
        found.append(
            f"{gaps} pairs of model and data set have no number; rankings over data sets use "
            "complete parts only."
        )
    return found


def _unranked(boards: Sequence[Board]) -> str:
    """Say why no average ranks are drawn of boards over several data sets."""
    several = [board for board in boards if len(board.complete[1]) > 1]
    if not several or any(len(board.complete[1]) >= FEWEST for board in several):
        return ""
    most = max(len(board.complete[1]) for board in several)
    return f"Average ranks and their tests need models on at least {FEWEST} data sets, not {most}."


def _leaders(boards: Sequence[Board]) -> list[tuple[Board, list[Leader]]]:
    return [(board, [_leader(board, name) for name in board.datasets]) for board in boards]


def _leader(board: Board, dataset: str) -> Leader:
    here = sorted(
        (entry for entry in board.entries if entry.dataset == dataset),
        key=lambda entry: -board.sign * entry.value,
    )
    best, second = here[0], here[1] if len(here) > 1 else None
    if second is None:
        return Leader(best, cell_text(best), "", None)
    overlap = intervals_overlap((best.low, best.high), (second.low, second.high))
    return Leader(best, cell_text(best), f"{second.model}, {cell_text(second)}", overlap)


def _heat(board: Board) -> list[tuple[str, list[HeatCell | None]]]:
    """Shade each column from its worst to its best value."""
    ranges = {}
    for name in board.datasets:
        values = [entry.value for entry in board.entries if entry.dataset == name]
        ranges[name] = min(values), max(values)
    return [
        (board.named(model), [_cell(board, model, name, ranges[name]) for name in board.datasets])
        for model in board.models
    ]


def _cell(board: Board, model: str, dataset: str, limits: tuple[float, float]) -> HeatCell | None:
    entry = board.cells.get((model, dataset))
    if entry is None:
        return None
    low, high = limits
    share = (entry.value - low) / (high - low) if high > low else 1.0
    shade = {1: share, -1: 1.0 - share, 0: 0.0}[board.sign]
    value, _, interval = cell_text(entry).partition(" ")
    if not board.counted(dataset):
        interval = f"{interval} {entry.counted}".strip()
    return HeatCell(value, interval, shade, math.isclose(shade, 1.0), "; ".join(entry.notes))


def _first_outcome(found: Sequence[Relation]) -> list[Relation]:
    """Choose one figure for each trait: the outcome over the most models, then the first."""
    chosen: dict[str, Relation] = {}
    for relation in found:
        best = chosen.get(relation.trait)
        if best is None or len(relation.models) > len(best.models):
            chosen[relation.trait] = relation
    return list(chosen.values())[:SCATTERS]


def _curves(content: Content) -> list[Drawing]:
    groups: dict[str, list[Entry]] = {}
    for entry in content.entries:
        if entry.curve is not None:
            groups.setdefault(entry.dataset, []).append(entry)
    return figures.drawn(figures.learning_curve(entries) for entries in groups.values())


def _data(content: Content) -> str:
    """Return all entries as JSON columns, texts by number, safe inside a script element."""
    entries = content.entries
    columns: dict[str, object] = {
        name: _coded([getattr(entry, name) for entry in entries]) for name in TEXTS
    }
    columns["notes"] = _coded([entry.notes for entry in entries], "; ".join)
    columns["value"] = [_rounded(entry.value) for entry in entries]
    columns["low"] = [_rounded(entry.low) for entry in entries]
    columns["high"] = [_rounded(entry.high) for entry in entries]
    columns["n"] = [entry.n if entry.images is None else entry.images for entry in entries]
    columns["control"] = [int(entry.control) for entry in entries]
    columns["context"] = _contexts(entries)
    text = json.dumps(columns, separators=(",", ":"), allow_nan=False)
    # A text may hold `</script>`; JSON allows the sign to be escaped.
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _contexts(entries: Sequence[Entry]) -> dict[str, object]:
    """Make a column for each part of the origins; many entries share one origin, by identity."""
    origins = {id(entry.context): dict(entry.context) for entry in entries}
    places = {origin: place for place, origin in enumerate(origins)}
    rows = [places[id(entry.context)] for entry in entries]
    columns: dict[str, object] = {}
    for name in dict.fromkeys(name for origin in origins.values() for name in origin):
        numbers: dict[str, int] = {}
        codes = [numbers.setdefault(o.get(name, ""), len(numbers)) for o in origins.values()]
        columns[name] = {"texts": list(numbers), "rows": [codes[row] for row in rows]}
    return columns


def _coded(values: Sequence[Hashable], text: Callable[[Any], str] = str) -> dict[str, object]:
    """Number the texts of a column; each value is put into words once."""
    numbers: dict[str, int] = {}
    codes = {
        value: numbers.setdefault(text(value), len(numbers)) for value in dict.fromkeys(values)
    }
    return {"texts": list(numbers), "rows": [codes[value] for value in values]}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
