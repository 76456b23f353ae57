"""The declared experiments: released numbers, records of version 0.1, what a cut-off run leaves."""

import json
from pathlib import Path

import pytest
from medssl_data import load_dataset
from medssl_data.synthetic.phantom import write_phantom
from medssl_invariance import synthetic, views
from medssl_invariance.experiments.declarations import SYNTHETIC, VIEWS
from medssl_invariance.figures.curves import write_curves
from medssl_invariance.figures.tables import cells, tables
from medssl_models import Provenance, Record, RunContext, read_records
from medssl_models.experiments.released import find_released, released_numbers

RELEASED = [one for one in released_numbers() if one.experiment == "invariance"]
STUDY = {"rotation": "rotation", "hflip": "h_flip", "hue": "hue", "multiview": "views"}


def record_of(number, **changes):
    """What our command writes under `published` with the study's settings."""
    transform = STUDY[number.setting.partition(";")[0]]
    experiment = VIEWS if transform == "views" else SYNTHETIC
    asked, k = {"images": 100}, number.setting.partition("k=")[2].partition(" ")[0]
    if experiment is SYNTHETIC:
        asked |= {"transforms": (transform,)} | ({"members": int(k)} if k else {})
    settings = experiment.settings_for("published", asked)
    resolved = {"transform": transform, **changes}
    origin = {"model": number.model, "dataset": number.dataset, "protocol": "published"}
    return Record(
        experiment=experiment.name,
        metric="whitened_cosine",
        value=0.5,
        settings=RunContext().settings_of(settings, **resolved),
        provenance=Provenance(**origin),
    )


def test_every_released_similarity_is_reached_by_a_record_of_its_settings():
    assert len(RELEASED) == 109
    assert sum(bool(number.flags) for number in RELEASED) == 29
    assert [find_released(record_of(number)).number for number in RELEASED] == RELEASED


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ({"members": 20}, "members is 20, the study's 256"),
        ({"covariance": "ledoit-wolf"}, "covariance is ledoit-wolf, the study's sample"),
        ({"transform": "v_flip"}, "transform is v_flip, the study's"),
        ({"identity_in_mean": False}, "identity_in_mean is false, the study's true"),
    ],
)
def test_what_was_measured_otherwise_is_held_against_no_released_number(setting, difference):
    number = next(one for one in RELEASED if "k=256" in one.setting)
    match = find_released(record_of(number, **setting))
    assert match.number is None
    assert difference in " | ".join(match.differences)


def test_no_other_metric_is_held_against_a_released_similarity():
    record = record_of(RELEASED[0]).model_copy(update={"metric": "raw_cosine"})
    assert find_released(record).number is None


def test_a_cut_off_run_leaves_the_families_that_are_done(backbone, data, tmp_path):
    def stop_at_blur(title, total):
        if title.endswith("blur"):
            raise KeyboardInterrupt
        return silent(title, total)

    from medssl_models.console import Console

    silent, results = Console(quiet=True).progress, tmp_path / "results.jsonl"
    context = RunContext(progress=stop_at_blur, results=results)
    with pytest.raises(KeyboardInterrupt):
        synthetic(backbone, data, transforms=["gamma", "blur"], images=4, context=context)
    kept = read_records(results)
    assert {record.settings["transform"] for record in kept} == {"gamma"}
    assert len(kept) == 5


def test_settings_that_differ_share_no_row_and_frames_make_no_other_model(backbone, data):
    asked = {"transforms": ["gamma", "rotation"], "members": 2, "bootstrap": 100}
    few = synthetic(backbone, data, images=4, context=RunContext(), **asked)
    more = synthetic(backbone, data, images=6, context=RunContext(), **asked)
    assert {cell.transform for cell in cells(few)} == {"gamma", "rotation"}
    assert {cell.model for cell in cells(few)} == {"tiny (control)"}
    (table,) = tables([*few, *more])
    shown = [(row[1], row[13]) for row in table.rows]
    assert shown == [
        ("gamma (images 4)", "4 x 2"),
        ("rotation (images 4)", "4 x 2"),
        ("gamma (images 6)", "6 x 2"),
        ("rotation (images 6)", "6 x 2"),
    ]


def test_a_dollar_in_a_name_is_no_mathematics(backbone, data, tmp_path):
    records = synthetic(
        backbone, data, transforms=["blur"], images=4, bootstrap=100, context=RunContext()
    )
    names = {"model": "$x_{$", "dataset": "$^{$"}
    odd = [
        record.model_copy(update={"provenance": record.provenance.model_copy(update=names)})
        for record in records
    ]
    for path in write_curves(odd, tmp_path):
        assert path.stat().st_size > 100


def test_a_covariance_of_others_can_be_asked_for_under_published(backbone, tmp_path):
    """Fewer rows are left than there are: the study's draws go over those that are left."""
    write_phantom("chexpert", tmp_path, {})
    data = load_dataset("chexpert", root=tmp_path, protocol="published")
    records = views(
        backbone,
        data,
        protocol="published",
        covariance_from="others",
        covariance="pca",
        covariance_images=200,
        images=4,
        bootstrap=100,
        context=RunContext(),
    )
    assert len(records) == 5


OLD = Path(__file__).parent / "records-0.1.jsonl"


def test_records_of_version_0_1_are_read_in_the_words_of_today():
    old = [json.loads(line) for line in OLD.read_text().splitlines()]
    assert {one["experiment"] for one in old} == {"invariance"}
    found = read_records(OLD)
    assert not found.notes
    assert [record.value for record in found] == [one["value"] for one in old]
    assert [(record.experiment, record.metric) for record in found] == [
        ("invariance", "whitened_cosine"),
        ("invariance", "mahalanobis_distance"),
        ("views", "raw_retrieval"),
    ]
    first, _, last = found
    assert "random_other" in first.details["baselines"]
    assert first.settings["ranges"] == "corrected"
    assert {last.settings[name] for name in ("normalisation", "padding", "labels", "pairing")} == {
        "published"
    }
    today = {*SYNTHETIC.settings.model_fields, "transform"} - {"protocol", "seed", "transforms"}
    assert set(first.settings) == today
