"""Predictions on disk: the same again, damage found, nothing outside the folder read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_eval.errors import FeatureError, LabelError, PredictionsError
from medssl_eval.experiments.predictions import Predictions, predictions_folder, read_predictions
from medssl_models import Provenance, Record

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def made(rows=6, kinds=3, seed=0, **changes):
    rng = np.random.default_rng(seed)
    fields = {
        "ids": tuple(f"image {row}" for row in range(rows)),
        "groups": tuple(f"p{row // 2}" for row in range(rows)),
        "classes": tuple("abcdef"[:kinds]),
        "labels": rng.integers(0, kinds, rows),
        "probabilities": rng.dirichlet(np.ones(kinds), rows),
    }
    return Predictions(**(fields | changes))


def record(details):
    return Record(
        experiment="linear", metric="accuracy", value=1.0, details=details,
        provenance=Provenance(model="m", dataset="d"),
    )  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(
    ids=st.lists(names.filter(bool), min_size=1, max_size=8, unique=True),
    group=names,
    soft=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_saved_is_read_again(tmp_path_factory, ids, group, soft, seed):
    folder = tmp_path_factory.mktemp("p")
    targets = np.random.default_rng(seed).random(len(ids)) if soft else None
    before = made(len(ids), 2, seed, ids=tuple(ids), groups=(group,) * len(ids), targets=targets)
    entry = before.save(folder / "results.predictions")
    after = read_predictions(record({"predictions": entry}), folder / "results.jsonl")
    assert (after.ids, after.groups, after.classes) == (before.ids, before.groups, before.classes)
    np.testing.assert_array_equal(after.probabilities, before.probabilities)
    assert after.fingerprint == before.fingerprint == entry["sha256"]
    assert after.questions == entry["questions"]


def test_questions_ignore_the_order_and_the_answers(tmp_path):
    one = made()
    other = made(seed=0, probabilities=made(seed=5).probabilities)
    assert one.questions == other.questions
    assert one.fingerprint != other.fingerprint
    turned = one.in_order(one.ids[::-1])
    assert turned.questions == one.questions
    assert turned.fingerprint != one.fingerprint
    np.testing.assert_array_equal(turned.probabilities, one.probabilities[::-1])
    assert made(labels=(one.labels + 1) % 3).questions != one.questions
    with pytest.raises(PredictionsError, match="not predicted, such as image 9"):
        one.in_order(["image 1", "image 9"])


def test_saving_twice_leaves_one_file(tmp_path):
    folder = predictions_folder(tmp_path / "run.jsonl")
    assert folder.name == "run.predictions"
    assert made().save(folder) == made().save(folder)
    assert len(list(folder.iterdir())) == 1


def test_damage_is_found(tmp_path):
    entry = made().save(tmp_path / "results.predictions")
    path, results = tmp_path / entry["file"], tmp_path / "results.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PredictionsError, match=r"holds no predictions.*with force"):
        read_predictions(record({"predictions": entry}), results)
    other = made(seed=9).save(tmp_path / "results.predictions")
    path.write_bytes((tmp_path / other["file"]).read_bytes())
    with pytest.raises(PredictionsError, match="does not hold the predictions of linear of m on d"):
        read_predictions(record({"predictions": entry}), results)
    path.unlink()
    with pytest.raises(PredictionsError, match="is not there"):
        read_predictions(record({"predictions": entry}), results)
    with pytest.raises(PredictionsError, match="has no predictions"):
        read_predictions(record({}), results)


def test_a_pickle_is_not_loaded(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, format=1, ids=np.array([object()], dtype=object))
    with pytest.raises(PredictionsError, match="holds no predictions"):
        Predictions.load(path)


@pytest.mark.parametrize("file", ["../other.npz", "/etc/passwd"])
def test_a_record_cannot_point_elsewhere(tmp_path, file):
    entry = {"file": file, "sha256": "0"}
    with pytest.raises(PredictionsError, match="outside the folder"):
        read_predictions(record({"predictions": entry}), tmp_path / "results.jsonl")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ids": ("a",) * 6}, PredictionsError, "occurs twice"),
        ({"groups": ("a",)}, PredictionsError, "1 groups"),
        ({"classes": ("a",)}, PredictionsError, "1 classes for 3 columns"),
        ({"labels": np.full(6, 3)}, LabelError, "0 to 2"),
        ({"probabilities": np.full((6, 3), 1.5)}, FeatureError, "row 0"),
    ],
)
def test_bad_columns_are_named(changes, error, words):
    with pytest.raises(error, match=words):
        made(**changes)
