"""What the experiments decide: every difference of the protocols is a field with a reason.

Nothing here computes, and importing this module imports no torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from medssl_data.images.reading import Reading
from medssl_models.experiments.settings import ExperimentSettings, Option, from_preset, setting
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from medssl_dip.errors import SettingsError
from medssl_dip.perceptual.metrics import NETS, NetName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_models.experiments.settings import ProtocolName

__all__ = [
    "DistanceOptions",
    "DistanceSettings",
    "GeneratorSettings",
    "InputSettings",
    "ReconstructionOptions",
    "ReconstructionSettings",
    "complete",
    "settings_for",
]

_NOT_OF_A_RUN = {"seed", "padding", "labels", "pictures", "preset", "restarts"}
_NOT_OF_A_RECORD = {"protocol", "seed", "pictures", "preset"}


class GeneratorSettings(BaseModel):
    """The shape of an hourglass; the default is the one of the 2022 study.

    Args:
        channels: Channels of each level, downwards and upwards alike.
        kernels: Odd kernel width of each level.
        skip_channels: Channels that pass a level by.
        input_channels: Channels of the fixed random input.
        input_scale: The input is uniform in [0, input_scale).
        slope: Negative slope of the activations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[int, ...] = (16, 32, 64, 128, 128, 128)
    kernels: tuple[int, ...] = (7, 7, 5, 5, 3, 3)
    skip_channels: int = Field(4, ge=1)
    input_channels: int = Field(32, ge=1)
    input_scale: float = Field(0.1, gt=0)
    slope: float = Field(0.2, ge=0)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.channels or len(self.channels) != len(self.kernels):
            message = (
                f"channels and kernels describe the same levels, got {len(self.channels)} and "
                f"{len(self.kernels)}"
            )
            raise ValueError(message)
        if any(kernel % 2 == 0 or kernel < 1 for kernel in self.kernels):
            message = f"kernels must be odd and positive, got {self.kernels}"
            raise ValueError(message)
        return self

    def size_for(self, crop: int) -> int:
        """Compute the side of the generated picture: the least that every level can halve.

        Args:
            crop: Side of the part that the backbone sees, pixels.

        Returns:
            A multiple of 2 ** levels that is at least `crop`, pixels.

        Example:
            >>> GeneratorSettings().size_for(224)
            256
        """
        step = 1 << len(self.channels)
        halves = max(math.ceil(crop / step), 2)  # normalising a single pixel gives a constant
        return halves * step


class InputSettings(ExperimentSettings):
    """How pictures are read and what models see of them."""

    size: Annotated[int, Field(ge=32)] | None = setting(
        "Side of the square that is seen: short side to it, bicubic, centre crop. None is the "
        "model's own geometry, which the study did not ask for.",
        corrected=None,
        published=224,
        option=Option(
            ("--side", "--size"), "PIXELS|none", "Short side to it, then the central square."
        ),
    )
    normalised_input: bool = setting(
        "True: pictures are normalised as the model was trained. False: every model sees raw "
        "values in [0, 1].",
        corrected=True,
        published=False,
        entries=("I-39",),
    )
    reading: Reading | None = setting(
        "Slice and window of volumes. None: the data set's own, or the file's. The study took "
        "slice 5 with values cut to 0..255.",
        corrected=None,
        published=Reading(position=5, window=(0.0, 255.0), transposed=True),
        entries=("I-20",),
    )

    def replace(self, **changes: object) -> Self:
        """Make new, validated settings with some fields changed."""
        return self.model_validate(dict(self) | changes)


class ReconstructionSettings(InputSettings):
    """How pictures are reconstructed and measured; each field tells what it decides."""

    pictures: tuple[str, ...] | Literal["published"] = setting(
        "Images of the data set, by id or the file name that it ends in. None takes the first one. "
        "published: the one that stood for the data set in the study, where it is here.",
        corrected=(),
        published="published",
        option=Option(("--picture",), "ID,...", "Images of the data set; else its first one."),
    )
    layer: tuple[str, ...] = setting(
        "Whose output is inverted; several are a sweep. last: the deepest feature map of each "
        "architecture. layer4: of a DenseNet what comes before its final normalisation.",
        corrected=("last",),
        published=("layer4",),
        entries=("I-40",),
        option=Option((), "NAME,...", "Such as layer4, pooled or last; several are a sweep."),
    )
    preset: Literal["full", "quick"] = setting(
        "quick makes the prior, the picture and the run small enough for a CPU.",
        corrected="full",
        option=Option(),
    )
    generator: GeneratorSettings = setting(
        "The shape of the prior: channels and kernels of each level.", corrected=GeneratorSettings()
    )
    comparable_taps: bool = setting(
        "True: maps after ReLU, so that all architectures are matched in kind. False: ResNets "
        "after ReLU, DenseNets before.",
        corrected=True,
        published=False,
        entries=("I-40",),
    )
    relative_loss: bool = setting(
        "True: the squared error is divided by the target's mean square, because the scale of the "
        "features differs between architectures.",
        corrected=True,
        published=False,
        entries=("I-40",),
    )
    restarts: PositiveInt = setting(
        "Runs from different seeds; a single one does not tell how far the result is chance.",
        corrected=3,
        published=1,
        entries=("I-40",),
        option=Option(),
    )
    steps: PositiveInt = setting("Updates at most.", corrected=3001, option=Option())
    learning_rate: PositiveFloat = setting("Of Adam.", corrected=1e-3)
    patience: PositiveInt | None = setting(
        "Stop after so many steps in which the loss has not fallen by `tolerance`; none runs to "
        "the end.",
        corrected=300,
        published=None,
        option=Option(),
    )
    tolerance: Annotated[float, Field(ge=0, lt=1)] = setting(
        "Least relative fall of the loss that counts as progress.", corrected=0.01
    )
    divergence: Annotated[float, Field(gt=1)] = setting(
        "Stop when the loss exceeds so many times its first value; the study did not look.",
        corrected=100.0,
        published=1e6,
    )
    lossless: bool = setting(
        "True: results are kept and measured as PNG. False: in the format of the source file, so "
        "six data sets were measured after JPEG compression.",
        corrected=True,
        published=False,
        entries=("I-41",),
    )
    rounded: bool = setting(
        "True: values are rounded to the nearest of 256 levels. False: truncated, which darkens by "
        "half a level.",
        corrected=True,
        published=False,
    )
    measure_every: PositiveInt = setting("Steps between measurements of the picture.", corrected=50)
    snapshot_every: PositiveInt = setting("Steps between snapshots on disk.", corrected=500)

    @field_validator("layer", "pictures", mode="before")
    @classmethod
    def _take_one(cls, value: Any) -> Any:  # noqa: ANN401 # whatever the caller gave
        """Let a single name stand for a tuple of one."""
        return (value,) if isinstance(value, str) and value != "published" else value

    @field_validator("layer")
    @classmethod
    def _need_a_layer(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            message = "name at least one layer"
            raise ValueError(message)
        return value

    def of_run(self, layer: str) -> dict[str, Any]:
        """Return, as plain JSON, what decides the result of a run on one layer."""
        return self.model_dump(mode="json", exclude=_NOT_OF_A_RUN) | {"layer": layer}

    def of_record(self, layer: str, picture: str) -> dict[str, Any]:
        """Return, as plain JSON, the settings of a record of one layer and picture."""
        mine = self.model_dump(mode="json", exclude=_NOT_OF_A_RECORD)
        return mine | {"layer": layer, "picture": picture}


class ReconstructionOptions(BaseModel):
    """How reconstructions are made, as distinct from what is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    net: tuple[NetName, ...] | Literal["here"] | None = setting(
        "Trunks of LPIPS. here: those that have been imported.",
        corrected="here",
        option=Option((), "NET,...|none", f"LPIPS trunks: {', '.join(NETS)}; else those here."),
    )
    resume: bool = setting("Go on with runs that were cut off.", corrected=True, option=Option())
    compiled: bool = setting(
        "Use torch.compile.", corrected=False, option=Option(("--compile/--no-compile",))
    )


class DistanceSettings(InputSettings):
    """How two pictures are compared; `size` is that of the pixels."""

    feature_size: Annotated[int, Field(ge=32)] | None = setting(
        "Side of the square that a model sees for the distance of features, as `size`.",
        corrected=None,
        published=224,
    )


class DistanceOptions(BaseModel):
    """Which measures are taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    net: tuple[NetName, ...] | None = setting(
        "Trunks of LPIPS.",
        corrected=NETS,
        option=Option((), "NET,...|none", f"LPIPS trunks: {', '.join(NETS)}."),
    )


_QUICK: Mapping[str, object] = {  # what makes a run small enough for a CPU
    "generator": GeneratorSettings(channels=(16, 32, 64, 64), kernels=(5, 5, 3, 3)),
    "size": 96,
    "restarts": 1,
    "steps": 400,
    # So few steps need long ones: layer2 of a retina ends at a loss of 0.15 with 3e-3, 0.02 here.
    "learning_rate": 1e-2,
    "patience": 100,
    "measure_every": 20,
    "snapshot_every": 100,
}


def complete(changes: Mapping[str, object]) -> Mapping[str, object]:
    """Add to changes of settings what the preset `quick` among them stands for.

    Example:
        >>> complete({"preset": "quick", "steps": 50})["steps"]
        50
    """
    return {**_QUICK, **changes} if changes.get("preset") == "quick" else changes


def settings_for(protocol: ProtocolName = "corrected", **changes: object) -> ReconstructionSettings:
    """Make the settings of a protocol.

    Args:
        protocol: `published` or `corrected`.
        changes: Fields to set; None leaves a field as the protocol has it.

    Raises:
        SettingsError: A value is not allowed; the message names the field.

    Example:
        >>> settings_for("published").steps
        3001
        >>> settings_for(preset="quick", steps=50).size
        96
    """
    given = complete({name: value for name, value in changes.items() if value is not None})
    return from_preset(ReconstructionSettings, protocol, given, refusal=SettingsError)
