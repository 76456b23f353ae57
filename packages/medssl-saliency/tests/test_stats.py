import json

import numpy as np
import pytest
from medssl_models import read_records
from medssl_saliency.concentration import bootstrap_interval
from medssl_saliency.survey import alarms
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
