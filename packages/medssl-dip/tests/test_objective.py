"""What a reconstruction is matched to: layers, normalisation, scale, gradients."""

import pytest
import torch
from medssl_dip.errors import SettingsError
from medssl_dip.feature_extractor import FeatureExtractor, preprocessing_of, resolve_layer
from medssl_dip.inversion.objective import Objective
from medssl_dip.settings import settings_for
from medssl_models.errors import LayerError
from medssl_models.preprocessing import Preprocessing
from medssl_models.testing import tiny_backbone

RAW = settings_for("published", size=32)


def extractor_of(backbone, settings):
    return FeatureExtractor(backbone, preprocessing_of(backbone, settings))


def test_corrected_normalises_as_the_model_expects(backbone, settings, pictures):
    x = pictures(2)
    expected = backbone.forward_layers(backbone.preprocessing.normalise(x), ("layer4",))["layer4"]

    seen = extractor_of(backbone, settings)(x, "layer4")

    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


def test_published_feeds_raw_pictures(backbone, pictures):
    x = pictures(2)
    expected = backbone.forward_layers(x, ("layer4",))["layer4"]

    torch.testing.assert_close(
        extractor_of(backbone, RAW)(x, "layer4"), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"normalisation": {"kind": "histogram"}},
        {"normalisation": {"kind": "constant", "mean": (0.5,) * 3, "std": (0.1,) * 3}},
        {"normalisation": {"kind": "none"}, "value_range": (0.0, 255.0)},
    ],
    ids=["histogram", "constant", "0..255"],
)
def test_every_normalisation_is_the_one_of_the_model(backbone, changes, pictures):
    own = Preprocessing.model_validate(dict(backbone.preprocessing) | changes)
    x = pictures(2)
    low, high = own.value_range

    seen = FeatureExtractor(backbone, own)(x, "conv1")

    expected = own.normalise(x * (high - low) + low)
    torch.testing.assert_close(
        seen,
        backbone.trunk.run(expected, ("conv1",))["conv1"],
        rtol=1e-4,
        atol=1e-4 * float(expected.abs().max()),
    )


@pytest.mark.parametrize("kind", ["imagenet", "none", "histogram"])
def test_gradients_reach_the_picture_and_nothing_else(backbone, kind, settings, pictures):
    own = backbone.preprocessing.replace(normalisation={"kind": kind})
    extractor = FeatureExtractor(backbone, own)
    objective = Objective(extractor, pictures(1), layer="layer3")
    x = pictures(1, seed=5).requires_grad_()

    objective(x).sum().backward()

    assert float(x.grad.abs().max()) > 0
    assert not any(parameter.requires_grad for parameter in objective.parameters())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_the_original_has_no_loss_and_a_blind_copy_one(backbone, settings, pictures):
    x = pictures(3)
    objective = Objective(extractor_of(backbone, settings), x, layer="last")

    assert objective(x).tolist() == [0, 0, 0]
    objective.targets.zero_()  # as if the features had been zero: what is left is the scale
    torch.testing.assert_close(objective(x), torch.ones(3))


def test_an_absolute_loss_is_the_mean_squared_error(backbone, pictures):
    x, y = pictures(2), pictures(2, seed=3)
    extractor = extractor_of(backbone, RAW)
    objective = Objective(extractor, x, layer="layer4", comparable_taps=False, relative=False)

    expected = (extractor(y, "layer4") - extractor(x, "layer4")).square().flatten(1).mean(1)

    torch.testing.assert_close(objective(y), expected)


def test_dense_networks_are_compared_after_relu_as_residual_ones(pictures):
    dense = tiny_backbone(architecture="densenet121", width=4)
    extractor = extractor_of(dense, settings_for(size=32))

    assert Objective(extractor, pictures(1), layer="last").targets.min() >= 0
    raw = Objective(extractor, pictures(1), layer="layer4", comparable_taps=False)
    assert raw.layer == "denseblock4"
    assert raw.targets.min() < 0


def test_rows_are_kept_in_their_order(backbone, settings, pictures):
    x = pictures(3)
    objective = Objective(extractor_of(backbone, settings), x, layer="layer2")
    objective.keep(torch.tensor([2, 0]))

    assert objective(x[[2, 0]]).tolist() == [0, 0]


@pytest.mark.parametrize("layer", ["layer9", "Layer4", ""])
def test_an_unknnetwork_layer_lists_those_there_are(backbone, layer):
    with pytest.raises(LayerError, match="conv1, layer1, layer2, layer3, layer4, pooled"):
        resolve_layer(backbone, layer)


def test_last_is_the_deepest_map(backbone):
    assert resolve_layer(backbone, "last") == "layer4"


def test_a_layer_without_any_signal_is_refused(backbone, settings, pictures):
    extractor = extractor_of(backbone, settings)
    extractor.forward = lambda x, layer: torch.zeros(len(x), 4)

    with pytest.raises(SettingsError, match="'layer4' is zero everywhere"):
        Objective(extractor, pictures(1), layer="layer4")


def test_bf16_gives_float32_features_near_those_of_fp32(backbone, settings, pictures):
    x = pictures(1)
    preprocessing = preprocessing_of(backbone, settings)
    exact = FeatureExtractor(backbone, preprocessing)(x, "layer2")

    rounded = FeatureExtractor(backbone, preprocessing, precision="bf16")(x, "layer2")

    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.05
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
