"""The ranking: nested subsets, what the budget drops, the words, and the command."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import medssl_models.backbone
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_data import load_dataset
from medssl_eval.cli import app
from medssl_eval.errors import InfeasibleError, SettingsError
from medssl_eval.experiments.predictions import Predictions, predictions_folder
from medssl_eval.rank import cost
from medssl_eval.rank.cost import Cost, measure_cost
from medssl_eval.rank.looks import Looks, spent_by
from medssl_eval.rank.ranking import Ranker, choose_experiments, is_rival, is_worse
from medssl_eval.rank.subsets import nested_order
from medssl_eval.rank.verdict import caveats_of, judge
from medssl_models import ExtractionSettings, RunContext, append_records, read_records
from medssl_models.catalog import resolve
from medssl_models.console import run
from medssl_models.experiments.record import Provenance, Record
from medssl_models.hub.library import import_model
from PIL import Image
from safetensors.torch import save_file

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


def right_answers(skill, seed, images):
    """Predictions of images of one class, of which a model knows exactly a share."""
    right = np.zeros(images)
    right[np.random.default_rng(seed).permutation(images)[: round(skill * images)]] = 1
    return Predictions(
        ids=tuple(f"{number}.png" for number in range(images)),
        groups=("",) * images,
        classes=("no", "yes"),
        labels=np.ones(images, np.int64),
        probabilities=np.stack([1 - right, right], axis=1),
    )


class Clock:
    """Time that passes only where work is done."""

    now = 0.0

    def __call__(self):
        return self.now


def ranker(
    monkeypatch,
    skills,
    *,
    budget,
    seconds_an_image=0.01,
    images=1600,
    results=None,
    operations=None,
):
    """A ranker whose models are right as often as their skill says, in known time."""
    clock = Clock()
    data = load_dataset(f"phantom:chest-xray,count={images},size=80")
    monkeypatch.setattr("medssl_models.experiments.models.check_models", lambda _: None)
    names = dict(zip(skills, skills, strict=True))
    monkeypatch.setattr("medssl_models.experiments.models.distinct_models", lambda _: names)
    asked = []

    def measure(self, name, data, chosen, context):
        self._costs[name] = Cost(
            10.0, 10**6, 4.0, "cpu", operations=(operations or {}).get(name, 4.0)
        )
        clock.now += seconds_an_image * len(data)
        asked.append((name, len(data)))
        answers, kept = right_answers(skills[name], len(name), len(data)), {}
        if context.results is not None:
            kept = answers.save(predictions_folder(context.results))
        record = Record(
            experiment="knn",
            metric="accuracy",
            unit="%",
            value=(value := 100 * float(answers.probabilities[:, 1].mean())),
            ci_low=value - 0.5,
            ci_high=value + 0.5,
            n=len(data),
            details={"predictions": kept, "images": len(data), "control": name in CONTROLS},
            provenance=Provenance(model=name, dataset="d", manifest=str(len(data))),
        )
        if context.results is not None:
            append_records(context.results, [record])
        return [record], {"knn": record}

    monkeypatch.setattr(Ranker, "_measure", measure)
    context = RunContext(results=results)
    return Ranker(data, list(skills), context, budget=budget, clock=clock), asked


SKILLS = {"aa": 0.9, "bbb": 0.89, "cccc": 0.7, "ddddd": 0.6, "eeeeee": 0.5}


def test_with_time_enough_all_models_see_all_images(monkeypatch):
    made, asked = ranker(monkeypatch, SKILLS, budget=1000.0)
    result = made.run()
    assert [size for _, size in asked] == [96] * 5 + [1600] * 5
    assert [rank.model for rank in result.ranks] == list(SKILLS)
    assert all(not rank.dropped for rank in result.ranks)
    assert asked[5][0] == "aa"  # those that lead go first


def test_what_is_clearly_worse_is_dropped_where_time_is_short(monkeypatch):
    made, asked = ranker(monkeypatch, SKILLS, budget=60.0)
    result = made.run()
    assert {name for name, size in asked if size == 1600} == {"aa", "bbb"}
    assert result.seconds <= 60
    dropped = {s.model: s.dropped for s in result.ranks if s.dropped}
    assert set(dropped) == {"cccc", "ddddd", "eeeeee"}
    assert set(dropped.values()) == {"clearly worse on 96 images"}
    verdict = judge(result)
    assert any(
        caveat.startswith("skipped cccc, ddddd, eeeeee: clearly") for caveat in verdict.caveats
    )


def test_what_is_not_told_apart_is_halved_and_a_part_of_the_images_must_do(monkeypatch, tmp_path):
    alike = dict.fromkeys(("a", "bb", "ccc", "dddd", "eeeee", "ffffff"), 0.7)
    results = tmp_path / "results.jsonl"
    made, asked = ranker(monkeypatch, alike, budget=18.0, results=results)
    result = made.run()
    assert result.seconds <= 18
    assert 96 < result.images < 1600
    assert any("lower half" in s.dropped for s in result.ranks)
    assert len({name for name, size in asked if size == result.images}) >= 2
    notes = " ".join(note for record in read_records(results) for note in record.notes)
    assert f"measured on {result.images} of 1600 images" in notes
    assert any("a larger budget" in caveat for caveat in judge(result).caveats)


def test_the_leaders_go_on_until_one_is_clearly_worse(monkeypatch):
    made, asked = ranker(monkeypatch, {"aa": 0.9, "bbb": 0.8}, budget=30.0)
    result = made.run()
    assert asked == [("aa", 96), ("bbb", 96), ("aa", 384), ("bbb", 384)]
    assert result.ranks[1].dropped == "clearly worse on 384 images"
    # What the first look had is spent, though it proved nothing.
    assert result.level == pytest.approx(0.05 - spent_by(96 / 1600))
    assert (
        judge(result).sentences[0].startswith("aa separates these classes best: mean rank 1.0 of 2")
    )


def test_the_levels_of_all_looks_add_up_to_five_percent():
    looks = Looks(1600)
    levels = [looks.level(size) for size in (96, 384, 384)]
    assert levels[1] == levels[2]
    assert sum(levels[:2]) == pytest.approx(spent_by(384 / 1600))
    assert sum(levels[:2]) + looks.last_level(1600) == pytest.approx(0.05)
    assert looks.last_level(384) == pytest.approx(0.05 - levels[0])
    assert Looks(1600).last_level(1600) == 0.05
    with pytest.raises(SettingsError, match=r"0\.\.1"):
        spent_by(1.5)


def test_the_verdict_claims_no_more_than_was_tested(monkeypatch):
    made, _ = ranker(monkeypatch, {"aa": 0.9, "bbb": 0.7, "cccc": 0.88}, budget=None)
    result = made.run()
    first, left, worse = result.ranks
    assert (left.model, worse.model) == ("cccc", "bbb")
    late = replace(left, images=96, dropped="no time left for 1600 images")
    apart = replace(result, ranks=(first, worse, late))
    assert judge(apart).sentences[0].startswith("aa comes first among 3 models")
    alone = replace(result, ranks=(replace(first, ranked=1), late), pairs=())
    assert "measured alone" in judge(alone).sentences[0]


def test_the_first_round_is_always_run(monkeypatch):
    made, asked = ranker(monkeypatch, SKILLS, budget=0.1)
    result = made.run()
    assert [size for _, size in asked] == [96] * 5
    assert result.images == 96
    assert result.ranks[0].model == "aa"


def test_the_verdict_names_the_cheaper_of_equals(monkeypatch):
    made, _ = ranker(monkeypatch, {"aa": 0.9, "bbb": 0.896, "cccc": 0.5}, budget=None)
    result = made.run()
    text = " ".join(judge(result).sentences)
    assert judge(result).alike == ("bbb",)
    assert "clearly worse on the same images: cccc" in text
    assert "not told apart from it: bbb" in text
    assert any("order of aa and bbb" in caveat for caveat in judge(result).caveats)
    assert any("intervals overlap" in caveat for caveat in judge(result).caveats)


@pytest.mark.parametrize(("skill", "said"), [(0.504, True), (0.6, False)])
def test_models_at_chance_are_said_to_be_there(monkeypatch, skill, said):
    """Where labels say nothing of the images, somebody still comes first."""
    made, _ = ranker(monkeypatch, {"aa": skill, "bbb": 0.5}, budget=None)
    result = made.run()
    records = [record for rank in result.ranks for record in rank.records.values()]
    for record in records:
        record.details["chance"] = 50.0
    found = [caveat for caveat in judge(result).caveats if "above chance" in caveat]
    assert bool(found) is said


def test_cheaper_is_who_needs_fewer_operations_and_not_who_was_faster(monkeypatch):
    skills = {"aa": 0.9, "bbb": 0.896, "cccc": 0.897}
    few = {"aa": 4.1, "bbb": 1.8, "cccc": 3.9}
    made, _ = ranker(monkeypatch, skills, budget=None, operations=few)
    text = " ".join(judge(made.run()).sentences)
    assert "of these bbb is cheaper, 1.8 against 4.1 billion operations an image" in text
    made, _ = ranker(monkeypatch, skills, budget=None, operations={**few, "bbb": 3.5})
    assert "cheaper" not in " ".join(judge(made.run()).sentences)


def test_a_control_that_leads_is_named(monkeypatch):
    made, _ = ranker(monkeypatch, {"random_r18": 0.9, "aa": 0.895, "bbb": 0.5}, budget=None)
    text = " ".join(judge(made.run()).sentences)
    assert "the untrained control random_r18 comes first: nothing here shows" in text


def test_a_difference_that_is_not_proven_is_no_equality(monkeypatch):
    made, _ = ranker(monkeypatch, {"aa": 0.9, "random_r18": 0.895, "bbb": 0.5}, budget=None)
    result = made.run()
    verdict = judge(result)
    first, control = (rank.records["knn"].value for rank in result.ranks[:2])
    assert verdict.alike == ("random_r18",)
    (pair,) = (pair for pair in result.pairs if is_rival(pair, "random_r18"))
    gap = pair.difference
    expected = 1600 * ((1.959964 + 0.841621) * gap.standard_error / gap.difference) ** 2
    assert pair.needed == math.ceil(expected) > 1600
    about = f"{int(float(f'{expected:.2g}')):,}"
    assert verdict.sentences[-2] == (
        "telling them from aa at 80 % power would take, were the observed differences the true "
        f"ones: random_r18 about {about} images in knn instead of 1600"
    )
    assert verdict.sentences[-1] == (
        f"aa comes before the untrained control random_r18 (knn {first:.1f} against "
        f"{control:.1f} % on 1,600 images), but no test proves it, nor that they are alike"
    )
    assert "does as well" not in " ".join(verdict.sentences)


def test_a_level_control_is_said_to_be_level(monkeypatch):
    made, _ = ranker(monkeypatch, {"aa": 0.9, "random_r18": 0.9}, budget=None)
    verdict = judge(made.run())
    assert "aa is not ahead of the untrained control random_r18" in verdict.sentences[-1]
    assert "power" not in " ".join(verdict.sentences)


def test_a_control_that_was_beaten_is_not_spoken_of(monkeypatch):
    made, _ = ranker(monkeypatch, {"aa": 0.9, "random_r18": 0.5}, budget=None)
    assert not any("control" in sentence for sentence in judge(made.run()).sentences)


def test_episodes_decide_nothing():
    def pair(over, p, models=("aa", "bbb")):
        first, second = (
            SimpleNamespace(provenance=SimpleNamespace(model=model)) for model in models
        )
        return SimpleNamespace(first=first, second=second, over=over, p_adjusted=p)

    assert not is_worse("bbb", [pair("episodes", 0.001)], 0.05)
    assert not is_worse("bbb", [pair("episodes", 0.001), pair("images", 0.2)], 0.05)
    assert is_worse("bbb", [pair("episodes", 0.9), pair("images", 0.01)], 0.05)
    assert not is_worse("bbb", [pair("images", 0.01)], 0.005)
    assert not is_worse("aa", [pair("images", 0.01)], 0.05)
    assert not is_worse("bbb", [pair("patients", 0.01), pair("images", 0.2, ("bbb", "aa"))], 0.05)


def test_caveats_name_what_limits_the_images(scans):
    found = " ".join(caveats_of(load_dataset(f"folder:{scans}")))
    assert "too few images: 'opacity' has 20" in found
    picture = next((scans / "normal").iterdir())
    (scans / "opacity" / "copy.png").write_bytes(picture.read_bytes())
    drawn = " ".join(caveats_of(load_dataset("phantom:chest-xray,count=60,size=80"), pixels=False))
    assert "synthetic phantom" in drawn


def test_what_else_the_label_follows_is_a_caveat():
    """The student's COVID was mostly AP, and nobody said so."""
    confounded = "phantom:chest-xray,count=80,size=80,confounder=view,strength=0.9"
    for pixels in (True, False):
        found = " ".join(caveats_of(load_dataset(confounded), pixels=pixels))
        assert "label follows view: ap 3" in found
        assert "a score may come from that" in found
    clean = caveats_of(load_dataset("phantom:chest-xray,count=80,size=80"))
    assert not any("follows" in caveat for caveat in clean)


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


def test_experiments_shrink_to_what_the_data_can_carry(scans):
    found, reasons = choose_experiments(load_dataset(f"folder:{scans}"))
    assert [experiment.name for experiment, _ in found] == ["few-shot", "linear", "knn"]
    (few_shot, _, knn) = (settings for _, settings in found)
    assert (few_shot.shots, few_shot.queries, knn.folds) == ((10,), 10, 5)
    assert reasons == []
    for label in ("normal", "opacity"):
        for path in sorted((scans / label).iterdir())[1:]:
            path.unlink()
    with pytest.raises(InfeasibleError, match="can carry no experiment"):
        choose_experiments(load_dataset(f"folder:{scans}"))


def test_cost_counts_weights_and_time(tiny_model, monkeypatch):
    backbone = tiny_model("random_r18")
    found = measure_cost(backbone, ExtractionSettings(device="cpu"))
    assert found.parameters == sum(p.numel() for p in backbone.parameters())
    assert found.memory > 4 * found.parameters / 1e6
    assert found.milliseconds > 0
    assert found.device == "cpu"
    assert found.operations > 0
    monkeypatch.setattr(cost, "REPEATS", 1)
    again = measure_cost(backbone, ExtractionSettings(device="cpu"))
    assert (again.memory, again.operations) == (found.memory, found.operations)


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
    assert "rests on 9 test images" not in out  # folds ask all of them
    assert out.count("; n 44)") == 3 * 3
    assert (tmp_path / "out" / "results.jsonl").exists()
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    verdict = page[page.index('aria-label="Verdict"') : page.index('id="glance"')]
    assert "only untrained controls are here" in verdict
    code, out, err = call(capsys, "rank", scans, "-o", tmp_path / "out", "--json", "--quiet")
    assert code == 0
    document = json.loads(out)
    assert {rank["model"] for rank in document["ranks"]} == set(CONTROLS)
    assert document["images"] == document["total"] == 44
    assert document["ranks"][0]["relation"] == "best"
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
        (("--labels", "u-ones"), 2, "label policies"),
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


@pytest.fixture
def imported_timm(tmp_path, monkeypatch, tiny_model):
    """A tiny network of timm in the library, with weights from a seed, beside small controls."""
    real = medssl_models.backbone.create_model

    def create(name, **options):
        return tiny_model(name) if name in CONTROLS else real(name, **options)

    monkeypatch.setattr(medssl_models.backbone, "create_model", create)
    monkeypatch.setattr(cost, "measure_cost", lambda *_: Cost(1.0, 1, 1.0, "cpu"))
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet.r160_in1k", pretrained=False).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    import_model(resolve("timm:test_resnet").card, tmp_path / "weights.safetensors")
    return "timm:test_resnet.r160_in1k"


def test_a_short_name_is_the_same_model(capsys, scans, tmp_path, imported_timm):
    def ranked(*names):
        words = [word for name in (*names, "random_r18") for word in ("-m", name)]
        code, out, err = call(capsys, "rank", scans, *words, "-o", tmp_path / "out", "--json")
        assert code == 0, err
        return json.loads(out)

    short, full = ranked("timm:test_resnet"), ranked(imported_timm)
    assert [rank["model"] for rank in short["ranks"]] == [rank["model"] for rank in full["ranks"]]
    assert {rank["model"] for rank in short["ranks"]} == {imported_timm, "random_r18"}
    assert short["verdict"]["sentences"] == full["verdict"]["sentences"]
    assert len(short["pairs"]) == 3
    assert not any("cannot be compared" in caveat for caveat in short["verdict"]["caveats"])
    both = ranked("timm:test_resnet", imported_timm)
    assert len(both["ranks"]) == 2
    results = tmp_path / "out" / "results.jsonl"
    asked = ("timm:test_resnet", "random_r18", "--results", results, "--json")
    code, out, err = call(capsys, "compare", *asked)
    assert code == 0, err
    assert {name for pair in json.loads(out)["pairs"] for name in pair["models"]} == {
        imported_timm,
        "random_r18",
    }
    page = tmp_path / "report.md"
    assert call(capsys, "report", results, "--format", "markdown", "-o", page)[0] == 0
    assert f"| {imported_timm} |" in page.read_text().replace("\\_", "_")  # Markdown's escapes


@pytest.mark.usefixtures("tiny_models")
def test_an_output_that_cannot_be_written_is_said_before_any_work(capsys, scans, tmp_path, home):
    (tmp_path / "taken").write_text("a file")
    code, _, err = call(capsys, "rank", scans, "-o", tmp_path / "taken")
    assert code == 1
    assert "taken cannot be written" in err
    assert "name another with --output" in err
    assert not (home / "features").exists()


def test_two_folders_of_one_name_are_refused(capsys, scans, tmp_path, imported_timm):
    folder = resolve(imported_timm).folder
    folders = [shutil.copytree(folder, tmp_path / name) for name in ("one", "two")]
    words = [word for path in folders for word in ("-m", path)]
    code, out, err = call(capsys, "rank", scans, *words, "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert f"{folders[0]} and {folders[1]} are both called {imported_timm}" in err
    assert not (tmp_path / "out").exists()


def test_without_models_named_an_imported_one_takes_part(capsys, scans, tmp_path, imported_timm):
    code, _, err = call(capsys, "rank", scans, "-o", tmp_path / "out", "--budget", "1s", "--json")
    assert code == 0, err
    assert {r.provenance.model for r in read_records(tmp_path / "out" / "results.jsonl")} >= {
        imported_timm, *CONTROLS, f"random:{imported_timm}",
    }  # fmt: skip
