"""Data that cannot serve, through the commands: one line, the right code, and no file left."""

import copy

import medssl_models.backbone
import numpy as np
import pytest
from medssl_eval.cli import app
from medssl_models import read_records
from medssl_models.console import run
from PIL import Image

COMMANDS = {
    "linear": ("--C", "0.1,10", "--split", "official"),
    "knn": ("--split", "official"),
    "finetune": ("--steps", "4", "--validate-every", "2", "--side", "32"),
}
SOUND = {"train": "ababababab", "val": "abab", "test": "abababab"}


def written(folder, parts, *, seed=0):
    """A table of small pictures, each of a patient of its own; without a seed all are alike."""
    rng = np.random.default_rng(seed)
    lines = ["path,label,split,group"]
    for split, labels in parts.items():
        for number, label in enumerate(labels):
            grey = rng.integers(0, 256, (20, 20)) if seed is not None else np.full((20, 20), 90)
            name = f"{split}{number}.png"
            Image.fromarray(grey.astype(np.uint8)).save(folder / name)
            lines.append(f"{name},{label},{split},{split}{number}")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n")
    return f"table:{folder / 'scans.csv'}"


def call(capsys, command, source, folder, *words):
    base = ("-m", "random_r18", "-d", source, "--results", str(folder / "out" / "r.jsonl"))
    code = run(app, [command, *base, *COMMANDS[command], *words, "--quiet"])
    return code, *capsys.readouterr()


def left(folder):
    """Files that a command wrote, but for locks."""
    return [path.name for path in (folder / "out").rglob("*") if path.suffix not in (".lock", "")]


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("command", COMMANDS)
def test_parts_without_the_needed_classes_are_refused_in_one_line(capsys, tmp_path, command):
    cases = {
        "the training part holds only class 'a'": {"train": "aaaaaaaaaa"},
        "the validation part holds only class 'b'": {"val": "bbbb"},
        "the test part holds only class 'a'": {"test": "aaaaaa"},
        "no training image of class 'c'": {"test": "abcabcabc"},
    }
    for number, (fragment, change) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        code, out, err = call(capsys, command, written(folder, SOUND | change), folder)
        assert (code, out) == (3, "")
        assert fragment in err
        assert err.count("\n") == 1
        assert err.startswith("error: ")
        assert "choose another split" in err
        assert left(folder) == []


@pytest.mark.usefixtures("tiny_models")
def test_fewer_patients_than_folds_are_refused(capsys, tmp_path):
    source = written(tmp_path, {"train": "ab" * 4})
    table = (tmp_path / "scans.csv").read_text().replace(",train,train", ",,").splitlines()
    two = [line.rpartition(",")[0] + f",{i // 4}" for i, line in enumerate(table[1:])]
    (tmp_path / "scans.csv").write_text("\n".join([table[0], *two]) + "\n")
    words = [
        "knn",
        "-m",
        "random_r18",
        "-d",
        source,
        "--results",
        str(tmp_path / "out" / "r.jsonl"),
    ]
    assert run(app, [*words, "--folds", "3", "--neighbours", "1"]) == 3
    assert "2 patients for 3 folds" in capsys.readouterr().err
    assert left(tmp_path) == []


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize("command", COMMANDS)
def test_pictures_all_alike_give_the_scores_of_guessing(capsys, tmp_path, command):
    source = written(tmp_path, SOUND, seed=None)
    code, _, err = call(capsys, command, source, tmp_path)
    assert code == 0, err
    values = {r.metric: r.value for r in read_records(tmp_path / "out" / "r.jsonl")}
    assert values["balanced_accuracy"] == pytest.approx(50)
    assert values["auroc"] == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_no_numbers_leave_no_record(
    capsys, tmp_path, command, monkeypatch, tiny_model
):
    def damaged(name, **options):
        backbone = copy.deepcopy(tiny_model(name, **options))
        next(iter(backbone.parameters())).data.fill_(float("nan"))
        return backbone

    monkeypatch.setattr(medssl_models.backbone, "create_model", damaged)
    code, out, err = call(capsys, command, written(tmp_path, SOUND), tmp_path)
    assert (code, out) == (3, "")
    assert "weights" in err
    assert "error: " in err.splitlines()[-1]
    assert left(tmp_path) == []


@pytest.mark.usefixtures("tiny_models")
def test_a_rate_that_diverges_says_a_usual_one_and_leaves_no_record(capsys, tmp_path):
    words = ("--learning-rate", "1e9")
    code, out, err = call(capsys, "finetune", written(tmp_path, SOUND), tmp_path, *words)
    assert (code, out) == (1, "")
    assert "diverged at step" in err
    assert "smaller learning rate, such as 0.01" in err
    assert left(tmp_path) == []
