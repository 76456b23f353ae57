"""Whitening against scikit-learn and SciPy, and the collapse that the study's way suffers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_invariance.errors import CovarianceError, FeatureError, TooFewImagesError
from medssl_invariance.similarity import Gallery, compare, cosine
from medssl_invariance.whitening import RIDGE, fit_whitening
from medssl_models.experiments.intervals import bootstrap_mean
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf


def features(rows, dimension, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dimension, dimension)) / dimension**0.5
    return (rng.normal(size=(rows, dimension)) @ mixing + 1).astype(np.float32)


@pytest.mark.parametrize(("rows", "dimension"), [(200, 16), (20, 48)])
def test_ledoit_wolf_is_scikit_learns(rows, dimension):
    x = features(rows, dimension)
    oracle = LedoitWolf().fit(x.astype(np.float64))
    whitening = fit_whitening(x, "ledoit-wolf")
    np.testing.assert_allclose(
        whitening.factor @ whitening.factor.T, oracle.precision_, rtol=1e-6, atol=1e-6
    )
    assert whitening.report.shrinkage == pytest.approx(oracle.shrinkage_)
    assert whitening.report.condition == pytest.approx(np.linalg.cond(oracle.covariance_), rel=1e-6)
    assert whitening.report.rank == min(rows - 1, dimension)


def test_the_studys_way_is_its_arithmetic():
    # Well conditioned, so that float32 loses nothing that would have to be excused.
    x = features(300, 24) + np.random.default_rng(1).normal(size=(300, 24)).astype(np.float32)
    covariance = np.cov(x.astype(np.float64), rowvar=False) + RIDGE * np.eye(24)
    inverse = np.linalg.inv(covariance)
    factor = np.linalg.cholesky(inverse.astype(np.float32))
    whitening = fit_whitening(x, "sample")
    assert whitening.factor.dtype == np.float32
    np.testing.assert_allclose(whitening.factor, factor, rtol=1e-3, atol=2e-5 * factor.max())
    found = compare(x[:5], x[5:10], whitening)
    mean = x.mean(axis=0)
    for place, (a, b) in enumerate(zip(x[:5], x[5:10], strict=True)):
        u, v = (mean - a) @ factor, (mean - b) @ factor
        assert found[0, place] == pytest.approx(
            u @ v / np.linalg.norm(u) / np.linalg.norm(v), abs=1e-4
        )
        assert found[2, place] == pytest.approx(mahalanobis(a, b, inverse), rel=1e-6)


def test_pca_keeps_the_share_that_was_asked_for():
    x = features(100, 20)
    whitening = fit_whitening(x, "pca", pca_variance=0.8)
    values = np.linalg.eigvalsh(np.cov(x, rowvar=False, ddof=0))[::-1]
    share = np.cumsum(values) / values.sum()
    retained = whitening.report.retained
    assert share[retained - 1] >= 0.8 > share[retained - 2]
    np.testing.assert_allclose(np.cov(whitening.deviations(x), rowvar=False, ddof=0),
                               np.eye(retained), atol=1e-6)  # fmt: skip


def test_with_fewer_images_than_features_the_studys_cosine_falls_to_0():
    """A mild change, the same raw cosine, and N alone decides what the study's way says."""
    rng = np.random.default_rng(0)
    dimension = 256
    clean = rng.normal(size=(1500, dimension)) * np.linspace(0.2, 2, dimension)
    changed = clean + 0.35 * rng.normal(size=clean.shape) * np.linspace(0.2, 2, dimension)

    def mean(rows, method):
        whitening = fit_whitening(clean[:rows], method)
        return compare(clean[:60], changed[:60], whitening)[0].mean()

    assert abs(mean(69, "sample")) < 0.03
    assert mean(69, "sample") < mean(300, "sample") < mean(1500, "sample")
    assert mean(1500, "sample") > 0.8
    # Shrinkage on images that are not compared keeps the relation at N < D.
    apart = fit_whitening(clean[60:129], "ledoit-wolf")
    assert compare(clean[:60], changed[:60], apart)[0].mean() > 0.8
    raw = cosine(clean[:60], changed[:60]).mean()
    assert 0.9 < raw < 0.97


def test_fewer_images_than_features_are_said():
    assert "N < D" in fit_whitening(features(10, 20)).report.notes[0]
    assert fit_whitening(features(50, 20)).report.notes == ()


def test_what_cannot_be_factored_stops_or_is_shrunk():
    rng = np.random.default_rng(0)
    x = 1e6 * rng.normal(size=(5, 40))  # a ridge of 1e-6 is lost beside it
    with pytest.raises(CovarianceError, match=r"cannot be factored.*positive-definite"):
        fit_whitening(x, "sample", unfactorable="stop")
    shrunk = fit_whitening(x, "sample", unfactorable="shrink")
    assert shrunk.report.method == "ledoit-wolf"
    assert "shrunk by Ledoit and Wolf's rule instead" in shrunk.report.notes[0]


def test_bad_features_are_refused():
    with pytest.raises(TooFewImagesError, match="there are 1"):
        fit_whitening(np.ones((1, 4)))
    with pytest.raises(FeatureError, match="are the same"):
        fit_whitening(np.full((9, 4), 3.0))
    with pytest.raises(FeatureError, match="not finite"):
        fit_whitening(np.array([[1.0, np.nan], [2.0, 1.0]]))


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_an_image_is_itself(rows, dimension, seed):
    x = features(rows, dimension, seed)
    whitened, raw, distance = compare(x, x, fit_whitening(x))
    assert np.nanmin(whitened) == pytest.approx(1)
    assert raw == pytest.approx(1)
    assert np.abs(distance).max() < 1e-6


def test_undefined_cosines_are_nan_and_counted():
    values = cosine(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [2.0, 0.0]]))
    assert math.isnan(values[0])
    (mean,) = bootstrap_mean(values[:, None])
    assert (mean.value, mean.images, mean.undefined) == (1.0, 1, 1)
    assert mean.interval == (None, None)


def test_bootstrap_agrees_with_theory():
    values = np.random.default_rng(0).normal(size=(400, 1))
    (mean,) = bootstrap_mean(values, resamples=4000)
    half = 1.96 * values.std() / 20
    assert mean.low == pytest.approx(values.mean() - half, abs=0.02)
    assert mean.high == pytest.approx(values.mean() + half, abs=0.02)


def test_a_gallery_shares_places_among_twins():
    gallery = Gallery.of(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    queries = np.array([[1.0, 0.1], [0.1, 1.0], [0.0, 0.0]])
    own = np.array([0, 1, 0])
    np.testing.assert_array_equal(gallery.ranks(queries, own), [1.0, 1.5, np.nan])
    np.testing.assert_array_equal(gallery.found(queries, own), [1.0, 0.5, np.nan])
