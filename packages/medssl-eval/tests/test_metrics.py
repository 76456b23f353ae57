"""Every metric against scikit-learn, plain and weighted; every refusal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_eval.errors import FeatureError, LabelError, UnknownNameError
from medssl_eval.statistics.metrics import METRICS, evaluate_metrics, list_metrics, metric
from sklearn import metrics as oracle


def sample(rows=200, classes=3, seed=0, decimals=2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    labels[:classes] = np.arange(classes)
    scores = np.round(
        rng.dirichlet(np.ones(classes), rows) + 0.4 * np.eye(classes)[labels], decimals
    )
    return labels, scores / scores.sum(axis=1, keepdims=True), rng.integers(0, 4, rows) + 0.0


def calibration(labels, scores, weights, bins=15):
    confidence, hit = scores.max(axis=1), scores.argmax(axis=1) == labels
    total = 0.0
    for low in range(bins):
        inside = (confidence > low / bins) & (confidence <= (low + 1) / bins)
        if weights[inside].sum():
            gap = np.average(hit[inside], weights=weights[inside]) - np.average(
                confidence[inside], weights=weights[inside]
            )
            total += abs(gap) * weights[inside].sum() / weights.sum()
    return total


def one_against_rest(function, labels, scores, weights):
    if scores.shape[1] == 2:
        return function(labels, scores[:, 1], sample_weight=weights)
    return np.mean(
        [function(labels == k, scores[:, k], sample_weight=weights) for k in range(scores.shape[1])]
    )


def brier(labels, scores, weights):
    if scores.shape[1] == 2:
        return oracle.brier_score_loss(labels, scores[:, 1], sample_weight=weights)
    errors = ((scores - np.eye(scores.shape[1])[labels]) ** 2).sum(axis=1)
    return np.average(errors, weights=weights)


ORACLES = {
    "accuracy": lambda y, p, w: oracle.accuracy_score(y, p.argmax(1), sample_weight=w),
    "balanced_accuracy": lambda y, p, w: oracle.balanced_accuracy_score(
        y, p.argmax(1), sample_weight=w
    ),
    "auroc": lambda y, p, w: one_against_rest(oracle.roc_auc_score, y, p, w),
    "auprc": lambda y, p, w: one_against_rest(oracle.average_precision_score, y, p, w),
    "quadratic_kappa": lambda y, p, w: oracle.cohen_kappa_score(
        y, p.argmax(1), weights="quadratic", sample_weight=w
    ),
    "brier": brier,
    "calibration_error": calibration,
}


def test_every_metric_has_an_oracle():
    assert set(ORACLES) == set(list_metrics())


@pytest.mark.parametrize("name", sorted(ORACLES))
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_agrees_with_the_oracle(name, classes):
    labels, scores, weights = sample(classes=classes)
    ones = np.ones(len(labels))
    assert metric(name)(labels, scores).value == pytest.approx(ORACLES[name](labels, scores, ones))
    weighted = metric(name)(labels, scores, weights).value
    assert weighted == pytest.approx(ORACLES[name](labels, scores, weights))


@examples(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4), name=st.sampled_from(sorted(ORACLES)))
def test_many_weights_at_once_are_each_alone(seed, classes, name):
    labels, scores, _ = sample(40, classes, seed)
    weights = np.random.default_rng(seed).integers(0, 3, (5, 40)) + 0.0
    weights[:, :classes] += 1
    together = METRICS[name].compute(labels, scores, weights)
    alone = [metric(name)(labels, scores, row).value for row in weights]
    np.testing.assert_allclose(together, alone)
    lower, upper = METRICS[name].bounds
    assert (METRICS[name].scale * together >= lower - 1e-12).all()
    assert (METRICS[name].scale * together <= upper + 1e-12).all()


def test_perfect_and_trivial_predictions():
    labels = np.array([0, 1, 0, 1, 1])
    perfect = np.eye(2)[labels]
    for name, measured in evaluate_metrics(labels, perfect).items():
        assert measured.value == pytest.approx(1.0 if METRICS[name].direction == "higher" else 0.0)
    flat = evaluate_metrics(labels, np.full((5, 2), 0.5))
    assert flat["auroc"].value == METRICS["auroc"].chance
    assert flat["auprc"].value == pytest.approx(0.6)
    assert flat["brier"].value == 0.25


def test_a_column_of_probabilities_is_the_second_class():
    labels, scores, _ = sample(classes=2)
    assert metric("auroc")(labels, scores[:, 1]) == metric("auroc")(labels, scores)


def test_one_class_has_no_auroc_and_says_why():
    measured = metric("auroc")(np.zeros(4, int), np.full(4, 0.3))
    assert measured.value is None
    assert "class 1" in measured.reason
    assert metric("balanced_accuracy")([0, 0], [0.2, 0.3]).value is None
    assert metric("quadratic_kappa")([0, 0], [0.2, 0.3]).reason
    assert metric("accuracy")([0, 0], [0.2, 0.3]).value == 1.0


def test_the_study_word_for_balanced_accuracy():
    assert metric("mean_per_class_recall") is metric("balanced_accuracy")


@pytest.mark.parametrize(
    ("labels", "scores", "error", "words"),
    [
        ([0, 1], [[0.5, 0.5]], FeatureError, "shape"),
        ([], np.zeros((0, 2)), FeatureError, "at least 1"),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], FeatureError, "row 1"),
        ([0, 1], [[0.5, 0.5], [2.0, 0.5]], FeatureError, "row 1"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], LabelError, "0 to 2"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], LabelError, "float64"),
    ],
)
def test_bad_input_is_named(labels, scores, error, words):
    with pytest.raises(error, match=words):
        metric("accuracy")(labels, scores)


def test_an_unknown_name_gets_close_matches():
    with pytest.raises(UnknownNameError, match="auroc"):
        metric("auroq")
