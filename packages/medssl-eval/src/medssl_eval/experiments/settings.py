"""The settings of each experiment, and its two presets: `published` and `corrected`.

A preset is a set of values. Where the 2022 study's way is a defect, the defect is a field with a
name, and the field carries the reason; entries such as I-14 number the study's known defects.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from medssl_models.experiments.settings import (
    ExperimentSettings,
    Option,
    Preset,
    ProtocolName,
    Seed,
    from_preset,
    setting,
)
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from medssl_eval.errors import SettingsError

__all__ = [
    "FewShotSettings",
    "FinetuneOptions",
    "FinetuneSettings",
    "KnnSettings",
    "LinearSettings",
    "Preset",
    "ProtocolName",
    "ScoredSettings",
    "preset",
]

Share = Annotated[float, Field(gt=0, le=1)]
Columns = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]


class ImageSettings(ExperimentSettings):
    """How all experiments see images and labels."""

    geometry: Literal["experiment", "model"] = setting(
        "model: resizing and crop are the model's own. experiment: short side 224 (bicubic), crop "
        "224.",
        corrected="model",
        published="experiment",
        entries=("I-14",),
    )
    normalisation: Literal["published", "model"] = setting(
        "model: what the network was pretrained with. published: what the study fed, which for "
        "some models is another mean and deviation.",
        corrected="model",
        published="published",
        entries=("I-11",),
    )
    patients: Literal["ignored", "separate"] = setting(
        "separate: the validation part is cut by patient. ignored: it is a fifth of the images.",
        corrected="separate",
        published="ignored",
        entries=("I-8",),
    )


class ScoredSettings(ImageSettings):
    """How experiments that score every metric on a test part choose and score."""

    select: str = setting(
        "Validation metric that chooses: C, the number of neighbours, or when training is best. "
        "card: the metric on the data set's card, else accuracy.",
        corrected="card",
        option=Option(metavar="METRIC|card", help="Validation metric that chooses."),
    )
    ordered: bool | Literal["card"] = setting(
        "Whether classes are grades, so that their quadratic kappa is measured.",
        corrected="card",
        option=Option(
            ("--ordered/--not-ordered",),
            help="The classes are grades: measure quadratic kappa (default: the card tells).",
        ),
    )
    interval: Literal["percentile", "log_odds"] = setting(
        "How the deviation over resampled patients becomes an interval. log_odds: on the scale of "
        "log odds with Student's t, which stays within bounds and holds near them. percentile: the "
        "percentiles of the resamples, too narrow near 0 and 1 and of few patients; the study "
        "stated none.",
        corrected="log_odds",
        published="percentile",
        option=Option(main=False),
    )
    by: Columns = setting(
        "Columns of the data set, such as view, sex or site: each of their values is scored apart "
        "too, a record each; numbers are cut into quarters.",
        corrected=(),
        option=Option(
            metavar="COLUMN,...", help="Score the values of these columns apart too, such as view."
        ),
    )
    adjust: Columns = setting(
        "Columns that scores are adjusted for too: the AUROC is taken within their values, the "
        "other metrics with weights that make label and columns independent.",
        corrected=(),
        option=Option(
            metavar="COLUMN,...", help="Adjust scores for these columns too, such as view."
        ),
    )


class TrainedSettings(ScoredSettings):
    """What training on a part of the images needs."""

    targets: Literal["soft", "truncated"] = setting(
        "soft: soft targets are fitted as they are. truncated: uncertain labels, 0.55 to 0.85, "
        "become 0 in training, validation and test.",
        corrected="soft",
        published="truncated",
        entries=("I-2",),
    )
    fractions: tuple[Share, ...] = setting(
        "Shares of the training and validation patients that are used, each a run of its own; "
        "smaller shares are part of larger ones.",
        corrected=(1.0,),
        option=Option(
            metavar="SHARE,...",
            help="Shares of the training images to use, such as 0.01,0.1,1; each is a run.",
        ),
    )


class FewShotSettings(ImageSettings):
    """Few-shot: prototypes of a few support images classify the queries of many small episodes."""

    shots: tuple[PositiveInt, ...] = setting(
        "Support images of a class; several at once.",
        corrected=(20,),
        option=Option(metavar="K,..."),
    )
    ways: PositiveInt | Literal["all", "published"] = setting(
        "Classes in an episode; published: as many as the study took, else 2. Fewer ways than "
        "classes average over pairs or subsets of classes, which is nobody's task.",
        corrected="all",
        published="published",
        entries=("I-21",),
        option=Option(help="Classes in an episode."),
    )
    queries: PositiveInt = setting("Query images of a class.", corrected=15, option=Option())
    episodes: PositiveInt = setting("Number of episodes.", corrected=600, option=Option())
    geometry: Literal["experiment", "model"] = setting(
        "model: resizing and crop are the model's own. experiment: small sets squashed to 257x257 "
        "(bilinear), large sets resized to a short side of 224 (bicubic), both cropped to 224.",
        corrected="model",
        published="experiment",
        entries=("I-14",),
    )
    pool: Literal["first_10001", "all"] = setting(
        "all: every image can be drawn. first_10001: of sets that the study cached, only the first "
        "10,001 images of train followed by test.",
        corrected="all",
        published="first_10001",
        entries=("I-13",),
    )
    duplicate_images: Literal["published", "never"] = setting(
        "published: where the study's loader held every image twice, a query can meet its twin in "
        "the support, as it could there.",
        corrected="never",
        published="published",
        entries=("I-16",),
    )
    patients: Literal["ignored", "separate"] = setting(
        "separate: an episode draws one image of a patient, so that none is in support and query. "
        "ignored: images of one patient are independent draws.",
        corrected="separate",
        published="ignored",
        entries=("I-8",),
    )
    interval: Literal["episodes", "images"] = setting(
        "What the interval is over; a record holds both. images: other patients (images where they "
        "are unknown), each left out in turn. episodes: other draws of episodes from the same "
        "images, 1.96 standard errors, although episodes share images.",
        corrected="images",
        published="episodes",
        option=Option(main=False),
    )
    episode_list: Literal["per_architecture", "fixed"] = setting(
        "fixed: all models meet the same episodes, so that differences are paired. "
        "per_architecture: only models of one architecture do.",
        corrected="fixed",
        published="per_architecture",
        entries=("I-15",),
    )


LEAST_REFITS = 10
C = Annotated[float, Field(ge=1e-12, le=1e12)]
"""Beyond these the squares of float64 leave no digits for a solution."""


class LinearSettings(TrainedSettings):
    """Linear: logistic regression on features, its strength C chosen on a validation part."""

    Cs: tuple[C, ...] | Literal["grid"] = setting(
        "Values of C to choose from; grid: the study's 45, from 1e6 down to 1e-5. The study's "
        "readme gives their inverses, the weight decays.",
        corrected="grid",
        option=Option(("--C",), metavar="C,...", help="Inverse strengths to choose from."),
    )
    standardise: bool = setting(
        "Each feature is brought to mean 0 and deviation 1 of the training part, so that one C "
        "means the same to all of them.",
        corrected=True,
        published=False,
        entries=("I-6",),
    )
    solver: Literal["converged", "lbfgs_2022"] = setting(
        "converged: each C to its optimum. lbfgs_2022: as scikit-learn of spring 2022 did, at most "
        "100 L-BFGS iterations on the sum of losses, each C from where the C before it ended, so "
        "that the result depends on the order of the grid. A single C starts from zero.",
        corrected="converged",
        published="lbfgs_2022",
        entries=("I-6",),
    )
    refit: Literal["cold", "from_last_C"] = setting(
        "The final fit on training and validation part. cold: from zero. from_last_C: from where "
        "the last C of the grid ended, which matters where fits are cut off.",
        corrected="cold",
        published="from_last_C",
        entries=("I-6",),
    )
    binary_form: Literal["log_odds", "softmax"] = setting(
        "Two classes. log_odds: one weight vector. softmax: two of them, which is one with twice "
        "the C.",
        corrected="log_odds",
        published="softmax",
        entries=("I-7",),
    )
    evaluation: Literal["auto", "test_part", "nested_folds"] = setting(
        "test_part: the test images are asked. nested_folds: every image is asked, in repeated "
        "cross-validation that chooses C within each training part. auto: nested_folds where the "
        "test part has fewer than 50 patients (images where patients are unknown) and the classes "
        "can be dealt into folds; a split that is named stays.",
        corrected="auto",
        published="test_part",
        option=Option(help="What is asked: the test images, or all of them in nested folds."),
    )
    folds: Annotated[int, Field(ge=3)] = setting(
        "Folds of the nested cross-validation; auto takes 3 where a class has too few patients for "
        "more.",
        corrected=5,
        option=Option(help="Folds of the nested cross-validation."),
    )
    repeats: PositiveInt = setting(
        "How often folds are dealt anew; the predictions of an image are averaged.",
        corrected=4,
        option=Option(help="How often folds are dealt anew."),
    )
    refits: Annotated[int, Field(ge=0, le=10_000)] | Literal["auto"] = setting(
        "Fits to bootstrap samples of the training patients, with the chosen C: the interval then "
        "covers the choice of training patients too. 0: it is given one fit; else at least 10. "
        "auto: 30 in nested folds, without which intervals of small sets are too narrow, else 0.",
        corrected="auto",
        option=Option(metavar="N|auto", help="Refits to resampled training patients."),
    )

    @model_validator(mode="after")
    def _belong_together(self) -> LinearSettings:
        if self.evaluation == "nested_folds" and self.solver != "converged":
            message = "evaluation nested_folds needs solver converged: it fits C to the optimum"
            raise ValueError(message)
        if self.refits != "auto" and 0 < self.refits < LEAST_REFITS:
            message = f"refits is {self.refits}; give 0, or at least {LEAST_REFITS} for a deviation"
            raise ValueError(message)
        return self


class KnnSettings(ScoredSettings):
    """k-NN: the classes of the nearest images vote; not part of the study."""

    evaluation: Literal["folds", "test_part"] = setting(
        "folds: each image is asked once, in cross-validation. test_part: the test images are "
        "asked, training and validation images answer.",
        corrected="folds",
    )
    folds: Annotated[int, Field(ge=2)] = setting(
        "Folds of the stratified cross-validation.", corrected=5, option=Option()
    )
    neighbours: PositiveInt | Literal["validated"] = setting(
        "Neighbours that vote; validated: of 1, 2, 5, 10, 20, 50, 100 and 200 the best on the "
        "validation part, in cross-validation on the next fold.",
        corrected="validated",
        option=Option(("--neighbours", "-k"), help="How many images vote."),
    )
    refits: Annotated[int, Field(ge=0, le=10_000)] | Literal["auto"] = setting(
        "In folds: votes of bootstrap samples of the patients, so that the interval covers those "
        "who answer too. 0: it covers those who are asked; else at least 10. auto: 30.",
        corrected="auto",
        option=Option(metavar="N|auto", help="Votes of resampled patients, in folds."),
    )
    weighting: Literal["similarity", "equal"] = setting(
        "similarity: a vote weighs exp(cosine / temperature). equal: all votes weigh the same.",
        corrected="similarity",
        option=Option(),
    )
    temperature: PositiveFloat = setting(
        "The smaller, the more the nearest decide.", corrected=0.07
    )
    patients: Literal["ignored", "separate"] = setting(
        "separate: all images of a patient are in one fold. ignored: folds are drawn by image.",
        corrected="separate",
        published="ignored",
        entries=("I-8",),
    )

    @model_validator(mode="after")
    def _enough_refits(self) -> KnnSettings:
        if self.refits != "auto" and 0 < self.refits < LEAST_REFITS:
            message = f"refits is {self.refits}; give 0, or at least {LEAST_REFITS} for a deviation"
            raise ValueError(message)
        return self


class FinetuneSettings(TrainedSettings):
    """Fine-tuning: the whole network and a new linear layer are trained with SGD and cosine."""

    steps: PositiveInt = setting(
        "Training steps at most; the cosine ends there.", corrected=5000, option=Option()
    )
    batch_size: PositiveInt = setting(
        "Images of a training step.", corrected=64, option=Option(("--train-batch-size",))
    )
    learning_rate: PositiveFloat = setting(
        "Learning rate at the first step; it falls to 0.",
        corrected=0.01,
        option=Option(("--learning-rate", "--lr")),
    )
    weight_decay: NonNegativeFloat = setting("L2 penalty of SGD.", corrected=1e-8, option=Option())
    last_batch: Literal["full", "short"] = setting(
        "Where the images of an epoch do not fill its last batch. full: the next epoch's do. "
        "short: it stays short, or is left out if it is one image, too little for BatchNorm.",
        corrected="full",
        published="short",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = setting(
        "Nesterov momentum; 0 is plain SGD.", corrected=0.9
    )
    search: bool = setting(
        "Try the learning rates 0.1 and 1e-4, each with weight decays 0, 1e-6 and 1e-3 divided by "
        "the rate, and take the best on validation; learning_rate and weight_decay are not used.",
        corrected=False,
        option=Option(("--search/--no-search",)),
    )
    search_stopping: Literal["early", "never"] = setting(
        "When a candidate of the search ends. early: as any run, and its best validation counts. "
        "never: after all steps, and its last weights count.",
        corrected="early",
        published="never",
    )
    early_stopping: bool = setting(
        "Validate now and then and stop when it gets worse. Without it, validation images train "
        "too and all steps are run.",
        corrected=True,
        option=Option(
            ("--early-stopping/--all-steps",), help="Stop on validation, or train on it too."
        ),
    )
    validate_every: PositiveInt = setting(
        "Steps between validations.", corrected=200, option=Option()
    )
    patience: PositiveInt = setting("Validations in a row without progress.", corrected=3)
    ties: Literal["progress", "no_progress"] = setting(
        "Whether a validation that equals the best resets the patience.",
        corrected="no_progress",
        published="progress",
        entries=("I-4",),
    )
    tested_weights: Literal["best", "last"] = setting(
        "best: of the best validation. last: the study kept references to the live tensors, so it "
        "tested weights 600 steps past the best.",
        corrected="best",
        published="last",
        entries=("I-3",),
    )
    auroc: Literal["probabilities", "decisions"] = setting(
        "decisions: the area under the curve of arg-max classes, which is balanced accuracy.",
        corrected="probabilities",
        published="decisions",
        entries=("I-5",),
    )
    side: Annotated[int, Field(ge=16, le=2048)] | None = setting(
        "Side of the images that the network sees, everything scaled in proportion; None is the "
        "side of the geometry. Small sides suit small pictures and quick looks.",
        corrected=None,
        option=Option(help="Side of the images."),
    )
    smallest_crop: Share = setting(
        "Random crops in training cover at least this share of the image.",
        corrected=0.08,
        option=Option(),
    )
    flip: bool = setting(
        "Half of the training images are mirrored.", corrected=True, option=Option()
    )
    seed: Seed = setting(
        "Seed of head, order and crops. The study set none, so its runs cannot be repeated.",
        corrected=0,
        option=Option(("--seed",), help="Seed of everything random."),
    )


class FinetuneOptions(BaseModel):
    """How fine-tuning is run, as distinct from what it does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint_every: PositiveInt = setting(
        "Steps between checkpoints.", corrected=200, option=Option()
    )


S = TypeVar("S", bound=Preset)


def preset(settings: type[S], protocol: ProtocolName = "corrected", **changes: object) -> S:
    """Make the settings of a protocol, with some fields changed.

    Args:
        settings: A settings class, such as `FewShotSettings`.
        protocol: `published` or `corrected`.
        changes: Fields to set; None leaves the preset's value.

    Raises:
        SettingsError: A value is not allowed.

    Example:
        >>> preset(FewShotSettings, "published", shots=(1, 5)).ways
        'published'
    """
    return from_preset(settings, protocol, changes, refusal=SettingsError)
