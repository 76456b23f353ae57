"""What transformed images, or other views, are compared with: the reference set and the baselines.

A reference set is features of clean images, a whitening that was estimated from them, and a gallery
in which the own image must be found again. A baseline is the same similarity with another image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.experiments.intervals import bootstrap_mean

from medssl_invariance.errors import TooFewImagesError
from medssl_invariance.experiments.metrics import PAIRWISE
from medssl_invariance.similarity import Gallery, compare, cosine
from medssl_invariance.whitening import fit_whitening

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medssl_data import ImageDataset
    from medssl_models.experiments.intervals import Mean
    from numpy.typing import NDArray

    from medssl_invariance.experiments.clean_features import CleanFeatures
    from medssl_invariance.experiments.image_plan import ImagePlan
    from medssl_invariance.experiments.settings import ComparisonSettings
    from medssl_invariance.whitening import Whitening

    Rows = NDArray[np.int64]

__all__ = ["ReferenceSet", "baselines"]


@dataclass(frozen=True)
class ReferenceSet:
    """All that transformed images, or other views, are compared with.

    Args:
        clean: Features.
        compared: `(n,)` readable rows that are compared.
        whitening: Estimated from the plan's covariance images.
        whitened: Images among which the own one is looked for, in the whitened space.
        raw: The same in the space of the features.
        gallery_rows: `(G,)` their rows, ascending.
    """

    clean: CleanFeatures
    compared: Rows
    whitening: Whitening
    whitened: Gallery
    raw: Gallery
    gallery_rows: Rows

    @classmethod
    def build(
        cls,
        clean: CleanFeatures,
        plan: ImagePlan,
        settings: ComparisonSettings,
        *,
        gallery: Rows | None = None,
    ) -> ReferenceSet:
        """Estimate the whitening and lay out the gallery.

        Args:
            clean: Features of the plan's images.
            plan: Which images.
            settings: Way of whitening, size of the gallery.
            gallery: Rows of the gallery; None takes the compared images and then others.

        Raises:
            TooFewImagesError: Not enough readable images.
            FeatureError: Constant features.
            CovarianceError: It cannot be factored, where the settings say stop.
        """
        compared, behind = clean.readable(plan.compared), clean.readable(plan.covariance)
        if not len(compared):
            message = "none of the images that were chosen can be read"
            raise TooFewImagesError(message)
        whitening = fit_whitening(
            clean.at(behind) if clean.in_batches is None else clean.in_batches,
            settings.covariance,
            distinct=len(np.unique(behind)),
            pca_variance=settings.pca_variance,
            unfactorable=settings.unfactorable,
        )
        rows = _gallery_rows(compared, clean.rows, settings.gallery) if gallery is None else gallery
        vectors = clean.at(rows)
        return cls(
            clean,
            compared,
            whitening,
            Gallery.of(whitening.deviations(vectors)),
            Gallery.of(vectors),
            rows,
        )

    def measure(
        self, own: Rows, features: NDArray[np.float32], targets: Rows
    ) -> NDArray[np.float64]:
        """Compare features with those of clean images, by all of `METRICS`.

        Args:
            own: `(N,)` rows of the clean images that they are compared with.
            features: `(N, D)`.
            targets: `(N,)` rows of the gallery that should be found from them.

        Returns:
            `(5, N)`; retrievals are 0 to 1.
        """
        # Many views share one clean image: it is whitened once.
        rows, shared = np.unique(own, return_inverse=True)
        singles = self.clean.at(rows)
        clean, originals = singles[shared], self.whitening.deviations(singles)[shared]
        whitened = self.whitening.deviations(features)
        places = np.searchsorted(self.gallery_rows, targets)
        return np.stack(
            [
                cosine(originals, whitened),
                cosine(clean, features),
                self._distances(clean, features, whitened - originals),
                self.whitened.found(whitened, places),
                self.raw.found(features, places),
            ]
        )

    def _distances(
        self,
        clean: NDArray[np.float32],
        features: NDArray[np.float32],
        whitened: NDArray[np.floating],
    ) -> NDArray[np.float64]:
        """Compute Mahalanobis distances, from what is whitened already where they come from it."""
        if self.whitening.precision is not None:
            return self.whitening.distances(clean, features)
        return np.asarray(np.linalg.norm(whitened, axis=1), dtype=np.float64)


def _gallery_rows(compared: Rows, available: Rows, size: int) -> Rows:
    """Take the compared images and as many others as there is room for."""
    own = np.unique(compared)
    others = np.setdiff1d(available, own)
    room = max(size - len(own), 0)
    # Evenly over the data set, whose files are often sorted by class.
    chosen = others[
        np.linspace(0, len(others) - 1, min(room, len(others))).round().astype(np.int64)
    ]
    return np.union1d(own, chosen)


def baselines(
    reference: ReferenceSet,
    data: ImageDataset,
    settings: ComparisonSettings,
    *,
    pool: Rows | None = None,
    except_for: Rows | None = None,
) -> dict[str, dict[str, Mean]]:
    """Compare each image with other images: any, of its class, of its patient.

    Partners of the first two kinds are of other patients, where patients are known.

    Args:
        reference: Features and whitening.
        data: Labels and patients.
        settings: How many partners, the seed.
        pool: Rows that partners are drawn from; None takes all that have features.
        except_for: `(n,)` for each compared image a row that is no partner, beside itself.

    Returns:
        Baseline to metric to its mean over images; a baseline that no image has is left out.
    """
    rows = reference.clean.rows if pool is None else pool
    labels, groups = np.asarray(data.labels), np.asarray(data.groups)

    def same_patient(row: int) -> NDArray[np.bool_]:
        known: NDArray[np.bool_] = (groups[rows] == groups[row]) & (groups[row] != "")
        return known

    def same_class(row: int) -> NDArray[np.bool_]:
        alike: NDArray[np.bool_] = (labels[rows] == labels[row]) & ~same_patient(row)
        return alike

    kinds: dict[str, Callable[[int], NDArray[np.bool_]]] = {
        "random_other": lambda row: ~same_patient(row),
        "same_class": same_class,
        "same_patient": same_patient,
    }
    spared = reference.compared if except_for is None else except_for
    found = {}
    for kind, fitting in kinds.items():
        partners = [
            _draw_partners(
                rows[fitting(int(row)) & (rows != row) & (rows != other)], int(row), settings
            )
            for row, other in zip(reference.compared, spared, strict=True)
        ]
        if any(len(chosen) for chosen in partners):
            found[kind] = _baseline(reference, partners, settings)
    return found


def _draw_partners(candidates: Rows, row: int, settings: ComparisonSettings) -> Rows:
    count = min(settings.partners, len(candidates))
    return np.random.default_rng([settings.seed, row]).choice(candidates, count, replace=False)


def _baseline(
    reference: ReferenceSet, partners: Sequence[Rows], settings: ComparisonSettings
) -> dict[str, Mean]:
    """Average over the partners of an image, then over images."""
    counts = [len(chosen) for chosen in partners]
    own = np.repeat(reference.compared, counts)
    others = np.concatenate(partners).astype(np.int64)
    clean = reference.clean
    values = compare(clean.at(own), clean.at(others), reference.whitening)
    ends = np.cumsum(counts)[:-1]
    means = np.array([[_nan_mean(part) for part in np.split(line, ends)] for line in values])
    averaged = bootstrap_mean(
        means.T, resamples=settings.bootstrap, seed=settings.seed, draw="counts"
    )
    names = [metric.name for metric in PAIRWISE]
    return dict(zip(names, averaged, strict=True))


def _nan_mean(values: NDArray[np.float64]) -> float:
    """Average what is defined; NaN where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
