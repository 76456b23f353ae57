"""A plan: which models meet which data sets in which experiments; a TOML file, checked.

Everything that can be wrong with it is said with the file's name and the key, before any work.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from medssl_models.suggestions import did_you_mean
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
from medssl_eval.experiments.declarations import find_experiment

__all__ = ["DatasetChoice", "EnginePlan", "ExtractionPlan", "Plan", "probe_settings", "read_plan"]


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

    The batch size is fixed, not measured, so that every engine computes the same bits.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: PositiveInt = 32
    workers: NonNegativeInt = 2
    skip_unreadable: bool = False


class EnginePlan(_Part):
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


class Plan(_Part):
    """Models x data sets x experiments.

    Args:
        models: Names, as for `medssl_models.create_model`.
        datasets: Names, or tables with `name`, `labels` and `split`.
        probes: Experiment to the settings that differ from the protocol's.
        protocol: `published` or `corrected`.
        seed: Of every experiment that does not say otherwise.
        root: The folder that holds the data sets.
        results: The file that records are appended to.
        store: The folder of features; None is the one in MEDSSL_HOME.
        extraction: How features are computed.
        engine: What a cell may use.
    """

    models: tuple[str, ...] = Field(min_length=1)
    datasets: tuple[Annotated[DatasetChoice, BeforeValidator(_as_choice)], ...] = Field(
        min_length=1
    )
    probes: dict[str, dict[str, JsonValue]] = Field(min_length=1)
    protocol: Literal["published", "corrected"] = "corrected"
    seed: NonNegativeInt = 0
    root: Path = Path("data")
    results: Path = Path("results.jsonl")
    store: Path | None = None
    extraction: ExtractionPlan = ExtractionPlan()
    engine: EnginePlan = EnginePlan()


def read_plan(path: Path) -> Plan:
    """Read a plan and check all of it that can be checked without models and data.

    Raises:
        PlanError: The file is missing or no TOML, a key is unknown, or a value is not allowed.
    """
    try:
        plan = Plan.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        for name in plan.probes:
            probe_settings(plan, name)
    except ValidationError as error:
        message = f"{path}: {_sentence(error)}"
        raise PlanError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{path}: not TOML: {error}"
        raise PlanError(message) from error
    except FileNotFoundError as error:
        message = f"{path} is not there; write a plan first, see medssl-eval matrix --help"
        raise PlanError(message) from error
    except EvalError as error:
        message = f"{path}: {error}"
        raise PlanError(message) from error
    return plan


def probe_settings(plan: Plan, name: str) -> BaseModel:
    """Give the settings of one of a plan's experiments.

    Raises:
        PlanError: There is no such experiment, or it has no such setting.
    """
    try:
        plugin = find_experiment(name)
        fields = type(plugin.preset(plan.protocol, {})).model_fields
        seed = {"seed": plan.seed} if "seed" in fields else {}
        return plugin.preset(plan.protocol, {**seed, **plan.probes[name]})
    except ValueError as error:
        message = f"probes.{name}: {error}"
        raise PlanError(message) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{key}: {first['msg'].lower()}"
    *outer, name = (str(part) for part in first["loc"])
    parts: dict[str, type[BaseModel]] = {"extraction": ExtractionPlan, "engine": EnginePlan}
    part = DatasetChoice if outer[:1] == ["datasets"] else parts.get(".".join(outer), Plan)
    known = list(part.model_fields)
    return f"unknown key {key!r}{did_you_mean(name, known)}"
