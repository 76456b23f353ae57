"""Influences: leaving out each unit for good, on disk, and in pairs."""

from itertools import combinations, product

import numpy as np
import pytest
from medssl_eval.errors import PredictionsError
from medssl_eval.experiments import influences as module
from medssl_eval.experiments.episodes import EpisodePool, plan_episodes
from medssl_eval.experiments.few_shot import count_correct
from medssl_eval.experiments.influences import (
    Influences,
    few_shot_influences,
    read_influences,
)
from medssl_models import Provenance, Record
from scipy import stats


def made(units=6, seed=0, plan="plan", **changes):
    values = np.random.default_rng(seed).normal(size=units)
    fields = {
        "units": tuple(f"p{unit}" for unit in range(units)),
        "values": values,
        "strata": np.arange(units) % 2,
        "plan": plan,
    }
    return Influences(**(fields | changes))


def record(details):
    return Record(
        experiment="few-shot", metric="accuracy", value=1.0, details=details,
        provenance=Provenance(model="m", dataset="d"),
    )  # fmt: skip


def test_what_is_saved_is_read_again(tmp_path):
    before = made()
    entry = before.save(tmp_path / "results.predictions")
    after = read_influences(record({"influences": entry}), tmp_path / "results.jsonl")
    assert (after.units, after.plan, after.fingerprint) == (before.units, "plan", entry["sha256"])
    np.testing.assert_array_equal(after.values, before.values)
    np.testing.assert_array_equal(after.strata, before.strata)


def test_missing_damaged_foreign_and_outside_files_are_named(tmp_path):
    results = tmp_path / "results.jsonl"
    entry = made().save(tmp_path / "results.predictions")
    other = made(seed=1).save(tmp_path / "results.predictions")
    with pytest.raises(PredictionsError, match="has no influences"):
        read_influences(record({}), results)
    with pytest.raises(PredictionsError, match="outside the folder"):
        read_influences(record({"influences": {**entry, "file": "../x.npz"}}), results)
    with pytest.raises(PredictionsError, match="does not hold the influences"):
        read_influences(record({"influences": {**entry, "file": other["file"]}}), results)
    (tmp_path / entry["file"]).write_bytes(b"PK")
    with pytest.raises(PredictionsError, match="holds no influences"):
        read_influences(record({"influences": entry}), results)


def test_a_difference_matches_units_by_name():
    one, other = made(), made(seed=1)
    order = [3, 1, 0, 5, 4, 2]
    names = tuple(other.units[n] for n in order)
    turned = Influences(names, other.values[order], other.strata[order], "plan")
    np.testing.assert_allclose((one - turned).values, one.values - other.values)
    for stranger in (made(plan="other"), made(units=5)):
        with pytest.raises(PredictionsError, match="cannot be paired"):
            _ = one - stranger


def test_two_strata_are_welchs_degrees_of_freedom():
    rng = np.random.default_rng(3)
    a, b = rng.uniform(size=9), rng.uniform(size=14) * 3  # no tails, which count by themselves
    parts = [(x - x.mean()) / np.sqrt(len(x) * (len(x) - 1)) for x in (a, b)]
    found = Influences(
        tuple(map(str, range(23))), np.concatenate(parts), np.repeat([0, 1], [9, 14]), "plan"
    )
    welch = stats.ttest_ind(a, b, equal_var=False)
    assert found.freedom == pytest.approx(welch.df)
    assert (a.mean() - b.mean()) / found.standard_error == pytest.approx(welch.statistic)


def test_one_unit_that_bears_all_is_one_observation():
    values = np.full(50, -1 / 49)
    values[7] = 1.0
    alone = Influences(tuple(map(str, range(50))), values, np.zeros(50, np.int64), "plan")
    assert 1 <= alone.freedom < 2.2
    assert Influences(alone.units, 0 * values, alone.strata, "plan").freedom == np.inf


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(PredictionsError, match="6 units, 2 values"):
        made(values=np.zeros(2))
    with pytest.raises(PredictionsError, match="each unit once"):
        Influences(("a", "a"), np.zeros(2), np.zeros(2, np.int64), "plan")


def accuracy_over_all_supports(features, labels, ways, shots):
    """The mean over every choice of classes and supports, all other images asked."""
    accuracies = []
    for classes in combinations(np.unique(labels), ways):
        found = []
        supports = [combinations(np.flatnonzero(labels == label), shots) for label in classes]
        for support in product(*supports):
            prototypes = np.array([features[list(rows)].mean(axis=0) for rows in support])
            shares = []
            for way, label in enumerate(classes):
                asked = [r for r in np.flatnonzero(labels == label) if r not in support[way]]
                gaps = ((features[asked][:, None] - prototypes) ** 2).sum(axis=2)
                shares.append((gaps.argmin(axis=1) == way).mean())
            found.append(np.mean(shares))
        accuracies.append(np.mean(found))
    return 100 * np.mean(accuracies)


def sample(sizes, dim=3, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    noise = np.random.default_rng(seed).normal(size=(len(labels), dim))
    return (noise + np.eye(len(sizes), dim)[labels]).astype(np.float32), labels


def estimated(features, labels, ways, shots, *, groups=None, queries=1, names=None):
    pool = EpisodePool.of(labels, int(labels.max()) + 1, groups=groups)
    plan = plan_episodes(pool, ways=ways, shots=shots, queries=queries, episodes=50)
    names = [f"image {row:03d}" for row in range(len(labels))] if names is None else names
    return few_shot_influences(features, pool, names, plan, count_correct(features, plan), seed=[0])


@pytest.mark.parametrize(
    ("sizes", "ways", "shots", "asked", "tolerance"),
    [
        ((5, 7), 2, 1, 2_000, 0.04),
        ((6, 5), 2, 3, 2_000, 0.04),
        ((5, 4, 6), 2, 1, 2_000, 0.04),
        ((5, 7), 2, 1, 8, 0.12),  # four of each class are asked in a draw
        ((6, 5), 2, 3, 8, 0.12),
    ],
)
def test_they_are_what_leaving_out_each_image_does(
    monkeypatch, sizes, ways, shots, asked, tolerance
):
    monkeypatch.setattr(module, "FEWEST_DRAWS", 60_000)
    monkeypatch.setattr(module, "MOST_DRAWS", 60_000)
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 20_000)
    monkeypatch.setattr(module, "ASKED", asked)
    features, labels = sample(sizes)
    whole = accuracy_over_all_supports(features, labels, ways, shots)
    moved = np.array([
        whole - accuracy_over_all_supports(
            np.delete(features, row, axis=0), np.delete(labels, row), ways, shots
        )
        for row in range(len(labels))
    ])  # fmt: skip
    found = estimated(features, labels, ways, shots)
    assert found.units[: len(labels)] == tuple(f"image {row:03d}" for row in range(len(labels)))
    for label, size in enumerate(sizes):
        own = moved[labels == label]
        expected = (own - own.mean()) * np.sqrt(size / (size - 1))
        got = found.values[: len(labels)][labels == label]
        np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(moved).max())


def test_a_patient_moves_as_much_as_his_images_together():
    features, labels = sample((40, 40))
    alone = estimated(features, labels, 2, 3)
    names = [f"patient {row // 2:03d}" for row in range(80)]
    grouped = estimated(features, labels, 2, 3, names=names)
    images, patients = alone.values[:80], grouped.values[:40]
    factor = np.sqrt(20 / 19) / np.sqrt(40 / 39)
    np.testing.assert_allclose(patients, factor * images.reshape(-1, 2).sum(axis=1))


def test_one_image_of_a_patient_is_drawn_and_all_of_them_are_asked():
    features, labels = sample((30, 30))
    twice = np.repeat(features, 2, axis=0)
    names = [f"patient {row // 2:03d}" for row in range(120)]
    grouped = estimated(twice, np.repeat(labels, 2), 2, 3, groups=names, names=names)
    alone = estimated(features, labels, 2, 3)
    assert len(grouped.units) == 60 + 50
    np.testing.assert_allclose(grouped.values[:60], alone.values[:60], atol=1e-4)


def test_twins_count_once():
    features, labels = sample((20, 20))
    pool = EpisodePool.of(labels, 2).twice()
    plan = plan_episodes(pool, ways=2, shots=2, queries=5, episodes=50)
    names = [f"image {row:03d}" for row in range(40)]
    found = few_shot_influences(
        features, pool, names, plan, count_correct(features, plan), seed=[0]
    )
    assert found.units[:40] == tuple(names)
    alone = estimated(features, labels, 2, 2)
    assert np.corrcoef(found.values[:40], alone.values[:40])[0, 1] > 0.8


def test_the_draw_of_the_episodes_is_part_of_the_error():
    features, labels = sample((30, 30))
    pool = EpisodePool.of(labels, 2)
    plan = plan_episodes(pool, ways=2, shots=1, queries=1, episodes=20)
    correct = count_correct(features, plan)
    names = [f"image {row:03d}" for row in range(60)]
    found = few_shot_influences(features, pool, names, plan, correct, seed=[0])
    drawn = found.values[found.strata == -1]
    assert np.square(drawn).sum() == pytest.approx(np.var(50.0 * correct, ddof=1) / 20)
    same = few_shot_influences(features, pool, names, plan, correct, seed=[0])
    np.testing.assert_array_equal(found.values, same.values)


def test_models_that_are_always_right_move_nothing():
    labels = np.arange(40) % 2
    found = estimated(labels[:, None].astype(np.float32), labels, 2, 5, queries=10)
    assert found.standard_error == 0
    assert found.freedom == np.inf
