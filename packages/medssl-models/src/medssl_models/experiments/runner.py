"""run: the only loop over models and data sets, whatever is measured.

Names, data sets and folders are checked before the first image is opened; untrained controls are
added; each model is created once; what is known is not computed again; every record gets the notes
of its model and data; and records are appended as they come, so that an interrupted run goes on
where it was. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from medssl_models.experiments.context import RunContext
from medssl_models.experiments.record_store import Records, RecordStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from medssl_models.backbone import Backbone
    from medssl_models.experiments.experiment import Experiment
    from medssl_models.experiments.record import Record
    from medssl_models.experiments.settings import Preset, ProtocolName

__all__ = ["annotate", "measure", "networks_of", "notes_of", "run"]


def run(
    experiment: Experiment,
    models: Sequence[str],
    datasets: Sequence[Any],
    settings: Preset,
    context: RunContext | None = None,
    *,
    controls: bool | None = None,
) -> Records:
    """Run an experiment on every model and every data set.

    Args:
        experiment: What to measure.
        models: Names, as for `create_model`; a model that is named twice is run once.
        datasets: Data sets, opened, or `ImageFiles`.
        settings: The experiment's.
        context: How it is run; None is `RunContext.default()`.
        controls: Run the untrained control of each model too; None is the experiment's own way.

    Returns:
        All records, in the order of models and data sets.

    Raises:
        UnknownModelError: A name that no model bears, before anything is computed.
        MissingWeightsError: Weights that must be brought, likewise.
        OSError: A folder that cannot be written, likewise.
        Exception: What the experiment's check raises, likewise.

    Example:
        >>> from medssl_models.experiments.registry import declared
        >>> from medssl_models.testing.experiments import COUNT_IMAGES, CountSettings
        >>> from medssl_models.testing.sources import NoiseSource
        >>> context = RunContext(results=folder / "results.jsonl")
        >>> with declared(COUNT_IMAGES):
        ...     run(COUNT_IMAGES, ["random_r18"], [NoiseSource(rows=4)], CountSettings(), context)
        <2 records>
          count-images of random_r18 on noise: images 4
          count-images of random_r18 on noise: brightness 127.8
    """
    from medssl_models.experiments.models import check_models, distinct_models

    context = context or RunContext.default()
    names = list(distinct_models(models, protocol=networks_of(settings)).values())
    check_models(names)
    _check_folders(context)
    datasets = [experiment.images(data, settings) for data in datasets]
    if experiment.check is not None:
        for data in datasets:
            experiment.check(data, settings)
    store = None if context.results is None else RecordStore(context.results, context.warn)
    if store is not None and not context.force:
        context = replace(context, known={**context.known, **store.refresh()})
    wanted = experiment.controls if controls is None else controls
    by_data: dict[int, list[Record]] = {place: [] for place in range(len(datasets))}
    made: list[Record] = []
    for backbone in _backbones(experiment, names, settings, context, controls=wanted):
        for place, data in enumerate(datasets):
            found = _records(experiment, backbone, data, settings, context, store)
            if found and all(record.key in context.known for record in found):
                context.say(f"{found[0].provenance.model} on {data.name}: done before; "
                            "--force does it again")  # fmt: skip
            by_data[place] += found
            made += found
    if experiment.across is not None:
        for place, data in enumerate(datasets):
            more = [
                annotate(record, None, data)
                for record in experiment.across(data, settings, context, by_data[place])
            ]
            _keep(store, more, context)
            made += more
    return Records(tuple(made))


def measure(
    experiment: Experiment,
    backbone: Backbone | None,
    data: Any,  # noqa: ANN401 # a data set, or `ImageFiles`
    *,
    protocol: ProtocolName = "corrected",
    settings: Preset | None = None,
    context: RunContext | None = None,
    **changes: object,
) -> Records:
    """Run an experiment on one model and one data set, from Python.

    Args:
        experiment: What to measure.
        backbone: The network.
        data: The data set.
        protocol: `published` or `corrected`, where there are no settings.
        settings: The experiment's settings, ready made.
        context: How it is run; None is `RunContext.default()`.
        changes: Settings as keywords; a tuple may be given as its only value.

    Raises:
        SettingsError: A value is not allowed.
        Exception: What the experiment raises.

    Example:
        >>> from medssl_models.experiments.registry import declared
        >>> from medssl_models.testing import tiny_backbone
        >>> from medssl_models.testing.experiments import COUNT_IMAGES
        >>> from medssl_models.testing.sources import NoiseSource
        >>> with declared(COUNT_IMAGES):
        ...     measure(COUNT_IMAGES, tiny_backbone(), NoiseSource(rows=4), every=2)[0].value
        2.0
    """
    if settings is None:
        settings = experiment.settings_for(protocol, _as_fields(experiment, changes))
    elif changes:
        settings = settings.model_validate(dict(settings) | _as_fields(experiment, changes))
    context = context or RunContext.default()
    data = experiment.images(data, settings)
    if experiment.check is not None:
        experiment.check(data, settings)
    store = None if context.results is None else RecordStore(context.results, context.warn)
    return Records(tuple(_records(experiment, backbone, data, settings, context, store)))


def networks_of(settings: Preset) -> Literal["published", "corrected"]:
    """Whose padding the networks of an experiment have."""
    padding = getattr(settings, "padding", None)
    if padding is None:
        return settings.protocol
    return "published" if padding == "published" else "corrected"


def notes_of(backbone: Backbone | None, data: Any, *, unreadable: int = 0) -> tuple[str, ...]:  # noqa: ANN401 # any data
    """List what every record of a model and a data set must carry.

    Args:
        backbone: A control says so, and so does one that was trained on this data set (I-9).
        data: Its notes, such as that it is a phantom.
        unreadable: How many images were left out because they could not be read.
    """
    control = backbone is not None and backbone.card.control
    untrained = (f"control: {backbone.name} is untrained",) if backbone and control else ()
    plural = "image was" if unreadable == 1 else "images were"
    fewer = (f"{unreadable} unreadable {plural} skipped",) if unreadable else ()
    seen = _trained_on(backbone, data) if backbone is not None else ()
    return (*untrained, *seen, *fewer, *getattr(data, "notes", ()))


def annotate(record: Record, backbone: Backbone | None, data: Any) -> Record:  # noqa: ANN401 # any data
    """Add to a record what its model and its data set ask for; twice is as good as once."""
    unreadable = record.details.get("unreadable")
    notes = notes_of(backbone, data, unreadable=unreadable if isinstance(unreadable, int) else 0)
    details = dict(record.details)
    if backbone is not None:
        details["control"] = backbone.card.control
    manifest = getattr(data, "manifest", None)
    if manifest is not None:
        details["synthetic"] = manifest.synthetic
    return record.model_copy(
        update={"notes": tuple(dict.fromkeys((*notes, *record.notes))), "details": details}
    )


def _backbones(
    experiment: Experiment,
    names: Sequence[str],
    settings: Preset,
    context: RunContext,
    *,
    controls: bool,
) -> Iterator[Backbone | None]:
    """Create each model once, each followed by its untrained control where that is asked for."""
    from medssl_models.backbone import create_model

    if not names and not experiment.needs_model:
        yield None
    networks = networks_of(settings)
    seen: set[tuple[str, str]] = set()
    for name in names:
        backbone = create_model(name, protocol=networks)
        if _is_new(backbone, seen):
            yield backbone
        control = _control_of(experiment, name, backbone, context) if controls else None
        if control is not None and _is_new(control, seen):
            yield control


def _is_new(backbone: Backbone, seen: set[tuple[str, str]]) -> bool:
    identity = (backbone.name, backbone.preprocessing.fingerprint)
    known = identity in seen
    seen.add(identity)
    return not known


def _control_of(
    experiment: Experiment, name: str, backbone: Backbone, context: RunContext
) -> Backbone | None:
    """Create the untrained control of a model; where there is none, say why."""
    from medssl_models.backbone import create_model
    from medssl_models.experiments.models import control_of

    control = control_of(name, say=context.say)
    if control is None:
        return None
    twin = create_model(f"{control}:{backbone.card.padding}")
    if experiment.control_sees_model_input:
        twin.preprocessing = backbone.preprocessing
    return twin


def _records(
    experiment: Experiment,
    backbone: Backbone | None,
    data: Any,  # noqa: ANN401 # any data
    settings: Preset,
    context: RunContext,
    store: RecordStore | None,
) -> list[Record]:
    """Measure, and keep what a list holds at once, and what is yielded as it comes."""
    found: Iterable[Record] = experiment.run(backbone, data, settings, context)
    batches = [found] if isinstance(found, Sequence) else ([record] for record in found)
    made: list[Record] = []
    for batch in batches:
        records = [annotate(record, backbone, data) for record in batch]
        _keep(store, records, context)
        made += records
    return made


def _keep(store: RecordStore | None, records: Sequence[Record], context: RunContext) -> None:
    if store is not None:
        store.append(records, again=context.force)


def _check_folders(context: RunContext) -> None:
    """Fail before the work, not after it, where a folder cannot be written."""
    from medssl_models.files import check_writable

    if context.results is not None:
        check_writable(context.results.parent, option="--results")
    if context.output is not None:
        check_writable(context.output, option="--output")


def _as_fields(experiment: Experiment, changes: Mapping[str, object]) -> dict[str, object]:
    """Take `shots=5` for `shots=(5,)` where a setting holds several values."""
    fields, found = experiment.settings.model_fields, dict(changes)
    for name, value in changes.items():
        kinds = str(fields[name].annotation) if name in fields else ""
        if "tuple[" in kinds and isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = (value,)
    return found


def _trained_on(backbone: Backbone, data: Any) -> tuple[str, ...]:  # noqa: ANN401 # any data
    """Tell where a network may have seen the images before (I-9)."""
    card = getattr(data, "card", None)
    names = {data.name} | ({card.name} if card is not None else set())
    manifest = getattr(data, "manifest", None)
    if getattr(manifest, "synthetic", False) or not names & set(backbone.card.pretraining):
        return ()
    return (
        f"pretraining: {backbone.name} was trained on images of {data.name}; those that it has "
        "seen are no independent test",
    )
