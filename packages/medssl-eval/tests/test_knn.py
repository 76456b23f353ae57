"""k-NN against a plain count of cosines, and folds that keep classes and patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_data import load_dataset
from medssl_eval import KnnSettings, knn
from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.knn import Neighbours, foldable, resampled_votes, vote
from medssl_eval.experiments.partition import assign_folds, partition
from medssl_eval.experiments.predictions import read_predictions
from medssl_models import RunContext
from sklearn.neighbors import KNeighborsClassifier


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
    with pytest.raises(
        InfeasibleError, match=r"class 'ill' has 2 images for 3 folds.*2 folds or fewer"
    ):
        assign_folds(np.array([0] * 9 + [1] * 2), 3, names=("normal", "ill"))
    with pytest.raises(InfeasibleError, match=r"class '1' has 1 patient for"):
        assign_folds(np.array([0] * 9 + [1] * 9), 3, groups=[*"abcdefghi", *"z" * 9])


@pytest.mark.parametrize("neighbours", [1, 7, 20])
def test_weighted_votes_are_those_of_scikit_learn(neighbours):
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(60, 8)).astype(np.float32)
    questions, labels = rng.normal(size=(25, 8)).astype(np.float32), rng.integers(0, 3, 60)
    oracle = KNeighborsClassifier(
        neighbours, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(reference, labels)
    shares = vote(reference, labels, questions, neighbours=neighbours, classes=3, temperature=0.07)
    np.testing.assert_allclose(shares, oracle.predict_proba(questions), rtol=1e-4, atol=1e-9)
    once = Neighbours(reference, labels, questions, most=20, classes=3)
    np.testing.assert_array_equal(once.shares(neighbours, temperature=0.07), shares)


def test_a_feature_of_zeros_gets_votes_and_no_nan():
    shares = vote(
        np.eye(3, dtype=np.float32), np.array([0, 0, 1]), np.zeros((1, 3), np.float32),
        neighbours=3, classes=2, temperature=0.07,
    )  # fmt: skip
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3]])


@pytest.fixture
def phantom():
    return load_dataset("phantom:chest-xray,count=90,size=80", split="patient")


@pytest.mark.parametrize("evaluation", ["folds", "test_part"])
def test_records_hold_every_metric_and_the_chosen_number(tiny_model, phantom, tmp_path, evaluation):
    settings = KnnSettings(evaluation=evaluation, folds=3)
    context = RunContext(results=tmp_path / "results.jsonl")
    records = knn(tiny_model("random_r18"), phantom, settings=settings, context=context)
    assert {record.metric for record in records} == {
        "accuracy", "balanced_accuracy", "auroc", "auprc", "brier", "calibration_error",
    }  # fmt: skip
    accuracy = records[0]
    predictions = read_predictions(accuracy, tmp_path / "results.jsonl")
    asked = np.arange(90) if evaluation == "folds" else partition(phantom).test
    assert predictions.ids == tuple(phantom.ids[row] for row in asked)
    right = predictions.probabilities.argmax(axis=1) == phantom.labels[asked]
    assert accuracy.value == pytest.approx(100 * right.mean())
    assert accuracy.ci_low < accuracy.value < accuracy.ci_high
    assert len(accuracy.details["neighbours"]) == (3 if evaluation == "folds" else 1)
    known = {record.key: record for record in records}
    context = RunContext(known=known)
    again = knn(tiny_model("random_r18"), phantom, settings=settings, context=context)
    assert again == records


def test_the_number_is_chosen_on_validation_images_only(phantom, monkeypatch):
    """Features that are the class for k = 1 on validation, but noise for every test image."""
    import importlib

    module = importlib.import_module("medssl_eval.experiments.knn")
    seen = []

    def record(name, labels, probabilities):
        seen.append(len(labels))
        return float(np.mean(np.argmax(probabilities, axis=1) == labels))

    monkeypatch.setattr(module, "validation_score", record)
    from medssl_eval.experiments.features import FeatureSet

    rng = np.random.default_rng(0)
    features = FeatureSet(
        features=rng.normal(size=(90, 6)).astype(np.float32),
        rows=np.arange(90),
        labels=phantom.labels,
        groups=phantom.groups,
        splits=phantom.splits,
        unreadable=(),
        computed=0,
        provenance=None,
    )
    module._ask_test_part(phantom, features, KnnSettings(evaluation="test_part"))
    assert set(seen) == {len(partition(phantom).validation)}
    seen.clear()
    fold_of = np.array(module._ask_folds(phantom, features, KnnSettings())[2]["folds"])
    assert set(seen) == set(np.bincount(fold_of).tolist())


def test_two_folds_need_a_number(phantom):
    with pytest.raises(InfeasibleError, match="number of neighbours needs at least 3 folds"):
        foldable(phantom, KnnSettings(folds=2))
    foldable(phantom, KnnSettings(folds=2, neighbours=5))


def test_resampled_voters_vote_as_often_as_they_stand_there():
    rng = np.random.default_rng(0)
    reference, questions = (rng.normal(size=(n, 4)).astype(np.float32) for n in (40, 9))
    labels, times = np.arange(40) % 2, rng.integers(0, 3, 40)
    found = Neighbours(reference, labels, questions, most=40, classes=2)
    repeated = np.repeat(np.arange(40), times)
    for temperature in (None, 0.07):
        expected = vote(
            reference[repeated], labels[repeated], questions,
            neighbours=7, classes=2, temperature=temperature,
        )  # fmt: skip
        got = found.shares(7, temperature=temperature, times=times)
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_every_image_is_answered_whichever_patients_a_sample_holds():
    rng = np.random.default_rng(1)
    labels = (np.arange(80) // 8) % 2
    features = (rng.normal(size=(80, 6)) + labels[:, None]).astype(np.float32)
    names = [f"p{row // 8}" for row in range(80)]
    folds = assign_folds(labels, 5, groups=names)
    tables = resampled_votes(
        features, labels, names, KnnSettings(refits=10), folds=folds, voters=[5] * 5
    )
    assert len(tables) == 10
    assert all(np.isfinite(table).all() and table.shape == (80, 2) for table in tables)
    assert len({table.tobytes() for table in tables}) == 10
    none = resampled_votes(
        features, labels, names, KnnSettings(refits=0), folds=folds, voters=[5] * 5
    )
    assert none == ()
