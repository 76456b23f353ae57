"""The two protocols of a reconstruction as values: every difference is a field with a name.

`DEFECTS` says which published habit a field stands for; numbers in it are those of the protocol
page. Nothing here computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from medssl_data.reading import Reading
from pydantic import BaseModel, ConfigDict, Field

from medssl_dip.choices import PresetName  # noqa: TC001 # pydantic reads it
from medssl_dip.generator import GeneratorSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFECTS", "PRESETS", "ReconstructionSettings", "settings_for"]

ProtocolName = Literal["published", "corrected"]


class ReconstructionSettings(BaseModel):
    """How pictures are reconstructed and measured.

    Args:
        protocol: Which preset the values come from.
        generator: The shape of the prior.
        size: Side of the square that is reconstructed: short side to it, bicubic, centre crop. None
            is the model's own geometry.
        layer: Whose output is inverted; `last` is the deepest feature map.
        normalised_input: Normalise pictures as the model was trained; else it sees raw [0, 1].
        comparable_taps: Compare maps after ReLU, so that all architectures are matched in kind.
        relative_loss: Divide the squared error by the target's mean square.
        restarts: Runs from different seeds.
        steps: Updates at most.
        learning_rate: Of Adam.
        patience: Stop after so many steps in which the loss has not fallen by `tolerance`.
        tolerance: Least relative fall of the loss that counts as progress.
        divergence: Stop when the loss exceeds so many times its first value.
        lossless: Keep the result as PNG; else in the format of the source file.
        rounded: Round to the nearest of 256 levels; else truncate.
        reading: Slice and window of volumes; None is the data set's own, or the file's.
        measure_every: Steps between measurements of the picture.
        snapshot_every: Steps between snapshots on disk.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: ProtocolName = "corrected"
    generator: GeneratorSettings = GeneratorSettings()
    size: int | None = Field(default=None, ge=32)
    layer: str = "last"
    normalised_input: bool = True
    comparable_taps: bool = True
    relative_loss: bool = True
    restarts: int = Field(default=3, ge=1)
    steps: int = Field(default=3001, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    patience: int | None = Field(default=300, ge=1)
    tolerance: float = Field(default=0.01, ge=0, lt=1)
    divergence: float = Field(default=100.0, gt=1)
    lossless: bool = True
    rounded: bool = True
    reading: Reading | None = None
    measure_every: int = Field(default=50, ge=1)
    snapshot_every: int = Field(default=500, ge=1)

    def replace(self, **changes: object) -> ReconstructionSettings:
        """Make new, validated settings with some fields changed."""
        return ReconstructionSettings.model_validate(dict(self) | changes)


DEFECTS: Mapping[str, str] = {
    "normalised_input": "I-39: every model was fed raw [0, 1] pictures",
    "layer": "I-40: DenseNet was tapped before its final normalisation",
    "comparable_taps": "I-40: ResNets were matched after ReLU, DenseNets before",
    "relative_loss": "I-40: the scale of the features differs between families",
    "restarts": "I-40: one unseeded run",
    "lossless": "I-41: six data sets were measured after JPEG compression",
    "reading": "I-20: volumes gave slice 5 with values cut to 0..255",
}

PRESETS: Mapping[ProtocolName, ReconstructionSettings] = {
    "corrected": ReconstructionSettings(),
    "published": ReconstructionSettings(
        protocol="published",
        size=224,
        layer="layer4",
        normalised_input=False,
        comparable_taps=False,
        relative_loss=False,
        restarts=1,
        patience=None,
        divergence=1e6,
        lossless=False,
        rounded=False,
        reading=Reading(position=5, window=(0.0, 255.0), transposed=True),
    ),
}

QUICK: Mapping[str, object] = {
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
    """Give a protocol's settings.

    Args:
        protocol: `published` or `corrected`.
        preset: `quick` makes the prior, the picture and the run small enough for a CPU.
        changes: Fields to set; None leaves a field as the protocol has it.

    Raises:
        pydantic.ValidationError: A value is not allowed.

    Example:
        >>> settings_for("published").steps
        3001
        >>> settings_for(preset="quick", steps=50).size
        96
    """
    chosen = {name: value for name, value in changes.items() if value is not None}
    smaller = QUICK if preset == "quick" else {}
    return PRESETS[protocol].replace(**dict(smaller) | chosen)
