"""k-NN against a plain count of cosines, and folds that keep classes and patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_eval.errors import InfeasibleError
from medssl_eval.knn import _wilson_interval, assign_folds, vote


def plainly(reference, labels, questions, neighbours, classes):
    shares = np.zeros((len(questions), classes))
    for row, question in enumerate(questions):
        cosines = [
            float(question @ other) / (np.linalg.norm(question) * np.linalg.norm(other))
            for other in reference
        ]
        for index in np.argsort(cosines)[::-1][:neighbours]:
            shares[row, labels[index]] += 1 / neighbours
    return shares


@given(seed=st.integers(0, 10_000), neighbours=st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_votes_agree_with_a_plain_count(seed, neighbours):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(12, 5)).astype(np.float32)
    questions = rng.normal(size=(4, 5)).astype(np.float32)
    labels = rng.integers(0, 3, 12)
    got = vote(reference, labels, questions, neighbours=neighbours, classes=3)
    np.testing.assert_allclose(got, plainly(reference, labels, questions, neighbours, 3), atol=1e-6)


def test_more_neighbours_than_images_lets_all_vote():
    shares = vote(
        np.eye(3, dtype=np.float32), np.array([0, 0, 1]), np.ones((1, 3), np.float32),
        neighbours=99, classes=2,
    )  # fmt: skip
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3]])


@given(
    sizes=st.lists(st.integers(6, 30), min_size=2, max_size=4),
    folds=st.integers(2, 5),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=30)
def test_folds_cover_all_rows_and_keep_the_shares(sizes, folds, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    fold_of = assign_folds(labels, folds, seed=seed)
    assert set(fold_of) == set(range(folds))
    for label in range(len(sizes)):
        counts = np.bincount(fold_of[labels == label], minlength=folds)
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(fold_of, assign_folds(labels, folds, seed=seed))


def test_a_patient_is_in_one_fold():
    labels = np.arange(60) % 2
    groups = [f"p{row // 4}" for row in range(60)]
    fold_of = assign_folds(labels, 3, groups=groups)
    for patient in set(groups):
        assert (
            len({fold for fold, name in zip(fold_of, groups, strict=True) if name == patient}) == 1
        )


def test_one_class_and_small_classes_are_refused():
    with pytest.raises(InfeasibleError, match="all images are of one class"):
        assign_folds(np.zeros(9, dtype=np.int64), 3)
    with pytest.raises(InfeasibleError, match=r"class 'ill' has 2 images for 3 folds.*--folds 2"):
        assign_folds(np.array([0] * 9 + [1] * 2), 3, names=("normal", "ill"))
    with pytest.raises(InfeasibleError, match=r"class '1' has 1 patients"):
        assign_folds(np.array([0] * 9 + [1] * 9), 3, groups=[*"abcdefghi", *"z" * 9])


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (10, 10), (300, 624)])
def test_the_interval_is_wilsons(successes, trials):
    from scipy.stats import binomtest

    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert _wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high))
