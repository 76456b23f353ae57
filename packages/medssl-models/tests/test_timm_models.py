"""`timm:NAME` against timm itself, with weights that are brought by hand."""

import json
import sys

import pytest
import torch
from medssl_models import available_models, control_of, create_model, list_models
from medssl_models.catalog import model_card, resolve
from medssl_models.cli import app
from medssl_models.console import run
from medssl_models.conversion.model_folder import model_folder_of, read_origin
from medssl_models.conversion.verification import verify
from medssl_models.errors import (
    InputRangeError,
    MissingExtraError,
    MissingWeightsError,
    SettingsError,
    UnknownModelError,
)
from medssl_models.features.runtime import FeatureNetwork, relative_error
from medssl_models.hub.bundles import export_bundle, import_bundle
from medssl_models.hub.exporting import export_model
from medssl_models.hub.library import check_models, import_model, is_imported
from medssl_models.networks.build import build_network
from safetensors.torch import save_file

timm = pytest.importorskip("timm")

# Published for tests: a transformer, and convolutional networks with and without a layer between
# pooling and head.
NAMES = ["test_vit.r160_in1k", "test_resnet.r160_in1k", "test_efficientnet.r160_in1k"]


def source_network(name, *, classes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, num_classes=classes).eval()


@pytest.fixture(scope="module", params=NAMES)
def imported(request, tmp_path_factory):
    """A network of timm with its head, saved as timm publishes it and imported."""
    folder = tmp_path_factory.mktemp("timm")
    plain = source_network(request.param, classes=1000)
    save_file(plain.state_dict(), folder / "model.safetensors")
    card = model_card(f"timm:{request.param}")
    import_model(card, folder / "model.safetensors", library=folder / "models")
    return card, plain, folder / "models"


def noise(backbone):
    low, high = backbone.preprocessing.normalised_range
    side = backbone.preprocessing.crop
    unit = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(0))
    return unit * (high - low) + low


def test_features_are_those_of_timm_without_its_head(imported):
    card, plain, library = imported
    backbone = create_model(card.name, library=library)
    plain.reset_classifier(0)
    x = noise(backbone)

    with torch.inference_mode():
        torch.testing.assert_close(backbone(x), plain(x))
    assert backbone(x).shape == (2, backbone.feature_dim)
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_layers_are_readable_by_name(imported):
    card, _, library = imported
    backbone = create_model(card.name, library=library)

    taps = backbone.forward_layers(noise(backbone), backbone.layers)

    assert len(backbone.layers) > 4
    assert tuple(taps) == backbone.layers
    assert all(bool(tap.isfinite().all()) for tap in taps.values())


def test_the_folder_is_whole_and_can_be_verified(imported):
    card, _, library = imported
    folder = model_folder_of(card, library=library)

    assert verify(folder).passed
    assert folder.name == card.name.replace(":", "--")
    assert read_origin(folder).dropped == {"classification head": 2}
    assert (
        create_model(str(folder)).fingerprint
        == create_model(card.name, library=library).fingerprint
    )


def test_the_fast_copy_gives_the_same_features(imported):
    card, _, library = imported
    backbone = create_model(card.name, library=library)
    side = backbone.preprocessing.crop
    fast = FeatureNetwork.prepare(backbone, device=torch.device("cpu"), crop=side)
    x = noise(backbone)

    assert relative_error(fast(x), backbone(x)) < 1e-4
    inner = backbone.layers[-2]
    fast = FeatureNetwork.prepare(backbone, layer=inner, device=torch.device("cpu"), crop=side)
    output = backbone.forward_layers(x, [inner])[inner]
    averaged = output.mean(1) if output.ndim == 3 else output.mean((2, 3))
    assert relative_error(fast(x), averaged) < 1e-4


def test_maps_have_their_channels_first():
    """Swin's modules give them last."""
    card = model_card("timm:swin_tiny_patch4_window7_224.ms_in1k")
    trunk = build_network(card)
    taps = trunk.run(torch.zeros(1, 3, 224, 224), trunk.layers[:-1])

    assert [tap.shape[1] for tap in taps.values()] == [96, 192, 384, 768]


def test_the_preprocessing_is_that_of_timm():
    own = model_card("timm:vit_small_patch14_dinov2.lvd142m").preprocessing
    tiny = model_card("timm:test_vit.r160_in1k").preprocessing

    assert (own.resize, own.crop, own.interpolation) == (518, 518, "bicubic")
    assert own.normalisation.kind == "imagenet"
    assert (tiny.resize, tiny.crop) == (168, 160)
    assert tiny.normalisation.mean == (0.5, 0.5, 0.5)


def test_a_name_without_a_tag_means_the_default_weights():
    card = model_card("timm:test_vit")

    assert card.name == "timm:test_vit.r160_in1k"
    assert (
        card.weights[0].urls[0].endswith("timm/test_vit.r160_in1k/resolve/main/model.safetensors")
    )
    assert card.licence == "apache-2.0"


def test_weights_that_are_not_here_say_where_they_are(tmp_path):
    card = model_card("timm:test_vit")

    assert not is_imported(card, library=tmp_path)
    with pytest.raises(MissingWeightsError, match=r"import timm:test_vit\.r160_in1k FILE"):
        create_model("timm:test_vit", library=tmp_path)


def test_wrong_names_and_wrong_sizes_are_refused(imported):
    card, _, library = imported
    with pytest.raises(UnknownModelError, match=r"did you mean .*test_vit"):
        model_card("timm:tset_vit")
    with pytest.raises(SettingsError, match="leave out :tf_same"):
        create_model(f"{card.name}:tf_same", library=library)
    backbone = create_model(card.name, library=library)
    if backbone.trunk.fixed_side:
        with pytest.raises(InputRangeError, match="takes only 160 x 160"):
            backbone(torch.zeros(1, 3, 64, 64))


# ------------------------------------------------------------------------------- names and controls

# Pads as TensorFlow does, in its own code.
SAME = "timm:tf_efficientnet_lite0"


@pytest.fixture
def library(imported, monkeypatch):
    """The library with one network of timm, as that of the commands."""
    card, _, library = imported
    monkeypatch.setenv("MEDSSL_HOME", str(library.parent))
    return card, card.name.partition(".")[0]


def test_a_short_name_means_the_imported_model(library):
    card, short = library

    assert short != card.name
    check_models([short])
    assert resolve(short).name == card.name
    assert create_model(short).name == card.name
    assert create_model(short).fingerprint == create_model(card.name).fingerprint


def test_an_imported_network_is_listed_and_available(library, capsys):
    card, short = library
    control = f"random:{card.name}"

    assert card in list_models()
    assert {card.name, control} <= set(available_models())
    assert run(app, ["list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[card.name]["here"] is rows[control]["here"] is True
    assert run(app, ["show", short, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == card.name


def test_a_bundle_carries_it(library, tmp_path):
    card, short = library

    assert [one.name for one in export_bundle([], tmp_path / "all.zip").models] == [card.name]
    assert [one.name for one in export_bundle([short], tmp_path / "a.zip").models] == [card.name]
    (one,) = import_bundle(tmp_path / "all.zip", library=tmp_path / "there")
    assert one.name == card.name
    there = create_model(short, library=tmp_path / "there")
    assert there.fingerprint == create_model(short).fingerprint


def test_its_control_is_the_same_network_with_seeded_weights(library):
    card, short = library
    backbone, name = create_model(short), control_of(short)
    before = torch.get_rng_state()
    control, again = create_model(name), create_model(f"random:{short}")

    assert name == control.name == again.name == f"random:{card.name}"
    assert control.card.control
    assert control_of(name) is None
    assert control.layers == backbone.layers
    assert control.preprocessing == backbone.preprocessing
    assert control.fingerprint == again.fingerprint != backbone.fingerprint
    assert torch.equal(torch.get_rng_state(), before)
    features = control(noise(control))
    assert bool(features.isfinite().all())
    assert float(features.std()) > 0.05


def test_an_imported_network_has_its_name_and_control_without_timm(library, monkeypatch):
    card, _ = library
    monkeypatch.setitem(sys.modules, "timm", None)

    assert card.name in available_models()
    assert resolve(card.name).is_here
    assert control_of(card.name) == f"random:{card.name}"


def test_a_control_needs_no_published_weights():
    published = {name.partition(".")[0] for name in timm.list_pretrained("test_*")}
    short = min(set(timm.list_models("test_*")) - published)

    assert create_model(f"random:timm:{short}").card.control
    with pytest.raises(UnknownModelError, match=f"{short} is unknown"):
        resolve(f"timm:{short}")
    with pytest.raises(UnknownModelError, match=r"did you mean .*test_vit"):
        resolve("random:timm:tset_vit")


def test_a_control_is_that_of_the_same_network_of_ours():
    """One way to draw weights: timm's ResNet-18 without training is ours."""
    ours, theirs = create_model("random_r18"), create_model("random:timm:resnet18")
    theirs.checks_input = False
    x = noise(ours)

    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-4)


def test_a_card_says_how_the_network_pads(tmp_path):
    assert resolve(SAME).card.padding == "tf_same"
    assert resolve("timm:vit_tiny_r_s16_p8_224").card.padding == "tf_same"
    assert resolve("timm:test_efficientnet").card.padding == "torchvision"
    # What it says may be asked for; anything else is not to be had.
    assert resolve(f"{SAME}:tf_same").name == resolve(SAME, protocol="published").name
    with pytest.raises(SettingsError, match="leave out :torchvision"):
        resolve(f"{SAME}:torchvision")
    done = export_model(f"random:{SAME}", tmp_path / "out")
    assert done.exact_elsewhere
    assert "timm gives the same features" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_without_timm_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'medssl-models\[timm\]'") as caught:
        model_card("timm:not_asked_for_before")
    assert caught.value.exit_code == 4
