"""The command line's contract: options, tables, JSON, errors as one sentence.

A deliberate small twin of `medssl_models.console`, so that this package installs without torch.
It knows nothing about data.
"""

import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "Console",
    "DatasetsOption",
    "ForceOption",
    "JsonOption",
    "ProtocolOption",
    "QuietOption",
    "RootOption",
    "SeedOption",
    "create_app",
    "run",
]

DatasetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        "-d",
        metavar="NAME",
        help="A card's name, folder:DIR, table:FILE.csv, medmnist:FILE.npz or phantom:NAME; "
        "repeatable.",
    ),
]
RootOption = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="The folder that holds the data sets.")
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
]
ProtocolOption = Annotated[
    Literal["published", "corrected"],
    typer.Option(
        "--protocol", help="published repeats the 2022 study, corrected avoids its defects."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON document instead of a table.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no notes; warnings remain.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Do again what is done already.")]

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
_USAGE = 2
_INTERRUPTED = 130


class Console:
    """Writes results to stdout and everything else to stderr.

    Args:
        json: `document` is the output; without it `table` is.
        quiet: No notes and no progress; warnings stay.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = ""
    ) -> None:
        """Print a table for people; nothing under `--json`.

        Args:
            columns: Headings; none are printed where all are empty.
            rows: One sequence of cells for each row, as long as `columns`.
            title: A line above the table.
        """
        if self.json:
            return
        columns, title = [printable(column) for column in columns], printable(title)
        cells = [[_cell(value) for value in row] for row in rows]
        if sys.stdout.isatty():
            _print_rich(columns, cells, title)
        else:
            sys.stdout.write(_plain_table(columns, cells, title))

    def document(self, value: object) -> None:
        """Print one JSON document under `--json`; nothing without it."""
        if self.json:
            text = json.dumps(value, indent=2, ensure_ascii=_only_ascii(), default=_jsonable)
            sys.stdout.write(printable(text) + "\n")
            _IS_ANSWERED.set(True)

    def line(self, text: str) -> None:
        """Print one line of the result for people; nothing under `--json`."""
        if not self.json:
            sys.stdout.write(printable(text) + "\n")

    def say(self, text: str) -> None:
        """Write a note to stderr unless quiet."""
        if not self.quiet:
            sys.stderr.write(printable(text) + "\n")

    def warn(self, text: str) -> None:
        """Write a warning to stderr, always."""
        sys.stderr.write(f"warning: {printable(text)}\n")

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show progress with the time left on stderr; silent where nobody looks.

        Args:
            description: What is being done.
            total: Number of steps.

        Yields:
            `advance(n)`: n more steps are done.
        """
        if self.quiet or os.environ.get("CI") or not sys.stderr.isatty():
            yield _advance_silently
            return
        from rich.console import Console as Terminal
        from rich.progress import Progress

        with Progress(console=Terminal(stderr=True), transient=True) as bar:
            task = bar.add_task(printable(description), total=total)

            def advance(n: int = 1) -> None:
                bar.advance(task, n)

            yield advance


def create_app(name: str, help: str, *, examples: Sequence[str] = ()) -> typer.Typer:  # noqa: A002 - the word of Typer
    """Make a Typer application that keeps the contract.

    Args:
        name: The distribution, which is also the command.
        help: One sentence.
        examples: Command lines for the epilog.
    """
    epilog = "\n\n".join(["Examples", *(f"  [bold]{line}[/bold]" for line in examples)])
    app = typer.Typer(
        name=name,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )

    def show_version(value: bool) -> None:  # noqa: FBT001 - Typer passes it by position
        if value:
            sys.stdout.write(f"{name} {version(name)}\n")
            raise typer.Exit

    @app.callback(help=help, epilog=epilog if examples else None)
    def main(
        shown: Annotated[  # noqa: FBT002 - a flag
            bool,
            typer.Option("--version", callback=show_version, is_eager=True, help="Print it."),
        ] = False,
    ) -> None: ...

    return app


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line and turn every failure into a sentence and an exit code.

    Args:
        app: What `create_app` made.
        arguments: Words after the command; None takes them from the process.

    Returns:
        0 done, 1 failed, 2 wrong usage, 3 bad input, 4 something must be brought, 130 interrupted.
        With `--json` a failure is a document on stdout too, `{"error": SENTENCE, "exit_code": N}`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _settle_streams()
    _IS_ANSWERED.set(False)
    try:
        code = app(args=words or ["--help"], prog_name=app.info.name, standalone_mode=False)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where failures become sentences
        return _report(error, as_json="--json" in words)
    if code == _INTERRUPTED:
        sys.stderr.write(
            "interrupted: files that were finished are kept, nothing is half-written\n"
        )
    if not words:
        return _USAGE
    return code if isinstance(code, int) else 0


def _report(error: Exception, *, as_json: bool) -> int:
    if os.environ.get("MEDSSL_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error.__cause__, KeyboardInterrupt):
        sys.stderr.write("interrupted: files that were finished are kept\n")
        return _INTERRUPTED
    code = getattr(error, "exit_code", None)
    if isinstance(error, BrokenPipeError):
        _silence_stdout()
    else:
        line = printable(" ".join(_sentence(error).split()))
        sys.stderr.write(f"error: {line}\n")
        code = code if isinstance(code, int) else 1
        answered = _IS_ANSWERED.get()
        Console(json=as_json and not answered).document({"error": line, "exit_code": code})
    return code if isinstance(code, int) else 1


def _sentence(error: Exception) -> str:
    describe = getattr(error, "format_message", None)  # Typer's own errors
    if callable(describe):
        return str(describe())
    if isinstance(getattr(error, "exit_code", None), int):
        return str(error)
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        name = error.filename2 or error.filename  # a rename fails because of its target
        return f"{name}: {reason}" if name else reason
    defect = "this is a defect of the program; MEDSSL_DEBUG=1 shows where"
    return f"{type(error).__name__}: {error} ({defect})"


def _settle_streams() -> None:
    """Let no closed stream and no letter that a terminal lacks stop a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - it stays open
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _only_ascii() -> bool:
    """Tell whether stdout takes no other letters: JSON then escapes them, by its own rule."""
    return not (sys.stdout.encoding or "utf-8").lower().startswith("utf")


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _advance_silently(n: int = 1) -> None:
    del n


def printable(text: str) -> str:
    r"""Show characters that a terminal would obey: names of files, classes and tensors hold any.

    Example:
        >>> printable("a\x1b[2J")
        'a\\u001b[2J'
    """
    return text.translate(_UNSEEN)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    heading = (columns, ["-" * width for width in widths]) if any(columns) else ()
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (*heading, *rows)
    ]
    return "\n".join([*([title] if title else []), *lines]) + "\n"


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich.console import Console as Terminal
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title or None, title_justify="left", show_header=any(columns))
    for row in rows:
        table.add_row(*map(Text, row))
    Terminal().print(table)


def _jsonable(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    item = getattr(value, "tolist", None)
    if callable(item):
        return item()
    return dict(value) if isinstance(value, Mapping) else str(value)
