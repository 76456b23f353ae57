"""Record: one number that an experiment produced, and where it came from.

Every package writes this one schema. Two records with equal keys are the same experiment. Files of
records are `record_store`'s business. Importing this module imports no torch.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    ValidationInfo,
    model_validator,
)

from medssl_models.plain_json import canonical_json, plain

__all__ = ["SCHEMA_VERSION", "Provenance", "Record", "record_key"]

SCHEMA_VERSION = 2

ACCIDENTAL = frozenset({"device", "versions"})
"""What a provenance tells without being part of the experiment's identity."""


def _plain_unless_json(value: object, info: ValidationInfo) -> object:
    """Reduce what Python gives; a file holds plain values already, and long lists of them."""
    return value if info.mode == "json" else plain(value)


JsonObject = Annotated[dict[str, JsonValue], BeforeValidator(_plain_unless_json)]


class Provenance(BaseModel):
    """What a number was computed from.

    Args:
        model: The model's canonical name.
        weights: Fingerprint of weights, architecture and padding.
        preprocessing: Fingerprint of the preprocessing that was applied.
        layer: The layer that gave the features.
        padding: Where strided convolutions pad: `torchvision` or `tf_same`.
        dataset: The data set as it was named.
        selection: What of the data set was taken, such as `{"target": "Edema"}`.
        images: Fingerprint of the images in order.
        manifest: Fingerprint that covers labels, groups and splits too.
        label_policy: How the source's labels became classes.
        split: Which rows took part.
        protocol: `published` or `corrected`.
        seed: Seed of everything random.
        device: Where it was computed.
        precision: `fp32` or `bf16`.
        versions: Package to version; see `package_versions`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    weights: str = ""
    preprocessing: str = ""
    layer: str = "pooled"
    padding: str = ""
    dataset: str = ""
    selection: dict[str, str] = Field(default_factory=dict)
    images: str = ""
    manifest: str = ""
    label_policy: str = ""
    split: str = ""
    protocol: str = "corrected"
    seed: int = 0
    device: str = ""
    precision: str = "fp32"
    versions: dict[str, str] = Field(default_factory=dict)


class Record(BaseModel):
    """One number with its interval, settings and provenance.

    Args:
        schema_version: Version of this schema.
        experiment: What was run, such as `few-shot`; an installed package declares it.
        metric: What the value means, such as `accuracy`; the experiment declares it.
        unit: Unit of value and interval, as the metric declares it: `%`, or empty.
        value: The number. It is finite: an undefined result is not a record.
        ci_low: Lower end of the 95 % interval, in the same unit.
        ci_high: Upper end of the 95 % interval.
        n: How many repetitions or items the value is the mean of.
        settings: The experiment's settings; part of the key.
        details: Further results; NaN becomes null.
        notes: What a reader should know, such as skipped images.
        provenance: What it was computed from.
        created: UTC time in ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    experiment: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    unit: str = ""
    value: FiniteFloat
    ci_low: FiniteFloat | None = None
    ci_high: FiniteFloat | None = None
    n: int = Field(default=1, ge=0)
    settings: JsonObject = Field(default_factory=dict)
    details: JsonObject = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: Provenance
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @model_validator(mode="before")
    @classmethod
    def _metric_is_declared(cls, values: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 # pydantic's
        """Refuse a new record of an undeclared metric; what a file holds was checked when made."""
        if info.mode == "json" or not isinstance(values, dict):
            return values
        from medssl_models.experiments.registry import declared_metric

        names = str(values.get("experiment")), str(values.get("metric"))
        metric = declared_metric(*names, str(values.get("unit", "")))
        unit = values.get("unit", metric.unit)
        if unit != metric.unit:
            message = f"unit of {metric.name} is {unit!r}; it is declared as {metric.unit!r}"
            raise ValueError(message)
        return {**values, "unit": unit}

    @property
    def key(self) -> str:
        """SHA-256 of experiment, metric, settings and identifying provenance (64 hex digits).

        The result, the time, the device and the package versions are not part of it.
        """
        return record_key(self.experiment, self.metric, self.settings, self.provenance)

    def __str__(self) -> str:
        origin = self.provenance
        reach = "" if self.ci_low is None else f" [{self.ci_low:.4g}, {self.ci_high:.4g}]"
        value = f"{self.metric} {self.value:.4g}{' ' + self.unit if self.unit else ''}{reach}"
        return f"{self.experiment} of {origin.model} on {origin.dataset or 'images'}: {value}"

    def __repr__(self) -> str:
        return f"<Record {self}>"


def record_key(experiment: str, metric: str, settings: object, provenance: Provenance) -> str:
    """Return the key that a record will have, before the experiment is run.

    Args:
        experiment: As in `Record`.
        metric: As in `Record`.
        settings: As in `Record`, or the settings object itself.
        provenance: As in `Record`.

    Returns:
        64 hexadecimal digits.
    """
    identity = [experiment, metric, settings, provenance.model_dump(exclude=set(ACCIDENTAL))]
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()
