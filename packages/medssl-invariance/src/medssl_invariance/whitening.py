"""From features to a space in which every direction varies alike: mean, covariance, factor.

Three ways: the study's sample covariance with a ridge, Ledoit and Wolf's shrinkage, and PCA on the
retained subspace. Each says how many images it rests on, its rank and its condition number.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from medssl_invariance.errors import CovarianceError, FeatureError, TooFewImagesError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

__all__ = ["RIDGE", "Method", "Whitening", "WhiteningReport", "fit_whitening"]

Method = Literal["ledoit-wolf", "pca", "sample"]
RIDGE = 1e-6
"""What the study added to the diagonal of its sample covariance."""
LEAST_SHRINKAGE = 0.01
"""Weight of the identity in a covariance that is singular without it."""


@dataclass(frozen=True)
class WhiteningReport:
    """What a whitening rests on.

    Args:
        method: How the covariance was estimated.
        images: Different images behind it, N.
        features: Their dimension, D.
        rank: Of the sample covariance.
        condition: Largest over smallest eigenvalue of the matrix that is inverted; infinite where
            it is singular.
        retained: Directions that are kept, D unless `method` is `pca`.
        shrinkage: Weight of the identity, 0 to 1; NaN where none is mixed in.
        notes: What a reader should know.
    """

    method: Method
    images: int
    features: int
    rank: int
    condition: float
    retained: int
    shrinkage: float = math.nan
    notes: tuple[str, ...] = ()

    def as_details(self) -> dict[str, object]:
        """Return it as part of a record."""
        return asdict(self)


@dataclass(frozen=True)
class Whitening:
    """A mean and a factor W with W W' = the inverse covariance.

    Args:
        mean: `(D,)` float64.
        factor: `(D, R)` float64, or float32 where the study's arithmetic is repeated.
        report: What it rests on.
        precision: `(D, D)` float64, the inverse covariance, where distances must come from it and
            not from the factor.
    """

    mean: Matrix
    factor: NDArray[np.floating]
    report: WhiteningReport
    precision: Matrix | None = None

    def deviations(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Bring features to the whitened space.

        Args:
            features: `(N, D)`.

        Returns:
            `(N, R)`: `(features - mean) W`, in the factor's precision.
        """
        return np.asarray((features - self.mean).astype(self.factor.dtype) @ self.factor)

    def distances(
        self, first: NDArray[np.floating], second: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Compute Mahalanobis distances of rows, `(N,)`.

        Args:
            first: `(N, D)` features.
            second: The same.

        Returns:
            Distances; NaN where rounding in an ill-conditioned inverse made a square negative.
        """
        difference = first.astype(np.float64) - second
        if self.precision is None:
            return np.asarray(np.linalg.norm(difference @ self.factor, axis=1))
        squares = np.einsum("ij,ij->i", difference @ self.precision, difference)
        defined = squares >= 0
        return np.asarray(np.sqrt(squares, out=np.full_like(squares, np.nan), where=defined))


def fit_whitening(
    features: NDArray[np.floating],
    method: Method = "ledoit-wolf",
    *,
    distinct: int | None = None,
    pca_variance: float = 0.95,
    unfactorable: Literal["shrink", "stop"] = "shrink",
) -> Whitening:
    """Estimate a whitening from features.

    Args:
        features: `(N, D)`, one row for each image that was drawn.
        method: `sample` is the sample covariance with `RIDGE` on its diagonal; `ledoit-wolf`
            shrinks it (Ledoit and Wolf, A well-conditioned estimator for large-dimensional
            covariance matrices, 2004); `pca` keeps the first directions.
        distinct: How many different images the rows come from; None says that all differ.
        pca_variance: Share of the variance that `pca` keeps.
        unfactorable: Where a sample covariance cannot be factored: `shrink` takes Ledoit and
            Wolf's instead and says so, `stop` raises.

    Raises:
        TooFewImagesError: Fewer than two rows.
        FeatureError: The features are constant or not finite.
        CovarianceError: It cannot be factored, with `stop`.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(5000, 3))
        >>> fit_whitening(rows).deviations(rows).std(axis=0).round(1).tolist()
        [1.0, 1.0, 1.0]
    """
    centred, mean = _centre(features)
    sample = _Sample(mean, centred, len(features) if distinct is None else distinct)
    fits: dict[Method, Callable[[], Whitening]] = {
        "sample": lambda: _sample_whitening(sample),
        "ledoit-wolf": lambda: _shrunk_whitening(sample),
        "pca": lambda: _pca_whitening(sample, pca_variance),
    }
    try:
        fitted = fits[method]()
    except CovarianceError as error:
        if unfactorable == "stop":
            raise
        shrunk = _shrunk_whitening(sample)
        note = f"{error}; shrunk by Ledoit and Wolf's rule instead"
        return _noted(shrunk, note)
    return fitted


@dataclass(frozen=True)
class _Sample:
    """Centred features and their spectrum."""

    mean: Matrix
    centred: Matrix
    distinct: int

    @property
    def size(self) -> tuple[int, int]:
        rows, columns = self.centred.shape
        return rows, columns

    def spectrum(self) -> tuple[Matrix, Matrix]:
        """Eigenvalues (descending) and eigenvectors of X'X / N, without those of eigenvalue 0."""
        rows, columns = self.size
        if rows < columns:  # rotate into the span of the rows: N x N instead of D x D
            values, vectors = np.linalg.eigh(self.centred @ self.centred.T)
            keep = self._kept(values)
            basis = self.centred.T @ vectors[:, keep] / np.sqrt(values[keep])
            return values[keep] / rows, basis
        values, vectors = np.linalg.eigh(self.centred.T @ self.centred)
        keep = self._kept(values)
        return values[keep] / rows, vectors[:, keep]

    def _kept(self, values: Matrix) -> NDArray[np.int64]:
        """Places of eigenvalues that are not 0 up to rounding, the largest first."""
        floor = values.max() * max(self.size) * np.finfo(np.float64).eps
        return np.flatnonzero(values > floor)[::-1]

    def report(
        self, method: Method, *, rank: int, condition: float, retained: int
    ) -> WhiteningReport:
        dimension = self.size[1]
        notes: tuple[str, ...] = ()
        if self.distinct < dimension:
            remedy = {
                "sample": "every whitened similarity falls towards 0, whatever the network does",
                "ledoit-wolf": "shrinkage carries what the sample cannot",
                "pca": "only the retained directions count",
            }[method]
            notes = (
                f"covariance of {self.distinct} images for {dimension} features (N < D): {remedy}",
            )
        return WhiteningReport(
            method, self.distinct, dimension, rank, condition, retained, notes=notes
        )


def _centre(features: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    if len(features) < 2:
        message = f"a covariance needs at least 2 images, there are {len(features)}"
        raise TooFewImagesError(message)
    rows = np.asarray(features, dtype=np.float64)
    if not np.isfinite(rows).all():
        message = "features are not finite; check the images and the weights"
        raise FeatureError(message)
    mean = rows.mean(axis=0)
    centred = rows - mean
    if np.abs(centred).max() <= 1e-6 * max(np.abs(rows).max(), 1e-30):
        message = (
            f"the features of all {len(rows)} images are the same: the network, or the pictures, "
            "are constant and nothing can be compared"
        )
        raise FeatureError(message)
    return centred, mean


def _sample_whitening(sample: _Sample) -> Whitening:
    """Repeat the study: the sample covariance inverted in float64, factored in float32."""
    import torch

    rows, dimension = sample.size
    covariance = sample.centred.T @ sample.centred / (rows - 1) + RIDGE * np.eye(dimension)
    values = np.linalg.eigvalsh(covariance)
    rank = int(np.count_nonzero(values - RIDGE > values[-1] * dimension * np.finfo(float).eps))
    condition = float(values[-1] / values[0]) if values[0] > 0 else math.inf
    report = sample.report("sample", rank=rank, condition=condition, retained=dimension)
    try:
        precision = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        factor = torch.linalg.cholesky(torch.from_numpy(precision).to(torch.float32)).numpy()
    except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's own is a RuntimeError
        message = (
            f"the covariance of {sample.distinct} images and {dimension} features (rank {rank}, "
            f"condition number {condition:.2g}) cannot be factored: {error}"
        )
        raise CovarianceError(message) from error
    return Whitening(sample.mean, factor, report, precision)


def _shrunk_whitening(sample: _Sample) -> Whitening:
    """Compute the symmetric factor of ((1 - s) S + s m I) ** -1, m the mean variance."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    dimension = sample.size[1]
    values, vectors = sample.spectrum()
    estimated = float(ledoit_wolf_shrinkage(sample.centred, assume_centered=True))
    # Two images, or copies of few, can make the estimate 0 though the covariance is singular.
    shrinkage = max(estimated, LEAST_SHRINKAGE) if len(values) < dimension else estimated
    floor = shrinkage * float(values.sum()) / dimension
    shrunk = (1 - shrinkage) * values + floor
    smallest = float(shrunk[-1]) if len(values) == dimension else floor
    outside = floor**-0.5 if floor > 0 else 0.0  # unused where the rank is full
    factor = (vectors * (shrunk**-0.5 - outside)) @ vectors.T + outside * np.eye(dimension)
    report = sample.report(
        "ledoit-wolf",
        rank=len(values),
        condition=float(shrunk[0]) / smallest,
        retained=dimension,
    )
    whitening = Whitening(sample.mean, factor, replace(report, shrinkage=shrinkage))
    if shrinkage == estimated:
        return whitening
    return _noted(whitening, f"shrinkage raised from {estimated:.2g} to {shrinkage}: singular")


def _pca_whitening(sample: _Sample, variance: float) -> Whitening:
    values, vectors = sample.spectrum()
    share = np.cumsum(values) / values.sum()
    retained = min(int(np.searchsorted(share, variance)) + 1, len(values))
    kept = values[:retained]
    report = sample.report(
        "pca", rank=len(values), condition=float(kept[0] / kept[-1]), retained=retained
    )
    return Whitening(sample.mean, vectors[:, :retained] / np.sqrt(kept), report)


def _noted(whitening: Whitening, note: str) -> Whitening:
    report = replace(whitening.report, notes=(note, *whitening.report.notes))
    return replace(whitening, report=report)
