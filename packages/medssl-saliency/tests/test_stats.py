import json

import numpy as np
import pytest
from medssl_models import Provenance, Record, RunContext, read_records
from medssl_models.experiments.intervals import bootstrap_mean
from medssl_models.experiments.released import find_released, released_numbers
from medssl_saliency.experiments.declarations import MAP
from medssl_saliency.experiments.means import settings_in_record
from medssl_saliency.experiments.stats import agreement_matrix
from medssl_saliency.experiments.tables import alarms
from PIL import Image

QUICK = ("--window", "8", "--stride", "8")


@pytest.fixture
def scans(place):
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 200, (48, 48)).astype(np.uint8)
        path = place / "scans" / ("ill" if number % 2 else "well") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return place / "scans"


def test_statistics_of_a_folder(command, scans, place):
    masks = place / "masks"
    masks.mkdir()
    inside = np.zeros((48, 48), np.uint8)
    inside[:24] = 255
    Image.fromarray(inside).save(masks / "well-0_mask.png")
    words = ("-m", "random_r18", "-m", "random_d121", *QUICK, "--masks", masks, "--json")
    code, out, err = command("stats", "-d", f"folder:{scans}", *words)
    assert code == 0
    assert "masks of 1 of 4" in err
    told = json.loads(out)["records"]
    by_metric = {(r["provenance"]["model"], r["metric"]): r for r in told}
    mean = by_metric["random_r18", "attentive_diffusion"]
    assert mean["n"] == 4
    values = np.array(list(mean["details"]["values"].values()))
    assert mean["value"] == pytest.approx(values.mean())
    assert values.min() <= mean["ci_low"] <= mean["value"] <= mean["ci_high"] <= values.max()
    assert by_metric["random_r18", "mask_mass"]["details"]["chance"] == pytest.approx(0.5)
    assert -1 <= by_metric["random_r18", "agreement_spearman"]["value"] <= 1
    assert len(read_records(place / "results.jsonl")) == len(told)
    assert list((place / "saliency").rglob("stats-attentive-diffusion.png"))
    assert list((place / "saliency").rglob("stats-agreement.png"))


def test_agreement_of_three_models_is_a_symmetric_matrix():
    def record(model, other, value):
        return Record(
            experiment="saliency-stats",
            metric="agreement_spearman",
            value=value,
            settings={"other": other},
            provenance=Provenance(model=model),
        )

    names, values = agreement_matrix([record("a", "b", 0.5), record("a", "c", 0.25)])
    assert names == ["a", "b", "c"]
    np.testing.assert_array_equal(values, [[1, 0.5, 0.25], [0.5, 1, np.nan], [0.25, np.nan, 1]])
    assert agreement_matrix([])[0] == []


def published_map(number, picture, **changes):
    """A record of the command `map`, under the published protocol, of a picture of a data set."""
    settings = MAP.settings_for("published", changes)
    return Record(
        experiment="saliency-map",
        metric="attentive_diffusion",
        value=number.value,
        settings=settings_in_record(RunContext(), settings, picture=picture),
        provenance=Provenance(model=number.model, dataset=number.dataset, protocol="published"),
    )


RELEASED = [one for one in released_numbers() if one.experiment == "attentive-diffusion"]
PICTURES = {
    "bach": "iv001",
    "chestx": "00000001_000",
    "chexpert": "train-patient00001-study1-view1_frontal",
    "diabetic_retinopathy": "test-34680_left",
    "ichallenge_amd": "A0001",
    "ichallenge_pm": "H0009",
    "imagenet": "goldfish",
    "montgomerycxr": "MCUCXR_0001_0",
    "shenzhencxr": "CHNCXR_0076_0",
}


def test_every_released_value_is_found_by_a_map_of_the_study_s_picture():
    assert len(RELEASED) == 113
    for number in RELEASED:
        assert find_released(published_map(number, PICTURES[number.dataset])).number is number


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stride": 2}, "stride is 2"),
        ({"crop": 96}, "crop is 96"),
        ({"occluder": "mean"}, "occluder is mean"),
        ({"normalisation": "model"}, "normalisation is model"),
        ({"padding": "model"}, "padding is model"),
        ({"batchnorm": "training"}, "batchnorm is training"),
        ({"fast": True}, "fidelity is 0.995"),
    ],
)
def test_a_map_under_other_conditions_is_not_held_against_the_study(changes, named):
    (number,) = [n for n in RELEASED if (n.dataset, n.model) == ("shenzhencxr", "moco-v2")]
    match = find_released(published_map(number, "CHNCXR_0076_0", **changes))
    assert match.number is None
    assert any(named in difference for difference in match.differences)


def test_another_picture_is_not_the_study_s():
    match = find_released(published_map(RELEASED[0], "CHNCXR_0077_0"))
    assert match.number is None
    assert "picture is CHNCXR_0077_0" in match.differences[0]


def test_most_released_values_agree_with_the_released_heat_maps():
    agreeing = [one for one in RELEASED if one.low - 1 <= one.value <= one.high + 1]
    assert len(agreeing) == 112
    (other,) = set(RELEASED) - set(agreeing)
    assert (other.dataset, other.model) == ("shenzhencxr", "mimic-chexpert_lr_0.01")
    assert "24.47 to 26.5" in other.contradiction


def test_bad_masks_are_one_sentence(command, scans, place):
    words = ("stats", "-d", f"folder:{scans}", "-m", "random_r18", *QUICK, "--masks")
    code, _, err = command(*words, place / "none")
    assert code == 3
    assert "is no folder" in err
    (place / "masks").mkdir()
    code, _, err = command(*words, place / "masks")
    assert code == 3
    assert "holds no mask" in err
    Image.new("L", (9, 9), 255).save(place / "masks" / "well-0.png")
    code, _, err = command(*words, place / "masks")
    assert code == 3
    assert "9 x 9" in err


def test_mass_in_the_corners_raises_an_alarm(command, place):
    for number in range(3):
        pixels = np.full((40, 40, 3), 128, np.uint8)
        pixels[:8, :8] = np.random.default_rng(number).integers(0, 255, (8, 8, 3))
        Image.fromarray(pixels).save(place / f"{number}.png")
    paths = [place / f"{number}.png" for number in range(3)]
    code, out, _ = command("stats", *paths, "-m", "random_r18", "--window", "4", "--stride", "4")
    assert code == 0
    assert "shortcut alarm" in out
    assert alarms([]) == []


def test_images_of_one_patient_are_drawn_together():
    values = np.array([[0.0], [0.0], [1.0], [1.0]])
    (alone,) = bootstrap_mean(values, seed=0, groups=["a", "a", "a", "a"])
    assert alone.interval == (None, None)
    (two,) = bootstrap_mean(values, seed=0, groups=["a", "a", "b", "b"])
    assert two.interval == (0, 1)
