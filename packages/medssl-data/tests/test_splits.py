import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_data.card import PublishedSplit
from medssl_data.catalog import list_datasets
from medssl_data.errors import SplitError
from medssl_data.manifest import Manifest, Row
from medssl_data.splits import (
    FRACTIONS,
    patient_split,
    published_split,
    read_split,
    shuffle_order,
    split_digest,
    validation_order,
    write_split,
)
from medssl_data.synthetic.phantom import chest_xray

# Facts about the study's shuffles: rows, seed, first ten, last three, SHA-256 of the int64
# little-endian order. Verified against DataFrame.sample of two pandas versions.
SHUFFLES = [
    (138, "89 105 12 26 64 67 65 117 108 73", "14 92 102", "c84a6e0740b348c5"),
    (400, "209 280 33 210 93 84 329 94 266 126", "270 348 102", "c6e9684d8f8a7502"),
    (662, "327 578 470 362 265 660 506 361 314 90", "270 435 102", "bba3f65c64b8e5af"),
    (2000, "1860 353 1333 905 1289 1273 938 1731 65 1323", "860 1459 1126", "0a56e5f21f0d7ab1"),
    (
        35126,
        "19025 10159 14413 8910 33989 647 31967 34779 9926 22858",
        "11284 860 15795",
        "0ae3013f618b9dcb",
    ),
    (
        53576,
        "24032 47644 27171 24663 43490 13585 45693 35962 28815 1281",
        "38158 860 15795",
        "bf10e5580911aa18",
    ),
    (
        112120,
        "89645 47446 57963 22863 43431 8601 13260 111184 17284 33809",
        "103694 860 15795",
        "33f69710f9c74798",
    ),
    (
        223414,
        "305 151324 19284 165026 26786 90650 73223 166583 186728 201658",
        "131932 146867 121958",
        "6dbad842396aa3bb",
    ),
]


@pytest.mark.parametrize(("rows", "first", "last", "digest"), SHUFFLES, ids=lambda v: str(v)[:6])
def test_published_shuffles(rows: int, first: str, last: str, digest: str) -> None:
    order = shuffle_order(rows)
    assert order[:10].tolist() == [int(word) for word in first.split()]
    assert order[-3:].tolist() == [int(word) for word in last.split()]
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest().startswith(digest)


def test_published_fixtures(shared: Path) -> None:
    import json

    for fixture in json.loads((shared / "published" / "shuffle_fixtures.json").read_text()):
        order = shuffle_order(fixture["n"], seed=fixture["seed"])
        digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
        assert digest == fixture["sha256_int64_le"], fixture["what"]
        assert order[:20].tolist() == fixture["first20"]
        assert order[-5:].tolist() == fixture["last5"]


@pytest.mark.parametrize(
    ("train", "validation", "first"),
    [
        (134049, 26809, [14627, 54828, 17865, 25047, 63137]),
        (35126, 7025, [12503, 34351, 31821, 25440, 8315]),
        (50000, 10000, None),
    ],
)
def test_validation_split_of_the_linear_experiment(train, validation, first) -> None:
    chosen, rest = validation_order(train)
    assert len(chosen) == validation
    assert len(rest) == train - validation
    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(train))
    if first:
        assert chosen[:5].tolist() == first


def plain(rows: int, *, splits: tuple[str, ...] = ()) -> Manifest:
    images = [Row(f"{i}", f"{i}.png", i % 2, f"p{i // 2}") for i in range(rows)]
    columns = {"splits": splits} if splits else {}
    from dataclasses import replace

    return replace(Manifest.from_rows("plain", Path(), ("a", "b"), images), **columns)


def test_published_split_is_train_then_test_in_shuffled_order() -> None:
    study = PublishedSplit(rows=138, train_rows=110)
    cut = published_split(plain(138), study)
    assert cut.ids[:3] == ("89", "105", "12")
    assert cut.splits == ("train",) * 110 + ("test",) * 28
    assert cut.split_policy == "published"
    assert cut.notes == ()


def test_published_split_of_another_number_of_rows_is_four_fifths_and_says_so() -> None:
    cut = published_split(plain(100), PublishedSplit(rows=138, train_rows=110))
    assert cut.splits.count("train") == 80
    assert "the study had 138" in cut.notes[0]


def test_the_published_cut_of_every_card_is_its_share() -> None:
    shuffled = [
        card.published_split
        for card in list_datasets()
        if card.published_split and card.published_split.rule == "shuffle"
    ]
    assert len(shuffled) == 8
    for study in shuffled:
        assert abs(study.train_rows - study.share * study.rows) < 1


def test_published_split_by_files_shuffles_each_part() -> None:
    manifest = plain(10, splits=("train",) * 6 + ("test",) * 4)
    cut = published_split(manifest, PublishedSplit(rule="files", rows=10, train_rows=6))
    expected = [*shuffle_order(6).tolist(), *(6 + shuffle_order(4)).tolist()]
    assert [int(i) for i in cut.ids] == expected
    with pytest.raises(SplitError, match="train and test only"):
        published_split(plain(10), PublishedSplit(rule="files", rows=10, train_rows=6))


@st.composite
def clinics(draw: st.DrawFn) -> Manifest:
    patients = draw(
        st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), min_size=3, max_size=60)
    )
    rows = [
        Row(f"{p}-{i}", f"{p}-{i}.png", label, f"p{p}")
        for p, (number, label) in enumerate(patients)
        for i in range(number)
    ]
    return Manifest.from_rows("clinic", Path(), ("a", "b", "c"), rows)


@settings(deadline=None)
@given(manifest=clinics(), seed=st.integers(0, 5))
def test_patient_split_never_parts_a_patient(manifest: Manifest, seed: int) -> None:
    cut = patient_split(manifest, seed=seed)
    assert cut.ids == manifest.ids
    sides: dict[str, set[str]] = {}
    for group, split in zip(cut.groups, cut.splits, strict=True):
        sides.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in sides.values())
    assert set(cut.splits) <= set(FRACTIONS)
    assert patient_split(manifest, seed=seed) == cut


@settings(deadline=None)
@given(manifest=clinics(), order=st.randoms(use_true_random=False))
def test_patient_split_does_not_depend_on_the_order_of_rows(manifest: Manifest, order) -> None:
    shuffled = list(range(len(manifest)))
    order.shuffle(shuffled)
    assert split_digest(patient_split(manifest)) == split_digest(
        patient_split(manifest.select(shuffled))
    )


def test_patient_split_keeps_the_shares_of_each_class() -> None:
    cut = patient_split(chest_xray(count=1000))
    labels, splits = np.array(cut.labels), np.array(cut.splits)
    for name, share in FRACTIONS.items():
        for label in (0, 1):
            found = ((splits == name) & (labels == label)).sum() / (labels == label).sum()
            assert found == pytest.approx(share, abs=0.01)


def test_another_seed_is_another_cut() -> None:
    manifest = chest_xray(count=60)
    assert patient_split(manifest, seed=1).splits != patient_split(manifest, seed=2).splits


def test_patient_split_faults() -> None:
    with pytest.raises(SplitError, match="1 patients for 3 splits"):
        patient_split(plain(2))
    with pytest.raises(SplitError, match="sum to 1"):
        patient_split(plain(20), fractions={"train": 0.5, "test": 0.2})


def test_splits_go_through_a_file(tmp_path: Path) -> None:
    cut = patient_split(chest_xray(count=40))
    digest = write_split(cut, tmp_path / "s.csv")
    again = read_split(chest_xray(count=40), tmp_path / "s.csv")
    assert again.splits == cut.splits
    assert split_digest(again) == digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split\nzz,train\n", "row 2: id 'zz' is not an image of plain"),
        ("id,split\n1,train\n1,test\n", "row 3: id '1' occurs twice"),
    ],
)
def test_split_files_with_faults(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(SplitError, match=message):
        read_split(plain(4), tmp_path / "s.csv")
