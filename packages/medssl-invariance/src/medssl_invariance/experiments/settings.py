"""The settings of the two experiments and their two presets: `published` and `corrected`.

A preset is a set of values. Where the 2022 study's way is a defect, the defect is a field with a
name, and the field carries the reason; entries such as I-26 number the study's known quirks.
Importing this module imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from medssl_models.experiments.settings import BatchNormPreset, Option, setting
from pydantic import Field, PositiveInt, model_validator

if TYPE_CHECKING:
    from medssl_models.experiments.settings import ProtocolName

    from medssl_invariance.transforms.families import Family

__all__ = ["ComparisonSettings", "SyntheticSettings", "ViewsSettings"]


class ComparisonSettings(BatchNormPreset):
    """What both experiments share: how features are whitened, compared and averaged."""

    covariance: Literal["ledoit-wolf", "pca", "sample"] = setting(
        "sample: the sample covariance with 1e-6 added to its diagonal, inverted; with fewer "
        "images than features it is singular, and every similarity falls to 0. ledoit-wolf: "
        "shrunk towards a multiple of the identity. pca: the directions that hold most of the "
        "variance, the rest left out.",
        corrected="ledoit-wolf",
        published="sample",
        entries=("I-27",),
        option=Option(help="How features are whitened."),
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
        "How many images, or pairs, are compared.", corrected=100, option=Option()
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
    normalisation: Literal["model", "published"] = setting(
        "model: what the network was pretrained with. published: what the study fed, which for "
        "some models is another mean and deviation.",
        corrected="model",
        published="published",
        entries=("I-11",),
    )

    @property
    def fed_by(self) -> ProtocolName:
        """The protocol under which a network's input is normalised."""
        return "published" if self.normalisation == "published" else "corrected"


class SyntheticSettings(ComparisonSettings):
    """Features of an image against those of its transformed versions."""

    transforms: tuple[str, ...] = setting(
        "Families of transforms; all, published and medical mean several.",
        corrected=("medical",),
        published=("published",),
        option=Option(
            ("--transform", "-t"),
            metavar="NAME",
            help="Such as rotation; all, published or medical mean several; repeatable. A wrong "
            "name lists them.",
        ),
    )
    members: PositiveInt | None = setting(
        "Transformed versions of an image, k; none is the family's own number.",
        corrected=None,
        option=Option(("--k",), help="Versions of an image; each family's own when left out."),
    )
    ranges: Literal["corrected", "published"] = setting(
        "published: grids such as shears up to 160 degrees, brightness up to 5, a shear of 1 "
        "degree inside translation and scale. corrected: what a scanner or a technician could do.",
        corrected="corrected",
        published="published",
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

    @property
    def families(self) -> list[Family]:
        """The families of transforms, each once.

        Raises:
            UnknownFamilyError: A name that no family bears.
        """
        from medssl_invariance.transforms.families import find_families

        return find_families(self.transforms)

    @model_validator(mode="after")
    def _versions_of_an_image_are_a_batch(self) -> SyntheticSettings:
        if self.batchnorm == "training" and self.applied != "native":
            message = "batchnorm training is for applied native: a batch is one image's versions"
            raise ValueError(message)
        return self


class ViewsSettings(ComparisonSettings):
    """Features of one view of a patient against those of the other view."""

    pairing: Literal["published", "patient"] = setting(
        "patient: joined by patient and study. published: every lateral with a frontal file that "
        "is assumed to exist; eyes by the order of the table's rows, only of equal grade.",
        corrected="patient",
        published="published",
        entries=("I-35", "I-36"),
    )
    missing: Literal["skip", "refuse"] = setting(
        "What happens with views that have no partner: left out and counted, or an error.",
        corrected="skip",
        option=Option(help="What to do with views without partner."),
    )
