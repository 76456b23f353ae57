"""Scaling: what is done to features before a fit, learnt from its training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = NDArray[np.floating]

__all__ = ["Scaling"]


@dataclass(frozen=True, eq=False)
class Scaling:
    """What is done to each feature before a fit.

    Args:
        mean: (D,), what is subtracted; None where features stay as they are.
        scale: (D,), what is divided by; None likewise.
        constant: How many features never change; they are 0 after it.
    """

    mean: Features | None = None
    scale: Features | None = None
    constant: int = 0

    @classmethod
    def of(
        cls,
        features: Features,
        *,
        standardise: bool,
        weights: NDArray[np.float64] | None = None,
    ) -> Scaling:
        """Learn it from features (N, D); what varies by rounding only counts as constant."""
        from sklearn.preprocessing import StandardScaler

        if not standardise:
            return cls()
        learnt = StandardScaler().fit(features, sample_weight=weights)
        constant = int((learnt.var_ <= np.finfo(float).eps).sum())
        kind = features.dtype
        return cls(learnt.mean_.astype(kind), learnt.scale_.astype(kind), constant)

    def __call__(self, features: Features) -> Features:
        """Scaled features, (N, D), of the same type."""
        if self.mean is None or self.scale is None:
            return features
        return (features - self.mean) / self.scale
