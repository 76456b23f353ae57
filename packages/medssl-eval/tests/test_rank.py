"""The ranking: nested subsets, what the budget drops, the words, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_data import load_dataset
from medssl_eval.cli import app
from medssl_eval.errors import InfeasibleError
from medssl_eval.experiments.subsets import nested_order
from medssl_eval.rank import cost
from medssl_eval.rank.cost import Cost, measure_cost
from medssl_eval.rank.quick_experiments import probes_for
from medssl_eval.rank.ranking import Contest
from medssl_eval.rank.verdict import caveats_of, judge
from medssl_models import ExtractionSettings, read_records
from medssl_models.console import run
from medssl_models.experiments.record import Provenance, Record
from PIL import Image

CONTROLS = ("random_r18", "random_r50", "random_d121")


@examples(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=2, max_size=4),
    floor=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_every_beginning_is_a_small_copy(sizes, floor, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    splits = np.where(np.arange(len(labels)) % 4 == 0, "test", "train")
    order = nested_order(labels, splits, floor=floor, seed=seed)
    assert sorted(order) == list(range(len(labels)))
    begun = min(*sizes, floor) * len(sizes)
    assert np.bincount(labels[order[:begun]]).tolist() == [min(*sizes, floor)] * len(sizes)
    half = order[: len(order) // 2]
    for label in np.flatnonzero(np.array(sizes) > 60):
        rows = half[labels[half] == label]
        if len(rows) > 20:
            assert 0.1 < np.mean(splits[rows] == "test") < 0.4


class Clock:
    """Time that passes only where work is done."""

    now = 0.0

    def __call__(self):
        return self.now


def contest(monkeypatch, skills, *, budget, seconds_an_image=0.01, images=1600, results=None):
    """A contest whose models are right as often as their skill says, in known time."""
    clock = Clock()
    data = load_dataset(f"phantom:chest-xray,count={images},size=80")
    monkeypatch.setattr("medssl_models.experiments.models.check_models", lambda _: None)
    monkeypatch.setattr("medssl_models.model_card", lambda _: type("Card", (), {"control": False}))
    asked = []

    def measure(self, name, data, evaluations, means):
        self._costs[name] = Cost(10.0 * skills[name], 10**6, 4.0, "cpu")
        clock.now += seconds_an_image * len(data)
        asked.append((name, len(data)))
        rng = np.random.default_rng(len(name))
        correct = rng.binomial(30, skills[name], 200).tolist()
        record = Record(
            experiment="few-shot",
            metric="accuracy",
            unit="%",
            value=(value := 100 * np.mean(correct) / 30),
            ci_low=value - 0.5,
            ci_high=value + 0.5,
            n=200,
            details={"correct": correct, "questions": 30, "plan": "p"},
            provenance=Provenance(model=name, dataset="d", manifest=str(len(data))),
        )
        return [record], {"few-shot": record}

    monkeypatch.setattr(Contest, "_measure", measure)
    made = Contest(data=data, models=list(skills), budget=budget, clock=clock, results=results)
    return made, asked


SKILLS = {"aa": 0.9, "bbb": 0.89, "cccc": 0.7, "ddddd": 0.6, "eeeeee": 0.5}


def test_with_time_enough_all_models_see_all_images(monkeypatch):
    made, asked = contest(monkeypatch, SKILLS, budget=1000.0)
    outcome = made.run()
    assert [size for _, size in asked] == [96] * 5 + [1600] * 5
    assert [standing.model for standing in outcome.standings] == list(SKILLS)
    assert all(not standing.dropped for standing in outcome.standings)
    assert asked[5][0] == "aa"  # those that lead go first


def test_what_is_clearly_worse_is_dropped_where_time_is_short(monkeypatch):
    made, asked = contest(monkeypatch, SKILLS, budget=60.0)
    outcome = made.run()
    assert {name for name, size in asked if size == 1600} == {"aa", "bbb"}
    assert outcome.seconds <= 60
    dropped = {s.model: s.dropped for s in outcome.standings if s.dropped}
    assert set(dropped) == {"cccc", "ddddd", "eeeeee"}
    assert set(dropped.values()) == {"clearly worse on 96 images"}
    verdict = judge(outcome)
    assert any(
        caveat.startswith("skipped cccc, ddddd, eeeeee: clearly") for caveat in verdict.caveats
    )


def test_what_is_not_told_apart_is_halved_and_a_part_of_the_images_must_do(monkeypatch, tmp_path):
    alike = dict.fromkeys(("a", "bb", "ccc", "dddd", "eeeee", "ffffff"), 0.7)
    results = tmp_path / "results.jsonl"
    made, asked = contest(monkeypatch, alike, budget=18.0, results=results)
    outcome = made.run()
    assert outcome.seconds <= 18
    assert 96 < outcome.images < 1600
    assert any("lower half" in s.dropped for s in outcome.standings)
    assert len({name for name, size in asked if size == outcome.images}) >= 2
    notes = " ".join(note for record in read_records(results) for note in record.notes)
    assert f"measured on {outcome.images} of 1600 images" in notes
    assert any("a larger --budget" in caveat for caveat in judge(outcome).caveats)


def test_the_leaders_are_compared_again_until_the_rival_was_beaten_twice(monkeypatch):
    made, asked = contest(monkeypatch, {"aa": 0.9, "bbb": 0.7}, budget=30.0)
    outcome = made.run()
    assert asked == [("aa", 96), ("bbb", 96), ("aa", 384), ("bbb", 384)]
    assert outcome.standings[1].dropped == "clearly worse on 384 images"
    assert (
        judge(outcome)
        .sentences[0]
        .startswith("aa separates these classes best: mean rank 1.0 of 2")
    )


def test_the_verdict_claims_no_more_than_was_tested(monkeypatch):
    made, _ = contest(monkeypatch, {"aa": 0.9, "bbb": 0.7, "cccc": 0.88}, budget=None)
    outcome = made.run()
    first, left, worse = outcome.standings
    assert (left.model, worse.model) == ("cccc", "bbb")
    late = replace(left, images=96, dropped="no time left for 1600 images")
    apart = replace(outcome, standings=(first, worse, late))
    assert judge(apart).sentences[0].startswith("aa comes first among 3 models")
    alone = replace(outcome, standings=(replace(first, ranked=1), late), pairs=())
    assert "measured alone" in judge(alone).sentences[0]


def test_the_first_round_is_always_run(monkeypatch):
    made, asked = contest(monkeypatch, SKILLS, budget=0.1)
    outcome = made.run()
    assert [size for _, size in asked] == [96] * 5
    assert outcome.images == 96
    assert outcome.standings[0].model == "aa"


def test_the_verdict_names_the_cheaper_of_equals(monkeypatch):
    made, _ = contest(monkeypatch, {"aa": 0.9, "bbb": 0.896, "cccc": 0.5}, budget=None)
    outcome = made.run()
    text = " ".join(judge(outcome).sentences)
    assert judge(outcome).alike == ("bbb",)
    assert "clearly worse on the same images: cccc" in text
    assert "not told apart from it: bbb" in text
    assert any("order of aa and bbb" in caveat for caveat in judge(outcome).caveats)
    assert any("intervals overlap" in caveat for caveat in judge(outcome).caveats)


def test_caveats_name_what_limits_the_images(scans):
    found = " ".join(caveats_of(load_dataset(f"folder:{scans}")))
    assert "too few images: 'opacity' has 20" in found
    picture = next((scans / "normal").iterdir())
    (scans / "opacity" / "copy.png").write_bytes(picture.read_bytes())
    drawn = " ".join(caveats_of(load_dataset("phantom:chest-xray,count=60,size=80"), pixels=False))
    assert "synthetic phantom" in drawn


def test_leaks_between_splits_are_found(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for number in range(12):
        pixels = rng.integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 8 else 'test'}")
    (tmp_path / "11.png").write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / "t.csv").write_text("\n".join(rows))
    found = " ".join(caveats_of(load_dataset(f"table:{tmp_path / 't.csv'}")))
    assert "leakage between splits (1 identical" in found
    assert "patients are unknown for 12 of 12 images" in found


def test_probes_shrink_to_what_the_data_can_carry(scans):
    found, reasons = probes_for(load_dataset(f"folder:{scans}"))
    assert found[0].name == "few-shot"
    for label in ("normal", "opacity"):
        for path in sorted((scans / label).iterdir())[1:]:
            path.unlink()
    with pytest.raises(InfeasibleError, match="can carry no experiment"):
        probes_for(load_dataset(f"folder:{scans}"))
    assert isinstance(reasons, list)


def test_cost_counts_weights_and_time(tiny_model, monkeypatch):
    backbone = tiny_model("random_r18")
    found = measure_cost(backbone, ExtractionSettings(device="cpu"))
    assert found.parameters == sum(p.numel() for p in backbone.parameters())
    assert found.memory > 4 * found.parameters / 1e6
    assert found.milliseconds > 0
    assert found.device == "cpu"
    monkeypatch.setattr(cost, "REPEATS", 1)
    again = measure_cost(backbone, ExtractionSettings(device="cpu"))
    assert again.memory == found.memory


def call(capsys, *words):
    code = run(app, [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("tiny_models")
def test_a_folder_is_answered_with_a_table_and_a_report(capsys, scans, tmp_path):
    code, out, err = call(capsys, "rank", scans, "-o", tmp_path / "out")
    assert code == 0, err
    assert all(f"{name} (control)" in out for name in CONTROLS)
    assert "only untrained controls are here" in out
    assert "but: too few images" in out
    assert (tmp_path / "out" / "results.jsonl").exists()
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    verdict = page[page.index('aria-label="Verdict"') : page.index('id="glance"')]
    assert "only untrained controls are here" in verdict
    code, out, err = call(capsys, "rank", scans, "-o", tmp_path / "out", "--json", "--quiet")
    assert code == 0
    document = json.loads(out)
    assert {standing["model"] for standing in document["standings"]} == set(CONTROLS)
    assert document["images"] == document["total"] == 44
    assert document["standings"][0]["relation"] == "best"
    keys = [record.key for record in read_records(tmp_path / "out" / "results.jsonl")]
    assert len(set(keys)) == len(keys)  # the second run found everything there


@pytest.mark.usefixtures("tiny_models")
@pytest.mark.parametrize(
    ("words", "code", "fragment"),
    [
        (("--budget", "soon"), 2, "--budget is 'soon'"),
        (("--budget", "0m"), 2, "--budget is '0m'"),
        (("-m", "nobody"), 2, "nobody"),
        (("-m", "moco-v2"), 4, "moco-v2"),
    ],
)
def test_what_cannot_be_ranked_is_said_before_any_work(
    capsys, scans, tmp_path, words, code, fragment
):
    got, out, err = call(capsys, "rank", scans, "-o", tmp_path / "out", *words)
    assert got == code, err
    assert out == ""
    assert fragment in err
    assert not (tmp_path / "out").exists()
