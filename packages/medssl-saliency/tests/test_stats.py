import json

import numpy as np
import pytest
from medssl_models import Provenance, Record, read_records
from medssl_saliency.concentration import bootstrap_interval
from medssl_saliency.published import _table, published_diffusion
from medssl_saliency.survey import agreement_matrix, alarms, published_rows
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
    told = json.loads(out)["statistics"]["records"]
    by_metric = {(r["provenance"]["model"], r["metric"]): r for r in told}
    mean = by_metric["random_r18", "attentive diffusion"]
    assert mean["n"] == 4
    values = np.array(list(mean["details"]["values"].values()))
    assert mean["value"] == pytest.approx(values.mean())
    assert values.min() <= mean["ci_low"] <= mean["value"] <= mean["ci_high"] <= values.max()
    assert by_metric["random_r18", "mask mass"]["details"]["by_area"] == pytest.approx(0.5)
    assert -1 <= by_metric["random_r18", "agreement, spearman"]["value"] <= 1
    assert len(read_records(place / "results.jsonl")) == len(told)
    assert list((place / "saliency").rglob("stats-attentive-diffusion.png"))
    assert list((place / "saliency").rglob("stats-agreement.png"))


def test_agreement_of_three_models_is_a_symmetric_matrix():
    def record(model, other, value):
        return Record(
            experiment="saliency-stats",
            metric="agreement, spearman",
            value=value,
            settings={"other": other},
            provenance=Provenance(model=model),
        )

    names, values = agreement_matrix([record("a", "b", 0.5), record("a", "c", 0.25)])
    assert names == ["a", "b", "c"]
    np.testing.assert_array_equal(values, [[1, 0.5, 0.25], [0.5, 1, np.nan], [0.25, np.nan, 1]])
    assert agreement_matrix([])[0] == []


def test_the_study_s_values_stand_beside_ours():
    def record(dataset, model, value):
        return Record(
            experiment="saliency-stats",
            metric="attentive diffusion",
            value=value,
            ci_low=value - 1,
            ci_high=value + 1,
            provenance=Provenance(model=model, dataset=dataset),
        )

    rows = published_rows(
        [record("shenzhencxr", "mimic-chexpert_lr_0.01", 25.0), record("scans", "moco-v2", 40.0)]
    )
    ((dataset, model, ours, bounds, released, recovered),) = rows
    assert (dataset, model, ours) == ("shenzhencxr", "mimic-chexpert_lr_0.01", "25.00")
    assert bounds == "24.00 to 26.00"
    # The study's table and its own heat map disagree in this cell, and the map is to be believed.
    assert released == 43.98
    assert "disagrees" in recovered
    cell = published_diffusion(dataset=dataset, model=model)
    assert cell.value == pytest.approx(25.4, abs=0.5)
    assert cell.lower <= cell.recovered <= cell.upper


def test_most_released_values_agree_with_the_released_heat_maps():
    table = _table().values()
    both = [cell for cell in table if cell.published is not None]
    assert len(both) == 113
    agreeing = [cell for cell in both if cell.lower - 1 <= cell.published <= cell.upper + 1]
    assert len(agreeing) == 112
    assert {cell.model for cell in both if cell not in agreeing} == {"mimic-chexpert_lr_0.01"}


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
    code, _, err = command("stats", *paths, "-m", "random_r18", "--window", "4", "--stride", "4")
    assert code == 0
    assert "shortcut alarm" in err
    assert alarms([]) == []


def test_images_of_one_patient_are_drawn_together():
    values = np.array([0.0, 0.0, 1.0, 1.0])
    assert bootstrap_interval(values, seed=0, groups=["a", "a", "a", "a"]) is None
    low, high = bootstrap_interval(values, seed=0, groups=["a", "a", "b", "b"])
    assert (low, high) == (0, 1)
