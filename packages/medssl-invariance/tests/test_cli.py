"""Every command through the runner: tables, JSON, files, exit codes, what is skipped or refused."""

import csv
import json
from pathlib import Path

import pytest
from medssl_invariance.cli import app
from medssl_models import backbone as networks
from medssl_models import read_records
from medssl_models.console import run
from medssl_models.experiments.released import find_released, released_numbers
from PIL import Image

SOURCE = ("-d", "phantom:chest-xray,count=24,size=80")


def call(capsys, *words):
    code = run(app, [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch, backbone):
    monkeypatch.setattr(networks, "create_model", lambda name, protocol="corrected": backbone)


def measure(capsys, *words):
    return call(
        capsys, "synthetic", "-m", "random_r18", *SOURCE, "-t", "blur", "--images", 6, *words
    )


def test_synthetic_gives_a_table_with_baselines_and_records(capsys, tmp_path):
    code, out, err = measure(capsys)
    assert code == 0, err
    for word in ("blur", "(control)", "(phantom)", "random other", "6 x 8", "undefined"):
        assert word in out
    assert "N < D" in err
    assert len(read_records(tmp_path / "results.jsonl")) == 5
    assert measure(capsys)[0] == 0
    assert len(read_records(tmp_path / "results.jsonl")) == 5
    assert measure(capsys, "--force")[0] == 0
    assert len(read_records(tmp_path / "results.jsonl")) == 10


def test_json_is_one_document(capsys):
    code, out, err = measure(capsys, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["records"][0]["metric"] == "whitened_cosine"
    assert document["published"] == []


def test_an_unknown_family_is_answered_with_the_list(capsys):
    code, out, err = call(capsys, "synthetic", "-m", "random_r18", *SOURCE, "-t", "blurr")
    assert (code, out) == (2, "")
    assert "did you mean blur" in err
    assert "rotation, h_flip" in err


def test_a_k_that_no_grid_takes_is_refused(capsys):
    words = ("synthetic", "-m", "random_r18", *SOURCE, "-t", "translation", "--k", 20)
    code, _, err = call(capsys, *words, "--protocol", "published")
    assert code == 2
    assert "list index out of range" in err
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "multiple of 8" in err


def test_curve_writes_pictures_and_their_numbers(capsys, tmp_path):
    code, out, err = call(
        capsys, "curve", "-m", "random_r18", *SOURCE, "-t", "blur", "-t", "h_flip", "-t", "hue",
        "--images", 6, "-o", "shown",
    )  # fmt: skip
    assert code == 0, err
    stem = "phantom-chest-xray-count-24-size-80"
    for name in (f"{stem}-curves.png", f"{stem}-summary.png"):
        assert name in out
        with Image.open(tmp_path / "shown" / name) as picture:
            assert min(picture.size) > 200
    assert f"{stem}-curves.csv" in out
    with (tmp_path / "shown" / f"{stem}-curves.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * (8 + 1 + 8)
    assert {line["transform"] for line in lines} == {"blur", "h_flip", "hue"}
    assert float(lines[0]["ci_low"]) <= float(lines[0]["value"]) <= float(lines[0]["ci_high"])


@pytest.fixture
def pairs(tmp_path):
    """Ten patients with a left and a right picture, and one with a left one only."""
    lines = ["path,label,group,view"]
    for patient in range(11):
        for view in ("left", "right") if patient < 10 else ("left",):
            name = f"{patient}-{view}.png"
            shade = 20 * patient + 10
            picture = Image.new("RGB", (40, 40), (shade, 255 - shade, 90))
            picture.paste((shade, shade, shade), (5, 5, 20 if view == "left" else 24, 30))
            picture.save(tmp_path / name)
            lines.append(f"{name},{'ill' if patient % 2 else 'well'},p{patient},{view}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    return ("-d", f"table:{tmp_path / 'pairs.csv'}")


def test_views_compares_pairs_and_counts_who_has_no_partner(capsys, pairs):
    code, out, err = call(capsys, "views", "-m", "random_r18", *pairs, "--json")
    assert code == 0, err
    records = {record["metric"]: record for record in json.loads(out)["records"]}
    details = records["retrieval"]["details"]
    assert details["views"] == ["left", "right"]
    assert (details["pairs"], details["available_pairs"], details["without_partner"]) == (5, 10, 1)
    assert details["median_rank"] < 4
    cosine = records["whitened_cosine"]
    assert cosine["value"] > cosine["details"]["baselines"]["random_other"]["value"]
    assert any("10-left.png" in note for note in cosine["notes"])


def test_views_refuses_lonely_views_where_told_to(capsys, pairs):
    code, _, err = call(capsys, "views", "-m", "random_r18", *pairs, "--missing", "refuse")
    assert code == 3
    assert "10-left.png" in err


def test_views_without_views_are_bad_input(capsys):
    code, _, err = call(capsys, "views", "-m", "random_r18", *SOURCE)
    assert code == 3
    assert "view" in err


def test_an_unwritable_home_still_measures(capsys, home):
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where the folder should be")
    code, _, err = measure(capsys)
    assert code == 0, err
    assert "cannot be written" in err


def test_released_numbers_carry_their_flags(capsys):
    table = [one for one in released_numbers() if one.experiment == "invariance"]
    assert len(table) == 109
    assert sum(bool(one.flags) for one in table) == 29
    words = ("--protocol", "published", "--images", 100, "-t", "h_flip")
    assert call(capsys, "synthetic", "-m", "random_r18", *SOURCE, *words)[0] == 0
    record = read_records(Path("results.jsonl"))[0]
    of_study = {"dataset": "montgomerycxr", "model": "moco-v2", "selection": {}}
    real = record.model_copy(update={"provenance": record.provenance.model_copy(update=of_study)})
    found = find_released(real).number
    assert found is not None
    assert (found.value, found.flags) == (0.546951, ())
    chest = real.provenance.model_copy(update={"dataset": "chestx"})
    late = real.model_copy(update={"provenance": chest})
    (flag,) = find_released(late).number.flags
    assert flag.startswith("F9")


def test_batchnorm_in_training_mode_is_for_the_published_protocol(capsys, pairs):
    code, out, err = measure(capsys, "--batchnorm", "training")
    assert (code, out) == (2, "")
    assert "published" in err
    words = ("views", "-m", "random_r18", *pairs)
    found = {}
    for mode in ("eval", "training"):
        asked = ("--protocol", "published", "--covariance", "pca", "--images", 4, "--json")
        code, out, err = call(capsys, *words, *asked, "--batchnorm", mode)
        assert code == 0, err
        found[mode] = json.loads(out)["records"][0]
    assert found["training"]["settings"]["batchnorm"] == "training"
    assert found["training"]["value"] != found["eval"]["value"]


@pytest.mark.parametrize("option", ["--output", "--results"])
def test_a_file_where_a_folder_should_be_is_said_before_the_work(capsys, tmp_path, option):
    (tmp_path / "file").write_text("taken")
    where = tmp_path / "file" if option == "--output" else tmp_path / "file" / "results.jsonl"
    code, out, err = call(
        capsys, "curve", "-m", "random_r18", *SOURCE, "-t", "h_flip", option, where
    )
    assert (code, out) == (1, "")
    assert f"another with {option}" in err
    assert err.count("\n") == 1
