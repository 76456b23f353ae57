"""The two protocols of a reconstruction as values: every difference is a field with a reason.

Nothing here computes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from medssl_data.images.reading import Reading
from medssl_models.experiments.settings import Preset, ProtocolName, from_preset, setting
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from medssl_dip.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["QUICK", "GeneratorSettings", "PresetName", "ReconstructionSettings", "settings_for"]

PresetName = Literal["full", "quick"]


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


class ReconstructionSettings(Preset):
    """How pictures are reconstructed and measured; each field tells what it decides."""

    generator: GeneratorSettings = setting(
        "The shape of the prior: channels and kernels of each level.", corrected=GeneratorSettings()
    )
    size: Annotated[int, Field(ge=32)] | None = setting(
        "Side of the square that is reconstructed: short side to it, bicubic, centre crop. None is "
        "the model's own geometry, which the study did not ask for.",
        corrected=None,
        published=224,
    )
    layer: str = setting(
        "Whose output is inverted. last: the deepest feature map of each architecture. layer4: of "
        "a DenseNet what comes before its final normalisation.",
        corrected="last",
        published="layer4",
        entries=("I-40",),
    )
    normalised_input: bool = setting(
        "True: pictures are normalised as the model was trained. False: every model sees raw "
        "values in [0, 1].",
        corrected=True,
        published=False,
        entries=("I-39",),
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
    )
    steps: PositiveInt = setting("Updates at most.", corrected=3001)
    learning_rate: PositiveFloat = setting("Of Adam.", corrected=1e-3)
    patience: PositiveInt | None = setting(
        "Stop after so many steps in which the loss has not fallen by `tolerance`; none runs to "
        "the end.",
        corrected=300,
        published=None,
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
    reading: Reading | None = setting(
        "Slice and window of volumes. None: the data set's own, or the file's. The study took "
        "slice 5 with values cut to 0..255.",
        corrected=None,
        published=Reading(position=5, window=(0.0, 255.0), transposed=True),
        entries=("I-20",),
    )
    measure_every: PositiveInt = setting("Steps between measurements of the picture.", corrected=50)
    snapshot_every: PositiveInt = setting("Steps between snapshots on disk.", corrected=500)

    def replace(self, **changes: object) -> ReconstructionSettings:
        """Make new, validated settings with some fields changed."""
        return ReconstructionSettings.model_validate(dict(self) | changes)


QUICK: Mapping[str, object] = {  # what makes a run small enough for a CPU
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


def settings_for(
    protocol: ProtocolName = "corrected", preset: PresetName = "full", **changes: object
) -> ReconstructionSettings:
    """Make the settings of a protocol.

    Args:
        protocol: `published` or `corrected`.
        preset: `quick` makes the prior, the picture and the run small enough for a CPU.
        changes: Fields to set; None leaves a field as the protocol has it.

    Raises:
        SettingsError: A value is not allowed; the message names the field.

    Example:
        >>> settings_for("published").steps
        3001
        >>> settings_for(preset="quick", steps=50).size
        96
    """
    given = {name: value for name, value in changes.items() if value is not None}
    smaller = QUICK if preset == "quick" else {}
    return from_preset(
        ReconstructionSettings, protocol, {**smaller, **given}, refusal=SettingsError
    )
