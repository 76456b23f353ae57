"""Runs from pictures to records: what they hold, what they refuse, and that they go on."""

import copy
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from medssl_invariance import SyntheticSettings, synthetic
from medssl_invariance.errors import FeatureError, GridError, TooFewImagesError
from medssl_invariance.experiments import checkpoint
from medssl_invariance.experiments.checkpoint import Checkpoint
from medssl_invariance.experiments.declarations import SYNTHETIC
from medssl_invariance.experiments.image_plan import plan_images
from medssl_invariance.experiments.metrics import METRICS
from medssl_invariance.experiments.synthetic import clean_preprocessing
from medssl_invariance.similarity import cosine
from medssl_invariance.transforms.families import find_families
from medssl_invariance.whitening import fit_whitening
from medssl_models import ExtractionSettings, FeatureStore, RunContext, model_card
from medssl_models.errors import SettingsError
from medssl_models.experiments.models import control_of
from medssl_models.experiments.settings import differences
from medssl_models.testing import tiny_backbone
from PIL import Image
from torchvision.transforms.v2 import functional as tv


def run(backbone, data, *names, context=None, **changes):
    asked = {"images": 8, "bootstrap": 200, **changes}
    return synthetic(backbone, data, transforms=names, context=context or RunContext(), **asked)


def settings_of(protocol, **changes):
    return SYNTHETIC.settings_for(protocol, changes)


def test_each_family_gives_five_records_with_baselines_and_a_curve(backbone, data):
    records = run(backbone, data, "blur", "h_flip")
    assert [record.metric for record in records] == [one.name for one in (*METRICS, *METRICS)]
    first = records[0]
    assert first.ci_low <= first.value <= first.ci_high
    assert {"random_other", "same_class"} <= set(first.details["baselines"])
    assert first.details["baselines"]["random_other"]["value"] < first.value
    assert len(first.details["curve"]) == first.details["members"] == 8
    curve = [point["value"] for point in first.details["curve"]]
    assert curve[0] > curve[-1]
    assert first.value == pytest.approx(np.mean(curve))
    assert first.details["whitening"]["images"] == 32
    assert first.details["undefined"] == 0
    assert any("control" in note for note in first.notes)
    assert records[3].unit == "%"


def test_the_published_mean_holds_the_identity(backbone, data):
    (record, *_) = run(backbone, data, "h_flip", protocol="published")
    assert record.details["identity_members"] == 1
    without = record.details["without_identity"]
    assert record.value == pytest.approx((1 + without) / 2, abs=1e-4)
    (alone, *_) = run(backbone, data, "h_flip", protocol="published", identity_in_mean=False)
    assert alone.value == pytest.approx(without, abs=1e-4)


def test_the_list_of_images_is_the_studys():
    settings = settings_of("published")
    assert plan_images(400, settings).compared[:10].tolist() == [
        172, 47, 117, 192, 323, 251, 195, 359, 9, 211,
    ]  # fmt: skip
    assert len(plan_images(400, settings).covariance) == 400
    assert len(plan_images(2000, settings).covariance) == 1000
    assert len(plan_images(25840, settings).covariance) == 2584


def test_corrected_compares_each_image_once_and_apart_from_the_covariance():
    plan = plan_images(60, SyntheticSettings())
    assert len(set(plan.compared.tolist())) == len(plan.compared) == 30
    assert not set(plan.compared.tolist()) & set(plan.covariance.tolist())
    assert set(plan.needed.tolist()) == set(range(60))


def test_numbers_do_not_depend_on_what_is_kept(backbone, data, tmp_path):
    context = RunContext(store=FeatureStore(tmp_path / "features"))
    first = run(backbone, data, "gamma", context=context)
    again = run(backbone, data, "gamma", context=context)
    bare = run(backbone, data, "gamma")
    assert [r.value for r in first] == [r.value for r in again]
    assert [r.value for r in first] == pytest.approx([r.value for r in bare], abs=1e-6)
    assert [r.key for r in first] == [r.key for r in bare]


def test_known_records_are_not_measured_again(backbone, data):
    first = run(backbone, data, "gamma")
    known = {record.key: record for record in first}
    assert run(backbone, data, "gamma", context=RunContext(known=known)) == first


def test_the_clean_branch_is_cut_like_the_turned_one(backbone):
    own = backbone.preprocessing
    settings = SyntheticSettings()
    assert clean_preprocessing(backbone, settings) == own
    framed = clean_preprocessing(backbone, settings, frame=2**0.5)
    assert (framed.resize, framed.crop) == (48, own.crop)
    study = clean_preprocessing(backbone, settings_of("published"))
    assert (study.resize, study.crop, study.interpolation) == (256, 224, "bilinear")


def test_a_turn_of_nothing_is_the_clean_image(backbone, data):
    """The transformed branch without a transform gives the clean branch's pixels."""
    from medssl_invariance.transforms.batches import Block, resized_views
    from medssl_invariance.transforms.grids import Member

    grid = find_families(["rotation"])[0].corrected
    preprocessing = clean_preprocessing(backbone, SyntheticSettings(), frame=grid.frame)
    block = Block(data, np.array([3, 5]))
    (views,) = resized_views(
        block, preprocessing, grid, [(0, Member(0, {"angle": 0.0}))], frame=grid.frame
    )
    for place, row in enumerate((3, 5)):
        clean = preprocessing.pixels(data[row][0])
        assert float((views[place] - clean).abs().max()) < 1e-5


def test_grey_pictures_are_said_where_colour_is_turned(backbone, data):
    record = run(backbone, data, "hue")[0]
    assert record.value == pytest.approx(1, abs=1e-6)
    assert any("all pictures are grey" in note for note in record.notes)


class Constant:
    """Twelve pictures that are all the same."""

    def __init__(self, data):
        self.manifest, self.name = data.manifest, "constant"
        self.labels, self.groups, self.ids = data.labels, data.groups, data.ids
        self.notes, self.fingerprint = (), "constant"

    def __len__(self):
        return 40

    def __getitem__(self, row):
        return Image.new("RGB", (40, 40), (90, 90, 90)), 0


def test_constant_features_are_refused(backbone, data):
    with pytest.raises(FeatureError, match="are the same"):
        run(backbone, Constant(data), "gamma")


def test_too_few_images_and_impossible_k_are_refused_before_any_is_opened(backbone, data):
    with pytest.raises(TooFewImagesError, match="there are 2"):
        run(backbone, data.select([0, 1]), "gamma")
    with pytest.raises(TooFewImagesError, match="there are 1"):
        run(backbone, data.select([0]), "h_flip", protocol="published")
    with pytest.raises(GridError):
        run(backbone, data, "translation", protocol="published", members=20)


def test_every_difference_of_the_protocols_has_its_reason():
    found = {
        one.field: one.entries for one in differences(settings_of("published"), SyntheticSettings())
    }
    assert found["identity_in_mean"] == ("I-26",)
    assert {"covariance", "draw", "applied", "border", "ranges"} <= set(found)
    numbers = {entry for entries in found.values() for entry in entries}
    assert {f"I-{n}" for n in (25, 26, 27, 28, 29, 30, 31, 32, 33)} <= numbers


KILLED = """
import os, signal
import numpy
import torch
from medssl_data import load_dataset
from medssl_invariance import synthetic
from medssl_invariance.experiments import checkpoint
from medssl_models import ExtractionSettings, FeatureStore, RunContext
from medssl_models.testing import tiny_backbone
write, calls = numpy.savez, []
def dying(file, **arrays):
    calls.append(file)
    if len(calls) == 3:
        file.write(b"half of an archive")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, **arrays)
numpy.savez = dying
checkpoint.SECONDS = 0
torch.set_num_threads(1)
data = load_dataset("phantom:chest-xray,count=40,size=80")
context = RunContext(store=FeatureStore(), extraction=ExtractionSettings(batch_size=4))
synthetic(tiny_backbone(width=4), data, transforms=["rotation"], images=16, bootstrap=200,
          members=20, context=context)
"""


def test_a_killed_run_goes_on_and_gives_the_same_numbers(data, home):
    """A real kill -9 while it writes; what was kept before is gone on with, in as many threads."""
    child = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert child.returncode == -signal.SIGKILL
    folder = home / "invariance"
    (kept,) = (path for path in folder.iterdir() if path.name[0] != ".")
    for path in folder.iterdir():  # the draft that it died over; one of a moment ago is left alone
        os.utime(path, (0, 0))
    with np.load(kept) as file:
        assert file["done"].mean() == 0.5

    def measure(**where):
        context = RunContext(**where, extraction=ExtractionSettings(batch_size=4))
        return run(tiny_backbone(width=4), data, "rotation", context=context, images=16, members=20)

    resumed, whole = measure(store=FeatureStore()), measure()
    assert [one.value for one in resumed] == [one.value for one in whole]
    assert [one.details["curve"] for one in resumed] == [one.details["curve"] for one in whole]
    assert not list(folder.iterdir())


def test_a_broken_checkpoint_is_measured_anew(backbone, data, home):
    first = run(backbone, data, "gamma")
    folder = home / "invariance"
    folder.mkdir(parents=True)
    (folder / f"{first[0].key}.npz").write_bytes(b"no archive")
    again = run(backbone, data, "gamma", context=RunContext(store=FeatureStore()))
    assert [r.value for r in again] == [r.value for r in first]


def test_memory_does_not_grow_with_k(backbone, data):
    """Each view is compared as it comes: a thousand members hold no thousand feature tables."""
    import tracemalloc

    def peak(k):
        tracemalloc.start()
        run(backbone, data, "rotation", members=k, images=2)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small = peak(25)
    assert peak(100) < small + 2e6


def test_controls_bear_names_of_untrained_models():
    assert control_of("supervised_r18") == "random_r18"
    assert control_of("random_r18") is None
    assert model_card(control_of("moco-v2")).control


# ------------------------------------------------------------------- BatchNorm in training mode


def study_features(trunk, pictures):
    """The study's newest code: the network in training mode; a batch is what it is given."""
    network = copy.deepcopy(trunk).train()
    with torch.no_grad():
        return network(pictures).numpy()


def test_batchnorm_in_training_mode_is_the_studys(backbone, data):
    before = backbone.fingerprint
    (record, *_) = run(
        backbone,
        data,
        "brightness",
        protocol="published",
        batchnorm="training",
        members=5,
        images=3,
    )
    settings = settings_of("published", images=3, members=5, batchnorm="training")
    preprocessing = clean_preprocessing(backbone, settings)
    plan, trunk = plan_images(len(data), settings), backbone.trunk
    behind = torch.stack([preprocessing(data[int(row)][0]) for row in plan.covariance])
    whitening = fit_whitening(study_features(trunk, behind), "sample", unfactorable="stop")
    (family,) = find_families(["brightness"])
    members, values = family.members("published", 5), []
    for row in plan.compared.tolist():
        picture = data[row][0]
        batch = [tv.adjust_brightness(picture, member.values["factor"]) for member in members]
        views = study_features(trunk, torch.stack([preprocessing(one) for one in batch]))
        own = study_features(trunk, preprocessing(picture)[None])
        values.append(cosine(whitening.deviations(own), whitening.deviations(views)))
    np.testing.assert_allclose(record.details["per_image"], np.mean(values, axis=1), atol=2e-3)
    assert record.settings["batchnorm"] == "training"
    assert any("training mode" in note for note in record.notes)
    assert backbone.fingerprint == before
    assert not any(module.training for module in backbone.modules())


def test_batchnorm_in_training_mode_goes_on_with_whole_batches(backbone, data, home, monkeypatch):
    asked = {"protocol": "published", "batchnorm": "training", "members": 4, "images": 4}
    whole, folder = run(backbone, data, "blur", **asked), home / "invariance"
    monkeypatch.setattr(checkpoint, "SECONDS", 0)
    kept = Checkpoint.open(folder, whole[0].key, (5, 4, 4))
    kept.keep(np.zeros((5, 12)), np.repeat(np.arange(4), 3), np.tile([0, 1, 3], 4))
    assert list(folder.iterdir())
    resumed = run(backbone, data, "blur", context=RunContext(store=FeatureStore()), **asked)
    assert [one.value for one in resumed] == [one.value for one in whole]


@pytest.mark.parametrize("changes", [{}, {"protocol": "published", "applied": "after_resize"}])
def test_batchnorm_in_training_mode_is_for_the_study_only(backbone, data, changes):
    with pytest.raises(SettingsError, match="batchnorm training"):
        run(backbone, data, "blur", batchnorm="training", **changes)
