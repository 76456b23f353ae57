"""Episode plans: disjoint, balanced, stable, of the study's law, and refused when impossible."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_eval.errors import InfeasibleError, SettingsError
from medssl_eval.experiments.episodes import EpisodePool, check_plan, plan_episodes


@st.composite
def problems(draw):
    classes = draw(st.integers(2, 5))
    shots, queries = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(shots + queries, 15), min_size=classes, max_size=classes))
    labels = np.repeat(np.arange(classes), sizes)
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return {
        "labels": labels[order],
        "classes": classes,
        "ways": draw(st.integers(2, classes)),
        "shots": shots,
        "queries": queries,
        "seed": draw(st.integers(0, 2**32)),
    }


def plan_of(problem, **changes):
    problem = problem | changes
    pool = EpisodePool.of(
        problem.pop("labels"), problem.pop("classes"), groups=problem.pop("groups", None)
    )
    return plan_episodes(pool, episodes=problem.pop("episodes", 7), **problem)


@given(problem=problems())
@settings(deadline=None)
def test_support_and_query_are_disjoint_balanced_and_of_their_class(problem):
    plan = plan_of(problem)
    assert plan.support.shape == (7, problem["ways"], problem["shots"])
    assert plan.query.shape == (7, problem["ways"], problem["queries"])
    rows = np.concatenate([plan.support, plan.query], axis=2)
    for episode, classes in zip(rows, plan.classes, strict=True):
        assert len(np.unique(episode)) == episode.size
        assert len(np.unique(classes)) == problem["ways"]
        assert (problem["labels"][episode] == classes[:, None]).all()


@given(problem=problems())
@settings(deadline=None)
def test_a_seed_gives_one_plan_and_another_seed_another(problem):
    first, again = plan_of(problem), plan_of(problem)
    assert first.fingerprint == again.fingerprint
    np.testing.assert_array_equal(first.support, again.support)
    other = plan_of(problem, seed=problem["seed"] + 1, episodes=50)
    assert other.fingerprint != plan_of(problem, episodes=50).fingerprint


@given(problem=problems(), fewer=st.integers(1, 4))
@settings(deadline=None)
def test_fewer_shots_are_the_beginning_of_more_on_the_same_questions(problem, fewer):
    many, few = plan_of(problem), plan_of(problem, shots=min(fewer, problem["shots"]))
    np.testing.assert_array_equal(many.classes, few.classes)
    np.testing.assert_array_equal(many.query, few.query)
    np.testing.assert_array_equal(many.support[..., : few.shots], few.support)


def test_every_ordered_choice_is_equally_likely():
    pool = EpisodePool.of(np.repeat([0, 1, 2], 4), 3)
    plan = plan_episodes(pool, ways=2, shots=1, queries=2, episodes=24_000, seed=1)
    first = plan.classes[:, 0] == 0
    rows = np.concatenate([plan.query[first, 0], plan.support[first, 0]], axis=1)
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(counts) == 4 * 3 * 2
    expected = counts.sum() / 24
    # Chi-squared with 23 degrees of freedom: 0.001 lies at 49.7.
    assert ((counts - expected) ** 2 / expected).sum() < 49.7
    pairs = np.unique(plan.classes, axis=0, return_counts=True)[1]
    assert len(pairs) == 6
    assert ((pairs - 4000) ** 2 / 4000).sum() < 20.5  # 5 degrees of freedom


def test_the_stream_is_pinned():
    pool = EpisodePool.of(np.repeat([0, 1], 6), 2)
    plan = plan_episodes(pool, ways=2, shots=2, queries=1, episodes=2, seed=0)
    assert plan.classes.tolist() == PINNED["classes"]
    assert plan.support.tolist() == PINNED["support"]
    assert plan.query.tolist() == PINNED["query"]


PINNED = {
    "classes": [[1, 0], [0, 1]],
    "support": [[[11, 7], [4, 5]], [[2, 5], [10, 9]]],
    "query": [[[10], [1]], [[3], [8]]],
}


@given(
    images=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=40, max_size=80),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_no_patient_is_in_support_and_query(images, seed):
    labels = np.array([label for label, _ in images])
    groups = [f"patient {number}" for _, number in images]
    pool = EpisodePool.of(labels, 2, groups=groups)
    size = int(pool.class_sizes.min())
    if size < 2:
        with pytest.raises(InfeasibleError):
            plan_episodes(pool, ways=2, shots=1, queries=1)
        return
    plan = plan_episodes(pool, ways=2, shots=1, queries=size - 1, episodes=9, seed=seed)
    names = np.array(groups)[np.concatenate([plan.support, plan.query], axis=2).reshape(9, -1)]
    assert all(len(np.unique(episode)) == episode.size for episode in names)
    assert pool.left_out == len(images) - int(pool.unit_sizes.sum())


def test_a_patient_of_two_classes_stands_for_the_rarer_one():
    labels = np.array([0, 0, 0, 1, 1])
    pool = EpisodePool.of(labels, 2, groups=["a", "b", "c", "a", "d"])
    assert pool.class_sizes.tolist() == [2, 2]
    assert sorted(pool.rows.tolist()) == [1, 2, 3, 4]
    assert pool.left_out == 1


def test_all_images_of_a_patient_can_be_drawn():
    pool = EpisodePool.of(np.array([0, 0, 0, 1, 1]), 2, groups=["a", "a", "b", "c", "d"])
    plan = plan_episodes(pool, ways=2, shots=1, queries=1, episodes=200)
    assert set(np.concatenate([plan.support, plan.query]).ravel()) == {0, 1, 2, 3, 4}


def test_rows_without_a_label_are_never_drawn():
    pool = EpisodePool.of(np.array([0, -1, 0, 1, 1, -1]), 2)
    plan = plan_episodes(pool, ways=2, shots=1, queries=1, episodes=50)
    assert not {1, 5} & set(np.concatenate([plan.support, plan.query]).ravel())


def test_twins_make_an_image_its_own_question():
    pool = EpisodePool.of(np.repeat([0, 1], 2), 2).twice()
    plan = plan_episodes(pool, ways=2, shots=2, queries=2, episodes=100)
    drawn = np.sort(np.concatenate([plan.support, plan.query], axis=2)[plan.classes == 0])
    assert drawn.reshape(-1, 4).tolist() == [[0, 0, 1, 1]] * 100


def test_a_small_class_is_refused_by_name_count_and_remedy():
    pool = EpisodePool.of(np.repeat([0, 1], [10, 40]), 2)
    with pytest.raises(InfeasibleError) as caught:
        plan_episodes(pool, ways=2, shots=5, queries=8, names=("normal", "ill"))
    assert str(caught.value) == (
        "class 'normal' has 10 images; 5 shots + 8 queries need 13: "
        "use 2 shots or fewer with 8 queries"
    )
    assert caught.value.exit_code == 3


def test_the_message_counts_patients_where_they_count():
    pool = EpisodePool.of(
        np.repeat([0, 1], [9, 40]), 2, groups=["one"] * 9 + list(map(str, range(40)))
    )
    with pytest.raises(InfeasibleError, match=r"class '0' has 1 patient; .* add images"):
        plan_episodes(pool, ways=2, shots=1, queries=1)


@pytest.mark.parametrize("name", ["shots", "queries", "episodes"])
def test_numbers_below_one_are_refused(name):
    pool = EpisodePool.of(np.repeat([0, 1], 9), 2)
    with pytest.raises(SettingsError, match=f"{name} is 0; it must be at least 1"):
        plan_episodes(pool, ways=2, **({"shots": 1} | {name: 0}))


@pytest.mark.parametrize(
    ("ways", "labels", "reason"),
    [(3, [0, 1], "ways is 3"), (1, [0, 1], "ways is 1"), (2, [0], "all images are of one class")],
)
def test_more_ways_than_classes_are_refused(ways, labels, reason):
    pool = EpisodePool.of(np.repeat(labels, 9), len(labels))
    with pytest.raises(SettingsError, match=reason):
        plan_episodes(pool, ways=ways, shots=1)


def test_patients_of_both_classes_are_named_where_they_empty_a_class() -> None:
    pool = EpisodePool.of(np.tile([0, 1], 20), 2, groups=[f"p{row // 2}" for row in range(40)])
    with pytest.raises(InfeasibleError) as caught:
        check_plan(pool, ways=2, shots=1, queries=5, episodes=10, names=["well", "ill"])
    assert "class 'ill' has 0 patients" in str(caught.value)
    assert "(20 images are left out: a patient with images of several classes stands for" in str(
        caught.value
    )
