"""The metrics of both experiments, between an image and its transformed version or another view."""

from medssl_models.experiments.metric import Metric

__all__ = ["METRICS", "PAIRWISE"]

METRICS = (
    Metric("whitened_cosine", "whitened cosine", "higher", chance=0.0, bounds=(-1.0, 1.0)),
    Metric("raw_cosine", "raw cosine", "higher", bounds=(-1.0, 1.0)),
    Metric("mahalanobis_distance", "Mahalanobis distance", "lower", bounds=(0.0, None)),
    Metric("retrieval", "retrieval", "higher", unit="%", bounds=(0.0, 100.0)),
    Metric("raw_retrieval", "raw retrieval", "higher", unit="%", bounds=(0.0, 100.0)),
)
"""In the order of `ReferenceSet.measure`; the higher values mean the more stable features."""
PAIRWISE = METRICS[:3]
"""Those that any two images have, in the order of `similarity.compare`."""
