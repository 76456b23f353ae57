"""The main job across packages, as a person types it: pictures in, a table with intervals out."""

import json

import numpy as np
import pytest
from medssl_data import cli as data_cli
from medssl_data.console import run as run_data
from medssl_eval import cli as eval_cli
from medssl_models.console import run as run_eval
from medssl_models.experiments.record import Record

CONTROL = ("-m", "random_r18")
QUICK = ("--shots", "1,5", "--queries", "5", "--episodes", "40", "--json")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of one's own to work in, with its own store of features."""
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def phantom(place, capsys):
    """A small phantom on disk, as `-d` takes it."""
    code = run_data(data_cli.app, ["phantom", "chest-xray", "--count", "60", "--json"])
    assert code == 0
    return json.loads(capsys.readouterr().out)["use"]


def few_shot(dataset, capsys, *more):
    code = run_eval(eval_cli.app, ["few-shot", *CONTROL, "-d", dataset, *QUICK, *more])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if code == 0 else captured


def test_from_pictures_to_a_table(place, phantom, capsys):
    assert run_data(data_cli.app, ["check", "-d", phantom, "--json"]) == 0
    json.loads(capsys.readouterr().out)
    code, answer = few_shot(phantom, capsys)
    assert code == 0
    assert [record["settings"]["shots"] for record in answer["records"]] == [1, 5]
    for record in answer["records"]:
        assert record["ci_low"] <= record["value"] <= record["ci_high"]
        assert record["provenance"]["weights"]
        assert any("synthetic" in note.lower() for note in record["notes"])
    lines = (place / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2


def test_what_is_done_is_not_done_again(place, phantom, capsys):
    _, first = few_shot(phantom, capsys)
    _, second = few_shot(phantom, capsys)
    assert second["records"] == first["records"]
    assert len((place / "results.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_the_same_pictures_elsewhere_are_the_same_experiment(place, phantom, capsys):
    _, here = few_shot(phantom, capsys)
    kind, _, path = phantom.partition(":")
    moved = place / "elsewhere" / "data"
    moved.parent.mkdir()
    (place / "data").rename(moved)
    relative = path.partition("data/")[2]
    _, there = few_shot(f"{kind}:{moved / relative}", capsys)
    keys = [[Record.model_validate(r).key for r in run["records"]] for run in (here, there)]
    assert keys[0] == keys[1]


def test_a_broken_picture_is_named_and_can_be_skipped(place, phantom, capsys):
    victim = sorted((place / "data").rglob("*.png"))[3]
    victim.write_bytes(b"")
    code, captured = few_shot(phantom, capsys)
    assert code == 3
    assert victim.name in captured.err
    assert captured.err.count("\n") == 1
    code, answer = few_shot(phantom, capsys, "--skip-unreadable")
    assert code == 0
    assert any("unreadable" in note for note in answer["records"][0]["notes"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["-m", "random_r81"], 2, "random_r18", id="a-misspelt-model"),
        pytest.param(["-m", "supervised_r18"], 4, "medssl-models import", id="weights-not-here"),
        pytest.param([*CONTROL, "--shots", "500"], 3, "normal", id="too-few-images"),
        pytest.param([*CONTROL, "--shots", "none"], 2, "--shots", id="not-a-number"),
    ],
)
def test_bad_input_ends_in_one_line_and_a_documented_code(
    place, phantom, capsys, arguments, code, words
):
    assert run_eval(eval_cli.app, ["few-shot", "-d", phantom, *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not (place / "results.jsonl").exists()


def test_an_array_of_images_is_as_good_as_a_folder(place, capsys):
    generator = np.random.default_rng(0)
    labels = np.arange(24) % 2
    images = generator.integers(0, 60, (24, 28, 28)) + 120 * labels[:, None, None]
    parts = {"train": slice(0, 16), "val": slice(16, 20), "test": slice(20, 24)}
    arrays = {f"{name}_images": images[rows].astype(np.uint8) for name, rows in parts.items()}
    arrays |= {f"{name}_labels": labels[rows, None] for name, rows in parts.items()}
    np.savez(place / "toy.npz", **arrays)
    code, answer = few_shot(f"medmnist:{place / 'toy.npz'}", capsys)
    assert code == 0
    assert answer["records"][-1]["value"] > 90
