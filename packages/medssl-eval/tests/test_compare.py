"""Records in pairs and over data sets: what is paired, what is refused, and the command."""

import json

import numpy as np
import pytest
from medssl_eval.cli import app
from medssl_eval.compare.cells import Choice, gather_cells, select_records
from medssl_eval.compare.comparison import Comparer, rank_cells
from medssl_eval.errors import PredictionsError, UnknownNameError
from medssl_eval.experiments.influences import Influences
from medssl_eval.experiments.predictions import Predictions, predictions_folder
from medssl_eval.statistics.joint_tests import needed_units
from medssl_eval.statistics.paired_tests import compare_episodes, compare_predictions
from medssl_models import append_records
from medssl_models.console import run
from medssl_models.experiments.record import Provenance, Record
from PIL import Image
from scipy import stats
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
    found = pair.difference
    assert (found.units, pair.over, pair.family) == (30, "patients", 1)
    for name in ("first", "second", "difference", "low", "high", "standard_error", "p_delong"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))
    # The coins are tossed in the order of the patients' names, which the two write otherwise.
    assert found.p_permutation == pytest.approx(expected.p_permutation, abs=0.03)
    assert pair.p_adjusted == found.p_permutation


def test_differences_are_in_the_unit_of_the_records(results):
    records = [
        linear(results, name, answers(seed, skill), metric="accuracy")
        for name, seed, skill in (("a", 0, 2.0), ("bb", 1, 0.2))
    ]
    (pair,) = Comparer(results, resamples=200).compare(gather_cells(records)[0])
    assert pair.difference.difference == pytest.approx(records[0].value - records[1].value)
    assert pair.difference.high > 1
    assert pair.difference.p_delong is None


def test_episodes_are_paired_by_their_plan(results):
    rng = np.random.default_rng(0)
    first, second = rng.integers(15, 31, 40).tolist(), rng.integers(10, 31, 40).tolist()
    comparer = Comparer(results, resamples=300)
    (cell,) = gather_cells([few_shot("a", first), few_shot("b", second)])
    (pair,) = comparer.compare(cell)
    shares = [100 * np.array(counts) / 30 for counts in (first, second)]
    expected = compare_episodes(*shares, resamples=300)
    assert pair.difference.p_permutation == expected.p_permutation
    assert (pair.difference.low, pair.difference.high) == pytest.approx(
        (expected.low, expected.high)
    )
    assert (pair.over, pair.needed) == ("episodes", None)
    (note,) = comparer.notes
    assert "p is too small for claims about images" in note
    (cell,) = gather_cells([few_shot("a", first), few_shot("b", second, plan="p2")])
    assert comparer.compare(cell) == []
    assert "other episodes" in comparer.notes[-1]


def moved(results, model, correct, *, seed):
    """A few-shot record whose value 40 patients move."""
    values = np.random.default_rng(seed).normal(0, 1.5, 40)
    values[:20] -= values[:20].mean()
    values[20:] -= values[20:].mean()
    episodes = (np.array(correct) - np.mean(correct)) / 100
    found = Influences(
        units=(
            *(f"patient {n}" for n in range(40)),
            *(f"episode {n}" for n in range(len(correct))),
        ),
        values=np.concatenate([values, episodes]),
        strata=np.repeat([0, 1, -1], [20, 20, len(correct)]),
        plan="p1",
    )
    plain = few_shot(model, correct)
    details = {"influences": found.save(predictions_folder(results)), "patients": 40}
    return plain.model_copy(update={"details": {**plain.details, **details}}), found


def test_influences_of_patients_are_tested_and_not_episodes(results):
    rng = np.random.default_rng(0)
    one, ours = moved(results, "a", rng.integers(24, 31, 300).tolist(), seed=1)
    other, theirs = moved(results, "b", rng.integers(22, 30, 300).tolist(), seed=2)
    comparer = Comparer(results, resamples=4000)
    (pair,) = comparer.compare(gather_cells([one, other])[0])
    gap = pair.difference
    assert comparer.notes == []
    assert (pair.over, gap.units) == ("patients", 40)
    error, reach = (ours - theirs).standard_error, stats.t.ppf(0.975, (ours - theirs).freedom)
    assert gap.standard_error == pytest.approx(error)
    assert gap.high - gap.low == pytest.approx(2 * reach * error)
    # What 300 episodes would call proven, 40 patients do not.
    (naive,) = Comparer(results).compare(
        gather_cells([few_shot(r.provenance.model, r.details["correct"]) for r in (one, other)])[0]
    )
    assert naive.difference.p_permutation < 0.001
    assert gap.p_permutation == pytest.approx(
        2 * stats.t.sf(abs(gap.difference) / error, 38), abs=0.02
    )
    assert gap.p_permutation > 0.05
    assert pair.needed == needed_units(gap.difference, error, 40) > 40


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


def name_of(pair):
    return pair.second.provenance.model


def test_p_values_are_corrected_over_the_pairs_of_a_cell(results):
    records = [linear(results, "x" * n, answers(n, 0.5 * n)) for n in range(1, 5)]
    comparer = Comparer(results, resamples=300)
    (cell,) = gather_cells(records)
    pairs = comparer.compare(cell)
    assert len(pairs) == 6
    assert {pair.family for pair in pairs} == {6}
    for pair in pairs:
        # No less than alone, and no more than Bonferroni allows for chance in the resamples.
        alone = pair.difference.p_permutation
        assert alone <= pair.p_adjusted <= min(1, 6 * alone) + 1e-9
    best = cell.records[0].provenance.model
    chosen = comparer.compare(cell, against="best")
    assert len(chosen) == 3
    assert {pair.first.provenance.model for pair in chosen} == {best}
    # The best was chosen on the same images: its three pairs count as all six.
    adjusted = {name_of(pair): pair.p_adjusted for pair in pairs if pair.first is cell.records[0]}
    assert {name_of(pair): pair.p_adjusted for pair in chosen} == adjusted
    assert {pair.family for pair in chosen} == {6}
    # A model that was named beforehand has three only.
    named = comparer.compare(cell, against=best)
    assert {pair.family for pair in named} == {3}
    assert all(pair.p_adjusted <= adjusted[name_of(pair)] for pair in named)


def test_a_metric_that_cannot_do_without_a_patient_is_noted(results):
    lone = np.zeros(60, np.int64)
    lone[7] = 1
    records = []
    for name in ("a", "bb"):
        found = Predictions(
            ids=tuple(map(str, range(60))), groups=("",) * 60, classes=("no", "yes"),
            labels=lone, probabilities=np.full((60, 2), 0.5),
        )  # fmt: skip
        kept = found.save(predictions_folder(results))
        records.append(record(name, 0.5, details={"predictions": kept}))
    comparer = Comparer(results)
    assert comparer.compare(gather_cells(records)[0]) == []
    assert "some class stands on a single patient" in comparer.notes[0]


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
            ("four", 2, {"a": 25, "b": 20, "c": 4}),
            ("five", 2, {"a": 25, "b": 26, "c": 4}),
            ("six", 2, {"a": 25, "b": 20, "c": 4}),
        )
        for model, score in scores.items()
    ]
    (found,) = rank_cells(gather_cells(records))
    assert found.datasets == ("one", "two", "three", "four", "five", "six")
    assert found.ranking.models == ("a", "b", "c")
    np.testing.assert_allclose(found.ranking.mean_ranks, [4 / 3, 5 / 3, 3])
    assert found.left_out == ("d",)
    notes = []
    assert rank_cells(gather_cells([records[0], few_shot("z", [1], dataset="two")]), notes) == []
    assert "at least 5 data sets and 2 models" in notes[0]


def call(capsys, *words):
    code = run(app, [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def filled(results):
    records = [
        linear(results, "x" * n, answers(10 * place + n, 0.5 * n), dataset=dataset)
        for place, dataset in enumerate(("one", "two", "three", "four", "five"))
        for n in range(1, 5)
    ]
    append_records(results, records)
    return results


def test_the_command_shows_pairs_ranks_and_a_picture(capsys, filled, tmp_path):
    words = ("compare", "--results", filled, "--resamples", 200)
    code, out, err = call(capsys, *words, "--plot", tmp_path / "ranks.png")
    assert code == 0, err
    assert "p (all pairs)" in out
    assert "Friedman p" in out
    assert "not told apart from" in out
    with Image.open(tmp_path / "ranks.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("L").getcolors()) > 20
    code, out, _ = call(capsys, *words, "--json", "--against", "xxxx")
    document = json.loads(out)
    assert len(document["pairs"]) == 15
    assert all("xxxx" in pair["models"] for pair in document["pairs"])
    assert document["pairs"][0]["adjustment"] == "step-down max-T by permutation over 3 pairs"
    (ranking,) = document["rankings"]
    assert len(ranking["ranks"]) == 5
    few = [word for name in ("one", "two", "three", "four") for word in ("-d", name)]
    document = json.loads(call(capsys, *words, "--json", *few)[1])
    assert document["rankings"] == []
    assert "at least 5 data sets" in " ".join(document["notes"])


def test_models_that_are_level_are_called_equal(capsys, results):
    same = answers(0, 1.0)
    append_records(results, [linear(results, name, same) for name in ("a", "bb")])
    code, out, err = call(capsys, "compare", "--results", results, "--resamples", 100)
    assert code == 0, err
    assert "equal" in out
    assert "better +0" not in out


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


def test_an_interval_that_contradicts_its_test_is_told(results, capsys):
    """Five images that only one model gets right: no exchange of five is rarer than 1 in 32."""
    good = np.where(LABELS == 1, 0.9, 0.1)
    poor = np.where((np.arange(60) % 2 == 0) & (np.arange(60) < 10), 0.9, good)
    scores = {"a": good, "b": poor}
    append_records(results, [linear(results, m, p, metric="accuracy") for m, p in scores.items()])
    assert run(app, ["compare", "--results", str(results), "--metric", "accuracy", "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["ci_low"] > 0
    assert pair["p"]["permutation"] > 0.05
    assert pair["at_odds"]
    assert run(app, ["compare", "--results", str(results), "--metric", "accuracy"]) == 0
    assert "different answers for 1 of 1 pairs, such as a and b" in capsys.readouterr().out
