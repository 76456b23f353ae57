"""Prototype arithmetic against a plain re-implementation, one episode and one query at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_eval import few_shot as few_shot_function
from medssl_eval.errors import FeatureError
from medssl_eval.experiments.episodes import EpisodePool, plan_episodes
from medssl_eval.experiments.few_shot import count_correct, summarise


def plainly(features, plan):
    """Nearest prototype, written as the textbook says it."""
    correct = []
    for support, query in zip(plan.support, plan.query, strict=True):
        prototypes = [features[rows].astype(np.float64).mean(axis=0) for rows in support]
        hits = 0
        for way, rows in enumerate(query):
            for row in rows:
                distances = [((features[row] - p) ** 2).sum() for p in prototypes]
                hits += int(np.argmin(distances) == way)
        correct.append(hits)
    return np.array(correct)


@given(
    rows=st.integers(20, 60),
    dim=st.integers(1, 300),
    ways=st.integers(2, 3),
    shots=st.integers(1, 4),
    shift=st.sampled_from([0.0, 50.0]),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=60)
def test_batched_arithmetic_agrees_with_the_textbook(rows, dim, ways, shots, shift, seed):
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(rows, dim)) + shift).astype(np.float32)
    pool = EpisodePool.of(np.arange(rows) % 3, 3)
    plan = plan_episodes(pool, ways=ways, shots=shots, queries=2, episodes=5, seed=seed)
    np.testing.assert_array_equal(count_correct(features, plan), plainly(features, plan))


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "gathered"])
@pytest.mark.parametrize("chunk", [1, 10_000_000])
def test_both_ways_and_all_chunks_agree(monkeypatch, gram, chunk):
    import importlib

    module = importlib.import_module("medssl_eval.experiments.few_shot")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 40)).astype(np.float32)
    features[np.arange(90) % 3 == 1] += 0.4
    plan = plan_episodes(
        EpisodePool.of(np.arange(90) % 3, 3), ways=3, shots=4, queries=5, episodes=30
    )
    expected = plainly(features, plan)
    monkeypatch.setattr(module, "_prefers_gram", lambda *_: gram)
    monkeypatch.setattr(module, "CHUNK_NUMBERS", chunk)
    np.testing.assert_array_equal(count_correct(features, plan), expected)
    assert expected.min() < expected.max()


def test_twins_in_a_support_count_twice():
    features = np.array([[0.0], [3.0], [10.0], [10.0]], dtype=np.float32)
    pool = EpisodePool.of(np.array([0, 0, 1, 1]), 2).twice()
    plan = plan_episodes(pool, ways=2, shots=3, queries=1, episodes=40)
    np.testing.assert_array_equal(count_correct(features, plan), plainly(features, plan))


def test_the_callers_threads_are_left_alone():
    import torch
    from medssl_models.features.runtime import threads

    plan = plan_episodes(EpisodePool.of(np.arange(8) % 2, 2), ways=2, shots=1, queries=1)
    with threads(3):
        count_correct(np.eye(8, dtype=np.float32), plan)
        assert torch.get_num_threads() == 3


def test_a_memory_mapped_table_is_fine():
    features = np.eye(8, dtype=np.float32)
    features.flags.writeable = False
    plan = plan_episodes(EpisodePool.of(np.arange(8) % 2, 2), ways=2, shots=1, queries=1)
    assert count_correct(features, plan).shape == (600,)


def test_separable_classes_are_always_right_and_equal_ones_are_chance():
    labels = np.arange(80) % 2
    plan = plan_episodes(EpisodePool.of(labels, 2), ways=2, shots=5, queries=15)
    perfect = summarise(count_correct(labels[:, None].astype(np.float32), plan), 30)
    assert (perfect.mean, perfect.half_width) == (100.0, 0.0)
    noise = np.random.default_rng(3).normal(size=(80, 16)).astype(np.float32)
    assert abs(summarise(count_correct(noise, plan), 30).mean - 50) < 10


def test_the_interval_is_the_studys():
    correct = np.array([30, 15, 15, 30])
    summary = summarise(correct, 30)
    assert summary.mean == 75.0
    assert summary.std == 25.0  # denominator E, not E - 1
    assert summary.half_width == pytest.approx(1.96 * 25 / 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value):
    features = np.zeros((8, 3), dtype=np.float32)
    features[5, 1] = value
    plan = plan_episodes(EpisodePool.of(np.arange(8) % 2, 2), ways=2, shots=1, queries=1)
    with pytest.raises(FeatureError, match="1 of 8 images are NaN or infinite, the first in row 5"):
        count_correct(features, plan)


def test_features_of_another_shape_are_refused():
    plan = plan_episodes(EpisodePool.of(np.arange(8) % 2, 2), ways=2, shots=1, queries=1)
    with pytest.raises(FeatureError, match="shape"):
        count_correct(np.zeros(8, dtype=np.float32), plan)


def test_the_package_gives_the_function_not_the_module():
    assert callable(few_shot_function)
