"""The settings of the experiments that take several pictures, and how their maps are made.

Importing this module imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from medssl_models.experiments.settings import Option, setting
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from medssl_saliency.maps.settings import LIMIT, PicturesSettings

__all__ = ["MapOptions", "SanitySettings", "StatsOptions", "StatsSettings"]


class StatsSettings(PicturesSettings):
    """Maps of some pictures of a data set, in numbers."""

    pictures: PositiveInt | Literal["published"] | None = setting(
        "Pictures of a data set, drawn evenly over its classes; none takes all. published: the one "
        "that stood for the data set in the study, where it is here, else one that is drawn.",
        corrected=20,
        published="published",
        entries=("I-38",),
        option=LIMIT,
    )


class SanitySettings(PicturesSettings):
    """Maps of some pictures, of networks that have forgotten something too."""

    stride: PositiveInt = setting(
        "Distance of neighbouring windows: a check makes a dozen maps, so not every window is "
        "measured unless it is 1.",
        corrected=8,
        option=Option(help="Distance of windows; a check makes a dozen maps."),
    )
    untrained: NonNegativeInt = setting(
        "Untrained networks that each model is compared with.",
        corrected=2,
        option=Option(("--untrained",)),
    )


class MapOptions(BaseModel):
    """How maps are made, whatever they are.

    Args:
        memory: For feature maps, in GiB.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: Annotated[float, Field(ge=0, allow_inf_nan=False)] = setting(
        "Memory for feature maps in GiB; it bounds the batch.",
        corrected=2.0,
        option=Option(metavar="GIB"),
    )


class StatsOptions(MapOptions):
    """How maps are made, and where masks are.

    Args:
        masks: A folder with a mask for each picture.
    """

    masks: Path | None = setting(
        "A folder with a mask for each picture, of the same name.",
        corrected=None,
        option=Option(metavar="DIR"),
    )
