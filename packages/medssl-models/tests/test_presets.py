"""A preset is values; a wrong value is one sentence."""

from typing import Annotated

import pytest
from medssl_models.errors import SettingsError
from medssl_models.experiments.settings import (
    ExperimentSettings,
    Preset,
    describe,
    differences,
    from_preset,
    setting,
)
from pydantic import BaseModel, Field, ValidationError, model_validator


class Inner(BaseModel):
    a: int = 1
    b: int = 2


class Settings(Preset):
    pictures: Annotated[int, Field(ge=1)] = setting(
        "One picture tells nothing.", corrected=20, published=1, entries=("I-38",)
    )
    rounds: int = setting("How often.", corrected=3)
    inner: Inner = setting("Parts.", corrected=Inner(), published=Inner(b=5))

    @model_validator(mode="after")
    def _agree(self):
        if self.rounds > self.pictures + 100:
            raise ValueError("Too many rounds for so few pictures")
        return self


def test_each_preset_has_its_values_and_changes_win():
    assert from_preset(Settings, "corrected", {}) == Settings()
    study = from_preset(Settings, "published", {"rounds": 7, "pictures": None})
    assert (study.protocol, study.pictures, study.rounds) == ("published", 1, 7)
    with pytest.raises(ValidationError):
        study.rounds = 1


def test_differences_carry_reason_and_numbers():
    found = differences(from_preset(Settings, "published", {}), Settings())
    assert [(one.field, one.published, one.corrected) for one in found] == [
        ("pictures", 1, 20),
        ("inner", {"b": 5}, {}),
    ]
    assert found[0].entries == ("I-38",)
    told = differences(Settings(rounds=1), Settings(), {"rounds": "See I-40 and I-41."})
    assert told[0].entries == ("I-40", "I-41")


def test_every_field_is_described():
    assert describe(Settings())[1] == ("pictures", 20, "One picture tells nothing.")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pictures": 0}, "pictures is 0: input should be greater than or equal to 1"),
        ({"picturez": 1}, "unknown setting 'picturez'; did you mean pictures?"),
        ({"rounds": 999}, "Too many rounds for so few pictures"),
        ({"inner": {"a": "x"}}, "inner.a is 'x'"),
    ],
)
def test_what_is_wrong_is_one_sentence(changes, sentence):
    with pytest.raises(SettingsError) as caught:
        from_preset(Settings, "corrected", changes)
    assert str(caught.value).startswith(sentence)


def test_an_unknown_protocol_and_another_error_class():
    with pytest.raises(KeyError, match="choose from published, corrected"):
        from_preset(Settings, "fixed", {}, refusal=KeyError)


class Rate(ExperimentSettings):
    rate: float = setting("Of learning.", corrected=0.1)


@pytest.mark.parametrize(
    "changes",
    [{"seed": -1}, {"seed": 2**63}, {"rate": float("inf")}, {"rate": float("nan")}],
    ids=str,
)
def test_numbers_without_sense_are_refused(changes):
    assert from_preset(Rate, "corrected", {"seed": 2**63 - 1, "rate": 1e300}).rate == 1e300
    with pytest.raises(SettingsError, match=next(iter(changes))):
        from_preset(Rate, "corrected", changes)
