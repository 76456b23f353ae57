"""A report's numbers as plain tables: CSV for programs, Markdown and LaTeX for papers."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from medssl_models.experiments.cells import csv_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from medssl_eval.report.content import Board, Content, Entry

__all__ = ["FORMATS", "cell_text", "export"]

_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
COLUMNS = (
    *("experiment", "setting", "metric", "unit", "data set", "model", "protocol"),
    *("value", "low", "high", "n", "images", "patients", "control", "synthetic", "notes"),
)


def export(content: Content, kind: str) -> str:
    """Write all numbers as text.

    Args:
        content: A report's entries.
        kind: `csv` (one line a number, all digits), `markdown` or `latex` (one table of models and
            data sets for each experiment, best value of a column in bold).
    """
    return FORMATS[kind](content)


def cell_text(entry: Entry) -> str:
    """Write value and interval as a paper does: 74.5 [73.8, 75.1]."""
    digits = 1 if entry.unit == "%" else 3
    if entry.low is None or entry.high is None:
        return f"{entry.value:.{digits}f}"
    return f"{entry.value:.{digits}f} [{entry.low:.{digits}f}, {entry.high:.{digits}f}]"


def _csv(content: Content) -> str:
    lines = (
        (
            *(entry.experiment, entry.setting, entry.metric, entry.unit),
            *(entry.dataset, entry.model, entry.protocol, entry.value, entry.low, entry.high),
            *(entry.n, entry.images, entry.patients),
            *(int(entry.control), int(entry.synthetic), "; ".join(entry.notes)),
        )
        for entry in content.entries
    )
    return csv_text([COLUMNS, *lines])


def _markdown(content: Content) -> str:
    return "\n".join(
        f"### {_escape_markdown(board.title)}\n\n" + "\n".join(_markdown_lines(board)) + "\n"
        for board in content.boards
    )


def _markdown_lines(board: Board) -> list[str]:
    rows = _rows(board, bold="**{}**".format, clean=_escape_markdown)
    head = ["model", *map(_escape_markdown, _columns(board))]
    rule = ["---", *["---:"] * len(board.datasets)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _latex(content: Content) -> str:
    return "\n\n".join(_latex_table(board) for board in content.boards) + "\n"


def _latex_table(board: Board) -> str:
    rows = _rows(board, bold=r"\textbf{{{}}}".format, clean=_escape_latex)
    head = ["model", *map(_escape_latex, _columns(board))]
    lines = [" & ".join(row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escape_latex(board.title)}. Best of a column in bold; 95\,\% "
            r"intervals in brackets.}",
            rf"\begin{{tabular}}{{l{'r' * len(board.datasets)}}}",
            r"\hline",
            " & ".join(head) + r" \\ \hline",
            *lines,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _columns(board: Board) -> list[str]:
    """Name data sets, and on how many images their values rest."""
    counts = {name: board.counted(name) for name in board.datasets}
    return [f"{name} ({count})" if count else name for name, count in counts.items()]


def _counted(board: Board, entry: Entry) -> str:
    """Write value and interval, and on how many images they rest where the column cannot say it."""
    text = cell_text(entry)
    return (
        text if board.counted(entry.dataset) or not entry.counted else f"{text} ({entry.counted})"
    )


def _rows(
    board: Board, *, bold: Callable[[str], str], clean: Callable[[str], str]
) -> list[list[str]]:
    best = {name: board.best(name) for name in board.datasets}
    rows = []
    for model in board.models:
        cells = [board.cells.get((model, name)) for name in board.datasets]
        rows.append(
            [
                clean(board.named(model)),
                *(
                    ""
                    if entry is None
                    else (bold if _is_best(entry, best[entry.dataset]) else str)(
                        _counted(board, entry)
                    )
                    for entry in cells
                ),
            ]
        )
    return rows


def _is_best(entry: Entry, best: Entry | None) -> bool:
    return best is not None and entry.value == best.value


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _escape_markdown(text: str) -> str:
    """Keep names from being taken for columns, tags, links or emphasis; hyphens are harmless."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


FORMATS: Mapping[str, Callable[[Content], str]] = MappingProxyType(
    {"csv": _csv, "markdown": _markdown, "latex": _latex}
)
