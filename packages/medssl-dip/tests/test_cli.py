"""Every command through the runner: tables, JSON, exit codes, bad input, figures."""

import json

import numpy as np
import pytest
from medssl_dip.cli import app
from medssl_models import read_records
from medssl_models.console import run
from medssl_models.conversion.convert import convert
from medssl_models.testing import tiny_card, tiny_state, write_torch_checkpoint
from PIL import Image

FEW = ("--preset", "quick", "--size", "32", "--steps", "2", "--net", "none", "--no-controls")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A converted folder of a tiny network that counts as pretrained."""
    folder = tmp_path_factory.mktemp("models")
    card = tiny_card("tiny", width=4).replace(control=False, seed=None, origin="here")
    write_torch_checkpoint(folder / "weights.pth", card, tiny_state(card))
    return str(convert(folder / "weights.pth", card, folder / "tiny").folder)


@pytest.fixture
def scan(image, tmp_path):
    image.save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


def call(capsys, *words):
    code = run(app, [str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_reconstruct_shows_a_table_and_keeps_records(capsys, scan, model, tmp_path):
    words = ("reconstruct", scan, "-m", model, *FEW, "--layer", "layer1,layer4", "--restarts", "2")

    code, out, err = call(capsys, *words)

    assert code == 0, err
    assert "layer1" in out
    assert "+-" in out
    records = read_records(tmp_path / "results.jsonl").records
    assert {record.provenance.layer for record in records} == {"layer1", "layer4"}
    assert {record.metric for record in records} == {"loss", "ssim", "psnr", "feature_distance"}
    code, out, _ = call(capsys, *words, "--json")
    assert code == 0
    assert len(json.loads(out)["records"]) == len(records)
    assert len(read_records(tmp_path / "results.jsonl")) == len(records)


def test_files_of_one_name_have_rows_of_their_own(capsys, scan, image, model, tmp_path):
    (tmp_path / "turned").mkdir()
    image.rotate(180).save(tmp_path / "turned" / "scan.png")

    code, out, err = call(capsys, "reconstruct", scan, "turned/scan.png", "-m", model, *FEW)

    assert code == 0, err
    rows = [line.split("  ")[1] for line in out.splitlines() if "file:scan (images" in line]
    assert len(set(rows)) == 2
    code, out, err = call(capsys, "reconstruct", scan, "-m", model, *FEW)
    assert "file:scan" not in out  # the setting names it already


def test_a_control_stands_beside_each_model(capsys, scan, model):
    few = [word for word in FEW if word != "--no-controls"]

    code, out, err = call(capsys, "reconstruct", scan, "-m", model, *few, "--json")

    assert code == 0, err
    models = [record.provenance.model for record in read_records("results.jsonl")]
    assert list(dict.fromkeys(models)) == ["tiny", "random_r18"]
    shown = {record["provenance"]["preprocessing"] for record in json.loads(out)["records"]}
    assert len(shown) == 1


def test_a_gallery_of_models_and_layers(capsys, scan, model, tmp_path):
    layers = ("--layer", "layer1,layer4")
    assert call(capsys, "reconstruct", scan, "-m", model, *FEW, *layers)[0] == 0

    code, out, err = call(capsys, "gallery", "reconstructions", "-o", "figure.png")

    assert code == 0, err
    assert out.strip().endswith("figure.png")
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.width > figure.height
    code, out, _ = call(capsys, "gallery", "--json")
    assert layers_of(json.loads(out), "ssim") == ["layer1", "layer4"]


def test_a_gallery_tells_apart_what_differs(capsys, scan, model, monkeypatch):
    """Two numbers of steps, two protocols: four pictures of one layer, none over another."""
    drawn = []
    monkeypatch.setattr("medssl_dip.gallery.draw_grid", lambda *_, **given: drawn.append(given))
    base = [word for word in FEW if word not in {"--steps", "2"}]
    for steps in ("2", "3"):
        for protocol in ("published", "corrected"):
            few = (*base, "--steps", steps, "--layer", "layer4", "--protocol", protocol)
            assert call(capsys, "reconstruct", scan, "-m", model, *few)[0] == 0

    assert call(capsys, "gallery")[0] == 0

    (given,) = drawn
    assert given["columns"] == ["original", "layer4"]
    assert len(set(given["rows"])) == 4
    assert all("steps" in row and "protocol" in row for row in given["rows"])


def layers_of(document, metric):
    records = document["records"]
    return sorted(one["settings"]["layer"] for one in records if one["metric"] == metric)


def test_a_gallery_asks_which_picture(capsys, scan, model, image, tmp_path):
    image.rotate(180).save(tmp_path / "other.png")
    assert call(capsys, "reconstruct", scan, "other.png", "-m", model, *FEW)[0] == 0

    code, _, err = call(capsys, "gallery")
    assert code == 2
    assert "picture: reconstructions has runs of other, scan; choose one" in err
    assert call(capsys, "gallery", "--picture", "other")[0] == 0
    code, _, err = call(capsys, "gallery", "--picture", "scam")
    assert code == 2
    assert "did you mean scan?" in err


def test_a_gallery_of_nothing(capsys):
    code, _, err = call(capsys, "gallery", "nowhere")

    assert code == 2
    assert "no finished run; make some with: medssl-dip reconstruct" in err


def odd_pictures():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (20, 61), dtype=np.uint8)
    return {
        "wide.png": Image.fromarray(grey).resize((200, 20)),
        "tiny.png": Image.fromarray(grey[:3, :2]),
        "grey.png": Image.fromarray(grey),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 200),
        "alpha.png": Image.merge("RGBA", [Image.fromarray(grey)] * 4),
        "black.png": Image.new("RGB", (50, 40)),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_pictures_of_every_kind_are_reconstructed(capsys, model, tmp_path, name):
    odd_pictures()[name].save(tmp_path / name)

    code, out, err = call(capsys, "reconstruct", name, "-m", model, *FEW, "--json")

    assert code == 0, err
    assert len(json.loads(out)["files"]) == 1


def test_the_first_picture_of_a_data_set(capsys, model):
    code, out, err = call(
        capsys, "reconstruct", "-d", "phantom:chest-xray", "-m", model, *FEW, "--json"
    )

    assert code == 0, err
    assert json.loads(out)["records"][0]["provenance"]["dataset"].startswith("phantom")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_networks_of_timm_are_inverted(capsys, scan, name):
    """Maps that TensorFlow padded, and tokens of a transformer that takes one side only."""
    pytest.importorskip("timm")
    few = [word if word != "32" else "224" for word in FEW]

    code, out, err = call(capsys, "reconstruct", scan, "-m", f"random:timm:{name}", *few, "--json")

    assert code == 0, err
    records = json.loads(out)["records"]
    assert {one["metric"] for one in records} == {"loss", "ssim", "psnr", "feature_distance"}
    assert records[0]["provenance"]["layer"].startswith("blocks.")


def refused(words, code, told):
    return pytest.param(words, code, told, id=told[:30])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        refused((), 2, "no images given"),
        refused(("absent.png",), 3, "absent.png is not there"),
        refused(("broken.png",), 3, "broken.png cannot be decoded"),
        refused(
            ("scan.png", "--layer", "layer9"), 2, "'layer9' is unknown, this network has conv1"
        ),
        refused(("scan.png", "--picture", "a"), 2, "picture names an image of a data set"),
        refused(("-d", "phantom:chest-xray", "--picture", "zzz"), 2, "has no 'zzz'"),
        refused(("scan.png", "--net", "alexx"), 2, "should be 'alex', 'vgg' or 'squeeze'"),
        refused(("scan.png", "--net", "alex"), 4, "medssl-models import lpips-alex"),
        refused(("scan.png", "--size", "8"), 2, "--side"),
        refused(("scan.png", "--device", "tpu"), 2, "not one of auto"),
    ],
)
def test_bad_input_is_one_line_and_computes_nothing(
    capsys, scan, model, tmp_path, words, code, told
):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    base = [word for word in FEW if word not in {"--net", "none"}]

    found, out, err = call(capsys, "reconstruct", "-m", model, *base, *words)

    assert (found, out) == (code, "")
    assert told in " ".join(err.replace("│", " ").split())
    assert not list(tmp_path.glob("reconstructions/*"))


def test_an_unknown_model_gets_near_ones(capsys, scan):
    code, _, err = call(capsys, "reconstruct", scan, "-m", "moco_v2")

    assert code == 2
    assert "did you mean moco-v2" in err


def test_a_model_that_is_not_here(capsys, scan):
    code, _, err = call(capsys, "reconstruct", scan, "-m", "moco-v2")

    assert code == 4
    assert "medssl-models import moco-v2 FILE" in err


def test_a_run_that_diverges_is_told_of(capsys, scan, model, monkeypatch):
    monkeypatch.setattr(
        "medssl_dip.inversion.optimisation.StopRule.see",
        lambda self, step, loss: "diverged",
    )

    code, out, err = call(capsys, "reconstruct", scan, "-m", model, *FEW)

    assert (code, out) == (1, "")
    assert "diverged; its picture of step 0 is kept" in err
    assert "every run diverged" in err


def test_out_of_memory_is_advice_on_one_line(capsys, scan, model, monkeypatch):
    def exhausted(self):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("medssl_dip.inversion.optimisation.Inversion.update", exhausted)

    code, out, err = call(capsys, "reconstruct", scan, "-m", model, *FEW)

    assert (code, out) == (1, "")
    assert "use a smaller batch size, a smaller size or preset quick" in " ".join(err.split())
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------- distance


def test_distance_of_two_files(capsys, scan, image, model, tmp_path):
    image.point(lambda level: level // 2).save(tmp_path / "dark.png")

    code, out, err = call(
        capsys, "distance", scan, "dark.png", "-m", model, "--net", "none", "--json"
    )

    assert code == 0, err
    records = {one["metric"]: one for one in json.loads(out)["records"]}
    assert records.keys() == {"ssim", "psnr", "feature_distance"}
    assert 0 < records["ssim"]["value"] < 1
    assert records["feature_distance"]["value"] > 0
    models = {name: one["provenance"]["model"] for name, one in records.items()}
    assert models == {"ssim": "none", "psnr": "none", "feature_distance": "tiny"}
    assert records["ssim"]["provenance"]["dataset"] == "file:scan file:dark"
    code, out, _ = call(capsys, "distance", scan, "dark.png", "--net", "none")
    assert "structural similarity; 1 is the same" in out


def test_distance_needs_its_trunks(capsys, scan):
    code, out, err = call(capsys, "distance", scan, scan)

    assert (code, out) == (4, "")
    assert "medssl-models import lpips-squeeze squeezenet1_1-b8a52dc0.pth" in err
    assert "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth" in err


def test_sizes_that_differ_are_refused_or_brought_together(capsys, scan, image, tmp_path):
    image.resize((30, 30)).save(tmp_path / "small.png")

    code, _, err = call(capsys, "distance", scan, "small.png", "--net", "none")
    assert code == 3
    assert "52 x 40 and 30 x 30 pixels; bring both to one size with size=224" in err
    assert call(capsys, "distance", scan, "small.png", "--net", "none", "--size", "32")[0] == 0
    published = ("--protocol", "published")
    assert call(capsys, "distance", scan, "small.png", "--net", "none", *published)[0] == 0


def test_equal_pictures_have_no_finite_psnr(capsys, scan):
    code, out, err = call(capsys, "distance", scan, scan, "--net", "none", "--json")

    assert code == 0, err
    (record,) = json.loads(out)["records"]
    assert (record["metric"], record["value"]) == ("ssim", pytest.approx(1, abs=1e-4))
    assert "psnr is infinite: the pictures are equal" in record["notes"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_distance_takes_two_files(capsys, scan, count):
    code, _, err = call(capsys, "distance", *[scan] * count, "--net", "none")

    assert code == 2
    assert ("no images given" if not count else f"the original first; got {count}") in err


def test_a_trunk_that_was_named_and_is_not_here_stops_before_any_run(capsys, scan, model, tmp_path):
    few = [word for word in FEW if word not in {"--net", "none"}]

    code, _, err = call(capsys, "reconstruct", scan, "-m", model, *few, "--net", "vgg")
    assert code == 4
    assert "medssl-models import lpips-vgg" in err
    assert not list(tmp_path.glob("reconstructions/*"))

    code, _, err = call(capsys, "reconstruct", scan, "-m", model, *few)
    assert code == 0
    assert "lpips-squeeze" in err
    assert "measured without them" in err


def test_patience_none_and_the_other_settings_are_options(capsys, scan, model):
    words = ("--patience", "none", "--learning-rate", "0.5", "--no-lossless", "--no-resume")

    code, out, err = call(capsys, "reconstruct", scan, "-m", model, *FEW, *words, "--json")

    assert code == 0, err
    settings = json.loads(out)["records"][0]["settings"]
    assert (settings["patience"], settings["learning_rate"]) == (None, 0.5)
    assert (settings["steps"], settings["restarts"], settings["lossless"]) == (2, 1, False)
    assert "preset" not in settings


def test_several_pictures_of_a_data_set(capsys, model):
    data = ("-d", "phantom:chest-xray,count=4", "--picture", "patient00000/0,patient00001/0")

    code, out, err = call(capsys, "reconstruct", *data, "-m", model, *FEW, "--json")

    assert code == 0, err
    found = {one["settings"]["picture"] for one in json.loads(out)["records"]}
    assert found == {"patient00000/0", "patient00001/0"}
    code, _, err = call(capsys, "gallery", "--picture", "0")
    assert code == 2
    assert "has runs of patient00000/0, patient00001/0; choose one" in err
    assert call(capsys, "gallery", "--picture", "patient00001/0")[0] == 0
