"""The clean side of a comparison: which images, their features, the whitening, the baselines.

The images are a list that depends on their number and the seed alone, never on what is on disk.
Features come from the store, keyed by content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl_invariance.errors import FeatureError, TooFewImagesError
from medssl_invariance.similarity import METRICS, Gallery, Mean, bootstrap_mean, compare, cosine
from medssl_invariance.whitening import fit_whitening

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medssl_data import ImageDataset
    from medssl_models import Backbone, Preprocessing
    from numpy.typing import NDArray

    from medssl_invariance.experiments.runs import Means
    from medssl_invariance.experiments.settings import Comparison
    from medssl_invariance.whitening import Whitening

    Rows = NDArray[np.int64]

__all__ = [
    "BASELINES",
    "CleanFeatures",
    "Plan",
    "Reference",
    "baselines",
    "check_finite",
    "plan_images",
]

BASELINES = ("random other", "same class", "same patient")
"""Which other images an image is compared with, so that a similarity can be judged."""
PAIRWISE = METRICS[:3]


@dataclass(frozen=True)
class Plan:
    """Which images take part.

    Args:
        compared: `(n,)` rows that are compared; some several times where drawn with replacement.
        covariance: `(m,)` rows behind the covariance, likewise.
        rows: How many rows there are.
    """

    compared: Rows
    covariance: Rows
    rows: int

    @property
    def needed(self) -> Rows:
        """All rows that take part, ascending, each once."""
        return np.union1d(self.compared, self.covariance)


def plan_images(rows: int, settings: Comparison) -> Plan:
    """Choose the images before the first one is opened.

    Args:
        rows: How many there are, N.
        settings: How many, how they are drawn, and the seed. Where the covariance is of others,
            at most half of all are compared.

    Raises:
        TooFewImagesError: Fewer than two images, or none left for the covariance.
    """
    apart = settings.covariance_from == "others"
    least = 3 if apart else 2
    if rows < least:
        split = ": 1 to compare and 2 others for the covariance" if apart else ""
        message = f"at least {least} images are needed{split}; there are {rows}"
        raise TooFewImagesError(message)
    if settings.draw == "with_replacement":
        compared, covariance = _study_draws(rows, settings)
    else:
        order = np.random.default_rng(settings.seed).permutation(rows)
        count = rows // 2 if apart else rows
        compared, covariance = order[: min(settings.images, count)], order
        covariance = covariance[: settings.covariance_images + len(compared)]
    if apart:
        covariance = covariance[~np.isin(covariance, compared)]
    if len(covariance) < 2:
        message = f"of {rows} images {len(covariance)} are left for the covariance; 2 are needed"
        raise TooFewImagesError(message)
    return Plan(compared, covariance, rows)


def _study_draws(rows: int, settings: Comparison) -> tuple[Rows, Rows]:
    """Repeat the study's draws of a first run, when nothing was cached yet."""
    # NumPy's legacy generator is frozen, and it is what the study drew from.
    draws = np.random.RandomState(settings.seed)
    covariance: Rows = np.arange(rows)
    if rows >= settings.covariance_images:
        covariance = draws.randint(0, rows, max(settings.covariance_images, rows // 10))
    return draws.randint(0, rows, settings.images).astype(np.int64), covariance.astype(np.int64)


@dataclass(frozen=True)
class CleanFeatures:
    """Features of the images that take part, as they are.

    Args:
        rows: `(n,)` their rows in the data set, ascending.
        features: `(n, D)` float32.
        unreadable: Names of the images that were skipped.
        device: Where they were computed.
        precision_error: Relative error of bf16, as text; `nan` for fp32.
    """

    rows: Rows
    features: NDArray[np.float32]
    unreadable: tuple[str, ...]
    device: str
    precision_error: str

    @classmethod
    def collect(
        cls,
        backbone: Backbone,
        data: ImageDataset,
        preprocessing: Preprocessing,
        rows: Rows,
        means: Means,
    ) -> CleanFeatures:
        """Extract features, or read them from the store.

        Args:
            backbone: The network.
            data: The images.
            preprocessing: From image to input.
            rows: Which images, ascending; all of them share the key of other experiments.
            means: Settings of the extraction, and the store.

        Raises:
            FeatureError: Features are not finite.
            medssl_data.UnreadableImageError: An image cannot be read and is not to be skipped.
        """
        from medssl_models import ExtractionSettings, extract

        source = data if len(rows) == len(data) else data.select(rows)
        table = extract(
            backbone,
            source,
            preprocessing=preprocessing,
            settings=means.extraction or ExtractionSettings(),
            store=means.store,
            progress=means.progress,
        )
        readable = np.flatnonzero(table.readable)
        return cls(
            rows=rows[readable],
            features=check_finite(table.features[readable], backbone),
            unreadable=tuple(data.ids[row] for row in rows[~table.readable]),
            device=table.provenance.get("device", ""),
            precision_error=table.provenance.get("precision_error", "nan"),
        )

    def places(self, rows: Rows) -> Rows:
        """Find where rows of the data set lie in `features`; all of them must be here."""
        return np.searchsorted(self.rows, rows)

    def readable(self, rows: Rows) -> Rows:
        """Keep those rows of the data set that could be read, in order."""
        return rows[np.isin(rows, self.rows)]

    def at(self, rows: Rows) -> NDArray[np.float32]:
        """Give the features of rows of the data set, `(len(rows), D)`."""
        return self.features[self.places(rows)]


def check_finite(features: NDArray[np.float32], backbone: Backbone) -> NDArray[np.float32]:
    """Give the features back, or refuse them where they are not finite."""
    if not np.isfinite(features).all():
        message = f"{backbone.name} gives NaN or infinite features; check the weights"
        raise FeatureError(message)
    return features


@dataclass(frozen=True)
class Reference:
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
        plan: Plan,
        settings: Comparison,
        *,
        gallery: Rows | None = None,
        spread: NDArray[np.float32] | None = None,
    ) -> Reference:
        """Estimate the whitening and lay out the gallery.

        Args:
            clean: Features of the plan's images.
            plan: Which images.
            settings: Way of whitening, size of the gallery.
            gallery: Rows of the gallery; None takes the compared images and then others.
            spread: `(m, D)` features of the plan's covariance images, where they are others than
                those that are compared.

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
            clean.at(behind) if spread is None else spread,
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
        """Give Mahalanobis distances from what is whitened already, where they come from it."""
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
    reference: Reference,
    data: ImageDataset,
    settings: Comparison,
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
        "random other": lambda row: ~same_patient(row),
        "same class": same_class,
        "same patient": same_patient,
    }
    spared = reference.compared if except_for is None else except_for
    found = {}
    for kind in BASELINES:
        partners = [
            _draw_partners(
                rows[kinds[kind](int(row)) & (rows != row) & (rows != other)], int(row), settings
            )
            for row, other in zip(reference.compared, spared, strict=True)
        ]
        if any(len(chosen) for chosen in partners):
            found[kind] = _baseline(reference, partners, settings)
    return found


def _draw_partners(candidates: Rows, row: int, settings: Comparison) -> Rows:
    count = min(settings.partners, len(candidates))
    return np.random.default_rng([settings.seed, row]).choice(candidates, count, replace=False)


def _baseline(
    reference: Reference, partners: Sequence[Rows], settings: Comparison
) -> dict[str, Mean]:
    """Average over the partners of an image, then over images."""
    counts = [len(chosen) for chosen in partners]
    own = np.repeat(reference.compared, counts)
    others = np.concatenate(partners).astype(np.int64)
    clean = reference.clean
    values = compare(clean.at(own), clean.at(others), reference.whitening)
    ends = np.cumsum(counts)[:-1]
    means = np.array([[nan_mean(part) for part in np.split(line, ends)] for line in values])
    averaged = bootstrap_mean(means.T, resamples=settings.bootstrap, seed=settings.seed)
    return dict(zip(PAIRWISE, averaged, strict=True))


def nan_mean(values: NDArray[np.float64]) -> float:
    """Average what is defined; NaN where nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
