import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from medssl_data import load_dataset
from medssl_models import Preprocessing, RunContext, read_records
from medssl_models.experiments.experiment import ImageFiles
from medssl_saliency.attribution import METHODS, captum_occlusion
from medssl_saliency.engine.occlusion import grid_positions, reference_scores
from medssl_saliency.engine.sampling import complete_scores
from medssl_saliency.errors import ImageError, SettingsError
from medssl_saliency.experiments.map import map_images
from medssl_saliency.images import ImageItem, from_dataset, from_files, image_name
from medssl_saliency.maps import progress
from medssl_saliency.maps.computing import compute_map, measurable_positions
from medssl_saliency.maps.folder import MapFolder
from medssl_saliency.maps.preparation import FeatureExtractor, prepare
from medssl_saliency.maps.progress import duration
from medssl_saliency.maps.settings import preset
from medssl_saliency.maps.storage import read_map, read_partial, write_partial
from PIL import Image

QUICK = ("--window", "8", "--stride", "8")


def files(place):
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def stored_map(folder, extractor, item, **options):
    return MapFolder(RunContext(output=folder), **options).load_or_compute(extractor, item)


def numbers(document):
    """Read the numbers of a map from the JSON document of the command, by metric."""
    return {record["metric"]: record["value"] for record in document["records"]}


def test_a_command_leaves_maps_pictures_and_records(command, scan, place):
    code, out, err = command("map", scan, "-m", "random_r18", "-m", "random_d121", *QUICK)
    assert code == 0
    assert "random_d121" in out
    assert "approximate" in err
    folder = place / "saliency" / "scan"
    kinds = {
        path.name.split("-occlusion-")[-1].lstrip("0123456789abcdef") for path in folder.iterdir()
    }
    assert kinds == {".npy", ".h5", "-heat.png", "-overlay.png", "panel-occlusion.png"}
    (array,) = folder.glob("random_r18*.npy")
    values = np.load(array)
    assert values.dtype == np.float32
    assert values.shape == (40, 40)
    stored = read_map(array.with_suffix(".h5"))
    np.testing.assert_array_equal(stored.values, values)
    assert stored.approximation is not None
    records = read_records(place / "results.jsonl")
    assert len(records) == 14
    assert {record.provenance.model for record in records} == {"random_r18", "random_d121"}
    assert any("control" in note for note in records[0].notes)


def test_json_is_one_document_and_the_second_run_reads_what_is_there(command, scan, place):
    words = ("map", scan, "-m", "random_r18", *QUICK, "--json")
    code, out, _ = command(*words)
    first = json.loads(out)
    assert code == 0
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*.h5")}
    code, out, _ = command(*words)
    second = json.loads(out)
    assert len(first["records"]) == 7
    assert numbers(first) == numbers(second)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.h5")} == before
    assert len(read_records(place / "results.jsonl")) == 7


def test_an_exact_map_is_the_mean_of_single_passes(tiny_models, scan, place):
    settings = preset(window=12)
    extractor = FeatureExtractor(tiny_models("random_r50"), settings)
    (item,) = from_files([scan])
    stored = stored_map(place, extractor, item)
    prepared = extractor.prepare(item.read())
    network = extractor.backbone.trunk
    theirs = captum_occlusion(network, prepared.normalised, prepared.occluder, (12, 12))
    np.testing.assert_allclose(stored.map.values, theirs, rtol=1e-4, atol=1e-6)
    assert stored.map.approximation is None


def test_published_cuts_the_margin_and_occludes_with_zeros(tiny_models, scan, place):
    settings = preset("published", resize=40, crop=36)
    assert settings.occluder == "zero"
    stored = stored_map(
        place, FeatureExtractor(tiny_models("random_r18"), settings), from_files([scan])[0]
    )
    assert stored.map.values.shape == (36 - 18, 36 - 18)
    assert stored.map.picture.shape == (18, 18, 3)
    assert len(stored.map.scores) == 27**2


def test_batchnorm_in_training_mode_changes_the_map_but_not_the_network(tiny_models, scan, place):
    backbone = tiny_models("random_r18")
    before = backbone.fingerprint
    item = from_files([scan])[0]
    quick = {"window": 10, "stride": 10, "resize": 40, "crop": 40}
    maps = {
        mode: stored_map(
            place, FeatureExtractor(backbone, preset("published", batchnorm=mode, **quick)), item
        )
        for mode in ("eval", "training")
    }
    assert not np.allclose(maps["eval"].map.values, maps["training"].map.values, rtol=0.01)
    assert any("full inference" in note for note in maps["training"].map.notes)
    assert backbone.fingerprint == before
    assert not any(module.training for module in backbone.modules())


@pytest.mark.parametrize(("model", "crop"), [("random_d121", 44), ("random_r18", 32)])
def test_a_crop_without_batch_statistics_is_refused_in_a_sentence(command, scan, model, crop):
    """The deepest maps have one position: torch cannot normalise one value by its own mean."""
    small = ("--protocol", "published", "--resize", crop, "--crop", crop, *QUICK)
    code, _, err = command("map", scan, "-m", model, *small, "--batchnorm", "training")
    assert code == 2
    assert f"at a crop of {crop} pixels the deepest maps of {model} have one position" in err
    assert "Traceback" not in err
    assert command("map", scan, "-m", model, *small)[0] == 0


@pytest.mark.parametrize("changes", [{"stride": 3}, {"fidelity": 0.95}, {"precision": "bf16"}])
def test_approximate_modes_state_an_error_that_holds(tiny_models, scan, place, changes):
    backbone, (item,) = tiny_models("random_r18"), from_files([scan])
    exact = (
        MapFolder(RunContext(output=place))
        .load_or_compute(FeatureExtractor(backbone, preset(window=12)), item)
        .map
    )
    near = (
        MapFolder(RunContext(output=place))
        .load_or_compute(FeatureExtractor(backbone, preset(window=12, **changes)), item)
        .map
    )
    assert near.approximation.windows == 64
    assert near.approximation.pearson > 0.9
    # The map is a mean over windows, so it agrees better than single windows do.
    correlation = np.corrcoef(exact.values.ravel(), near.values.ravel())[0, 1]
    assert correlation > near.approximation.pearson - 0.01
    assert "against the exact scores" in str(near.approximation)


def test_the_sample_of_the_error_are_windows_that_were_left_out(tiny_models, scan, place):
    settings = preset(window=12, stride=4)
    extractor = FeatureExtractor(tiny_models("random_r18"), settings)
    prepared = extractor.prepare(from_files([scan])[0].read())
    measured = measurable_positions(prepared.size, settings)
    made = compute_map(extractor.network, prepared, settings)
    every = grid_positions(prepared.size, (12, 12))
    exact = reference_scores(
        extractor.network, prepared.normalised, every, window=(12, 12), occluder=prepared.occluder
    )
    kept = {tuple(corner) for corner in measured.tolist()}
    left_out = [index for index, corner in enumerate(every.tolist()) if tuple(corner) not in kept]
    order = np.sort(np.random.default_rng(0).permutation(len(left_out))[:64])
    sample = np.array(left_out)[order]
    near = complete_scores(measured, made.scores, every[sample])
    expected = np.sqrt(np.mean((near - exact[sample]) ** 2)) / exact[sample].std()
    assert made.approximation.rms == pytest.approx(expected, rel=1e-3)


def test_a_map_that_stays_too_far_from_the_exact_one_says_so(command, scan):
    words = ("map", scan, "-m", "random_r18", "--window", "8", "--fidelity")
    code, out, err = command(*words, "0.99999", "--json")
    assert code == 0
    details = json.loads(out)["records"][0]["details"]
    assert details["approximation"]["measured"] == pytest.approx(0.25, abs=0.01)
    assert details["approximation"]["expected"] < 0.99999
    assert "more than a quarter of its windows" in err
    _, out, err = command(*words, "0.9", "--json")
    record = json.loads(out)["records"][0]
    assert record["details"]["approximation"]["measured"] < 0.25
    assert "as its halves tell" in record["notes"][-1]
    assert "quarter" not in err


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("words", [("--fast",), ("--precision", "bf16", "--stride", "8")])
def test_bf16_that_would_be_emulated_is_not_used(command, scan, place, monkeypatch, native, words):
    able = {"avx512_bf16": native, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    code, _, err = command("map", scan, "-m", "random_r18", "--window", "8", *words)
    assert code == 0
    assert ("fp32 instead" in err) is not native
    (record, *_) = read_records(place / "results.jsonl")
    assert record.provenance.precision == ("bf16" if native else "fp32")


@pytest.mark.parametrize("method", METHODS)
def test_captum_methods_from_the_command_line(command, scan, place, method):
    code, out, _ = command("map", scan, "-m", "random_r18", "--method", method, "--json")
    assert code == 0
    told = json.loads(out)
    file = place / "saliency" / "scan" / told["records"][0]["details"]["file"]
    values = np.load(file.with_suffix(".npy"))
    assert values.shape == (40, 40)
    assert 0 <= numbers(told)["attentive_diffusion"] <= 100


def test_a_data_set_is_drawn_evenly_over_its_classes():
    data = load_dataset("phantom:chest-xray")
    items = from_dataset(data, limit=4, seed=3)
    assert len({item.name for item in items}) == 4
    assert {item.label for item in items} == set(range(len(data.classes)))
    assert [s.name for s in from_dataset(data, limit=4, seed=3)] == [s.name for s in items]


def test_pictures_of_a_data_set_are_chosen_by_name():
    data = load_dataset("phantom:chest-xray")
    known = data.ids[5]
    names = (known, data.ids[2].rpartition("/")[2])
    items = from_dataset(data, names=names, limit=1)
    assert [item.name for item in items] == [image_name(known), image_name(data.ids[2])]
    assert items[0].label == data.labels[5]
    with pytest.raises(SettingsError, match="has no picture"):
        from_dataset(data, names=["none.png"])


def test_a_picture_is_named_on_the_command_line(command, place):
    for name in ("one", "two", "three"):
        (place / "scans" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (len(name), 90, 10)).save(place / "scans" / name / f"{name}.png")
    words = ("-m", "random_r18", *QUICK, "--picture", "two.png,one", "--json")
    code, out, _ = command("map", "-d", f"folder:{place / 'scans'}", *words)
    assert code == 0
    pictures = [record["settings"]["picture"] for record in json.loads(out)["records"]]
    assert list(dict.fromkeys(pictures)) == ["two-two", "one-one"]


def test_nothing_is_kept_where_nothing_is_named(tiny_models, scan, place):
    before = files(place)
    records = map_images(
        tiny_models("random_r18"),
        ImageFiles((scan,)),
        context=RunContext(),
        window=8,
        stride=8,
    )
    assert len(records) == 7
    assert "file" not in records[0].details
    assert files(place) == before


# ----------------------------------------------------------------------------- cut off and resumed


class StoppedError(Exception):
    """A stand-in for a kill."""


def interrupt_after(monkeypatch, batches, error):
    """Let the watch of a map raise after so many batches."""
    original = progress.Watch.__call__
    left = [batches]

    def call(self, scores, number, share):
        original(self, scores, number, share)
        left[0] -= 1
        if not left[0]:
            raise error

    monkeypatch.setattr(progress.Watch, "__call__", call)


@pytest.mark.parametrize("more", [(), ("--fidelity", "0.99")])
def test_an_interrupted_map_says_what_is_kept_and_goes_on(command, scan, place, monkeypatch, more):
    words = ("map", scan, "-m", "random_r18", "--window", "8", "--memory", "0.02", *more)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1, KeyboardInterrupt())
        code, out, err = command(*words)
    assert code == 130
    assert out == ""
    assert "are kept in" in err
    assert [name for name in files(place / "saliency") if not name.endswith(".npz")] == []
    code, _, err = command(*words)
    assert code == 0
    assert "going on after" in err
    assert [name for name in files(place / "saliency") if name.endswith(".npz")] == []


def test_a_killed_map_goes_on_to_the_same_values(tiny_models, scan, place, monkeypatch):
    extractor = FeatureExtractor(tiny_models("random_r18"), preset(window=8))
    (item,) = from_files([scan])
    whole = stored_map(place / "whole", extractor, item)
    monkeypatch.setattr(progress, "KEEP_EVERY", -1.0)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1, StoppedError())
        with pytest.raises(StoppedError):
            stored_map(place / "cut", extractor, item, memory=20_000_000)
    (partial,) = (place / "cut").rglob("*.npz")
    kept = np.load(partial)["scores"]
    assert 0 < np.isfinite(kept).sum() < len(kept)
    again = stored_map(place / "cut", extractor, item)
    np.testing.assert_allclose(again.map.values, whole.map.values, rtol=1e-4, atol=1e-7)


CHILD = """
import os, signal, sys
from pathlib import Path
import numpy, torch
from medssl_models import RunContext, model_card
from medssl_models.backbone import Backbone
from medssl_models.networks.controls import initialise
from medssl_models.networks.trunks import build_trunk
from medssl_saliency import MapFolder, FeatureExtractor, from_files, preset
from medssl_saliency.maps import progress

torch.set_num_threads(1)
progress.KEEP_EVERY = -1.0  # after every batch
write, calls, dies_at = numpy.savez, [], int(sys.argv[3])
def dying(file, **arrays):
    calls.append(file)
    if len(calls) == dies_at:
        file.write(b"half of an archive")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, **arrays)
numpy.savez = dying
card = model_card("random_r18")
own = card.preprocessing.replace(resize=64, crop=64)
card = card.replace(width=8, feature_dim=64, preprocessing=own)
trunk = initialise(build_trunk("resnet18", width=8), seed=1)
context = RunContext(output=Path(sys.argv[2]), say=lambda text: print(text, flush=True))
maps = MapFolder(context, memory=8_000_000)
extractor = FeatureExtractor(Backbone(card, trunk), preset(window=6))
print(maps.load_or_compute(extractor, from_files([Path(sys.argv[1])])[0]).path)
"""


def test_a_map_whose_process_was_killed_is_bit_identical_in_the_end(scan, place):
    """A real kill -9 while it keeps what is done; what was kept before is gone on with."""

    def run(folder, *, dies_at=0):
        words = [sys.executable, "-c", CHILD, scan, folder, str(dies_at)]
        return subprocess.run(words, cwd=place, stdout=subprocess.PIPE, text=True, check=False)

    assert run("cut", dies_at=3).returncode == -signal.SIGKILL
    left = files(place / "cut")
    assert not [name for name in left if name.endswith((".h5", ".npy"))]
    assert len(left) == 2  # the second state whole, and half of the third
    again, whole = run("cut"), run("whole")
    assert "going on after" in again.stdout
    assert "going on after" not in whole.stdout
    maps = [next((place / folder).rglob("*.npy")) for folder in ("cut", "whole")]
    assert maps[0].read_bytes() == maps[1].read_bytes()
    assert files(place / "cut") == files(place / "whole")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", None])
def test_a_torn_or_foreign_partial_counts_as_nothing(place, content):
    path = place / "x.npz"
    if content is None:
        write_partial(path, np.zeros(5, np.float32), key="another")
    else:
        path.write_bytes(content)
    assert read_partial(path, key="k", number=5) is None
    write_partial(path, np.arange(5, dtype=np.float32), key="k")
    assert read_partial(path, key="k", number=5).tolist() == [0, 1, 2, 3, 4]
    assert read_partial(path, key="k", number=6) is None


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--window", "41"), 2, "window is 41 pixels, the crop 40"),
        (("--window", "0"), 2, "--window is '0'"),
        (("--stride", "0"), 2, "--stride is '0'"),
        (("--stride", "2", "--fast"), 2, "give one of them"),
        (("--fidelity", "0.99", "--fast"), 2, "fast and fidelity"),
        (("--fidelity", "1.5"), 2, "--fidelity is '1.5'"),
        (("--memory", "0.00001"), 2, "0 MiB are left; give more memory"),
        (("--memory", "inf"), 2, "--memory is 'inf'"),
        (("--crop", "999999"), 2, "crop is 999999"),
        (("--occluder", "black"), 2, "--occluder is 'black'"),
        (("--device", "cuda"), 2, "cuda is not available"),
    ],
)
def test_wrong_options_are_one_sentence(command, scan, words, code, says):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is one")
    got, out, err = command("map", scan, "-m", "random_r18", *words)
    assert (got, out) == (code, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_pictures_that_cannot_be_used_are_named(command, scan, place):
    Image.new("L", (6, 90)).save(place / "thin.png")
    (place / "broken.png").write_bytes(b"\x89PNG not")
    code, _, err = command("map", place / "thin.png", "-m", "random_r18")
    assert code == 3
    assert "6 x 90 pixels, fewer than the window of 10" in err
    assert "picture thin" in err
    code, _, err = command("map", place / "broken.png", "-m", "random_r18")
    assert code == 3
    assert "broken.png" in err
    code, _, err = command("map", place / "none.png", "-m", "random_r18")
    assert code == 3
    assert "is not there" in err
    code, _, err = command("map", "-m", "random_r18")
    assert code == 2
    assert "no images given" in err
    words = ("map", place / "broken.png", scan, "-m", "random_r18", *QUICK, "--skip-unreadable")
    code, out, err = command(*words)
    assert code == 0
    assert "broken is left out" in err
    assert "scan" in out


def test_nan_pixels_are_refused(tiny_models):
    prepared = prepare(
        Image.new("RGB", (40, 40), (1, 2, 3)), tiny_models("random_r18").preprocessing, preset()
    )
    prepared.normalised[0, 3, 3] = float("nan")
    with pytest.raises(ImageError, match="NaN"):
        compute_map(tiny_models("random_r18").trunk, prepared, preset())


def test_a_constant_picture_has_a_defined_map_and_a_warning(command, place):
    Image.new("RGB", (50, 50), (90, 90, 90)).save(place / "blank.png")
    code, out, err = command("map", place / "blank.png", "-m", "random_r18", *QUICK, "--json")
    assert code == 0
    assert numbers(json.loads(out))["attentive_diffusion"] == 0
    assert "warning" in err
    assert "constant" in err
    assert "flat" in err


def test_a_flat_map_of_another_method_says_what_the_method_gives(scan):
    """Grad-CAM keeps what is positive: of a picture darker than its occluder nothing is left."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 1, bias=False), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    torch.nn.init.ones_(network[0].weight)
    seen = Preprocessing(resize=20, crop=20, normalisation={"kind": "none"})
    settings = preset(method="grad-cam")
    prepared = prepare(Image.open(scan).convert("RGB"), seen, settings)
    prepared = replace(prepared, occluder=torch.full_like(prepared.normalised, 5.0))
    made = compute_map(network.eval().requires_grad_(False), prepared, settings)
    assert made.notes == (
        "the map is flat: grad-cam gives every pixel 0; attentive diffusion is 0 by definition",
    )


def test_zero_features_give_absolute_scores_and_a_warning(place):
    class Difference(torch.nn.Module):
        """Zero for a constant picture, not zero for one with a window in it."""

        def __init__(self):
            super().__init__()
            self.edges = torch.nn.Conv2d(3, 1, (1, 2), bias=False)
            self.edges.weight.data = torch.tensor([1.0, -1.0]).expand(1, 3, 1, 2).clone()

        def forward(self, x):
            return torch.relu(self.edges(x)).mean(dim=(2, 3))

    preprocessing = Preprocessing(resize=20, crop=20, normalisation={"kind": "imagenet"})
    settings = preset(window=5, stride=5, occluder="zero")
    image = Image.new("RGB", (20, 20), (200, 10, 10))
    prepared = prepare(image, preprocessing, settings)
    made = compute_map(Difference().eval().requires_grad_(False), prepared, settings)
    assert made.norm == 0
    assert np.isfinite(made.values).all()
    assert made.values.max() > 0
    assert any("absolute" in note for note in made.notes)


def test_a_folder_that_cannot_be_written_is_told_before_the_work(command, scan, place):
    (place / "taken").write_text("a file")
    code, out, err = command("map", scan, "-m", "random_r18", "-o", place / "taken")
    assert (code, out) == (1, "")
    assert "taken" in err


def test_a_damaged_map_is_named_and_force_makes_it_again(command, scan, place):
    words = ("map", scan, "-m", "random_r18", *QUICK)
    assert command(*words)[0] == 0
    (stored,) = (place / "saliency").rglob("*.h5")
    stored.write_bytes(stored.read_bytes()[:500])
    code, _, err = command(*words)
    assert code == 3
    assert "make it again" in err
    assert command(*words, "--force")[0] == 0


def test_names_are_fit_for_folders():
    assert image_name("a/b c.dcm") == "a-b-c"
    assert image_name("../..") == "image"
    items = from_dataset_like(["x.png", "x.jpg"])
    assert [item.name for item in items] == ["x", "x-2"]


def from_dataset_like(names):
    from medssl_saliency.images import _distinct

    return [ImageItem(name, lambda: None) for name in _distinct(map(image_name, names))]


def test_durations_are_told_in_words():
    assert [duration(seconds) for seconds in (5, 600, 9000)] == ["5 s", "10 min", "2.5 h"]


# ------------------------------------------------------------------ folders that cannot be written


@pytest.mark.parametrize("option", ["--output", "--results"])
def test_a_file_where_a_folder_should_be_is_said_before_the_work(command, scan, place, option):
    (place / "file").write_text("taken")
    where = place / "file" if option == "--output" else place / "file" / "results.jsonl"
    code, out, err = command("map", scan, "-m", "random_r18", option, where)
    assert (code, out) == (1, "")
    assert f"another with {option}" in err
    assert err.count("\n") == 1
    assert not list(place.glob("saliency/*"))


def test_a_read_only_folder_is_said_before_the_work(command, scan, place, monkeypatch):
    """As a user who is not root meets it: the folder is there, a file in it is refused."""

    real = tempfile.TemporaryFile

    def refuse(**where):
        if where["dir"].name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(**where)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    code, out, err = command("stats", scan, "-m", "random_r18", "--output", place / "locked")
    assert (code, out) == (1, "")
    assert "locked cannot be written (Permission denied)" in err
    assert not list((place / "locked").iterdir())
