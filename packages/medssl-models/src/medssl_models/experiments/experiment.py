"""Experiment: all that anybody needs to know of something that can be measured.

A package declares each of its experiments once, as an entry point of the group
`medssl.experiments`; the command line, `matrix`, `rank`, `protocol`, `compare` and `report` reach
it only so. Importing this module imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from medssl_models.experiments.former.translation import Formerly
from medssl_models.experiments.settings import make_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from medssl_models.experiments.context import RunContext
    from medssl_models.experiments.metric import Metric
    from medssl_models.experiments.record import Record
    from medssl_models.experiments.released import Released
    from medssl_models.experiments.settings import Preset, ProtocolName
    from medssl_models.preprocessing import Preprocessing

__all__ = ["GROUP", "Curve", "Experiment", "ImageFiles", "Table", "later"]

GROUP = "medssl.experiments"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def later(place: str) -> Callable[..., Any]:
    """Make a function that imports another one when it is first called.

    Declarations name what is heavy so, and load at once themselves.

    Args:
        place: Module and name, such as `package.module:function`.

    Example:
        >>> later("math:sqrt")(9)
        3.0
    """
    module, _, name = place.partition(":")

    def called(*arguments: object, **options: object) -> Any:  # noqa: ANN401 # the function's own
        return getattr(import_module(module), name)(*arguments, **options)

    return called


@dataclass(frozen=True)
class ImageFiles:
    """Picture files that a person named, in the place of a data set.

    Args:
        paths: The files; none is opened.
    """

    paths: tuple[Path, ...]
    name: str = "files"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table for people.

    Args:
        columns: The headings.
        rows: One value a column; None is an empty cell.
        title: A line above it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""


@dataclass(frozen=True)
class Curve:
    """How a value grows with what is given to learn from: a line of a report, a point a record.

    Args:
        setting: The setting along which the points of a line differ, such as `fraction`.
        count: How much a record learnt from; None where it does not say. It is drawn to a
            logarithmic scale.
        title: What is counted, such as `labelled images`.
    """

    setting: str
    count: Callable[[Record], float | None]
    title: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Something that is measured of a backbone on images; its entry point bears its name.

    Callables import what is heavy inside, so that a declaration loads at once.

    Args:
        name: In records, plans and tables; unique over all packages.
        title: For people, such as `few-shot classification`.
        summary: What it does, in a sentence: the help of its command.
        settings: A class of settings, in which each field knows its value under both protocols.
        metrics: What it measures; the first is the one by which models are ranked.
        run: Measures one model on one data set (or `ImageFiles`) under some settings. The records
            that it returns need no notes of the model or the data: the runner adds them. What it
            yields, instead of returning a list, is kept as it comes.
        images: The images of a data set that it uses under some settings, before anything else is
            done with it: the others need not even be readable.
        check: Raises, with the sentence for the user, where a data set cannot carry the settings;
            called before an image is opened.
        across: Records and pictures that need all models of a data set, called once when each has
            run, with their records: agreement between models, a panel.
        subject: `dataset`: labelled images; `images`: any pictures, files too.
        command: The name of its command; empty takes `name`.
        examples: Command lines for the help.
        options: A class of settings that tell how it is run and not what is measured, such as the
            memory that it may use; an instance is the context's `options`.
        output: The folder that it writes pictures or states into, by default; None writes none.
        complete: Changes of settings to all changes that they mean, as where one setting stands
            for several.
        on_split: Settings that change where the user names a split.
        on_device: Changes of settings, as given, to those that a device can carry; it gets the
            device's name and a function that takes a note for the user.
        of_dataset: Options of `open_datasets` that a data set's card asks for under some settings.
        controls: Whether the untrained control of each model is run too unless the user says no:
            where that costs little.
        control_sees_model_input: Whether a control gets the preprocessing and padding of the
            model that it stands beside.
        needs_model: Whether it is nothing without a model.
        trains: Whether a part of the images trains something.
        transfer: Whether it tells how well a backbone serves a task; the others tell what it is
            like.
        preprocessing: The preprocessing under which it asks for features, so that they can be
            extracted ahead; None where the network itself is run.
        passes: How many images run through the network beyond the features, for an estimate of
            time; a training step counts three times.
        quick: The settings with which it takes part in a ranking: what a data set can carry, by
            seed. None takes no part.
        place: Where it stands in lists of experiments.
        label: The words of a table for some settings, such as `2-way 5-shot`.
        sorted_by: Settings by which the rows of a table are sorted.
        per_dataset: Settings that follow from the data set, and do not tell two questions apart.
        curve: How its values grow with what is given to learn from, where that is a setting.
        tables: How its records are shown; None is a row a run and a column a metric.
        findings: Sentences about its records, such as an alarm.
        released: The 2022 study's numbers of it.
        alike: Entries of the study's defects in which the protocols do not differ, and why.
        formerly: What records of version 0.1 called otherwise.
        preset: Makes the settings, where the class alone does not.
        reasons: What a setting decides, where its field does not say.
    """

    name: str
    title: str
    summary: str
    settings: type[Preset]
    metrics: tuple[Metric, ...]
    run: Callable[[Any, Any, Any, RunContext], Iterable[Record]]
    images: Callable[[Any, Any], Any] = lambda data, _settings: data
    check: Callable[[Any, Any], None] | None = None
    across: Callable[[Any, Any, RunContext, Sequence[Record]], Iterable[Record]] | None = None
    subject: Literal["dataset", "images"] = "dataset"
    command: str = ""
    examples: tuple[str, ...] = ()
    options: type[BaseModel] | None = None
    output: str | None = None
    complete: Callable[[Mapping[str, object]], Mapping[str, object]] = lambda changes: changes
    on_split: Mapping[str, object] = field(default_factory=dict)
    on_device: (
        Callable[[Mapping[str, object], str, Callable[[str], None]], Mapping[str, object]] | None
    ) = None
    of_dataset: Callable[[Any, Any], Mapping[str, str]] = lambda _card, _settings: {}
    controls: bool = True
    control_sees_model_input: bool = False
    needs_model: bool = True
    trains: bool = False
    transfer: bool = False
    preprocessing: Callable[[Any, Any, Any], Preprocessing] | None = None
    passes: Callable[[Any, Any], int] | None = None
    quick: Callable[[Any, int], Any] | None = None
    place: int = 100
    label: Callable[[Mapping[str, Any]], str] = lambda _: ""
    sorted_by: tuple[str, ...] = ()
    per_dataset: frozenset[str] = frozenset()
    curve: Curve | None = None
    tables: Callable[[Sequence[Record]], Sequence[Table]] | None = None
    findings: Callable[[Sequence[Record]], Sequence[str]] | None = None
    released: Released | None = None
    alike: Mapping[str, str] = field(default_factory=dict)
    formerly: Formerly = field(default_factory=Formerly)
    preset: Callable[[ProtocolName, Mapping[str, object]], Any] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def settings_for(
        self, protocol: ProtocolName = "corrected", changes: Mapping[str, object] = _NOTHING
    ) -> Any:  # noqa: ANN401 # an instance of `settings`
        """Make the settings of a protocol, with some fields changed.

        Args:
            protocol: `published` or `corrected`.
            changes: Fields to set; None is a value.

        Raises:
            SettingsError: A value is not allowed; the message names the field.
        """
        from pydantic import ValidationError

        from medssl_models.errors import SettingsError
        from medssl_models.experiments.settings import fault_of

        try:
            return self.validated(protocol, changes)
        except ValidationError as error:
            raise SettingsError(fault_of(error, self.settings)) from error

    def validated(self, protocol: ProtocolName, changes: Mapping[str, object]) -> Any:  # noqa: ANN401 # as above
        """As `settings_for`, but raises what pydantic raises, for who spells fields otherwise."""
        given = self.complete(changes)
        if self.preset is not None:
            return self.preset(protocol, given)
        return make_settings(self.settings, protocol, given)

    def metric(self, name: str) -> Metric | None:
        """Return the declaration of a metric; None where this experiment has none of that name."""
        return next((one for one in self.metrics if one.name == name), None)
