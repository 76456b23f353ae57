"""command: the Typer command of an experiment, made from its declaration.

Shared options are written once here; every setting is an option, with its default, its help and its
words from the field. Importing this module imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer
from pydantic import BaseModel, ValidationError

from medssl_models.console import (
    BatchSizeOption,
    Console,
    ControlsOption,
    DatasetsOption,
    DeviceOption,
    ForceOption,
    ImagesArgument,
    JsonOption,
    LabelsOption,
    ModelsOption,
    PrecisionOption,
    ProtocolOption,
    QuietOption,
    ResultsOption,
    RootOption,
    SkipUnreadableOption,
    SplitOption,
    WorkersOption,
    examples,
)
from medssl_models.errors import SettingsError
from medssl_models.experiments.cells import (
    Labels,
    best_first,
    interval,
    interval_meanings,
    run_tables,
)
from medssl_models.experiments.context import RunContext
from medssl_models.experiments.experiment import ImageFiles, Table
from medssl_models.experiments.runner import run
from medssl_models.experiments.settings import (
    Option,
    fault_of,
    kinds_of,
    option_of,
    parse_value,
    published_value,
    words_of,
)

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from medssl_models.experiments.experiment import Experiment
    from medssl_models.experiments.record_store import Records
    from medssl_models.experiments.released import Agreement

__all__ = ["RESULTS", "ROOT", "add_commands", "command", "options_of", "released_table", "show"]

ROOT, RESULTS = Path("data"), Path("results.jsonl")
FURTHER = "Further settings"
_LISTED = 10  # more files than that are not listed one by one
_EXTRACTION = ("device", "precision", "batch_size", "workers", "skip_unreadable", "force")
OpenDatasets = Callable[..., Sequence[Any]]


def command(
    experiment: Experiment, open_datasets: OpenDatasets | None = None
) -> Callable[..., None]:
    """Make the command of an experiment, to be registered with a Typer application.

    Args:
        experiment: What it measures.
        open_datasets: Opens data sets by name, as `medssl_data.open_datasets` does; None where the
            experiment takes none.

    Returns:
        A function whose signature is the command line. It prints what was measured.
    """

    def invoke(**given: Any) -> None:  # noqa: ANN401 # what the options hold
        console = Console(json=given["json"], quiet=given["quiet"])
        settings = _settings(experiment, given, console)
        data = _data(experiment, given, settings, open_datasets)
        context = _context(experiment, given, console)
        records = run(
            experiment,
            given.get("model") or [],
            data,
            settings,
            context,
            controls=given.get("controls"),
        )
        show(console, experiment, records, context)

    parameters = list(_parameters(experiment, with_datasets=open_datasets is not None))
    invoke.__name__ = (experiment.command or experiment.name).replace("-", "_")
    invoke.__doc__ = experiment.summary
    invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # Typer reads it
    invoke.__annotations__ = {one.name: one.annotation for one in parameters}
    return invoke


def add_commands(
    app: typer.Typer,
    experiments: Sequence[Experiment],
    open_datasets: OpenDatasets | None = None,
) -> None:
    """Register the commands of experiments with an application, each with its examples."""
    for experiment in experiments:
        register = app.command(
            experiment.command or experiment.name, epilog=examples(*experiment.examples)
        )
        register(command(experiment, open_datasets))


def show(console: Console, experiment: Experiment, records: Records, context: RunContext) -> None:
    """Show records as their experiment does, beside the study's numbers where it has them."""
    from medssl_models.experiments.released import compare_with_released

    tables = [Table(*table) for table in run_tables(records)]
    for table in experiment.tables(records) if experiment.tables is not None else tables:
        console.table(table.columns, table.rows, title=table.title)
    for meaning in interval_meanings(records):
        console.write(meaning)
    real = [record for record in records if not record.details.get("synthetic")]
    beside = compare_with_released(real)
    if beside:
        table = released_table(beside)
        console.table(table.columns, table.rows, title=table.title)
    findings = [] if experiment.findings is None else list(experiment.findings(records))
    for finding in findings:
        console.write(finding)
    if len(context.files) <= _LISTED:
        for path in context.files:
            console.write(str(path))
    else:
        console.say(f"{len(context.files)} pictures and tables are in {context.output}")
    console.document(
        {
            "records": best_first(records),
            "published": beside,
            "findings": findings,
            "files": context.files,
            "results": context.results,
        }
    )
    for note in dict.fromkeys(note for record in records for note in record.notes):
        console.say(f"note: {note}")


def options_of(settings: type[BaseModel]) -> dict[str, str]:
    """Map the fields of a class of settings to the options that set them; nested ones have none."""
    fields = settings.model_fields.items()
    return {name: _flags(name, field)[0] for name, field in fields if not _is_nested(field)}


def _settings(experiment: Experiment, given: Mapping[str, Any], console: Console) -> Any:  # noqa: ANN401 # the experiment's
    changes = _given(experiment.settings, given, "setting_")
    if "precision" in experiment.settings.model_fields:
        changes.setdefault("precision", given["precision"])
    if given.get("split") is not None:
        changes = {**experiment.on_split, **changes}
    if experiment.on_device is not None:
        changes = dict(experiment.on_device(changes, given["device"], console.say))
    try:
        return experiment.validated(given["protocol"], changes)
    except ValidationError as error:
        spelling = options_of(experiment.settings)
        raise SettingsError(fault_of(error, experiment.settings, spelling)) from error


def _data(
    experiment: Experiment,
    given: Mapping[str, Any],
    settings: Any,  # noqa: ANN401 # the experiment's
    open_datasets: OpenDatasets | None,
) -> list[Any]:
    files, names = given.get("image") or [], given.get("dataset") or []
    found: list[Any] = [ImageFiles(tuple(files))] if files else []
    if names and open_datasets is not None:
        found += open_datasets(
            names,
            root=given["root"],
            protocol=getattr(settings, "labels", settings.protocol),
            labels=given.get("labels"),
            split=given.get("split"),
            seed=getattr(settings, "seed", 0),
            of_card=lambda card: experiment.of_dataset(card, settings),
        )
    if not found:
        message = "no images given: pass files or --dataset NAME"
        raise SettingsError(message)
    return found


def _context(experiment: Experiment, given: Mapping[str, Any], console: Console) -> RunContext:
    return RunContext.of_command(
        console,
        results=given["results"],
        output=given.get("output"),
        options=_options(experiment, given),
        **{name: given[name] for name in _EXTRACTION},
    )


def _options(experiment: Experiment, given: Mapping[str, Any]) -> BaseModel | None:
    if experiment.options is None:
        return None
    try:
        return experiment.options.model_validate(_given(experiment.options, given, "option_"))
    except ValidationError as error:
        spelling = options_of(experiment.options)
        raise SettingsError(fault_of(error, experiment.options, spelling)) from error


def _given(settings: type[BaseModel], given: Mapping[str, Any], prefix: str) -> dict[str, object]:
    """Read the options that the user gave, by field."""
    found: dict[str, object] = {}
    for name, field in settings.model_fields.items():
        value = given.get(f"{prefix}{name}")
        if value is not None:
            text = ",".join(value) if isinstance(value, list) else value
            found[name] = parse_value(field, text) if isinstance(text, str) else text
    return found


# ---------------------------------------------------------------------------------- the signature


def _parameters(experiment: Experiment, *, with_datasets: bool) -> Iterator[inspect.Parameter]:
    images = experiment.subject == "images"
    if images:
        yield _parameter("image", ImagesArgument, None)
    if experiment.needs_model:
        yield _parameter("model", ModelsOption)
    else:
        yield _parameter("model", ModelsOption, [])
    if with_datasets:
        yield _parameter("dataset", DatasetsOption, *([[]] if images else []))
        yield _parameter("root", RootOption, ROOT)
        yield _parameter("labels", LabelsOption, None)
        if experiment.trains or experiment.on_split:
            yield _parameter("split", SplitOption, None)
    yield _parameter("protocol", ProtocolOption, "corrected")
    yield from _field_parameters(experiment.settings, "setting_", main=True)
    if experiment.options is not None:
        yield from _field_parameters(experiment.options, "option_", main=True)
    yield _parameter("controls", ControlsOption, experiment.controls)
    if experiment.output is not None:
        yield _parameter("output", _OUTPUT, Path(experiment.output))
    yield _parameter("device", DeviceOption, "auto")
    yield _parameter("precision", PrecisionOption, "fp32")
    yield _parameter("batch_size", BatchSizeOption, None)
    yield _parameter("workers", WorkersOption, None)
    yield _parameter("skip_unreadable", SkipUnreadableOption, default=False)
    yield _parameter("results", ResultsOption, RESULTS)
    yield _parameter("force", ForceOption, default=False)
    yield _parameter("json", JsonOption, default=False)
    yield _parameter("quiet", QuietOption, default=False)
    yield from _field_parameters(experiment.settings, "setting_", main=False)


_OUTPUT = Annotated[
    Path,
    typer.Option("--output", "-o", metavar="DIR", help="The folder for what is drawn or kept."),
]


def _parameter(
    name: str, annotation: object, default: object = inspect.Parameter.empty
) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _field_parameters(
    settings: type[BaseModel], prefix: str, *, main: bool
) -> Iterator[inspect.Parameter]:
    for name, field in settings.model_fields.items():
        declared = option_of(field)
        stands_first = declared is not None and declared.main
        if name in {"protocol", "precision"} or stands_first != main or _is_nested(field):
            continue
        yield _parameter(f"{prefix}{name}", _annotation(name, field, main=main), None)


def _is_several(field: FieldInfo) -> bool:
    return any(get_origin(kind) is tuple for kind in kinds_of(field))


def _is_nested(field: FieldInfo) -> bool:
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds_of(field))


def _annotation(name: str, field: FieldInfo, *, main: bool) -> object:
    declared = option_of(field) or Option()
    description = field.description or ""
    words: dict[str, Any] = {
        "help": declared.help or f"{description.partition('. ')[0].rstrip('.')}.",
        "show_default": _default_text(field),
        "rich_help_panel": None if main else FURTHER,
    }
    if bool in kinds_of(field):
        return Annotated[bool | None, typer.Option(*_flags(name, field), **words)]
    words["metavar"] = declared.metavar or _metavar(field)
    words["autocompletion"] = lambda: words_of(field)
    kind = list[str] if _is_several(field) else str  # commas between, or the option repeated
    return Annotated[kind | None, typer.Option(*_flags(name, field), **words)]


def _flags(name: str, field: FieldInfo) -> tuple[str, ...]:
    declared = option_of(field)
    if declared is not None and declared.flags:
        return declared.flags
    plain = name.replace("_", "-")
    return (f"--{plain}/--no-{plain}" if bool in kinds_of(field) else f"--{plain}",)


def _metavar(field: FieldInfo) -> str:
    kinds, names = kinds_of(field), []
    for kind in kinds:
        if kind in {int, float}:
            names.append("N" if kind is int else "X")
        elif getattr(kind, "__origin__", None) is tuple:
            names.append("A,B,...")
        elif kind in {str, Path}:
            names.append("FILE" if kind is Path else "TEXT")
    names += words_of(field)
    return "|".join([*names, *(["none"] if NoneType in kinds else [])]) or "VALUE"


def _default_text(field: FieldInfo) -> str:
    corrected, published = _text(field.default), _text(published_value(field))
    return corrected if corrected == published else f"{corrected}; published: {published}"


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def released_table(beside: Sequence[Agreement]) -> Table:
    """Lay records out beside the study's numbers, a row each."""
    labels = Labels.of([entry.record for entry in beside])
    columns = (
        *("data set", "setting", "model", "metric", "protocol", "yours", "95 % interval"),
        *("study", "its interval", "difference", "verdict", "flag"),
    )
    rows = [
        (
            labels.dataset(entry.record),
            labels.setting(entry.record),
            labels.model(entry.record),
            entry.record.metric,
            entry.record.provenance.protocol,
            f"{entry.record.value:.4g}",
            interval(entry.record),
            f"{entry.number.value:.4g}",
            ""
            if entry.number.low is None
            else f"{entry.number.low:.4g} to {entry.number.high:.4g}",
            f"{entry.difference:+.3g}",
            entry.verdict,
            "; ".join(filter(None, (entry.reason, *entry.number.flags, *entry.number.doubts))),
        )
        for entry in beside
    ]
    return Table(columns, rows, "Your records beside the numbers that the study released")
