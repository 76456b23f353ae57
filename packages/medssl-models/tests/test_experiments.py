"""Experiments: one loop, one command, one registry, and cells that never hold two things."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from medssl_models import Provenance, Record, RunContext, create_model, run
from medssl_models.console import create_app
from medssl_models.console import run as run_command
from medssl_models.errors import SettingsError, UnknownExperimentError
from medssl_models.experiments import registry
from medssl_models.experiments.cells import (
    Labels,
    data_of,
    labels_apart,
    model_of,
    run_tables,
    setting_of,
)
from medssl_models.experiments.command import add_commands
from medssl_models.experiments.experiment import Experiment
from medssl_models.experiments.former.translation import Formerly, translate
from medssl_models.experiments.metric import Metric
from medssl_models.experiments.record_store import read_records
from medssl_models.experiments.registry import declared, find_experiment
from medssl_models.experiments.released import (
    Released,
    compare_with_released,
    find_released,
    released_numbers,
)
from medssl_models.experiments.runner import measure
from medssl_models.testing.experiments import COUNT_IMAGES, CountSettings
from PIL import Image


class Pictures:
    """A data set of five pictures, as an experiment sees it."""

    name = "pictures"
    notes = ("five pictures",)
    fingerprint = "f"

    def __init__(self, card=None):
        self.card = card

    def __len__(self):
        return 5

    def __getitem__(self, row):
        return Image.fromarray(np.full((8, 8, 3), 10 * row, np.uint8)), 0


def open_datasets(names, **_):
    return [Pictures() for _ in names]


@pytest.fixture
def command(tmp_path, capsys):
    app = create_app("medssl-models", "A toy.")
    app.callback()(lambda: None)
    add_commands(app, [COUNT_IMAGES], open_datasets)

    def call(*words):
        code = run_command(app, ["count-images", *words])
        return code, *capsys.readouterr()

    return call


def ask(*more):
    return ("-m", "random_r18", "-d", "pictures", *more)


# ------------------------------------------------------------------------------------ the command


def test_every_setting_is_an_option_with_both_defaults(command):
    code, out, _ = command("--help")
    text = " ".join(out.split())
    assert code == 0
    for word in ("--every", "-n", "--padding", "--label-protocol", "--seed", "published: 2"):
        assert word in text
    assert "Further settings" in text


def test_a_command_measures_and_appends(command, tmp_path):
    results = tmp_path / "r.jsonl"
    code, out, err = command(*ask("--results", str(results), "--json"))
    document = json.loads(out)
    assert code == 0
    assert {one["metric"]: one["value"] for one in document["records"]} == {
        "images": 5.0,
        "brightness": 20.0,
    }
    assert len(read_records(results)) == 2
    assert "note: five pictures" in err


@pytest.mark.parametrize(
    ("words", "value"),
    [((), 5.0), (("--protocol", "published"), 3.0), (("--protocol", "published", "-n", "4"), 2.0)],
)
def test_an_option_beats_the_protocol(command, tmp_path, words, value):
    _, out, _ = command(*ask("--results", str(tmp_path / "r.jsonl"), "--json", *words))
    assert {one["value"] for one in json.loads(out)["records"]} >= {value}


def test_a_wrong_value_is_said_in_the_words_of_the_option(command, tmp_path):
    code, _, err = command(*ask("--results", str(tmp_path / "r.jsonl"), "--every", "often"))
    assert code == 2
    assert "--every is 'often'" in err
    assert not (tmp_path / "r.jsonl").exists()


def test_what_is_done_is_not_done_again_unless_forced(command, tmp_path):
    words = ask("--results", str(tmp_path / "r.jsonl"))
    command(*words)
    _, _, err = command(*words)
    assert "done before; --force does it again" in err
    assert len(read_records(tmp_path / "r.jsonl")) == 2
    command(*words, "--force")
    assert len(read_records(tmp_path / "r.jsonl")) == 4


def test_a_folder_that_cannot_be_written_is_said_before_the_work(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = command(*ask("--results", str(tmp_path / "file" / "r.jsonl")))
    assert code == 1
    assert "cannot be written" in err
    assert "--results" in err


# --------------------------------------------------------------------------------------- the loop


def counting(**changes):
    return replace(COUNT_IMAGES, **changes)


def test_each_model_is_created_once_and_its_control_follows(monkeypatch):
    import medssl_models.backbone as module

    created = []
    real = module.create_model
    monkeypatch.setattr(
        module, "create_model", lambda name, **more: created.append(name) or real(name, **more)
    )
    monkeypatch.setattr(
        "medssl_models.experiments.runner._control_of",
        lambda experiment, name, backbone, context: real("random_r50"),
    )
    data = [Pictures(), Pictures()]
    records = run(COUNT_IMAGES, ["random_r18"] * 2, data, CountSettings(), RunContext())
    assert created == ["random_r18"]
    assert [r.provenance.model for r in records] == ["random_r18"] * 4 + ["random_r50"] * 4
    records = run(COUNT_IMAGES, ["random_r18"], data, CountSettings(), RunContext(), controls=False)
    assert len(records) == 4


def test_every_record_carries_the_notes_of_its_model_and_data():
    backbone = create_model("random_r18")
    (first, _) = measure(COUNT_IMAGES, backbone, Pictures(), context=RunContext())
    assert first.notes == ("control: random_r18 is untrained", "five pictures")
    assert first.details["control"] is True
    seen = type("Card", (), {"name": "pictures"})
    trained = backbone
    trained.card = trained.card.model_copy(
        update={"pretraining": ("pictures",), "control": False, "seed": None}
    )
    (first, _) = measure(COUNT_IMAGES, trained, Pictures(seen), context=RunContext())
    assert first.notes[0].startswith("pretraining: random_r18 was trained on images of pictures")


def test_settings_are_keywords_in_python():
    backbone = create_model("random_r18")
    found = measure(COUNT_IMAGES, backbone, Pictures(), context=RunContext(), every=5)
    assert found[0].value == 1
    with pytest.raises(SettingsError, match="unknown setting 'evry'; did you mean every"):
        measure(COUNT_IMAGES, backbone, Pictures(), context=RunContext(), evry=5)


def test_checks_come_before_models(monkeypatch):
    def refuse(data, settings):
        raise SettingsError("no")

    monkeypatch.setattr(
        "medssl_models.backbone.create_model", lambda *_, **__: pytest.fail("early")
    )
    with pytest.raises(SettingsError):
        run(counting(check=refuse), ["random_r18"], [Pictures()], CountSettings(), RunContext())


def test_what_needs_all_models_is_asked_once_a_data_set():
    asked = []

    def across(data, settings, context, records):
        asked.append([record.provenance.model for record in records])
        return []

    data = [Pictures(), Pictures()]
    names = ["random_r18", "random_r50"]
    run(counting(across=across), names, data, CountSettings(), RunContext(), controls=False)
    assert asked == [["random_r18"] * 2 + ["random_r50"] * 2] * 2


# ----------------------------------------------------------------------------------- the registry


def test_a_broken_experiment_is_named_and_harms_no_other(tmp_path, monkeypatch):
    package = tmp_path / "broken-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[medssl.experiments]\nbroken = nothing_here:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "broken" in registry.experiment_names()
    assert "count-images" in [one.name for one in registry.installed_experiments()]
    with pytest.raises(UnknownExperimentError, match="'broken' is broken: ModuleNotFoundError"):
        find_experiment("broken")


def test_an_experiment_that_prints_and_exits_is_only_broken(tmp_path, monkeypatch, capsys):
    package = tmp_path / "rude-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: rude\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[medssl.experiments]\nrude = rude_experiment:X\n")
    (tmp_path / "rude_experiment.py").write_text("import sys\nprint('noise')\nsys.exit(7)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UnknownExperimentError, match=r"'rude' is broken: .* the program with 7"):
        find_experiment("rude")
    assert capsys.readouterr().out == ""


def test_a_probe_of_0_1_still_works_and_says_that_it_will_not(tmp_path, monkeypatch, caplog):
    package = tmp_path / "old-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: old\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[medssl.probes]\nold-probe = old_probe:PROBE\n")
    (tmp_path / "old_probe.py").write_text(
        "from medssl_models.probes import ProbePlugin\n"
        "from medssl_models import Provenance, Record\n"
        "from medssl_models.experiments.settings import Preset, from_preset\n"
        "class Settings(Preset):\n    pass\n"
        "def run(backbone, data, settings, work):\n"
        "    origin = Provenance(model=backbone.name)\n"
        "    return [Record(experiment='old-probe', metric='anything', value=1.0,"
        " provenance=origin)]\n"
        "PROBE = ProbePlugin(lambda p, c: from_preset(Settings, p, c), run)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    probe = find_experiment("old-probe")
    assert "the next minor version drops" in caplog.text
    (record,) = measure(probe, create_model("random_r18"), Pictures(), context=RunContext())
    assert record.value == 1.0
    assert registry.metric_of(record).direction == "neither"


def test_a_metric_tells_its_direction():
    higher, lower = Metric("a", "a", "higher"), Metric("b", "b", "lower")
    assert (higher.better(2, 1), lower.better(2, 1)) == (True, False)
    assert not Metric("c", "c", "neither").better(2, 1)


# ---------------------------------------------------------------------------------------- cells

FEW = st.sampled_from(["a", "b", "a (seed 1)", "a,x=b"])
ORIGINS = st.builds(
    Provenance,
    model=FEW,
    weights=FEW,
    preprocessing=st.sampled_from(["", '{"crop": 32}', '{"crop": 64}']),
    layer=FEW,
    dataset=FEW,
    selection=st.dictionaries(st.sampled_from(["x", "target"]), FEW, max_size=1),
    images=FEW,
    label_policy=FEW,
    split=FEW,
    protocol=st.sampled_from(["published", "corrected"]),
    seed=st.integers(0, 1),
)
SETTINGS = st.fixed_dictionaries(
    {"every": st.integers(1, 2)},
    optional=dict.fromkeys(("transform", "layer", "picture", "view"), FEW),
)

TOYS = st.sampled_from(["toy", "another-toy"])


def build(settings, origin, experiment):
    return Record(
        experiment=experiment, metric="accuracy", value=1, settings=settings, provenance=origin
    )


@hypothesis_settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.builds(build, SETTINGS, ORIGINS, st.sampled_from(["toy", "another-toy"])), min_size=2
    )
)
def test_two_records_that_differ_never_share_a_cell(records):
    labels = Labels.of(records)
    cells = {}
    for record in records:
        place = (
            record.experiment,
            labels.setting(record),
            labels.dataset(record),
            labels.model(record),
            record.metric,
        )
        assert cells.setdefault(place, record.key) == record.key
    rows = [row for _, table in run_tables(records) for row in table]
    assert len(rows) == len({record.key for record in records})


def test_identities_are_equal_only_where_keys_are():
    one = build({"every": 1}, Provenance(model="m"), "toy")
    for change in ({"model": "n"}, {"images": "i"}, {"seed": 1}, {"selection": {"target": "t"}}):
        other = build({"every": 1}, Provenance(**({"model": "m"} | change)), "toy")
        parts = [(of(one), of(other)) for of in (model_of, data_of, setting_of)]
        assert sum(first != second for first, second in parts) == 1


def test_labels_stay_short_where_they_are_clear():
    short = {("m", 1): "m", ("n", 1): "n", ("n", 2): "n"}
    assert labels_apart(short, lambda key: {"seed": key[1]}) == {
        ("m", 1): "m",
        ("n", 1): "n (seed 1)",
        ("n", 2): "n (seed 2)",
    }


# ------------------------------------------------------------------------------- released numbers

REPEAT = Experiment(
    name="repeat",
    title="repeat",
    summary="Repeats the study's maps.",
    settings=CountSettings,
    metrics=(Metric("attentive_diffusion", "diffusion", "neither", "%"),),
    run=lambda *_: (),
    released=Released(
        ("attentive-diffusion",), lambda _: "attentive_diffusion", lambda _: {"window": 10}
    ),
)


def repeated(value=44.0, dataset="shenzhencxr", window=10, **origin):
    where = Provenance(model="mimic-chexpert_lr_0.01", dataset=dataset, **origin)
    return Record(
        experiment="repeat", metric="attentive_diffusion", value=value, settings={"window": window},
        provenance=where,
    )  # fmt: skip


def test_all_numbers_of_the_study_are_there_once():
    numbers = released_numbers()
    places = {(n.experiment, n.dataset, n.model, n.metric, n.setting) for n in numbers}
    assert len(numbers) == len(places) == 940


def test_a_number_that_contradicts_itself_agrees_with_nothing():
    with declared(REPEAT):
        for value in (25.0, 43.98, 50.0, 61.0):
            (entry,) = compare_with_released([repeated(value)])
            assert entry.verdict == "disputed"
            assert "lies outside what the study's own map allows, 24.47 to 26.5" in entry.reason


def test_other_conditions_are_refused_by_name():
    with declared(REPEAT):
        assert find_released(repeated()).number is not None
        assert find_released(repeated(window=4)).differences == ("window is 4, the study's 10",)
        chosen = find_released(repeated(selection={"target": "Edema"}))
        assert chosen.number is None
        assert chosen.differences == ('selection is {"target":"Edema"}, the study\'s none',)
        assert find_released(repeated(dataset="folder")).differences == ()


# --------------------------------------------------------------------------------- version 0.1

OLD = Experiment(
    name="newer-name",
    title="t",
    summary="s",
    settings=CountSettings,
    metrics=(Metric("mean_brightness", "brightness", "neither"),),
    run=lambda *_: (),
    formerly=Formerly(
        experiment="old-name",
        metrics={"mean brightness": "mean_brightness"},
        fields={"nth": "every"},
        values={"labels": {"study": "published"}},
        added=("padding",),
        applies=lambda record: record["settings"].get("kind") != "else",
    ),
)


def old_line(**settings):
    record = {
        "schema_version": 1,
        "experiment": "old-name",
        "metric": "mean brightness",
        "unit": "",
        "value": 2.0,
        "ci_low": None,
        "ci_high": None,
        "n": 1,
        "settings": {"nth": 3, "labels": "study", "protocol": "published", "seed": 4, **settings},
        "details": {},
        "notes": [],
        "provenance": Provenance(model="m", protocol="published", seed=4).model_dump(
            exclude={"selection"}
        ),
        "created": "2026-01-01T00:00:00+00:00",
    }
    return json.dumps(record).encode() + b"\n"


def test_a_record_of_version_0_1_reads_in_the_words_of_today(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(old_line())
    with declared(OLD):
        (record,) = read_records(path)
    assert (record.experiment, record.metric) == ("newer-name", "mean_brightness")
    assert record.settings == {"every": 3, "labels": "published", "padding": "published"}


def test_what_cannot_be_translated_keeps_its_names(tmp_path):
    with declared(OLD):
        kept = json.loads(translate(old_line(kind="else")))
    assert kept["experiment"] == "old-name"
    assert kept["schema_version"] == 2
    assert translate(b"no json") is None
    assert translate(b'{"schema_version": 7}') is None
