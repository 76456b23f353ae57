"""Nested cross-validation against a plain one, its refits, and when it is chosen."""

from dataclasses import replace

import numpy as np
import pytest
from medssl_data import ImageDataset, load_dataset
from medssl_eval import LinearSettings, linear, preset
from medssl_eval.errors import InfeasibleError, SettingsError
from medssl_eval.experiments.linear import ENOUGH, evaluated, separable
from medssl_eval.experiments.nested_folds import NestedFolds
from medssl_eval.experiments.partition import assign_folds, bootstrap_times, keep_fraction
from medssl_eval.experiments.predictions import read_predictions
from medssl_eval.statistics.intervals import shared_deviation, widened
from medssl_models import RunContext
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

GRID = (1e1, 1e-1, 1e-3)
PLAIN = RunContext()


def sample(rows=70, columns=20, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    features = rng.normal(size=(rows, columns)) * np.geomspace(3, 0.3, columns)
    features[:, :classes] += 1.2 * np.eye(classes)[labels]
    return features, labels


def dealt(features, labels, folds=4, **options):
    fold_of = assign_folds(labels, folds, seed=1)
    kept = np.ones(len(labels), bool)
    return NestedFolds(features, labels, labels, fold_of, kept, **options)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_plain_nested_cross_validation(classes):
    features, labels = sample(classes=classes)
    deal = dealt(features, labels)

    def plainly(train, c, asked):
        model = LogisticRegression(C=c, solver="newton-cg", tol=1e-10, max_iter=5000)
        fitted = make_pipeline(StandardScaler(), model).fit(features[train], labels[train])
        return fitted.predict_proba(features[asked])

    expected, chosen = np.zeros((len(labels), classes)), []
    for fold in range(4):
        others = [other for other in range(4) if other != fold]
        scores = []
        for c in GRID:
            answers = np.zeros(len(labels), int)
            for held in others:
                train = ~np.isin(deal.fold_of, (fold, held))
                asked = deal.fold_of == held
                answers[asked] = plainly(train, c, asked).argmax(axis=1)
            inside = deal.fold_of != fold
            scores.append(balanced_accuracy_score(labels[inside], answers[inside]))
        chosen.append(GRID[int(np.argmax(scores))])
        asked = deal.fold_of == fold
        expected[asked] = plainly(~asked, chosen[-1], asked)
    assert deal.choose(GRID, "balanced_accuracy") == chosen
    np.testing.assert_allclose(deal.fit(chosen).probabilities, expected, atol=1e-4)


def test_no_image_helps_to_predict_itself():
    features, labels = sample()
    deal = dealt(features, labels)
    cs = deal.choose(GRID, "accuracy")
    before = deal.fit(cs).probabilities
    other, secret = labels.copy(), features.copy()
    first = deal.fold_of == 0
    other[first] = 1 - other[first]
    secret[first] += 5
    changed = replace(deal, targets=other, labels=other, features=secret)
    again = changed.choose(GRID, "accuracy")
    assert again[0] == cs[0]
    asked = replace(changed, features=np.where(first[:, None], features, secret))
    np.testing.assert_array_equal(asked.fit(again).probabilities[first], before[first])
    assert (again[1:] != cs[1:]) or not np.allclose(changed.fit(again).probabilities, before)


def test_a_class_that_two_folds_hold_alone_is_refused():
    features, labels = sample()
    fold_of = np.where(labels == 1, np.arange(len(labels)) // 2 % 2, np.arange(len(labels)) % 4)
    with pytest.raises(InfeasibleError, match="no training image outside folds 0 and 1"):
        NestedFolds(features, labels, labels, fold_of, np.ones(len(labels), bool))


def test_small_fractions_reach_three_folds_and_nest():
    labels = np.repeat([0, 1], [40, 8])
    fold_of = assign_folds(labels, 4, seed=0)
    every = np.arange(len(labels))
    kept = [
        keep_fraction(labels, every, share, seed=3, folds=fold_of) for share in (0.05, 0.3, 0.6)
    ]
    assert [np.bincount(labels[rows]).tolist() for rows in kept] == [[3, 3], [12, 3], [24, 5]]
    assert set(kept[0]) < set(kept[1]) < set(kept[2])
    for rows in kept:
        for label in (0, 1):
            assert len(set(fold_of[rows][labels[rows] == label])) >= 3


def phantom(count=90, **options):
    return load_dataset(f"phantom:chest-xray,count={count},size=80", **options)


def test_the_data_decide_what_is_asked():
    settings = LinearSettings()
    small, large = phantom(60), phantom(600)
    patients = {g for g, s in zip(large.groups, large.splits, strict=True) if s == "test"}
    assert len(patients) >= ENOUGH
    assert evaluated(large, settings).evaluation == "test_part"
    assert evaluated(small, settings).evaluation == "nested_folds"
    assert evaluated(small, settings).folds == 5
    assert (evaluated(small, settings).refits, evaluated(large, settings).refits) == (30, 0)
    assert evaluated(small, settings.model_copy(update={"solver": "lbfgs_2022"})).evaluation == (
        "test_part"
    )
    assert evaluated(small, preset(LinearSettings, "published")).evaluation == "test_part"
    named = LinearSettings(evaluation="nested_folds", folds=7)
    assert evaluated(large, named) == named.model_copy(update={"refits": 30})
    normal = np.flatnonzero(small.labels == 0)
    first = np.unique([small.groups[row] for row in normal], return_index=True)[1]
    few = normal[first]
    for count, expected in ((4, ("nested_folds", 3)), (2, ("test_part", 5))):
        rows = [*few[:count].tolist(), *np.flatnonzero(small.labels == 1).tolist()]
        found = evaluated(ImageDataset(small.manifest.select(rows)), settings)
        assert (found.evaluation, found.folds) == expected
    with pytest.raises(InfeasibleError, match="2 patients for 5 folds"):
        separable(
            ImageDataset(small.manifest.select(rows)), LinearSettings(evaluation="nested_folds")
        )


def test_every_image_is_asked_where_the_test_part_is_small(tiny_model, tmp_path):
    data, results = phantom(), tmp_path / "results.jsonl"
    settings = LinearSettings(Cs=GRID, repeats=2, fractions=(0.4, 1.0), refits=0)
    records = linear(
        tiny_model("random_r18"), data, settings=settings, context=RunContext(results=results)
    )
    some, whole = records[0], records[6]
    assert whole.n == len(data) == whole.details["images"]
    assert whole.details["patients"] == len(set(data.groups) - {""})
    assert whole.provenance.split == "all"
    kept = whole.settings
    assert (kept["evaluation"], kept["folds"], kept["repeats"]) == ("nested_folds", 5, 2)
    assert read_predictions(whole, results).ids == data.ids
    assert np.shape(whole.details["strength"]) == (2, 5)
    assert set(np.ravel(whole.details["strength"])) <= set(GRID)
    assert some.details["labelled_images"] < whole.details["labelled_images"]
    assert whole.details["labelled_images"] == round(0.8 * len(data))
    assert whole.details["interval"].endswith("given the fits of 2 x 5 folds")
    assert whole.details["interval"].startswith(f"over {whole.details['resampled']} test patients")
    other = linear(tiny_model("random_r18"), data, settings=settings, context=PLAIN, seed=1)
    assert [r.value for r in other] != [r.value for r in records]
    again = RunContext(known={record.key: record for record in records})
    assert linear(tiny_model("random_r18"), data, settings=settings, context=again) == records


@pytest.mark.parametrize("evaluation", ["test_part", "nested_folds"])
def test_refits_widen_the_interval_and_move_no_value(tiny_model, evaluation):
    data, backbone = phantom(), tiny_model("random_r18")
    settings = LinearSettings(Cs=GRID, repeats=2, evaluation=evaluation, refits=0)
    plain = linear(backbone, data, settings=settings, context=PLAIN)
    more = linear(backbone, data, settings=settings, context=PLAIN, refits=12)
    again = linear(backbone, data, settings=settings, context=PLAIN, refits=12)
    assert [r.ci_low for r in more] == [r.ci_low for r in again]
    for one, wide in zip(plain, more, strict=True):
        assert wide.value == one.value
        assert wide.key != one.key
        found = wide.details["refits"]
        assert found["one_fit"] == [one.ci_low, one.ci_high]
        assert found["count"] == 12
        assert wide.ci_low <= one.ci_low
        assert wide.ci_high >= one.ci_high
        is_wider = wide.ci_high - wide.ci_low > one.ci_high - one.ci_low
        assert is_wider or found["deviation"] == 0 or wide.ci_high == 100
    assert any(record.details["refits"]["deviation"] > 0 for record in more)
    assert "over training patients by 12 refits" in more[0].details["interval"]
    assert "refits" not in plain[0].details


def test_the_widened_interval_covers_both_sources():
    rng = np.random.default_rng(0)
    draws, freedom = 4000, 19
    values = rng.normal(0, np.hypot(1.0, 2.0), draws)
    deviations = 2.0 * np.sqrt(rng.chisquare(freedom, draws) / freedom)
    found = [
        widened(value, (value - 1.96, value + 1.96), deviation, freedom=freedom)
        for value, deviation in zip(values, deviations, strict=True)
    ]
    covered = np.mean([low <= 0 <= high for low, high in found])
    narrow = np.mean(np.abs(values) <= 1.96)
    assert covered == pytest.approx(0.95, abs=0.012)
    assert narrow < 0.7
    assert widened(99.0, (97.0, 100.0), 3.0, freedom=50, bounds=(0, 100))[1] == 100


def test_what_refits_share_is_told_from_their_luck_with_these_rows():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    found, naive = [], []
    for seed in range(40):
        shares = rng.normal(0.75, 0.05, 30)
        right = rng.random((30, 60)) < shares[:, None]
        refits = [np.where(one, labels, 1 - labels).astype(float) for one in right]
        found.append(shared_deviation(labels, refits, "accuracy", seed=seed) ** 2)
        naive.append(right.mean(axis=1).var(ddof=1))
    assert np.mean(found) == pytest.approx(0.05**2, rel=0.25)
    assert np.mean(naive) > 1.8 * 0.05**2
    same = [np.full(60, 0.3)] * 12
    assert shared_deviation(labels, same, "auroc") == 0
    one_class = [rng.random(60) for _ in range(12)]
    assert shared_deviation(np.zeros(60, int), one_class, "auroc") == 0


def test_patients_are_drawn_whole_and_classes_kept():
    groups = ["a", "a", "b", "", "", "c", "c"]
    labels = np.array([0, 0, 0, 1, 0, 1, 1])
    draws = list(
        bootstrap_times(
            groups, [np.arange(5), np.arange(5, 7)], count=50, seed=0,
            serves=lambda times: 1 in labels[:5][times[:5] > 0],
        )
    )  # fmt: skip
    for times in draws:
        assert times[0] == times[1]
        assert times[[0, 2, 3, 4]].sum() == 4
        assert times[5] == times[6] == 1
        assert times[3] > 0
    assert len({tuple(times) for times in draws}) > 10
    with pytest.raises(InfeasibleError, match="lack a class"):
        next(bootstrap_times(groups, [np.arange(7)], count=1, seed=0, serves=lambda _: False))


def test_settings_that_mean_nothing_are_refused():
    for changes, words in (
        ({"refits": 5}, "refits is 5; give 0, or at least 10"),
        ({"refits": -1}, "refits is -1"),
        ({"folds": 2}, "folds is 2"),
        ({"repeats": 0}, "repeats is 0"),
        ({"evaluation": "nested_folds", "solver": "lbfgs_2022"}, "needs solver converged"),
    ):
        with pytest.raises(SettingsError, match=words):
            preset(LinearSettings, **changes)
