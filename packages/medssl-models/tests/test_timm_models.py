"""`timm:NAME` against timm itself, with weights that are brought by hand."""

import pytest
import torch
from medssl_models import create_model
from medssl_models.catalog import model_card
from medssl_models.conversion.model_folder import read_origin
from medssl_models.conversion.verification import verify
from medssl_models.errors import (
    InputRangeError,
    MissingExtraError,
    MissingWeightsError,
    SettingsError,
    UnknownModelError,
)
from medssl_models.features.runtime import FeatureNetwork, relative_error
from medssl_models.hub.library import import_model, is_imported, model_folder_of
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
    import_model(card, folder / "model.safetensors", library=folder / "library")
    return card, plain, folder / "library"


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


def test_without_timm_the_command_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'medssl-models\[timm\]'") as caught:
        model_card("timm:not_asked_for_before")
    assert caught.value.exit_code == 4
