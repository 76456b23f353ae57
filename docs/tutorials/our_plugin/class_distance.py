"""The arithmetic: how far apart the mean features of two classes lie."""

import numpy as np
from numpy.typing import NDArray


def distance_of_means(
    features: NDArray[np.float32], labels: NDArray[np.int64], *, unit_length: bool
) -> float:
    """Return the Euclidean distance between the mean features of classes 0 and 1.

    Args:
        features: (N, D) float32.
        labels: (N,) int64, 0 or 1.
        unit_length: Bring every row to length 1 first.
    """
    if unit_length:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = [features[labels == label].mean(axis=0) for label in (0, 1)]
    return float(np.linalg.norm(means[0] - means[1]))
