"""Records in pairs and over data sets: what is paired, what is refused, and the command."""

import json

import numpy as np
import pytest
from medssl_eval.cli import app
from medssl_eval.compare.cells import Choice, gather_cells, select_records
from medssl_eval.compare.comparison import Comparer, rank_cells
from medssl_eval.errors import PredictionsError, UnknownNameError
from medssl_eval.experiments.predictions import Predictions, predictions_folder
from medssl_eval.statistics.paired_tests import compare_episodes, compare_predictions
from medssl_models import append_records
from medssl_models.console import run
from medssl_models.experiments.record import Provenance, Record
from PIL import Image
from sklearn.metrics import roc_auc_score

LABELS = np.arange(60) % 2
PATIENTS = tuple(f"p{row // 2}" for row in range(60))


def answers(seed, skill):
    noise = np.random.default_rng(seed).standard_normal(60)
    return 1 / (1 + np.exp(-(skill * (LABELS - 0.5) + noise)))


def record(model, value, *, dataset="scans", **changes):
    fields = {
        "experiment": "linear",
        "metric": "auroc",
        "value": value,
        "provenance": Provenance(model=model, dataset=dataset),
    }
    return Record(**(fields | changes))


def linear(results, model, scores, *, dataset="scans", ids=None, metric="auroc"):
    """A record with predictions, in an order of its own."""
    rows = np.random.default_rng(len(model)).permutation(60)
    ids = ids or [f"{row}.png" for row in range(60)]
    found = Predictions(
        ids=tuple(ids[row] for row in rows),
        groups=tuple(PATIENTS[row] for row in rows),
        classes=("no", "yes"),
        labels=LABELS[rows],
        probabilities=np.stack([1 - scores, scores], axis=1)[rows],
    )
    value = roc_auc_score(LABELS, scores)
    if metric == "accuracy":
        value = 100 * float(((scores > 0.5) == LABELS).mean())
    kept = found.save(predictions_folder(results))
    unit = "%" if metric == "accuracy" else ""
    return record(
        model, value, dataset=dataset, metric=metric, unit=unit, details={"predictions": kept}
    )


def few_shot(model, correct, *, plan="p1", dataset="scans", shots=5, ways=2):
    return record(
        model,
        100 * float(np.mean(correct)) / 30,
        dataset=dataset,
        experiment="few-shot",
        metric="accuracy",
        unit="%",
        settings={"ways": ways, "shots": shots},
        details={"correct": list(correct), "questions": 30, "plan": plan},
    )


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results.jsonl"


def test_predictions_are_paired_image_by_image_and_by_patient(results):
    strong, weak = answers(0, 2.0), answers(1, 0.4)
    records = [linear(results, "weak-one", weak), linear(results, "strong", strong)]
    (cell,) = gather_cells(records)
    (pair,) = Comparer(results, resamples=500).compare(cell)
    assert (pair.first.provenance.model, pair.second.provenance.model) == ("strong", "weak-one")
    same_rows = np.random.default_rng(len("strong")).permutation(60)
    expected = compare_predictions(
        LABELS[same_rows],
        strong[same_rows],
        weak[same_rows],
        "auroc",
        clusters=[PATIENTS[row] for row in same_rows],
        resamples=500,
    )
    assert pair.difference == expected
    assert pair.difference.units == 30
    assert pair.adjusted == {
        "bootstrap": expected.p_bootstrap,
        "permutation": expected.p_permutation,
        "delong": expected.p_delong,
    }


def test_differences_are_in_the_unit_of_the_records(results):
    records = [
        linear(results, name, answers(seed, skill), metric="accuracy")
        for name, seed, skill in (("a", 0, 2.0), ("bb", 1, 0.2))
    ]
    (pair,) = Comparer(results, resamples=200).compare(gather_cells(records)[0])
    assert pair.difference.difference == pytest.approx(records[0].value - records[1].value)
    assert pair.difference.high > 1
    assert "delong" not in pair.adjusted


def test_episodes_are_paired_by_their_plan(results):
    rng = np.random.default_rng(0)
    first, second = rng.integers(15, 31, 40).tolist(), rng.integers(10, 31, 40).tolist()
    comparer = Comparer(results, resamples=300)
    (cell,) = gather_cells([few_shot("a", first), few_shot("b", second)])
    (pair,) = comparer.compare(cell)
    shares = [100 * np.array(counts) / 30 for counts in (first, second)]
    assert pair.difference == compare_episodes(*shares, resamples=300)
    assert comparer.notes == []
    (cell,) = gather_cells([few_shot("a", first), few_shot("b", second, plan="p2")])
    assert comparer.compare(cell) == []
    assert "other episodes" in comparer.notes[0]


def test_what_cannot_be_paired_is_said(results):
    other = [f"{row}.jpg" for row in range(60)]
    records = [
        linear(results, "a", answers(0, 1.0)),
        linear(results, "bb", answers(1, 1.0), ids=other),
        record("without", 0.5),
    ]
    comparer = Comparer(results)
    assert comparer.compare(gather_cells(records)[0]) == []
    text = " ".join(comparer.notes)
    assert "a and bb cannot be compared in pairs: they were tested on other images" in text
    assert "holds no single answers" in text


def test_lost_predictions_are_an_error_that_says_what_to_do(results):
    records = [linear(results, name, answers(len(name), 1.0)) for name in ("a", "bb")]
    for path in predictions_folder(results).iterdir():
        path.unlink()
    with pytest.raises(PredictionsError, match="repeat the experiment with force"):
        Comparer(results).compare(gather_cells(records)[0])


def test_p_values_are_corrected_over_the_pairs_of_a_cell(results):
    records = [linear(results, "x" * n, answers(n, 0.5 * n)) for n in range(1, 5)]
    comparer = Comparer(results, resamples=300)
    pairs = comparer.compare(gather_cells(records)[0])
    assert len(pairs) == 6
    smallest = min(pairs, key=lambda pair: pair.difference.p_permutation)
    least = smallest.difference.p_permutation
    assert smallest.adjusted["permutation"] == pytest.approx(min(1, 6 * least))
    for pair in pairs:
        assert pair.adjusted["permutation"] >= pair.difference.p_permutation
    against = comparer.compare(gather_cells(records)[0], against="best")
    assert len(against) == 3
    best = max(records, key=lambda r: r.value).provenance.model
    assert {pair.first.provenance.model for pair in against} == {best}


def test_too_few_resamples_for_so_many_pairs_are_noted(results):
    records = [few_shot(f"m{n}", [20 + n, 19, 21]) for n in range(8)]
    comparer = Comparer(results, resamples=100)
    assert len(comparer.compare(gather_cells(records)[0])) == 28
    assert "--resamples 560" in comparer.notes[0]


def test_records_of_other_settings_protocols_or_images_never_meet():
    origin = Provenance(model="b", dataset="scans")
    base = record("a", 0.7)
    others = [
        record("b", 0.6, settings={"fraction": 0.1}),
        record("b", 0.6, provenance=origin.model_copy(update={"protocol": "published"})),
        record("b", 0.6, provenance=origin.model_copy(update={"manifest": "m2"})),
        record("b", 0.6, provenance=origin.model_copy(update={"seed": 1})),
        record("b", 0.6, metric="brier"),
        record("b", 0.6, dataset="other"),
    ]
    assert all(len(cell.records) == 1 for cell in gather_cells([base, *others]))
    assert len(gather_cells([base, record("b", 0.6)])[0].records) == 2


def test_the_best_comes_first_in_the_direction_of_the_metric():
    errors = [record("high", 0.4, metric="brier"), record("low", 0.1, metric="brier")]
    assert [r.provenance.model for r in gather_cells(errors)[0].records] == ["low", "high"]


def test_choosing_takes_the_newest_and_refuses_unknown_names():
    old, new = record("a", 0.5), record("a", 0.6)
    assert select_records([old, new], Choice()) == [new]
    assert select_records([old, record("b", 0.1)], Choice(models=("b",)))[0].value == 0.1
    with pytest.raises(UnknownNameError, match="did you mean moco-v2"):
        select_records([record("moco-v2", 0.5)], Choice(models=("moco_v2",)))
    with pytest.raises(UnknownNameError, match="no record of data set 'nowhere'"):
        select_records([old], Choice(datasets=("nowhere",)))


def test_ranks_over_data_sets_leave_out_who_is_not_everywhere():
    records = [
        few_shot(model, [score], dataset=dataset, ways=ways)
        for dataset, ways, scores in (
            ("one", 2, {"a": 29, "b": 20, "c": 10}),
            ("two", 4, {"a": 28, "b": 15, "c": 9, "d": 30}),
            ("three", 2, {"a": 25, "b": 26, "c": 4}),
        )
        for model, score in scores.items()
    ]
    (found,) = rank_cells(gather_cells(records))
    assert found.datasets == ("one", "two", "three")
    assert found.ranking.models == ("a", "b", "c")
    np.testing.assert_allclose(found.ranking.mean_ranks, [4 / 3, 5 / 3, 3])
    assert found.left_out == ("d",)
    notes = []
    assert rank_cells(gather_cells([records[0], few_shot("z", [1], dataset="two")]), notes) == []
    assert "at least 2 data sets and 2 models" in notes[0]


def call(capsys, *words):
    code = run(app, [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def filled(results):
    records = [
        linear(results, "x" * n, answers(10 * place + n, 0.5 * n), dataset=dataset)
        for place, dataset in enumerate(("one", "two", "three"))
        for n in range(1, 5)
    ]
    append_records(results, records)
    return results


def test_the_command_shows_pairs_ranks_and_a_picture(capsys, filled, tmp_path):
    words = ("compare", "--results", filled, "--resamples", 200)
    code, out, err = call(capsys, *words, "--plot", tmp_path / "ranks.png")
    assert code == 0, err
    assert "p (Holm)" in out
    assert "Friedman p" in out
    assert "not told apart from" in out
    with Image.open(tmp_path / "ranks.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("L").getcolors()) > 20
    code, out, _ = call(capsys, *words, "--json", "--against", "xxxx", "-d", "one", "-d", "two")
    document = json.loads(out)
    assert len(document["pairs"]) == 6
    assert all("xxxx" in pair["models"] for pair in document["pairs"])
    (ranking,) = document["rankings"]
    assert len(ranking["ranks"]) == 2


@pytest.mark.parametrize(
    ("words", "code", "fragment"),
    [
        (("nobody",), 2, "no record of model 'nobody'"),
        (("--against", "nobody"), 2, "--against is 'nobody'"),
        (("x",), 3, "no records of x that can be compared"),
        (("--published",), 3, "no record measures what the study released"),
        (("-d", "one", "--plot", "ranks.png"), 3, "nothing to draw"),
        (("--results", "absent.jsonl"), 3, "absent.jsonl is not there"),
        (("--metric", "brier"), 2, "no record of metric 'brier'"),
        (("--resamples", "3"), 2, "resamples"),
    ],
)
def test_the_command_refuses_in_one_line(capsys, filled, words, code, fragment):
    given = () if "--results" in words else ("--results", filled)
    got, out, err = call(capsys, "compare", *given, *words)
    assert got == code, err
    assert out == ""
    assert fragment in err
    assert err.splitlines()[-1].startswith("error: ")


def test_the_study_stands_beside_your_records(capsys, results):
    study = record(
        "moco-v2", 82.0, dataset="bach", experiment="few-shot", metric="accuracy", unit="%",
        ci_low=81.0, ci_high=83.0, settings={"ways": 2, "shots": 20, "queries": 15},
    )  # fmt: skip
    append_records(results, [study, record("a", 0.5)])
    words = ("compare", "--published", "--results", results)
    code, out, err = call(capsys, *words)
    assert code == 0, err
    assert "agrees" in out
    assert "F3: " in out
    assert "protocol diff" in err
    code, out, _ = call(capsys, *words, "--json")
    (cell,) = json.loads(out)["cells"]
    assert cell["published"]["value"] == 82.53
    assert cell["difference"] == pytest.approx(-0.53)


def test_a_torn_line_is_warned_of_and_the_rest_is_compared(capsys, filled):
    with filled.open("ab") as file:
        file.write(b'{"experiment": "lin')
    code, _, err = call(capsys, "compare", "--results", filled, "--resamples", 100)
    assert code == 0
    assert "warning: " in err
    assert "cut off" in err
