"""What a reconstruction is matched to: the features of the original in one layer of a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medssl_dip.errors import SettingsError

if TYPE_CHECKING:
    from medssl_dip.feature_extractor import FeatureExtractor

__all__ = ["Objective"]


class Objective(nn.Module):
    """The squared error between features of pictures and of their originals.

    Args:
        extractor: The backbone.
        originals: (N, 3, H, W) in [0, 1].
        layer: Whose output is compared.
        comparable_taps: Compare after ReLU.
        relative: Divide by the target's mean square: 1 is the loss of features that are all zero.

    Raises:
        SettingsError: The target has no features to match (relative loss of an all-zero layer).

    Example:
        >>> from medssl_dip import FeatureExtractor
        >>> from medssl_models import create_model
        >>> backbone = create_model("random_r18")
        >>> original = torch.rand(1, 3, 64, 64)
        >>> extractor = FeatureExtractor(backbone, backbone.preprocessing)
        >>> Objective(extractor, original, layer="layer2")(original)
        tensor([0.])
    """

    targets: Tensor
    scales: Tensor

    def __init__(
        self,
        extractor: FeatureExtractor,
        originals: Tensor,
        *,
        layer: str,
        comparable_taps: bool = True,
        relative: bool = True,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.layer = extractor.resolve(layer)
        self.comparable_taps = comparable_taps
        with torch.no_grad():
            targets = self._features(originals)
        energy = targets.flatten(1).pow(2).mean(1)
        if relative and not bool((energy > 0).all()):
            message = (
                f"layer: {self.layer!r} is zero everywhere for this picture; take another layer"
            )
            raise SettingsError(message)
        self.register_buffer("targets", targets)
        self.register_buffer("scales", 1 / energy if relative else torch.ones_like(energy))

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute each picture's loss, (N,) float32, from (N, 3, H, W)."""
        error = (self._features(pictures) - self.targets).flatten(1)
        return error.pow(2).mean(1) * self.scales

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the originals: (K,) indices, int64."""
        self.targets, self.scales = self.targets[rows], self.scales[rows]

    def _features(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.extractor(pictures, self.layer)
        return features.relu() if self.comparable_taps else features
