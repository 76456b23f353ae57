"""Parts that overlap nowhere, keep patients together and nest; every refusal."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_data import ImageDataset
from medssl_data.manifest import Manifest, Row
from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.partition import partition


def drawn(item):
    raise AssertionError(item)


def dataset(labels, splits, groups=None, classes=("normal", "ill", "worse")):
    groups = groups or [""] * len(labels)
    rows = [
        Row(f"{row:04}", f"{row:04}.png", label, group=group, split=split, item=str(row))
        for row, (label, split, group) in enumerate(zip(labels, splits, groups, strict=True))
    ]
    kinds = classes[: max(labels) + 1]
    return ImageDataset(Manifest.from_rows("made", Path(), kinds, rows, drawer=drawn))


def sample(patients=40, images=3, seed=0, parts=("train", "test")):
    rng = np.random.default_rng(seed)
    labels, splits, groups = [], [], []
    for patient in range(patients):
        for _ in range(rng.integers(1, images + 1)):
            labels.append(int(rng.random() < 0.3 + 0.2 * (patient % 2)))
            splits.append(parts[patient % len(parts)] if patient > 7 else parts[0])
            groups.append(f"p{patient}")
    for split in parts:
        labels += [0, 1]
        splits += [split] * 2
        groups += ["", ""]
    return dataset(labels, splits, groups)


def patients(data, rows):
    return {data.groups[row] for row in rows} - {""}


@examples(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), fraction=st.floats(0.01, 1.0), separate=st.booleans())
def test_parts_do_not_overlap_and_small_fractions_are_part_of_larger_ones(seed, fraction, separate):
    data = sample(seed=seed, parts=("train", "val", "test"))
    whole = partition(data, separate=separate, seed=seed)
    some = partition(data, separate=separate, fraction=fraction, seed=seed)
    fewer = partition(data, separate=separate, fraction=fraction / 2, seed=seed)
    np.testing.assert_array_equal(whole.test, some.test)
    rows = np.concatenate([whole.train, whole.validation, whole.test])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(data)))
    for part in ("train", "validation"):
        large, middle, small = (getattr(one, part) for one in (whole, some, fewer))
        assert set(small.tolist()) <= set(middle.tolist()) <= set(large.tolist())
        assert set(data.labels[small]) == set(data.labels[large])
        if separate:
            kept = patients(data, middle)
            dropped = [row for row in large if row not in middle]
            assert not kept & patients(data, dropped)


def test_a_fraction_keeps_the_share_of_each_class():
    labels = [0] * 300 + [1] * 100 + [0, 1] * 5 + [0, 1] * 5
    splits = ["train"] * 400 + ["val"] * 10 + ["test"] * 10
    tenth = partition(dataset(labels, splits), fraction=0.1)
    assert np.bincount(np.array(labels)[tenth.train]).tolist() == [30, 10]
    assert np.bincount(np.array(labels)[tenth.validation]).tolist() == [1, 1]
    other = partition(dataset(labels, splits), fraction=0.1, seed=1)
    assert set(other.train.tolist()) != set(tenth.train.tolist())


@pytest.mark.parametrize("separate", [True, False])
def test_a_missing_validation_part_is_cut_from_the_training_part(separate):
    data = sample(patients=80)
    parts = partition(data, separate=separate)
    trained = np.flatnonzero(np.array(data.splits) == "train")
    together = np.sort(np.concatenate([parts.train, parts.validation]))
    np.testing.assert_array_equal(together, trained)
    assert len(parts.validation) == pytest.approx(0.2 * len(trained), abs=4)
    shared = patients(data, parts.train) & patients(data, parts.validation)
    assert bool(shared) is not separate


def test_without_patients_the_validation_part_is_the_study_draw():
    labels = [0, 1] * 30
    data = dataset(labels, ["train"] * 50 + ["test"] * 10)
    order = np.random.RandomState(0).permutation(50)  # the study's generator
    parts = partition(data, separate=False)
    assert set(parts.validation.tolist()) == set(order[:10].tolist())


def test_positions_among_readable_images():
    data = dataset([0, 1] * 10, ["train"] * 8 + ["val"] * 6 + ["test"] * 6)
    readable = np.array([row for row in range(20) if row not in (3, 9)])
    parts = partition(data, readable=readable).among(readable)
    np.testing.assert_array_equal(readable[parts.train], [0, 1, 2, 4, 5, 6, 7])
    np.testing.assert_array_equal(readable[parts.validation], [8, 10, 11, 12, 13])
    np.testing.assert_array_equal(readable[parts.test], np.arange(14, 20))


def test_a_part_that_unreadable_images_leave_without_a_class_is_named():
    data = dataset([0, 1] * 6, ["train"] * 4 + ["val"] * 4 + ["test"] * 4)
    readable = np.setdiff1d(np.arange(12), [9, 11])
    with pytest.raises(InfeasibleError, match="test part holds only class 'normal'"):
        partition(data, readable=readable)


def test_patients_on_two_sides_are_told():
    groups = ["a", "a", "b", "b", "c", "c", "d", "a", "a", "e"]
    data = dataset([0, 1] * 5, ["train"] * 4 + ["val"] * 2 + ["test"] * 4, groups)
    assert partition(data).notes == (
        "leak: 1 patients of 2 test images are in the training images too",
    )
    clean = dataset([0, 1] * 5, ["train"] * 4 + ["val"] * 2 + ["test"] * 4)
    assert partition(clean).notes == ()


@pytest.mark.parametrize(
    ("labels", "splits", "words"),
    [
        ([0, 1, 0, 1], ["", "", "", ""], "no training images .splits: none.*the split patient"),
        ([0, 1, 0, 1], ["train"] * 4, "no test images .splits: train"),
        (
            [0, 0, 0, 1, 0, 1],
            ["train"] * 2 + ["val"] * 2 + ["test"] * 2,
            "training part holds only",
        ),
        ([0, 1, 0, 0, 0, 1], ["train"] * 2 + ["val"] * 2 + ["test"] * 2, "validation part holds"),
        ([0, 1, 0, 1, 1, 1], ["train"] * 2 + ["val"] * 2 + ["test"] * 2, "test part holds only"),
        ([0, 1, 0, 1, 0, 2], ["train"] * 2 + ["val"] * 2 + ["test"] * 2, "training image of class"),
    ],
)
def test_parts_that_cannot_serve_are_named(labels, splits, words):
    with pytest.raises(InfeasibleError, match=words):
        partition(dataset(labels, splits))
