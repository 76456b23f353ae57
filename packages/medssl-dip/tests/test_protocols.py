"""The presets, and the numbers that the study released."""

import pytest
from medssl_data import load_dataset
from medssl_data.catalog import published_pictures
from medssl_data.synthetic.phantom import write_phantom
from medssl_dip.errors import SettingsError
from medssl_dip.images import check_names, items_of
from medssl_dip.settings import settings_for
from medssl_models import Provenance, Record
from medssl_models.catalog import model_card
from medssl_models.experiments.experiment import ImageFiles
from medssl_models.experiments.released import find_released, released_numbers
from medssl_models.experiments.settings import describe, differences
from PIL import Image


def test_the_studys_settings():
    study = settings_for("published")

    assert (study.steps, study.learning_rate, study.size, study.layer) == (
        3001,
        1e-3,
        224,
        ("layer4",),
    )
    assert study.generator.size_for(224) == 256
    assert not study.normalised_input
    assert study.patience is None
    assert (study.lossless, study.rounded, study.restarts) == (False, False, 1)
    assert (study.reading.position, study.reading.window) == (5, (0, 255))


def test_every_field_and_every_difference_has_a_reason():
    study, ours = settings_for("published"), settings_for()

    assert all(why for _, _, why in describe(ours))
    entries = {one.field: one.entries for one in differences(study, ours)}
    assert {name for name, numbers in entries.items() if not numbers} == {
        "pictures",
        "size",
        "patience",
        "divergence",
        "rounded",
        "padding",
    }


def test_quick_is_smaller_in_every_way():
    full, quick = settings_for(), settings_for(preset="quick")

    assert quick.size < 224
    assert quick.steps < full.steps
    assert sum(quick.generator.channels) < sum(full.generator.channels)
    assert quick.normalised_input == full.normalised_input
    assert settings_for("published", preset="quick").layer == ("layer4",)


def test_none_changes_nothing_and_a_value_wins_over_the_preset():
    assert settings_for(preset="quick", steps=None) == settings_for(preset="quick")
    assert settings_for(preset="quick", steps=7, size=64).steps == 7


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"size": 8}, {"learning_rate": 0}, {"tolerance": 1}, {"speed": 1}]
)
def test_values_that_cannot_be(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        settings_for(**wrong)


@pytest.mark.parametrize("names", [{"layer": ()}, {"layer": 3}])
def test_layers_that_cannot_be(names):
    with pytest.raises(SettingsError, match="layer"):
        settings_for(**names)


def test_one_name_stands_for_a_tuple_of_one():
    assert settings_for(layer="layer1", pictures="a.png").layer == ("layer1",)
    assert settings_for(pictures="a.png").pictures == ("a.png",)


# ------------------------------------------------------------------------------ released numbers


def released():
    return [one for one in released_numbers() if one.experiment == "perceptual-distance"]


def record_for(number, **changes):
    """Make the record that `reconstruct --protocol published` writes of a cell of the study."""
    net = number.setting.removeprefix("lpips ").replace("mean of the three nets", "average")
    (picture, *_) = published_pictures(number.dataset) or ("n01443537/goldfish.JPEG",)
    settings = settings_for("published").of_record("layer4", picture)
    origin = Provenance(
        model=number.model, dataset=number.dataset, protocol="published", layer="layer4"
    )
    return Record(
        experiment="reconstruction",
        metric=f"lpips_{net}",
        value=0.5,
        settings=settings | changes,
        provenance=origin,
    )


def test_every_released_distance_is_found_by_the_record_that_repeats_it():
    for number in released():
        assert find_released(record_for(number)).number == number, number
    assert len(released()) == 520


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layer": "layer1"}, "layer is layer1, the study's layer4"),
        ({"size": 96}, "size is 96, the study's 224"),
        ({"steps": 400}, "steps is 400, the study's 3001"),
        ({"picture": "CHNCXR_0001_0.png"}, "picture is CHNCXR_0001_0.png"),
        ({"normalised_input": True}, "normalised_input is true, the study's false"),
        ({"generator": {}}, "generator is "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_was_made_otherwise_is_held_against_nothing(changes, told):
    number = next(one for one in released() if one.dataset == "shenzhencxr")

    match = find_released(record_for(number, **changes))

    assert match.number is None
    assert len(match.differences) == 1
    assert match.differences[0].startswith(told)


def test_restarts_and_the_seed_are_free():
    number = released()[0]

    assert find_released(record_for(number, restarts=3)).number == number


def test_the_average_is_that_of_the_nets_and_models_have_cards():
    models = {one.model for one in released()}
    assert len(models) == 13
    for model in models:
        assert model_card(model).name == model
        found = {
            one.setting: one.value
            for one in released()
            if (one.dataset, one.model) == ("imagenet", model)
        }
        average = found.pop("mean of the three nets")
        assert average == pytest.approx(sum(found.values()) / 3, abs=2e-6)
        assert len(found) == 3


# ---------------------------------------------------------------------------------------- pictures


def test_published_inverts_the_picture_that_the_study_took(tmp_path):
    write_phantom("bach", tmp_path, {})
    data = load_dataset("bach", root=tmp_path, protocol="published")

    def inverted(source=data, protocol="published", **changes):
        return [item.id for item in items_of(source, settings_for(protocol, **changes))]

    assert inverted() == ["iv001.tif"]
    assert inverted(pictures="n003.tif") == ["n003.tif"]
    assert inverted(protocol="corrected") == [data.ids[0]] != ["iv001.tif"]
    others = data.select([row for row, name in enumerate(data.ids) if name != "iv001.tif"])
    assert inverted(others) == [others.ids[0]]
    check_names(ImageFiles((tmp_path / "scan.png",)), settings_for("published"))


def test_the_studys_slice_leaves_the_other_rules_of_reading_alone(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    folder = tmp_path / "mine" / "ill"
    folder.mkdir(parents=True)
    Image.new("L", (96, 64)).save(folder / "a.jpg", exif=turned)
    for protocol, size in (("published", (96, 64)), ("corrected", (64, 96))):
        settings = settings_for(protocol)
        data = load_dataset(f"folder:{tmp_path / 'mine'}", protocol=protocol)
        for source in (data, ImageFiles((folder / "a.jpg",))):
            assert items_of(source, settings)[0].image.size == size
