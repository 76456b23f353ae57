"""Laws that hold for every model of the catalogue, and the manners of a frozen backbone."""

import copy
from functools import cache

import pytest
import torch
from medssl_models import create_model
from medssl_models.backbone import Backbone
from medssl_models.catalog import list_models, model_card
from medssl_models.errors import (
    CheckpointError,
    InputRangeError,
    LayerError,
    MissingWeightsError,
    UnknownModelError,
)
from medssl_models.hub.library import import_model
from medssl_models.networks.controls import initialise
from medssl_models.networks.trunks import build_trunk
from medssl_models.testing import (
    shrunken,
    tiny_backbone,
    tiny_card,
    tiny_state,
    write_torch_checkpoint,
)
from medssl_models.testing.checkpoints import (
    byol_tree,
    resnet_state,
    simclr_variables,
    write_byol_pickle,
    write_tf_bundle,
)
from torch import nn

CARDS = list_models()
# What lies beside the weights in files of each family, in the words of their training code.
BESIDE = {
    "module.encoder_q.": ["module.encoder_q.{head}.0.weight", "module.encoder_k.conv1.weight"],
    "module.encoder.": [],
    "module.base_encoder.": ["module.base_encoder.fc.1.bias", "module.predictor.0.weight"],
    "module.": ["module.projection_head.0.weight", "module.prototypes.weight"],
    "model.encoder_q.": [
        "model.encoder_q.classifier.weight",
        "model.queue_ptr",
        "model.encoder_k.x",
    ],
    "": [],
}


@cache
def weights_of(architecture, width):
    """Seeded weights, made once for all cards of an architecture: calibrating takes a second."""
    return tiny_state(tiny_card(architecture=architecture, width=width))


def write_source(card, folder):
    """Write the tiny twin of a published checkpoint, by the names of its own framework."""
    if card.key_map.scheme == "torchvision":
        head = "classifier" if card.architecture.startswith("densenet") else "fc"
        names = [name.format(head=head) for name in BESIDE[card.key_map.prefix]]
        extra = {name: torch.zeros(2) for name in names}
        state = weights_of(card.architecture, card.width)
        write_torch_checkpoint(folder / "weights", card, state, extra=extra)
        return folder / "weights"
    state = resnet_state(card.architecture, width=card.width)
    if card.key_map.scheme == "haiku_resnet":
        write_byol_pickle(folder / "weights", *byol_tree(state))
        return folder / "weights"
    return write_tf_bundle(folder / "model.ckpt-1", simclr_variables(state))


@pytest.fixture(scope="module", params=CARDS, ids=lambda card: card.name)
def model(request, tmp_path_factory):
    """A tiny twin of each model, brought in as a user brings in the real one."""
    card = shrunken(request.param)
    if card.control:
        trunk = build_trunk(card.architecture, padding=card.padding, width=card.width)
        return Backbone(card, initialise(trunk, seed=card.seed))
    folder = tmp_path_factory.mktemp(card.name)
    done = import_model(card, write_source(card, folder), library=folder / "library")
    return create_model(str(done.folder))


def images(model, count=3, side=48):
    low, high = model.preprocessing.normalised_range
    unit = torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return unit * (high - low) + low


def test_it_is_frozen_and_in_eval_mode(model):
    assert not any(module.training for module in model.train().modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_features_have_the_declared_shape_and_are_finite(model):
    features = model(images(model))

    assert features.shape == (3, model.feature_dim)
    assert features.dtype == torch.float32
    assert bool(features.isfinite().all())
    assert not features.requires_grad


def test_features_do_not_depend_on_the_batch(model):
    x = images(model)

    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-4)


def test_layers_end_in_the_features(model):
    x = images(model)

    taps = model.forward_layers(x, (*model.layers, "layer4"))

    assert tuple(taps) == tuple(dict.fromkeys((*model.layers, "layer4")))
    assert torch.equal(taps["pooled"], model(x))
    assert taps["layer4"].shape[1] == model.feature_dim


def test_the_state_survives_a_round_trip(model):
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert twin.fingerprint != model.fingerprint

    twin.load_state_dict(model.state_dict())

    assert twin.fingerprint == model.fingerprint
    # Weights that lie elsewhere in memory may be summed in another order.
    torch.testing.assert_close(twin(images(model)), model(images(model)), rtol=1e-5, atol=1e-5)


def test_its_preprocessing_feeds_it(model):
    preprocessing = model.preprocessing_for("corrected")

    assert preprocessing == model.preprocessing
    assert preprocessing.fingerprint in repr(preprocessing.fingerprint)
    model(preprocessing.normalise(torch.rand(1, 3, 40, 40)))
    model(model.preprocessing_for("published").normalise(torch.rand(1, 3, 40, 40)))


@pytest.mark.parametrize("name", ["random_r18", "random_r50", "random_d121"])
def test_controls_are_created_at_full_size(name):
    backbone = create_model(name)

    assert backbone.name == name
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, model_card(name).feature_dim)


def test_published_takes_the_normalisation_and_padding_of_the_study(tmp_path):
    card = shrunken(model_card("byol"))
    done = import_model(card, write_source(card, tmp_path), library=tmp_path / "library")
    path = str(done.folder)

    own, study = create_model(path), create_model(path, protocol="published")

    assert (own.name, own.card.padding) == ("byol", "tf_same")
    assert (study.name, study.card.padding) == ("byol:torchvision", "torchvision")
    assert create_model(f"{path}:torchvision").fingerprint == study.fingerprint != own.fingerprint
    assert not torch.allclose(own(images(own)), study(images(own)), rtol=1e-2)


def test_published_geometry_replaces_only_what_is_given():
    backbone = tiny_backbone()

    changed = backbone.preprocessing_for("published", resize=(20, 20), interpolation="bicubic")

    assert changed == backbone.preprocessing.replace(resize=(20, 20), interpolation="bicubic")


def test_trainable_turns_gradients_and_training_mode_on():
    frozen = tiny_backbone()
    backbone = Backbone(frozen.card, frozen.trunk, trainable=True)
    enclosing = nn.Sequential(backbone, nn.Linear(backbone.feature_dim, 2))

    enclosing(torch.zeros(2, 3, 32, 32)).sum().backward()

    assert all(module.training for module in backbone.modules())
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert not backbone.eval().training


def test_gradients_reach_the_input_of_a_frozen_backbone():
    x = torch.zeros(1, 3, 32, 32, requires_grad=True)

    tiny_backbone()(x).sum().backward()

    assert x.grad is not None


@pytest.mark.parametrize(
    "x",
    [
        torch.full((1, 3, 8, 8), 200.0),
        torch.full((1, 3, 8, 8), float("nan")),
        torch.full((1, 3, 8, 8), float("-inf")),
        torch.zeros(3, 8, 8),
        torch.zeros(1, 1, 8, 8),
        torch.zeros((1, 3, 8, 8), dtype=torch.uint8),
    ],
    ids=["8-bit range", "nan", "infinite", "one image", "grey", "integers"],
)
def test_inputs_that_it_was_not_trained_on_are_refused(x):
    with pytest.raises(InputRangeError, match="x: "):
        tiny_backbone()(x)


def test_the_check_can_be_switched_off():
    backbone = tiny_backbone()
    backbone.checks_input = False

    assert backbone(torch.full((1, 3, 32, 32), 200.0)).shape == (1, 16)


def test_unknown_layers_are_refused():
    with pytest.raises(LayerError, match="'fc' is unknown"):
        tiny_backbone().forward_layers(torch.zeros(1, 3, 32, 32), ["fc"])


def test_missing_weights_say_where_they_are_and_what_to_do(tmp_path):
    with pytest.raises(MissingWeightsError, match="import byol FILE") as caught:
        create_model("byol", library=tmp_path)

    assert caught.value.exit_code == 4
    assert "https://storage.googleapis.com/deepmind-byol/" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_models_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(UnknownModelError):
        create_model("random_r19x")
    with pytest.raises(CheckpointError, match=r"without config\.json"):
        create_model(str(tmp_path))


def test_printing_says_what_it_is():
    assert "tiny, feature_dim=16, padding=torchvision" in repr(tiny_backbone())
