"""Planted leaks are found, every one; clean data raises no alarm."""

import json
import shutil
from pathlib import Path

import pytest
from medssl_data import load_dataset
from medssl_data.cli import app
from medssl_data.console import run
from medssl_data.leaks import find_leaks
from medssl_data.synthetic.phantom import write_phantom
from PIL import Image


@pytest.fixture(scope="module")
def chexpert(stand_in) -> Path:
    return stand_in("chexpert")


def test_the_published_split_parts_patients(chexpert: Path) -> None:
    data = load_dataset("chexpert", root=chexpert, split="published")
    sides: dict[str, set[str]] = {}
    for group, split in zip(data.groups, data.splits, strict=True):
        sides.setdefault(group, set()).add(split)
    parted = {group for group, found in sides.items() if len(found) > 1}
    report = find_leaks(data)
    assert parted
    assert {leak.what for leak in report.leaks if leak.kind == "patient"} == parted
    assert report.counts()["patient"] == len(parted)


def test_the_patient_split_is_clean(chexpert: Path) -> None:
    report = find_leaks(load_dataset("chexpert", root=chexpert, split="patient"))
    assert report.leaks == ()
    assert report.patients > 50


def test_every_planted_picture_is_found(tmp_path: Path) -> None:
    write_phantom("shenzhencxr", tmp_path, {})
    data = load_dataset("shenzhencxr", root=tmp_path, split="patient")
    assert find_leaks(data).leaks == ()
    root = data.manifest.root
    train = [i for i, split in enumerate(data.splits) if split == "train"][:6]
    test = [i for i, split in enumerate(data.splits) if split == "test"][:6]
    paths = data.manifest.paths
    shutil.copy(root / paths[train[0]], root / paths[test[0]])
    for left, right, quality in zip(train[1:], test[1:], (95, 85, 75, 60, 50), strict=True):
        with Image.open(root / paths[left]) as image:
            smaller = image.resize((96, 96)) if quality == 60 else image
            smaller.save(root / "x.jpg", quality=quality)
        shutil.move(root / "x.jpg", root / paths[right])
    found = {
        (leak.kind, frozenset((leak.left, leak.right)))
        for leak in find_leaks(load_dataset("shenzhencxr", root=tmp_path, split="patient")).leaks
    }
    kinds = ["identical", *["near-duplicate"] * 5]
    assert found == {
        (kind, frozenset((data.ids[left], data.ids[right])))
        for kind, left, right in zip(kinds, train, test, strict=True)
    }


def test_the_command_exits_with_3_and_draws_the_pairs(chexpert, tmp_path, capsys) -> None:
    sheet = tmp_path / "pairs.png"
    words = ("leaks", "-d", "chexpert", "--root", str(chexpert), "--fast", "--json")
    assert run(app, (*words, "--split", "published", "--out", str(sheet))) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["counts"]["patient"] > 0
    assert "leaks between its splits" in captured.err
    with Image.open(sheet) as image:
        assert image.width > 300
    assert run(app, (*words, "--split", "patient")) == 0
