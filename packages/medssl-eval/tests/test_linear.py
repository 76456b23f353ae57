"""Linear evaluation: the whole search against scikit-learn, parts, soft targets, refusals."""

from pathlib import Path

import numpy as np
import pytest
from medssl_data import ImageDataset, load_dataset
from medssl_eval import LinearSettings, linear, preset
from medssl_eval.errors import InfeasibleError, UnknownNameError
from medssl_eval.experiments.linear import Scaling, fit_linear, separable
from medssl_eval.experiments.predictions import read_predictions
from medssl_eval.solver.logistic import published_cs
from medssl_eval.solver.published_fit import fit_published
from medssl_models import RunContext
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PLAIN = RunContext()
GRID = (1e3, 1e1, 1e-1, 1e-3)


def sample(rows, columns=30, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, columns)) * np.geomspace(30, 0.1, columns) + 5
    signal = (features - 5) @ np.random.default_rng(99).normal(size=(columns, classes))
    labels = (signal + 40 * rng.gumbel(size=(rows, classes))).argmax(axis=1)
    labels[:classes] = np.arange(classes)
    return features, labels


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("rows", [25, 120], ids=["rows<columns", "rows>columns"])
def test_the_search_is_that_of_scikit_learn_run_to_convergence(rows, classes):
    training, validation = sample(rows, classes=classes), sample(60, classes=classes, seed=1)
    fit = fit_linear(
        training, validation, settings=LinearSettings(Cs=GRID), select="balanced_accuracy"
    )

    def oracle(features, labels, c):
        classifier = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=5000)
        return make_pipeline(StandardScaler(), classifier).fit(features, labels)

    scores = [
        balanced_accuracy_score(validation[1], oracle(*training, c).predict(validation[0]))
        for c in GRID
    ]
    assert fit.scores == pytest.approx(scores)
    chosen = GRID[int(np.argmax(scores))]
    assert fit.solution.c == chosen
    both = tuple(np.concatenate(pair) for pair in zip(training, validation, strict=True))
    final = oracle(*both, chosen)
    asked, _ = sample(50, classes=classes, seed=2)
    np.testing.assert_allclose(fit.probabilities(asked), final.predict_proba(asked), atol=1e-5)
    coefficients = final[-1].coef_
    scale = np.abs(coefficients).max()
    np.testing.assert_allclose(fit.solution.coefficients, coefficients, atol=1e-5 * scale)
    assert all(solution.converged for solution in (*fit.path, fit.solution))
    assert not fit.notes()


def test_softmax_of_two_classes_is_the_binary_form_with_twice_the_c():
    training, validation = sample(80, classes=2), sample(40, classes=2, seed=1)
    softmax, plain = (
        fit_linear(training, validation, settings=LinearSettings(Cs=(c,), binary_form=form))
        for c, form in ((0.5, "softmax"), (1.0, "log_odds"))
    )
    assert (softmax.solution.c, plain.solution.c) == (0.5, 1.0)
    np.testing.assert_allclose(
        softmax.solution.coefficients, plain.solution.coefficients, rtol=1e-4, atol=1e-7
    )
    assert softmax.path == ()


def test_published_is_the_cut_off_search_on_raw_features():
    training, validation = sample(60), sample(40, seed=1)
    fit = fit_linear(training, validation, settings=preset(LinearSettings, "published", Cs=GRID))
    oracle = fit_published(
        training, validation, score=lambda truth, p: (truth == p.argmax(axis=1)).mean(), cs=GRID
    )
    assert fit.scores == pytest.approx(oracle.scores)
    np.testing.assert_array_equal(fit.solution.coefficients, oracle.final.coefficients)
    assert "stopped before their optimum" in fit.notes()[0]
    cold = preset(LinearSettings, "published", Cs=GRID, refit="cold")
    alone = preset(LinearSettings, "published", Cs=(fit.solution.c,))
    found = [fit_linear(training, validation, settings=each) for each in (cold, alone)]
    np.testing.assert_array_equal(found[0].solution.coefficients, found[1].solution.coefficients)
    assert not np.array_equal(found[0].solution.coefficients, fit.solution.coefficients)
    assert found[1].path == ()


def test_soft_targets_are_fitted_as_weights_of_both_classes():
    features, labels = sample(60, columns=6, classes=2)
    second = np.where(labels == 1, np.linspace(0.55, 1, 60), 0.0)
    soft = np.stack([1 - second, second], axis=1)
    fit = fit_linear((features, soft), (features, soft), settings=LinearSettings(Cs=(2.0,)))
    twice = np.concatenate([features] * 4)
    whole = np.concatenate([np.zeros(60, int), np.ones(60, int)] * 2)
    weights = np.concatenate([1 - second, second] * 2)
    scaled = StandardScaler().fit(np.concatenate([features] * 2)).transform(twice)
    model = LogisticRegression(C=2.0, solver="newton-cg", tol=1e-10, max_iter=2000)
    model.fit(scaled, whole, sample_weight=weights)
    np.testing.assert_allclose(fit.solution.coefficients, model.coef_, rtol=1e-4, atol=1e-6)


def test_constant_features_do_no_harm():
    features, labels = sample(50, columns=4, classes=2)
    dull = np.concatenate([features, np.full((50, 2), 0.1)], axis=1).astype(np.float32)
    fit = fit_linear((dull, labels), (dull, labels), settings=LinearSettings(Cs=(1.0,)))
    without = fit_linear((features, labels), (features, labels), settings=LinearSettings(Cs=(1.0,)))
    assert fit.scaling.constant == 2
    assert fit.summary()["constant_features"] == 2
    np.testing.assert_allclose(fit.probabilities(dull), without.probabilities(features), atol=1e-4)
    same = Scaling.of(np.ones((5, 3)), standardise=True)
    assert np.isfinite(same(np.ones((5, 3)))).all()


def test_a_metric_without_value_on_the_validation_part_is_refused():
    training, validation = sample(60), sample(40, seed=1)
    one = (validation[0], np.zeros(40, int))
    with pytest.raises(InfeasibleError, match=r"has no auroc to choose by.*by another metric"):
        fit_linear(training, one, settings=LinearSettings(Cs=GRID), select="auroc")


@pytest.fixture
def phantom():
    return load_dataset("phantom:chest-xray,count=90,size=80", split="patient")


def test_records_have_every_metric_and_the_predictions_behind_them(tiny_model, phantom, tmp_path):
    backbone = tiny_model("random_r18")
    results = tmp_path / "results.jsonl"
    context = RunContext(results=results)
    settings = LinearSettings(Cs=GRID, fractions=(0.5, 1.0), evaluation="test_part")
    records = linear(backbone, phantom, settings=settings, context=context)
    assert [record.settings["fraction"] for record in records] == [0.5] * 6 + [1.0] * 6
    assert len({record.key for record in records}) == 12
    found = {record.metric: record for record in records[6:]}
    assert set(found) == {
        "accuracy", "balanced_accuracy", "auroc", "auprc", "brier", "calibration_error",
    }  # fmt: skip
    accuracy = found["accuracy"]
    predictions = read_predictions(accuracy, results)
    test = [i for i, split in enumerate(phantom.splits) if split == "test"]
    assert predictions.ids == tuple(phantom.ids[row] for row in test)
    np.testing.assert_array_equal(predictions.labels, phantom.labels[test])
    share = accuracy_score(predictions.labels, predictions.probabilities.argmax(axis=1))
    assert accuracy.value == pytest.approx(100 * share)
    assert accuracy.ci_low < accuracy.value < accuracy.ci_high
    assert accuracy.details["strength"] in GRID
    assert len(accuracy.details["path"]["scores"]) == len(GRID)
    assert accuracy.details["path"]["converged"] == [True] * 4
    assert accuracy.details["fit"]["gradient_norm"][0] < 1e-3
    assert records[0].details["train_images"] < accuracy.details["train_images"]
    assert records[0].details["predictions"]["questions"] == predictions.questions
    assert "control: random_r18 is untrained" in accuracy.notes
    known = {record.key: record for record in records}
    again = linear(backbone, phantom, settings=settings, context=RunContext(known=known))
    assert again == records


def test_a_seed_is_a_result_and_nothing_else_is(tiny_model, phantom):
    backbone = tiny_model("random_r18")
    settings = LinearSettings(Cs=GRID, fractions=(0.4,), evaluation="test_part")
    one, two = (
        [record.value for record in linear(backbone, phantom, settings=settings, context=PLAIN)]
        for _ in range(2)
    )
    assert one == two
    other = linear(backbone, phantom, settings=settings, context=PLAIN, seed=1)
    assert [record.value for record in other] != one


def test_uncertain_labels_are_soft_or_truncated_by_protocol(tiny_model, phantom):
    from dataclasses import replace

    rng = np.random.default_rng(0)
    positive = np.array(phantom.labels) == 1
    targets = np.where(positive, rng.choice([0.7, 1.0], len(phantom), p=[0.3, 0.7]), 0.0)
    manifest = replace(phantom.manifest, targets=tuple(targets.tolist()), label_policy="soft")
    soft = ImageDataset(manifest)
    backbone = tiny_model("random_r18")

    def test_labels(settings):
        context = RunContext(results=Path("results.jsonl"))
        record = linear(backbone, soft, settings=settings, context=context)[0]
        return record, read_predictions(record, context.results).labels

    test = [i for i, split in enumerate(phantom.splits) if split == "test"]
    record, labels = test_labels(LinearSettings(Cs=GRID, evaluation="test_part"))
    np.testing.assert_array_equal(labels, positive[test])
    assert record.provenance.label_policy == "soft"
    truncated = LinearSettings(Cs=GRID, targets="truncated", evaluation="test_part")
    record, labels = test_labels(truncated)
    np.testing.assert_array_equal(labels, (targets == 1)[test])
    assert record.provenance.label_policy == "soft, truncated"


def test_grades_have_their_kappa(tiny_model, phantom):
    backbone = tiny_model("random_r18")
    records = linear(backbone, phantom, context=PLAIN, Cs=1.0, ordered=True)
    assert records[-1].metric == "quadratic_kappa"


def test_what_cannot_be_done_is_said_before_any_image_is_opened(phantom):
    with pytest.raises(UnknownNameError, match="auroc"):
        separable(phantom, LinearSettings(select="auroq"))
    unsplit = load_dataset("phantom:chest-xray,count=90,size=80", split="none")
    with pytest.raises(InfeasibleError, match=r"no training images.*the split patient"):
        separable(unsplit, LinearSettings(evaluation="test_part"))


def test_the_grid_is_the_study_grid():
    training, validation = sample(30, columns=5, classes=2), sample(30, 5, 2, seed=1)
    fit = fit_linear(training, validation, settings=LinearSettings())
    assert tuple(solution.c for solution in fit.path) == published_cs()
