import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_models import Provenance, RunContext, read_records
from medssl_saliency.engine.occlusion import build_engine, grid_positions, measure
from medssl_saliency.errors import MapError, SettingsError
from medssl_saliency.experiments.means import Means
from medssl_saliency.experiments.randomisation import learnt_layers, redraw
from medssl_saliency.experiments.sanity import sanity_records
from medssl_saliency.experiments.tables import sanity_tables
from medssl_saliency.images import from_files
from medssl_saliency.maps.checks import Randomised, SanityCheck
from medssl_saliency.maps.curves import brightest_first, deletion_and_insertion, random_first
from medssl_saliency.maps.folder import MapFolder
from medssl_saliency.maps.preparation import FeatureExtractor
from medssl_saliency.maps.settings import preset
from PIL import Image
from torch import nn

QUICK = ("--window", "8", "--stride", "8")


# ------------------------------------------------------------------------------------ randomisation


@pytest.mark.parametrize("name", ["random_r18", "random_r50", "random_d121"])
def test_only_the_named_layers_forget(tiny_models, name):
    backbone = tiny_models(name)
    before = {key: tensor.clone() for key, tensor in backbone.trunk.state_dict().items()}
    layers = learnt_layers(backbone.trunk)
    *_, layer = layers
    drawn = redraw(backbone, [layer], seed=5)
    inside = tuple(module + "." for module in layers[layer])
    for key, tensor in drawn.trunk.state_dict().items():
        same = torch.equal(tensor, before[key])
        assert same or key.startswith(inside)
        if key.startswith(inside) and tensor.ndim > 1:
            assert not same
    assert all(torch.equal(before[k], t) for k, t in backbone.trunk.state_dict().items())
    assert not any(module.training for module in drawn.modules())
    assert redraw(backbone, [layer], seed=5).fingerprint == drawn.fingerprint
    assert redraw(backbone, [layer], seed=6).fingerprint != drawn.fingerprint


def test_redrawn_features_keep_their_scale(tiny_models):
    backbone = tiny_models("random_r50")
    every = redraw(backbone, list(learnt_layers(backbone.trunk)), seed=1)
    image = torch.randn((4, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        was, now = (float(one.trunk(image).norm()) for one in (backbone, every))
    assert was / 5 < now < was * 5
    assert "every layer" in every.name


def test_layers_of_a_network_that_is_no_trunk():
    network = nn.Sequential()
    network.add_module("body", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)))
    assert list(learnt_layers(network)) == ["body.0", "body.2"]


# ------------------------------------------------------------------------------------------- curves


class MeanOfFirst(nn.Module):
    """The mean of the first channel: features that move by each pixel alike."""

    def forward(self, x):
        return x[:, :1].mean(dim=(2, 3))


def test_curves_of_a_mean_are_straight_lines():
    order = random_first((20, 20), block=1, seed=0)
    found = deletion_and_insertion(
        MeanOfFirst(), torch.ones(3, 20, 20), torch.zeros(3, 20, 20), order, steps=10
    )
    np.testing.assert_allclose(found.deletion, np.linspace(0, 1, 11), atol=1e-6)
    np.testing.assert_allclose(found.insertion, np.linspace(1, 0, 11), atol=1e-6)
    assert found.deletion_area == pytest.approx(0.5)


def test_pixels_that_alone_matter_are_gone_at_once():
    image = torch.zeros(3, 16, 16)
    image[:, 4:8, 4:8] = 1
    best = brightest_first(image[0].numpy(), (16, 16))
    worst = brightest_first(-image[0].numpy(), (16, 16))
    args = MeanOfFirst(), image, torch.zeros(3, 16, 16)
    assert deletion_and_insertion(*args, best, steps=16).deletion_area > 0.95
    assert deletion_and_insertion(*args, worst, steps=16).deletion_area < 0.05
    assert deletion_and_insertion(*args, best, steps=16).insertion_area < 0.05


def test_curves_are_single_passes(small, images):
    image, occluder = images(40, 40)
    order = brightest_first(np.random.default_rng(0).random((30, 30)), (40, 40))
    found = deletion_and_insertion(small, image, occluder, order, steps=9)
    with torch.inference_mode():
        clean, nothing = small(image[None])[0], small(occluder[None])[0]
        for step in (0, 1, 4, 9):
            gone = torch.from_numpy(order) < 1600 * step / 9
            mixed = torch.where(gone, occluder, image)
            expected = (small(mixed[None])[0] - clean).norm() / (nothing - clean).norm()
            assert found.deletion[step] == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    block=st.integers(1, 5),
    seed=st.integers(0),
)
def test_random_orders_take_whole_blocks(height, width, block, seed):
    ranks = random_first((height, width), block=block, seed=seed)
    assert sorted(ranks.ravel()) == list(range(height * width))
    first = ranks[:block, :block]
    assert np.ptp(first) == first.size - 1


def test_a_cut_margin_comes_last():
    ranks = brightest_first(np.arange(4.0).reshape(2, 2), (4, 4))
    assert ranks[1:3, 1:3].tolist() == [[3, 2], [1, 0]]
    assert sorted(ranks.ravel()) == list(range(16))


def test_orders_and_steps_that_make_no_sense_are_refused():
    args = MeanOfFirst(), torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    with pytest.raises(MapError, match="the order has"):
        deletion_and_insertion(*args, np.zeros((3, 3), np.int64))
    with pytest.raises(SettingsError, match="steps is 0"):
        deletion_and_insertion(*args, np.zeros((4, 4), np.int64), steps=0)


# ------------------------------------------------------------------------------------- the command


def test_another_target_is_a_change_of_distance(small, images):
    image, occluder = images(32, 32)
    positions = grid_positions((32, 32), (8, 8), stride=12)
    engine, _ = build_engine(small, image)
    target = torch.from_numpy(np.random.default_rng(1).random(len(engine.clean), np.float32))
    found = measure(engine, positions, window=(8, 8), occluder=occluder, target=target)
    for score, (top, left) in zip(found, positions.tolist(), strict=True):
        occluded = image.clone()
        occluded[:, top : top + 8, left : left + 8] = occluder[:, top : top + 8, left : left + 8]
        clean, features = small(torch.stack([image, occluded]))
        moved = (features - target).norm() - (clean - target).norm()
        assert score == pytest.approx(float(moved.abs() / clean.norm()), rel=1e-3, abs=1e-6)


def test_checks_leave_records_tables_and_pictures_and_go_on(command, scan, place):
    other = place / "other.png"
    Image.fromarray(np.random.default_rng(7).integers(0, 255, (48, 48)).astype(np.uint8)).save(
        other
    )
    words = ("sanity", scan, other, "-m", "random_r18", *QUICK, "--json")
    code, out, err = command(*words)
    assert code == 0, err
    told = json.loads(out)
    records = told["records"]
    tests = {record["settings"].get("test") for record in records} - {None}
    assert tests == {
        "cascading",
        "independent",
        "untrained control",
        "control pair",
        "other target",
    }
    spearman = [r for r in records if r["metric"] == "similarity_spearman"]
    assert {r["n"] for r in spearman} == {2}
    assert all(-1 <= r["value"] <= 1 for r in spearman)
    orders = {r["settings"]["order"] for r in records if r["metric"] == "deletion_area"}
    assert {"own map", "random blocks", "untrained control's map"} < orders
    assert told["findings"][0].startswith("random_r18: its maps and untrained")
    (table,) = [file for file in told["files"] if file.endswith("-similarities.csv")]
    with (place / table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["picture"] for row in rows} == {"scan", "other"}
    plots = [file for file in told["files"] if file.endswith(".png")]
    assert len(plots) == 3
    assert all(place.joinpath(plot).stat().st_size > 1000 for plot in plots)
    kept = {path: path.stat().st_mtime_ns for path in place.rglob("*.h5")}
    assert len(read_records(place / "results.jsonl")) == len(records)
    again = json.loads(command(*words)[1])
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.h5")} == kept
    assert [r["value"] for r in again["records"]] == [r["value"] for r in records]
    assert len(read_records(place / "results.jsonl")) == len(records)


def test_gradients_are_checked_too_and_people_get_tables(command, scan):
    words = ("-m", "random_r18", "--method", "grad-cam", "--untrained", "0")
    code, out, _ = command("sanity", scan, *words)
    assert code == 0
    assert "cascading" in out
    assert "random blocks" in out
    assert "other target" not in out
    assert "untrained control" not in out


def test_a_constant_picture_has_flat_checks(command, place):
    Image.new("RGB", (50, 50), (90, 90, 90)).save(place / "blank.png")
    code, out, _ = command("sanity", place / "blank.png", "-m", "random_r18", *QUICK, "--json")
    assert code == 0
    records = json.loads(out)["records"]
    assert {r["value"] for r in records if r["metric"] == "deletion_area"} == {0}


def test_a_map_that_ignores_the_weights_is_found_out(tiny_models, scan, place):
    extractor = FeatureExtractor(tiny_models("random_r18"), preset(window=8, stride=8))
    own = MapFolder(RunContext(output=place)).load_or_compute(extractor, from_files([scan])[0])
    check = SanityCheck(own, [Randomised("cascading", "layer4", own)])
    means = Means("saliency-sanity", {}, Provenance(model="random_r18"), groups={"scan": ""})
    similarities, areas = sanity_tables(sanity_records([check], means))
    (row,) = similarities.rows
    assert row[3:] == ("1.00", "", "1.00", 1)
    assert areas.rows == []


def test_checks_of_batchnorm_in_training_mode_are_the_studys_only(command, scan, place):
    words = (
        "sanity",
        scan,
        "-m",
        "random_r18",
        *QUICK,
        "--untrained",
        "0",
        "--batchnorm",
        "training",
    )
    code, _, err = command(*words)
    assert code == 2
    assert "published" in err
    code, out, err = command(
        *words, "--protocol", "published", "--resize", "40", "--crop", "40", "--json"
    )
    assert code == 0, err
    (area,) = [
        record
        for record in json.loads(out)["records"]
        if record["metric"] == "deletion_area" and record["settings"]["order"] == "own map"
    ]
    assert area["settings"]["batchnorm"] == "training"


def test_pictures_that_are_deleted_do_not_see_each_other(tiny_models):
    backbone = tiny_models("random_r18")
    training = FeatureExtractor(backbone, preset("published", batchnorm="training")).network
    image, occluder = torch.randn((2, 3, 40, 40), generator=torch.Generator().manual_seed(0))
    order = random_first((40, 40), block=8, seed=0)
    few, many = (
        deletion_and_insertion(training, image, occluder, order, steps=steps) for steps in (4, 20)
    )
    np.testing.assert_allclose(few.deletion, many.deletion[::5], rtol=1e-5)
