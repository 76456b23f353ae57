"""A plan: which models meet which data sets in which experiments; a TOML file, checked.

Everything that can be wrong with it is said with the file's name and the key, before any work.
"""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from medssl_models.errors import ModelError, UnknownExperimentError, did_you_mean
from medssl_models.experiments.registry import find_experiment
from medssl_models.files import open_plain
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from medssl_eval.errors import EvalError, PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "DatasetChoice",
    "ExecutorPlan",
    "ExtractionPlan",
    "MatrixPlan",
    "experiment_settings",
    "read_plan",
]

LOG = logging.getLogger("medssl")
_FORMERLY = {"probes": "experiments", "engine": "executor"}
"""What plans of version 0.1 called otherwise; they are read for one minor version."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetChoice(_Part):
    """A data set, and which labels and split are taken of it.

    Args:
        name: As for `medssl_data.load_dataset`.
        labels: A label policy; None takes the experiment's.
        split: Who trains and who tests, as for `medssl_data.load_dataset`; None is the protocol's.
    """

    name: str = Field(min_length=1)
    labels: str | None = None
    split: str | None = None


class ExtractionPlan(_Part):
    """How features are computed; see `medssl_models.ExtractionSettings`.

    The batch size is fixed, not measured, so that every executor computes the same bits.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: PositiveInt = 32
    workers: NonNegativeInt = 2
    skip_unreadable: bool = False


class ExecutorPlan(_Part):
    """What a cell may use, and how often it is tried.

    Args:
        cpus: CPUs of a cell, which is also the number of its threads.
        gpus: GPUs of a cell; Ray only.
        processes: Cells at a time; None is the machine's CPUs by `cpus`. Local only.
        retries: How often a cell is tried again whose process was killed.
        shard: Images of one piece of an extraction that is spread over the cluster; Ray only.
    """

    cpus: PositiveInt = 1
    gpus: NonNegativeFloat = 0
    processes: PositiveInt | None = None
    retries: NonNegativeInt = 2
    shard: PositiveInt = 20_000


def _as_choice(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class MatrixPlan(_Part):
    """Models x data sets x experiments.

    Args:
        models: Names, as for `medssl_models.create_model`.
        datasets: Names, or tables with `name`, `labels` and `split`.
        experiments: Experiment to the settings that differ from the protocol's.
        protocol: `published` or `corrected`.
        seed: Of every experiment that does not say otherwise.
        root: The folder that holds the data sets.
        results: The file that records are appended to.
        store: The folder of features; None is the one in MEDSSL_HOME.
        extraction: How features are computed.
        executor: What a cell may use.
    """

    models: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[Annotated[DatasetChoice, BeforeValidator(_as_choice)], ...] = Field(
        min_length=1
    )
    experiments: dict[str, dict[str, JsonValue]] = Field(min_length=1)
    protocol: Literal["published", "corrected"] = "corrected"
    seed: NonNegativeInt = 0
    root: Path = Path("data")
    results: Path = Path("results.jsonl")
    store: Path | None = None
    extraction: ExtractionPlan = ExtractionPlan()
    executor: ExecutorPlan = ExecutorPlan()


def read_plan(path: Path) -> MatrixPlan:
    r"""Read a plan and check all of it that can be checked without models and data.

    Raises:
        PlanError: The file is missing or no TOML, a key is unknown, or a value is not allowed.

    Example:
        >>> from medssl_models.experiments.registry import declared
        >>> from medssl_models.testing.experiments import COUNT_IMAGES
        >>> path = Path("plan.toml")
        >>> lines = 'models = ["random_r18"]', 'datasets = ["scans"]', "[experiments.count-images]"
        >>> _ = path.write_text("\n".join(lines))
        >>> with declared(COUNT_IMAGES):
        ...     list(read_plan(path).experiments)
        ['count-images']
    """
    try:
        with open_plain(path) as file:
            document = tomllib.load(file)
        plan = MatrixPlan.model_validate(_in_words_of_today(document, path))
        for name in plan.experiments:
            experiment_settings(plan, name)
    except ValidationError as error:
        message = f"{path}: {_sentence(error)}"
        raise PlanError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"{path}: not TOML: {error}"
        raise PlanError(message) from error
    except FileNotFoundError as error:
        message = f"{path} is not there; write a plan first, see medssl-eval matrix --help"
        raise PlanError(message) from error
    except EvalError as error:
        message = f"{path}: {error}"
        raise PlanError(message) from error
    return plan


def experiment_settings(
    plan: MatrixPlan, name: str, say: Callable[[str], None] = lambda _: None
) -> Any:  # noqa: ANN401 # the experiment's own
    """Make the settings of one of a plan's experiments, as its command would.

    Args:
        plan: Whose.
        name: Of the experiment.
        say: Takes notes, such as that a device cannot carry what was asked for.

    Raises:
        PlanError: There is no such experiment, or it has no such setting.
    """
    try:
        experiment = find_experiment(name)
        shared = {"seed": plan.seed, "precision": plan.extraction.precision}
        known = {key: shared[key] for key in shared if key in experiment.settings.model_fields}
        changes: Mapping[str, object] = {**known, **plan.experiments[name]}
        if experiment.on_device is not None:
            changes = experiment.on_device(changes, plan.extraction.device, say)
        return experiment.settings_for(plan.protocol, changes)
    except (ModelError, ValueError) as error:
        message = f"experiments.{name}: {error}"
        raise PlanError(message) from error


def _in_words_of_today(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """Rename what a plan of version 0.1 called otherwise, and say so."""
    for old, new in _FORMERLY.items():
        if old not in document or new in document:
            continue
        LOG.warning("%s: %s is called %s now; the next minor version drops the old name",
                    path, old, new)  # fmt: skip
        found = document.pop(old)
        if new == "experiments" and isinstance(found, dict):
            found = {name: _settings_of_today(name, one) for name, one in found.items()}
        document[new] = found
    return document


def _settings_of_today(name: str, settings: Any) -> Any:  # noqa: ANN401 # what a file holds
    """Rename settings as in records of version 0.1; what is wrong is refused later."""
    try:
        old = find_experiment(name).formerly
    except UnknownExperimentError:
        return settings
    if not isinstance(settings, dict):
        return settings
    renamed = {old.fields.get(field, field): value for field, value in settings.items()}
    words = {field: old.values.get(field, {}) for field in renamed}
    return {
        field: words[field].get(value, value) if isinstance(value, str) else value
        for field, value in renamed.items()
    }


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{key}: {first['msg'].lower()}"
    *outer, name = (str(part) for part in first["loc"])
    parts: dict[str, type[BaseModel]] = {"extraction": ExtractionPlan, "executor": ExecutorPlan}
    part = DatasetChoice if outer[:1] == ["datasets"] else parts.get(".".join(outer), MatrixPlan)
    known = list(part.model_fields)
    return f"unknown key {key!r}{did_you_mean(name, known)}"
