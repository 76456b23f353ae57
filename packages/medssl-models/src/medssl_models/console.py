"""The command line's manners: shared options, stdout and stderr, errors as sentences, progress.

The result goes to stdout, everything else to stderr. Importing this module imports neither torch
nor rich. Library modules do not print: they log to `medssl`, and `run` shows that on stderr.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import json as json_text
import logging
import os
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from textwrap import TextWrapper
from typing import TYPE_CHECKING, Annotated, Literal, ParamSpec, Protocol, TypeVar, get_args

import typer

from medssl_models.plain_json import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from rich.console import Console as RichConsole
    from rich.table import Table as RichTable

__all__ = [
    "Advance",
    "BatchNormOption",
    "BatchSizeOption",
    "Console",
    "ControlsOption",
    "DatasetsOption",
    "DeviceOption",
    "ForceOption",
    "ImagesArgument",
    "JsonOption",
    "LabelsOption",
    "ModelsOption",
    "PrecisionOption",
    "Progress",
    "ProtocolOption",
    "QuietOption",
    "ResultsOption",
    "RootOption",
    "SeedOption",
    "SkipUnreadableOption",
    "SplitOption",
    "WorkersOption",
    "choice",
    "create_app",
    "create_group",
    "examples",
    "run",
]

LOG = logging.getLogger("medssl")
_UNSEEN = {
    code: f"\\u{code:04x}"  # JSON's way too
    for code in (
        *(code for code in range(32) if chr(code) not in "\n\t"),
        *range(127, 160),
        *(0x200E, 0x200F),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
}
"""What moves a terminal's cursor, colours it or turns the direction of writing."""
_IS_ANSWERED: ContextVar[bool] = ContextVar("whether a command has written its document")
P = ParamSpec("P")
R = TypeVar("R")


class Advance(Protocol):
    """Counts finished items; what `Console.progress` yields."""

    def __call__(self, n: int = 1, *, note: str = "") -> None:
        """Count `n` more items as done, and show a note behind the description from now on."""


class Progress(Protocol):
    """What a long function takes to show how far it is; `Console.progress` is one."""

    def __call__(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Start to count `total` items."""


# ---------------------------------------------------------------------------------- shared options


def choice(alternatives: object) -> dict[str, object]:
    """Return the arguments of `typer.Option` that restrict an option to a `Literal`'s values.

    Typer reads `Literal` itself from 0.19 on only.

    Example:
        >>> Shape = Literal["round", "square"]
        >>> ShapeOption = Annotated[Shape, typer.Option("--shape", **choice(Shape))]
    """
    allowed = get_args(alternatives)

    def one_of(text: str) -> str:
        if text not in allowed:
            message = f"{text!r} is not one of {', '.join(allowed)}."
            raise typer.BadParameter(message)
        return text

    return {"parser": one_of, "metavar": "|".join(allowed)}


_Device = Literal["auto", "cpu", "cuda", "mps"]
_Precision = Literal["fp32", "bf16"]
_ProtocolName = Literal["published", "corrected"]
_BatchNorm = Literal["eval", "training"]

ModelsOption = Annotated[
    list[str],
    typer.Option(
        "--model", "-m", metavar="NAME", help="A card's name or a converted folder; repeatable."
    ),
]
DatasetsOption = Annotated[
    list[str],
    typer.Option(
        "--dataset",
        "-d",
        metavar="NAME",
        help="A card's name, folder:DIR, table:FILE.csv, medmnist:FILE.npz or phantom:NAME; "
        "repeatable.",
    ),
]
ImagesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[IMAGE]...", help="Picture files; or name data sets with -d."),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="POLICY",
        help="Policy for uncertain and merged labels (default: the protocol's).",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="RULE",
        help="Who trains and who tests: official, patient, published, or a CSV file with columns "
        "id and split (default: the protocol's).",
    ),
]
ControlsOption = Annotated[
    bool,
    typer.Option("--controls/--no-controls", help="Add the untrained control of each model."),
]
SkipUnreadableOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable images out, and record it.")
]
RootOption = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="The folder that holds the data sets.")
]
DeviceOption = Annotated[
    _Device,
    typer.Option("--device", help="Where the network runs; auto takes a GPU.", **choice(_Device)),
]
PrecisionOption = Annotated[
    _Precision,
    typer.Option("--precision", help="bf16 is faster and records its error.", **choice(_Precision)),
]
BatchNormOption = Annotated[
    _BatchNorm | None,
    typer.Option(
        "--batchnorm",
        help="training repeats a defect of the study's newest code; needs --protocol published.",
        **choice(_BatchNorm),
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Batch size (default: auto-tuned)."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Threads that decode images; 0 decodes in line."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
]
ProtocolOption = Annotated[
    _ProtocolName,
    typer.Option(
        "--protocol",
        help="published repeats the 2022 study, corrected avoids its defects.",
        **choice(_ProtocolName),
    ),
]
ResultsOption = Annotated[
    Path, typer.Option("--results", metavar="FILE", help="Records are appended to this file.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON document instead of a table.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no notes; warnings remain.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Do again what is done already.")]


# ------------------------------------------------------------------------------------- the console


@dataclass(frozen=True)
class Console:
    """Where a command writes: results to stdout, notes, warnings and progress to stderr.

    Call both `table` and `document`; the mode decides which one is written.

    Args:
        json: Write JSON documents, no tables.
        quiet: No progress and no notes; warnings remain.
    """

    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        # Notes of library modules follow the same switch; `run` sets the level back.
        LOG.setLevel(logging.WARNING if self.quiet else logging.INFO)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = ""
    ) -> None:
        """Write a table for people to stdout; nothing with `json`.

        Where a terminal is so narrow that words would be cut, each row becomes lines of its own.

        Args:
            columns: The headings.
            rows: One value a column; None is an empty cell. Columns of numbers are right-aligned.
            title: A line above the table.
        """
        if self.json:
            return
        # Only tables need rich, and it takes longer to import than all the rest.
        from rich.box import SIMPLE_HEAD
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        heading = Text(printable(title)) if title else None
        table = Table(title=heading, box=SIMPLE_HEAD, title_justify="left")
        for index, column in enumerate(columns):
            justify = "right" if _is_numeric([row[index] for row in rows]) else "left"
            table.add_column(Text(printable(column)), justify=justify, overflow="fold")  # type: ignore[arg-type] # a literal
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row))
        width = None if sys.stdout.isatty() else 10_000  # a pipe has no width: never truncate
        screen = RichConsole(file=sys.stdout, width=width, highlight=False)
        if _fitted(table, screen):
            screen.print(table)
        else:
            sys.stdout.write(_stacked(columns, rows, title, screen.width))

    def document(self, value: object) -> None:
        """Write the one JSON document of a command to stdout; nothing without `json`.

        Args:
            value: Anything that `medssl_models.plain_json.plain` takes; NaN becomes null.
        """
        if self.json:
            text = json_text.dumps(
                plain(value), indent=2, ensure_ascii=_only_ascii(), allow_nan=False
            )
            sys.stdout.write(printable(text) + "\n")
            _IS_ANSWERED.set(True)

    def write(self, text: str) -> None:
        """Write a line of the result for people to stdout; nothing with `json`."""
        if not self.json:
            sys.stdout.write(printable(text) + "\n")

    def say(self, text: str) -> None:
        """Write a note to stderr; nothing with `quiet`."""
        if not self.quiet:
            sys.stderr.write(printable(text) + "\n")

    def warn(self, text: str) -> None:
        """Write a warning to stderr."""
        sys.stderr.write(f"warning: {printable(text)}\n")

    @contextlib.contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        """Show on stderr how much is done and how long the rest will take.

        Nothing is shown when stderr is no terminal, with `quiet`, or when `CI` is set.

        Args:
            description: What is counted.
            total: How many items there are.

        Yields:
            A function that counts finished items.
        """
        if self.quiet or os.environ.get("CI") or not sys.stderr.isatty():
            yield _count_silently
            return
        from rich import progress as bars
        from rich.console import Console as RichConsole

        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=RichConsole(file=sys.stderr)) as bar:
            task = bar.add_task(printable(description), total=total)

            def advance(n: int = 1, *, note: str = "") -> None:
                if note:
                    bar.update(task, description=printable(f"{description}, {note}"))
                bar.advance(task, n)

            yield advance


def _count_silently(n: int = 1, *, note: str = "") -> None:
    """Satisfy `Advance` where nothing is shown."""


def printable(text: str) -> str:
    r"""Show characters that a terminal would obey: names of files, classes and tensors hold any.

    Example:
        >>> printable("a\x1b[2J")
        'a\\u001b[2J'
    """
    return text.translate(_UNSEEN)


def _fitted(table: RichTable, screen: RichConsole) -> bool:
    """Give each column its longest word and a share of the room; False where the room is too small.

    Rich alone makes the widest columns equally narrow, and cuts names and numbers in two.
    """
    endless = screen.options.update(width=10_000)
    whole = table.__rich_measure__(screen, endless)
    if whole.minimum > screen.width:
        return False
    if whole.maximum > screen.width:
        room = screen.width - whole.minimum
        for column in table.columns:
            spans = [
                screen.measure(cell, options=endless) for cell in (column.header, *column.cells)
            ]
            least, most = (max(span[end] for span in spans) for end in (0, 1))
            column.width = least + room * (most - least) // (whole.maximum - whole.minimum)
    return True


def _stacked(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str, width: int
) -> str:
    """Lay each row out as lines of heading and value; empty cells are left out."""
    names = [printable(column) for column in columns]
    widest = max(map(len, names))
    fill = TextWrapper(
        width=max(width, 2 * widest), subsequent_indent=" " * (widest + 4),
        break_long_words=False, break_on_hyphens=False,
    ).fill  # fmt: skip
    blocks = [
        "".join(
            fill(f"  {name:<{widest}}  {cell}") + "\n"
            for name, cell in zip(names, map(_cell, row), strict=True)
            if cell
        )
        for row in rows
    ]
    return "\n".join([f"{printable(title)}\n" if title else "", *blocks, ""])


def _cell(value: object) -> str:
    return "" if value is None else printable(str(value))


def _is_numeric(values: Sequence[object]) -> bool:
    return bool(values) and all(_looks_numeric(value) for value in values if value is not None)


def _looks_numeric(value: object) -> bool:
    """Numbers, and text that starts like one: `0.71`, `71.3 +- 0.4`, `12 %`."""
    text = str(value).lstrip("+-")
    return text[:1].isdigit() and not isinstance(value, Path)


# ---------------------------------------------------------------------------------- apps and errors


class Interrupted(RuntimeError):  # noqa: N818 # not an error: the user's wish
    """Ctrl-C, with the notes that say what is kept."""

    exit_code = 130


class _Application(typer.Typer):
    """Typer, but what an interrupted command noted about its kept work is not lost."""

    def command(  # type: ignore[override] # the arguments pass through as they are
        self, *arguments: object, **options: object
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Register a command; see `typer.Typer.command`."""
        register = super().command(*arguments, **options)  # type: ignore[arg-type] # passed through

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            register(_tell_what_is_kept(function))
            return function

        return decorate


def _tell_what_is_kept(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as stop:  # Typer would reduce it to a number
            notes = getattr(stop, "__notes__", None) or [
                "what was finished is kept, the same command goes on from there"
            ]
            raise Interrupted("; ".join(notes)) from stop

    return guarded


def create_app(name: str, help: str, *, epilog: str | None = None) -> typer.Typer:  # noqa: A002 # Typer's word
    """Make a command-line application with `--version`.

    Args:
        name: The distribution's name, which is the program's name too.
        help: What the program is for, one line.
        epilog: Shown below the help; see `examples`.

    Returns:
        An application without commands.
    """
    app = _Application(
        name=name,
        help=help,
        epilog=epilog,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )

    def show_version(wanted: bool) -> None:  # noqa: FBT001 # a Typer callback's signature
        if wanted:
            sys.stdout.write(f"{name} {importlib.metadata.version(name)}\n")
            raise typer.Exit

    version_option = typer.Option(
        False,  # noqa: FBT003 # Typer takes the default first
        "--version",
        callback=show_version,
        is_eager=True,
        help="Show the version.",
    )

    @app.callback(help=help)
    def main(version: bool = version_option) -> None:  # noqa: FBT001 # its callback does the work
        pass

    return app


def create_group(help: str) -> typer.Typer:  # noqa: A002 # Typer's word
    """Make a group of commands, such as `bundle`, to be added to an application by its name."""
    return _Application(help=help, no_args_is_help=True, rich_markup_mode="rich")


def examples(*commands: str) -> str:
    """Write an epilog that shows commands to copy, one a line."""
    escaped = (command.replace("[", r"\[") for command in commands)
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {command}" for command in escaped)])


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command and turn its errors into one line on stderr and an exit code.

    Every exception with an integer attribute `exit_code` is a sentence for the user, as is an
    `OSError`; with `--json` it is the document on stdout too unless one was written before,
    `{"error": SENTENCE, "exit_code": 3}`. Anything else is a defect of ours and keeps its
    traceback. `MEDSSL_DEBUG=1` shows all tracebacks.

    Args:
        app: What `create_app` made.
        arguments: The words after the program's name; None takes them from `sys.argv`.

    Returns:
        0 done; 1 the work failed; 2 wrong usage; 3 bad input; 4 something must be brought;
        130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _settle_streams()
    _IS_ANSWERED.set(False)
    with _log_on_stderr():
        try:
            outcome = app(args=words or ["--help"], standalone_mode=False)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return _fail("interrupted before the work began", 130, kind="interrupted")
        except BrokenPipeError:  # as in `medssl-models list | head -1`
            _close_stdout()
            return 1
        except Exception as error:  # noqa: BLE001 # raised again unless it is for the user
            return _report(error, as_json="--json" in words)
    if not words:
        return 2
    return outcome if isinstance(outcome, int) else 0


def _report(error: Exception, *, as_json: bool) -> int:
    code = getattr(error, "exit_code", 1 if isinstance(error, OSError) else None)
    if not isinstance(code, int):
        raise error
    if os.environ.get("MEDSSL_DEBUG") == "1":
        traceback.print_exception(error, file=sys.stderr)
    kind = "interrupted" if isinstance(error, Interrupted) else "error"
    return _fail(_sentence(error), code, kind=kind, as_json=as_json)


def _sentence(error: Exception) -> str:
    describe = getattr(error, "format_message", None)  # Typer's own errors
    text = describe() if callable(describe) else str(error)
    if isinstance(error, OSError) and error.strerror and not hasattr(error, "exit_code"):
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror}"
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # a KeyError's own text is a quoted representation
    return "; ".join([text, *getattr(error, "__notes__", [])])


def _fail(text: str, code: int, *, kind: str = "error", as_json: bool = False) -> int:
    line = printable(" ".join(text.split("\n")).strip())
    if line:
        sys.stderr.write(f"{kind}: {line}\n")
        Console(json=as_json and not _IS_ANSWERED.get()).document({kind: line, "exit_code": code})
    return code


def _settle_streams() -> None:
    """Let no closed stream and no letter that a terminal lacks stop a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _only_ascii() -> bool:
    """Whether stdout takes no other letters: JSON then escapes them, by its own rule."""
    return not (sys.stdout.encoding or "utf-8").lower().startswith("utf")


def _close_stdout() -> None:
    """Keep the interpreter from writing the rest to a closed pipe at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_NoteFormatter())
    level, propagate = LOG.level, LOG.propagate
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        LOG.propagate = propagate


class _NoteFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())
        return text if record.levelno < logging.WARNING else f"warning: {text}"
