"""Sphinx: MyST pages, the API from docstrings, the commands from their help, tutorials run anew."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from medssl_models.experiments.registry import installed_experiments
from medssl_models.experiments.settings import differences

project = "medssl"
author = "The medssl authors"
copyright = author
release = version = metadata.version("medssl-models")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.programoutput",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"medssl {release}"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# Attributes of several classes may bear one name, such as `size`; a link to either would do.
suppress_warnings = ["ref.python"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_numpy_docstring = False
# pydantic's own machinery is documented by pydantic.
autodoc_pydantic_members = {"model_config", "model_fields", "model_computed_fields"}


def write_command_pages() -> None:
    """Write one page per command line, made by Typer from the code."""
    folder = Path(__file__).parent / "reference" / "commands"
    folder.mkdir(exist_ok=True)
    for entry in metadata.entry_points(group="console_scripts"):
        if entry.name.startswith("medssl-"):
            module = entry.value.partition(":")[0]
            page = str(folder / f"{entry.name}.md")
            typer = [sys.executable, "-m", "typer", module]
            docs = ["utils", "docs", "--name", entry.name, "--output", page]
            subprocess.run([*typer, *docs], check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own modules


def write_protocol_tables() -> None:
    """Write where the two protocols differ, one table an experiment."""
    lines = []
    for experiment in installed_experiments():
        lines += [f"## {experiment.name}", ""]
        lines += ["| setting | published | corrected | entries | why |", "|---|---|---|---|---|"]
        presets = (experiment.settings_for("published"), experiment.settings_for("corrected"))
        for one in differences(*presets):
            values = ("none" if v in (None, {}) else v for v in (one.published, one.corrected))
            cells = [f"`{one.field}`", *map(str, values), " ".join(one.entries), one.why]
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        alike = (f"No difference: {entry}, {why}." for entry, why in experiment.alike.items())
        lines += ["", *alike, ""]
    folder = Path(__file__).parent / "_build"
    folder.mkdir(exist_ok=True)
    (folder / "protocol-tables.md").write_text("\n".join(lines), encoding="utf-8")


def prepare_tutorials() -> None:
    """Give every tutorial an empty folder to work in, and a terminal of one width."""
    here = Path(__file__).parent
    shutil.rmtree(here / "_build" / "tutorials", ignore_errors=True)
    pages = [path.stem for path in (here / "tutorials").glob("*.md")]
    for page in ("getting-started", "air-gapped", "plug-ins", *pages):
        (here / "_build" / "tutorials" / page).mkdir(parents=True)
    os.environ.update(COLUMNS="110", NO_COLOR="1", CI="1", MPLBACKEND="agg", MEDSSL_OFFLINE="1")


prepare_tutorials()
write_command_pages()
write_protocol_tables()
