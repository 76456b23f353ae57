"""Cards: valid, consistent, found by name; wrong names get near ones."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from medssl_models.card import DropRule, ModelCard
from medssl_models.catalog import list_models, model_card, read_card, split_padding
from medssl_models.errors import CardError, UnknownModelError
from medssl_models.networks.architectures import ARCHITECTURES
from medssl_models.testing import tiny_card
from pydantic import ValidationError

STUDY = [
    "pirl", "moco-v2", "simclr-v1", "byol", "swav",
    "supervised_r50", "supervised_r18", "supervised_d121",
    "mimic-chexpert_lr_0.01", "mimic-chexpert_lr_0.1", "mimic-chexpert_lr_1.0",
    "mimic-cxr_r18", "mimic-cxr_d121",
]  # fmt: skip


def test_the_study_and_the_controls_are_there():
    names = [card.name for card in list_models()]

    assert names == sorted(names)
    assert set(STUDY) <= set(names)
    assert {card.name for card in list_models() if card.control} == {
        "random_r18", "random_r50", "random_d121",
    }  # fmt: skip


def test_no_two_models_share_a_name():
    names = [name for card in list_models() for name in card.names]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("card", list_models(), ids=lambda card: card.name)
def test_a_card_says_all_that_is_needed(card):
    assert card.feature_dim == ARCHITECTURES[card.architecture].feature_dim
    assert card.summary
    assert card.licence
    assert card.origin
    assert card.control or (card.weights and card.citation and card.pretraining)
    assert all(url.startswith("https://") for url in card.addresses())
    assert read_card_again(card) == card


def read_card_again(card):
    return ModelCard.model_validate_json(card.model_dump_json())


def test_facts_of_the_study():
    assert model_card("simclr-v1").preprocessing.normalisation.kind == "none"
    assert model_card("simclr-v1").padding == "tf_same_pool"
    assert model_card("byol").padding == "tf_same"
    assert model_card("byol").published_padding == "torchvision"
    assert model_card("mimic-chexpert_lr_1.0").preprocessing.normalisation.kind == "histogram"
    assert model_card("mimic-cxr_r18").preprocessing.normalisation.mean == (0.502, 0.502, 0.502)
    assert model_card("mimic-cxr_r18").published_preprocessing.kind == "imagenet"
    assert model_card("mimic-cxr_d121").pretraining == ("imagenet", "chexpert")


@pytest.mark.parametrize(
    ("wrong", "near"), [("moco_v2", "moco-v2"), ("supervised-r50", "supervised_r50")]
)
def test_a_wrong_name_gets_near_ones(wrong, near):
    with pytest.raises(UnknownModelError, match=f"'{wrong}' is unknown; did you mean .*{near}"):
        model_card(wrong)


def test_a_name_that_is_near_nothing_gets_all():
    with pytest.raises(UnknownModelError, match=r"known are .*byol.*vicreg") as caught:
        model_card("####")

    assert caught.value.exit_code == 2


@pytest.mark.parametrize("alias", ["simclr", "supervised", "moco-cxr_r18"])
def test_aliases_mean_their_model(alias):
    assert alias in model_card(alias).aliases


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("byol", ("byol", None)),
        ("byol:torchvision", ("byol", "torchvision")),
        ("timm:resnet18", ("timm:resnet18", None)),
        ("/a:b/c:tf_same", ("/a:b/c", "tf_same")),
        (":torchvision", (":torchvision", None)),
    ],
)
def test_a_padding_is_split_off(name, parts):
    assert split_padding(name) == parts


KNOWN = {name for card in list_models() for name in card.names}


@settings(deadline=None)
@given(st.text() | st.sampled_from(sorted(KNOWN)))
@example("a" * 300)
@example("\0")
def test_any_text_is_a_name_or_a_clear_error(name):
    if name in KNOWN:
        assert name in model_card(name).names
    else:
        with pytest.raises(UnknownModelError, match="unknown"):
            model_card(name)


@pytest.mark.parametrize(
    "text",
    ["no toml", 'name = "x"', 'name = "../x"\nsummary = "s"'],
    ids=["syntax", "fields", "name"],
)
def test_a_bad_card_is_named(text):
    with pytest.raises(CardError, match=r"my\.toml: not a valid model card"):
        read_card(text, source="my.toml")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../escape"},
        {"name": ".hidden"},
        {"padding": "valid"},
        {"seed": None},
        {"control": False},
        {"weights": [{"filename": "f", "urls": ["https://x.org/f"], "container": "torch"}]},
        {"unknown": 1},
    ],
    ids=str,
)
def test_impossible_cards_are_refused(changes):
    with pytest.raises(ValidationError):
        tiny_card().replace(**changes)


def test_a_drop_rule_is_a_regular_expression():
    with pytest.raises(ValidationError, match="not a regular expression"):
        DropRule(name="head", pattern="fc(")
