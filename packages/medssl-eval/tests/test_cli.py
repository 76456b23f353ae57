"""Every command through the runner: tables, JSON, exit codes, what is skipped or refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from medssl_eval.cli import app
from medssl_eval.experiments.influences import read_influences
from medssl_models import read_records
from medssl_models.console import run
from medssl_models.experiments.registry import find_experiment, installed_experiments

SMALL = ("--queries", "5", "--episodes", "40", "--shots", "1,5")


def call(capsys, *words):
    code = run(app, [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def few_shot(capsys, scans, *words):
    source = ("-d", f"folder:{scans}")
    return call(capsys, "few-shot", *source, *SMALL, *words)


@pytest.mark.usefixtures("tiny_models")
def test_few_shot_gives_one_table_best_first_and_records(capsys, scans, tmp_path):
    code, out, err = few_shot(capsys, scans, "-m", "random_r18", "-m", "random_r50")
    assert code == 0, err
    assert out.count("random_r18 (control)") == 2
    assert "2-way 1-shot" in out
    assert "2-way 5-shot" in out
    records = read_records(tmp_path / "results.jsonl").records
    assert len(records) == 4
    assert all("control" in " ".join(record.notes) for record in records)
    one_shot = [line for line in out.splitlines() if "1-shot" in line]
    values = [float(line.split("(control)")[1].split()[0]) for line in one_shot]
    assert values == sorted(values, reverse=True)
    for record in records:
        over = record.details["intervals"]
        assert [record.ci_low, record.ci_high] == over["images"] != over["episodes"]
        shown = [f"{low:.2f} to {high:.2f}" for low, high in over.values()]
        assert any(all(text in line for text in shown) for line in out.splitlines())
        assert (record.details["resampled"], record.n) == (44, 40)
        assert read_influences(record, tmp_path / "results.jsonl").plan == record.details["plan"]


@pytest.mark.usefixtures("tiny_models")
def test_one_episode_has_no_interval_and_says_so(capsys, scans, tmp_path):
    assert few_shot(capsys, scans, "-m", "random_r18", "--episodes", "1")[0] == 0
    for record in read_records(tmp_path / "results.jsonl"):
        assert (record.ci_low, record.ci_high) == (None, None)
        assert "no interval: the only episode" in record.notes[-1]


@pytest.mark.usefixtures("tiny_models")
def test_a_model_or_a_data_set_named_twice_counts_once(capsys, scans, tmp_path):
    named = ("-m", "random_r18", "-d", f"folder:{scans}")
    words = ("--queries", 5, "--episodes", 40, "--shots", 1)
    assert call(capsys, "few-shot", *named, *named, *words)[0] == 0
    assert len(read_records(tmp_path / "results.jsonl")) == 1


@pytest.mark.usefixtures("tiny_models")
def test_results_are_not_appended_to_a_picture(capsys, scans):
    picture = next(scans.rglob("*.png"))
    before = picture.read_bytes()
    code, _, err = few_shot(capsys, scans, "-m", "random_r18", "--results", picture)
    assert (code, picture.read_bytes()) == (3, before)
    assert err.count("\n") == 1
    assert "something else than records" in err


@pytest.mark.usefixtures("tiny_models")
def test_what_is_done_is_skipped_and_force_does_it_again(capsys, scans, tmp_path):
    results = tmp_path / "results.jsonl"
    assert few_shot(capsys, scans, "-m", "random_r18")[0] == 0
    code, out, err = few_shot(capsys, scans, "-m", "random_r18")
    assert code == 0
    assert "done before" in err
    assert "random_r18" in out
    assert len(read_records(results)) == 2
    assert few_shot(capsys, scans, "-m", "random_r18", "--force")[0] == 0
    first, *_, last = read_records(results)
    assert len(read_records(results)) == 4
    assert (first.value, first.key) == (
        read_records(results)[2].value,
        read_records(results)[2].key,
    )
    assert last.details == read_records(results)[1].details


@pytest.mark.usefixtures("tiny_models")
def test_numbers_do_not_depend_on_the_order_of_models_or_the_company_of_shots(capsys, scans):
    def values(*words):
        code, out, err = call(
            capsys, "few-shot", "-d", f"folder:{scans}", "--queries", 5, "--episodes", 40,
            "--json", "--force", *words,
        )  # fmt: skip
        assert code == 0, err
        return {
            (r["provenance"]["model"], r["settings"]["shots"]): (
                r["value"],
                r["details"]["correct"],
            )
            for r in json.loads(out)["records"]
        }

    together = values("-m", "random_r18", "-m", "random_r50", "--shots", "1,5")
    swapped = values("-m", "random_r50", "-m", "random_r18", "--shots", "5,1")
    alone = values("-m", "random_r50", "--shots", "5")
    assert together == swapped
    assert alone[("random_r50", 5)] == together[("random_r50", 5)]


@pytest.mark.usefixtures("tiny_models")
def test_json_is_one_document_with_interval_and_provenance(capsys, scans):
    code, out, err = few_shot(capsys, scans, "-m", "random_r18", "--json")
    assert code == 0, err
    document = json.loads(out)
    record = document["records"][0]
    assert record["ci_low"] <= record["value"] <= record["ci_high"]
    assert record["unit"] == "%"
    assert len(record["details"]["correct"]) == 40
    assert record["provenance"]["protocol"] == "corrected"
    assert record["provenance"]["weights"]
    assert record["provenance"]["manifest"]


@pytest.mark.usefixtures("tiny_models")
def test_the_protocols_are_different_experiments(capsys, scans, tmp_path):
    for protocol in ("published", "corrected"):
        words = ("-m", "random_r18", "--protocol", protocol)
        assert few_shot(capsys, scans, *words)[0] == 0
    records = read_records(tmp_path / "results.jsonl").records
    published, corrected = records[0], records[2]
    assert json.loads(published.provenance.preprocessing)["resize"] == [257, 257]
    assert json.loads(published.provenance.preprocessing)["crop"] == 224
    assert json.loads(corrected.provenance.preprocessing)["resize"] == 32
    assert published.details["plan"] != corrected.details["plan"]
    assert published.key != corrected.key
    assert published.settings["ways"] == corrected.settings["ways"] == 2


@pytest.mark.usefixtures("tiny_models")
def test_a_phantom_is_marked(capsys, tmp_path):
    code, out, err = call(
        capsys, "few-shot", "-m", "random_r18", "-d", "phantom:chest-xray,count=24,size=80",
        "--shots", 2, "--queries", 3, "--episodes", 10,
    )  # fmt: skip
    assert code == 0, err
    assert "(phantom)" in out
    (record,) = read_records(tmp_path / "results.jsonl")
    assert record.details["synthetic"] is True
    assert any("synthetic phantom" in note for note in record.notes)


@pytest.mark.usefixtures("tiny_models")
def test_shots_that_a_class_cannot_carry_leave_the_others_alone(capsys, scans, tmp_path):
    words = ("few-shot", "-m", "random_r18", "-d", f"folder:{scans}", "--shots", "1,3,20",
             "--episodes", "20")  # fmt: skip
    code, out, err = call(capsys, *words)
    assert code == 0, err
    records = read_records(tmp_path / "results.jsonl").records
    assert [record.settings["shots"] for record in records] == [1, 3]
    reason = "20 shots left out: class 'normal' has 24 images"
    assert all(any(reason in note for note in record.notes) for record in records)
    assert err.count(reason) == 1
    assert "20-shot" not in out
    again = call(capsys, *words)
    assert again[0] == 0
    assert reason in again[2]
    assert len(read_records(tmp_path / "results.jsonl")) == 2


@pytest.mark.usefixtures("tiny_models")
def test_a_small_class_is_refused_before_any_image_is_read(capsys, scans, home):
    code, out, err = call(capsys, "few-shot", "-m", "random_r18", "-d", f"folder:{scans}")
    assert (code, out) == (3, "")
    assert err == (
        "error: class 'normal' has 24 images, class 'opacity' has 20 images; 20 shots + 15 queries "
        "need 35: use 5 shots or fewer with 15 queries\n"
    )
    assert not (home / "features").exists()


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("words", "code", "fragment"),
    [
        (("-m", "random_r19"), 2, "random_r18"),
        (("-m", "random_r18", "-m", "random_x"), 2, "random_x"),
        (("-m", "moco-v2"), 4, "medssl-models import moco-v2"),
        (("-m", "random_r18", "-d", "folder:nowhere"), 4, "nowhere"),
        (("-m", "random_r18", "-d", "folders:x"), 2, "folders:"),
        (("-m", "random_r18", "--shots", "1,x"), 2, "--shots is 'x'"),
        (("-m", "random_r18", "--ways", "one"), 2, "--ways is 'one'"),
        (("-m", "random_r18", "--ways", "3"), 2, "ways is 3, but the data has 2 classes"),
    ],
)
def test_wrong_names_and_settings_are_refused_before_any_work(
    capsys, scans, tmp_path, words, code, fragment
):
    got, out, err = few_shot(capsys, scans, *words)
    assert got == code, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert fragment in err
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.usefixtures("tiny_models")
def test_an_unreadable_image_is_named_and_can_be_skipped(capsys, scans, tmp_path):
    (scans / "normal" / "03.png").write_bytes(b"\x89PNG broken")
    code, _, err = few_shot(capsys, scans, "-m", "random_r18")
    assert code == 3
    assert "03.png" in err
    assert not (tmp_path / "results.jsonl").exists()
    code, _, err = few_shot(capsys, scans, "-m", "random_r18", "--skip-unreadable")
    assert code == 0, err
    assert "03.png" in err
    record = read_records(tmp_path / "results.jsonl")[0]
    assert record.details["unreadable"] == 1
    assert record.details["images"] == 43
    assert "1 unreadable image was skipped" in record.notes


@pytest.mark.usefixtures("tiny_models")
def test_knn_asks_every_image_once_or_the_test_part(capsys, scans, parted, tmp_path):
    code, out, err = call(
        capsys, "knn", "-m", "random_r18", "-d", f"folder:{scans}", "-k", 3, "--folds", 4
    )
    assert code == 0, err
    assert "k = 3, folds" in out
    records = read_records(tmp_path / "results.jsonl").records
    assert len(records) == 6
    assert {record.n for record in records} == {44}
    assert np.bincount(records[0].details["folds"]).tolist() == [11] * 4
    words = ("-m", "random_r18", "-d", f"table:{parted}", "--split", "official")
    code, out, err = call(capsys, "knn", *words, "--weighting", "equal", "--json")
    assert code == 0, err
    record = json.loads(out)["records"][0]
    assert (record["n"], record["details"]["reference_images"]) == (12, 32)


@pytest.mark.usefixtures("tiny_models")
def test_extract_computes_once_and_experiments_find_it(capsys, scans):
    words = ("extract", "-m", "random_r18", "-d", f"folder:{scans}", "--json")
    _, out, _ = call(capsys, *words)
    (first,) = json.loads(out)["features"]
    assert (first["images"], first["dimension"], first["computed"]) == (44, 32, 44)
    _, out, _ = call(capsys, *words)
    assert json.loads(out)["features"][0]["computed"] == 0
    assert json.loads(out)["features"][0]["key"] == first["key"]


@pytest.mark.usefixtures("tiny_models")
def test_demo_writes_pictures_and_says_where(capsys, tmp_path, monkeypatch):
    import importlib

    demo = importlib.import_module("medssl_eval.demo")
    monkeypatch.setattr(demo, "DATASET", "phantom:chest-xray,count=160,size=80")
    code, out, err = call(capsys, "demo", "--output", "shown")
    assert code == 0, err
    for name in ("few-shot.png", "contact-sheet.png", "results.jsonl"):
        assert str(tmp_path / "shown" / name) in out or f"shown/{name}" in out
        assert (tmp_path / "shown" / name).stat().st_size > 1000
    assert len(read_records(tmp_path / "shown" / "results.jsonl")) == 9


def test_protocol_diff_names_every_defect_with_its_reason(capsys):
    code, out, _ = call(capsys, "protocol", "diff", "few-shot")
    assert code == 0
    for word in ("geometry", "I-14", "pool", "I-13", "duplicate_images", "I-16", "patients", "I-8"):
        assert word in out
    for entry, why in find_experiment("few-shot").alike.items():
        assert f"no difference: {entry}: {why}" in out
    code, out, _ = call(capsys, "protocol", "diff", "few-shot", "--json")
    document = json.loads(out)
    fields = {entry["field"] for entry in document["differences"]}
    assert {"geometry", "normalisation", "episode_list", "ways", "padding"} <= fields
    alike = {entry["entry"] for entry in document["alike"]}
    assert alike == {"I-12", "I-18", "I-48"}
    assert alike.isdisjoint(number for one in document["differences"] for number in one["entries"])


@pytest.mark.parametrize("experiment", installed_experiments(), ids=lambda one: one.name)
def test_what_protocol_diff_does_not_print_does_not_differ(capsys, experiment):
    code, out, _ = call(capsys, "protocol", "diff", experiment.name, "--json")
    assert code == 0
    document = json.loads(out)
    printed = {entry["field"] for entry in document["differences"]}
    both = (experiment.settings_for("published"), experiment.settings_for("corrected"))
    published, corrected = (settings.model_dump(exclude={"protocol"}) for settings in both)
    assert printed == {name for name in published if published[name] != corrected[name]}


def test_protocol_show_and_unknown_experiments(capsys):
    code, out, _ = call(capsys, "protocol", "show", "knn", "--protocol", "published", "--json")
    assert code == 0
    shown = {entry["setting"]: entry["value"] for entry in json.loads(out)["settings"]}
    assert (shown["folds"], shown["patients"]) == (5, "ignored")
    options = {entry["setting"]: entry["option"] for entry in json.loads(out)["settings"]}
    assert (options["neighbours"], options["labels"]) == ("--neighbours", "--label-protocol")
    code, _, err = call(capsys, "protocol", "diff", "fewshot")
    assert code == 2
    assert "did you mean few-shot" in err


def test_help_and_protocol_load_no_torch():
    code = (
        "import sys\n"
        "from medssl_models.console import run\n"
        "from medssl_eval.cli import app\n"
        "run(app, ['few-shot', '--help']); run(app, ['protocol', 'diff', 'few-shot'])\n"
        "sys.exit(bool({'torch', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def parted(scans, tmp_path):
    """A table of the scans with splits: of each class 12 train, 4 validate, the rest test."""
    lines = ["path,label,split"]
    for name in ("normal", "opacity"):
        for number, file in enumerate(sorted((scans / name).iterdir())):
            split = "train" if number < 12 else "val" if number < 16 else "test"
            lines.append(f"scans/{name}/{file.name},{name},{split}")
    path = tmp_path / "parted.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def linear(capsys, source, *words):
    return call(capsys, "linear", "-d", source, "--C", "10,0.1,0.001", *words)


@pytest.mark.usefixtures("tiny_models")
def test_linear_gives_one_line_a_run_and_a_record_a_metric(capsys, parted, tmp_path):
    words = ("-m", "random_r18", "-m", "random_r50", "--fractions", "0.5,1")
    code, out, err = linear(capsys, f"table:{parted}", *words)
    assert code == 0, err
    lines = [line for line in out.splitlines() if "(control)" in line]
    assert len(lines) == 4
    assert sum("linear, 50 %" in line for line in lines) == 2
    assert "accuracy, %" in out
    assert "AUROC" in out
    records = read_records(tmp_path / "results.jsonl").records
    assert len(records) == 24
    assert all((tmp_path / r.details["predictions"]["file"]).exists() for r in records)
    questions = {record.details["predictions"]["questions"] for record in records}
    assert len(questions) == 1
    code, _, err = linear(capsys, f"table:{parted}", *words)
    assert code == 0
    assert err.count("done before") == 2
    assert len(read_records(tmp_path / "results.jsonl")) == 24


@pytest.mark.usefixtures("tiny_models")
def test_linear_json_is_one_document(capsys, parted):
    code, out, err = linear(capsys, f"table:{parted}", "-m", "random_r18", "--json", "--ordered")
    assert code == 0, err
    records = json.loads(out)["records"]
    assert {record["metric"] for record in records} >= {"auroc", "quadratic_kappa"}
    assert set(np.ravel(records[0]["details"]["strength"])) <= {10, 0.1, 0.001}


@pytest.mark.usefixtures("tiny_models")
def test_a_small_test_part_is_asked_where_somebody_says_so(capsys, parted, tmp_path):
    for words, images, given in (
        ((), 44, "over training patients by 30 refits"),
        (("--evaluation", "test_part"), 12, "given one fit"),
        (("--split", "patient"), 9, "given one fit"),
        (("--evaluation", "test_part", "--refits", "10"), 12, "by 10 refits"),
    ):
        code, out, err = linear(capsys, f"table:{parted}", "-m", "random_r18", *words)
        assert code == 0, err
        (line,) = (line for line in out.splitlines() if "(control)" in line)
        assert line.split()[-1] == str(images)
        assert ("folds" in line) == (images == 44)
        meaning = f"95 % intervals of linear: over {images} test images"
        assert any(meaning in text and given in text for text in out.splitlines())
    found = read_records(tmp_path / "results.jsonl").records
    assert {one.settings["evaluation"] for one in found} == {"nested_folds", "test_part"}
    assert len({one.key for one in found}) == len(found) == 24


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("words", "code", "fragment"),
    [
        (("--fractions", "0.5,x"), 2, "--fractions is 'x'"),
        (("--fractions", "2"), 2, "fractions"),
        (("--C", "-1"), 2, "--C is '-1'"),
        (("--select", "auroq"), 2, "auroc"),
        (("--split", "nowhere.csv"), 3, "nowhere.csv"),
        (("--labels", "u-ones"), 2, "label policies"),
    ],
)
def test_linear_refuses_wrong_settings_in_one_line(capsys, parted, words, code, fragment):
    got, out, err = call(capsys, "linear", "-m", "random_r18", "-d", f"table:{parted}", *words)
    assert (got, out) == (code, ""), err
    assert err.count("\n") == 1
    assert fragment in err


@pytest.mark.usefixtures("tiny_models")
def test_linear_needs_parts_with_both_classes(capsys, parted, scans, home):
    text = parted.read_text()
    parted.write_text(text.replace("opacity,test", "opacity,val"))
    words = ("-m", "random_r18", "--evaluation", "test_part")
    code, _, err = linear(capsys, f"table:{parted}", *words)
    assert code == 3
    assert "the test part holds only class 'normal'" in err
    parted.write_text(text.replace(",test", ","))
    words = ("-m", "random_r18", "--evaluation", "test_part")
    code, _, err = linear(capsys, f"table:{parted}", *words)
    assert code == 3
    assert "no test images (splits: train, val)" in err
    assert not (home / "features").exists()
