"""The settings of the two experiments and their two presets: `published` and `corrected`.

A preset is a set of values. Where the 2022 study's way is a defect, the defect is a field with a
name, and the field carries the reason; entries such as I-26 number the study's known quirks.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from medssl_models.experiments import settings as presets
from medssl_models.experiments.settings import (
    BatchNormPreset,
    Difference,
    ProtocolName,
    from_preset,
    setting,
)
from pydantic import Field, PositiveInt, model_validator

from medssl_invariance.errors import SettingsError

__all__ = [
    "Comparison",
    "SyntheticSettings",
    "ViewsSettings",
    "differences",
    "identity",
    "preset",
]


class Comparison(BatchNormPreset):
    """What both experiments share: how features are whitened, compared and averaged."""

    covariance: Literal["ledoit-wolf", "pca", "sample"] = setting(
        "sample: the sample covariance with 1e-6 added to its diagonal, inverted; with fewer "
        "images than features it is singular, and every similarity falls to 0. ledoit-wolf: "
        "shrunk towards a multiple of the identity. pca: the directions that hold most of the "
        "variance, the rest left out.",
        corrected="ledoit-wolf",
        published="sample",
        entries=("I-27",),
    )
    pca_variance: Annotated[float, Field(gt=0, le=1)] = setting(
        "Share of the variance that pca retains.", corrected=0.95
    )
    unfactorable: Literal["shrink", "stop"] = setting(
        "What happens where the covariance cannot be factored. stop: the study's failure. shrink: "
        "Ledoit-Wolf instead, with a note.",
        corrected="shrink",
        published="stop",
        entries=("I-27",),
    )
    images: Annotated[int, Field(ge=1)] = setting(
        "How many images, or pairs, are compared.", corrected=100
    )
    draw: Literal["without_replacement", "with_replacement"] = setting(
        "with_replacement: some images count several times, others never. Either list depends on "
        "the seed alone, never on what is kept on disk.",
        corrected="without_replacement",
        published="with_replacement",
        entries=("I-33",),
    )
    covariance_from: Literal["others", "all"] = setting(
        "others: images that are not compared themselves; at most half of all are compared. all: "
        "the compared ones too, so that these lie in the covariance's span and their transformed "
        "versions do not.",
        corrected="others",
        published="all",
        entries=("I-27",),
    )
    covariance_images: Annotated[int, Field(ge=2)] = setting(
        "Most images that the covariance is estimated from; the study took a tenth of large sets, "
        "and at least 1000.",
        corrected=5000,
        published=1000,
    )
    partners: Annotated[int, Field(ge=1)] = setting(
        "Other images that each image is compared with for a baseline.", corrected=10
    )
    gallery: Annotated[int, Field(ge=2)] = setting(
        "Most images among which the own one must be found again.", corrected=1000
    )
    bootstrap: Annotated[int, Field(ge=100)] = setting(
        "Resamples of images behind an interval.", corrected=2000
    )
    geometry: Literal["model", "experiment"] = setting(
        "model: resizing and crop are the model's own. experiment: short side 256 (bilinear) for "
        "synthetic transforms, 224 (bicubic) for views, both cropped to 224.",
        corrected="model",
        published="experiment",
    )
    normalisation: Literal["model", "study"] = setting(
        "model: what the network was pretrained with. study: what the study fed, which for some "
        "models is another mean and deviation.",
        corrected="model",
        published="study",
        entries=("I-11",),
    )
    padding: Literal["model", "study"] = setting(
        "model: strided layers pad as where the weights were trained. study: as in torchvision.",
        corrected="model",
        published="study",
    )
    labels: Literal["corrected", "study"] = setting(
        "Whose label policy and file selection.", corrected="corrected", published="study"
    )
    seed: Annotated[int, Field(ge=0)] = setting("Seed of everything random.", corrected=0)


class SyntheticSettings(Comparison):
    """Features of an image against those of its transformed versions."""

    members: PositiveInt | None = setting(
        "Transformed versions of an image, k; none is the family's own number.", corrected=None
    )
    ranges: Literal["honest", "study"] = setting(
        "study: grids such as shears up to 160 degrees, brightness up to 5, a shear of 1 degree "
        "inside translation and scale. honest: what a scanner or a technician could do.",
        corrected="honest",
        published="study",
        entries=("I-29", "I-30", "I-34"),
    )
    applied: Literal["after_resize", "native"] = setting(
        "native: to the file's own pixels, so that an offset or a blur of so many pixels means "
        "something else for every file. after_resize: to what the network sees.",
        corrected="after_resize",
        published="native",
        entries=("I-28", "I-31"),
    )
    border: Literal["inscribed", "black"] = setting(
        "black: corners and edges that a transform uncovers are black, and the network sees them. "
        "inscribed: a larger frame is transformed and its centre is cut, so nothing is uncovered; "
        "the clean image is cut in the same way.",
        corrected="inscribed",
        published="black",
        entries=("I-32",),
    )
    identity_in_mean: bool = setting(
        "Whether members that change nothing count, which lifts every mean by 1/k: to at least "
        "0.5 for flips.",
        corrected=False,
        published=True,
        entries=("I-26",),
    )
    transformed_normalisation: Literal["same", "never_histogram"] = setting(
        "same: both branches are normalised alike. never_histogram: models that expect an "
        "equalised histogram get ImageNet's mean and deviation in the transformed branch only.",
        corrected="same",
        published="never_histogram",
        entries=("I-25",),
    )

    @model_validator(mode="after")
    def _versions_of_an_image_are_a_batch(self) -> SyntheticSettings:
        if self.batchnorm == "training" and self.applied != "native":
            message = "batchnorm training is for applied native: a batch is one image's versions"
            raise ValueError(message)
        return self


class ViewsSettings(Comparison):
    """Features of one view of a patient against those of the other view."""

    pairing: Literal["study", "patient"] = setting(
        "patient: joined by patient and study. study: every lateral with a frontal file that is "
        "assumed to exist; eyes by the order of the table's rows, only of equal grade.",
        corrected="patient",
        published="study",
        entries=("I-35", "I-36"),
    )
    missing: Literal["skip", "refuse"] = setting(
        "What happens with views that have no partner: left out and counted, or an error.",
        corrected="skip",
    )


S = TypeVar("S", bound=Comparison)


def preset(settings: type[S], protocol: ProtocolName = "corrected", **changes: object) -> S:
    """Make the settings of a protocol, with some fields changed.

    Args:
        settings: `SyntheticSettings` or `ViewsSettings`.
        protocol: `published` or `corrected`.
        changes: Fields to set; None leaves the preset's value.

    Raises:
        SettingsError: A value is not allowed; the message names the field.

    Example:
        >>> preset(SyntheticSettings, "published").identity_in_mean
        True
    """
    return from_preset(settings, protocol, changes, refusal=SettingsError)


def differences(settings: type[Comparison]) -> list[Difference]:
    """List what the two presets set differently, with the entries that explain it."""
    return presets.differences(preset(settings, "published"), preset(settings))


def identity(settings: Comparison, **more: object) -> dict[str, object]:
    """Give what of the settings belongs to a record; protocol and seed are in its provenance."""
    return {**settings.model_dump(exclude={"protocol", "seed"}), **more}
