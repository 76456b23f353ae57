"""`medssl-eval report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from medssl_models.console import Console, JsonOption, QuietOption, choice

__all__ = ["report"]

_Format = Literal["html", "csv", "markdown", "latex"]


def report(
    results: Annotated[
        list[Path] | None, typer.Argument(metavar="RESULTS...", help="Files of records.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write; else report.html."),
    ] = None,
    format: Annotated[  # noqa: A002 # the option's name
        _Format,
        typer.Option("--format", help="A page, or plain tables.", **choice(_Format)),
    ] = "html",
    published: Annotated[
        bool, typer.Option("--published", help="Report the study's released numbers instead.")
    ] = False,
    title: Annotated[
        str | None, typer.Option("--title", metavar="TEXT", help="The heading of the page.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Turn records into one page: rankings, figures, pictures and the origin of every number."""
    from dataclasses import replace

    from medssl_models.files import write_atomically

    from medssl_eval.errors import SettingsError
    from medssl_eval.report import export, published_content, read_content, write_page

    console = Console(json=json, quiet=quiet)
    if published == bool(results):
        message = "give results files, such as results.jsonl, or --published, not both or neither"
        raise SettingsError(message)
    content = published_content() if published else read_content(results or [])
    if title:
        content = replace(content, title=title)
    text = write_page(content) if format == "html" else export(content, format)
    suffix = {"html": "html", "csv": "csv", "markdown": "md", "latex": "tex"}[format]
    path = output or Path(f"report.{suffix}")
    write_atomically(path, text.encode())
    for warning in content.warnings:
        console.say(f"note: {warning}")
    console.write(str(path))
    console.document({"report": path, "numbers": len(content.entries), "format": format})
