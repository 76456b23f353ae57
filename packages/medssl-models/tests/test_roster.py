import pytest
from medssl_models.errors import MissingWeightsError, UnknownModelError
from medssl_models.experiments.models import check_models, control_of


def test_controls_need_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path))
    check_models(["random_r18", "random_r50:tf_same"])


def test_what_is_not_here_is_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSSL_HOME", str(tmp_path))
    with pytest.raises(MissingWeightsError, match="import byol FILE"):
        check_models(["random_r18", "byol"])
    with pytest.raises(UnknownModelError):
        check_models(["random_r19x"])


@pytest.mark.parametrize(
    ("name", "control"),
    [
        ("moco-v2", "random_r50"),
        ("mimic-cxr_r18", "random_r18"),
        ("supervised_d121", "random_d121"),
        ("random_r50", None),
    ],
)
def test_a_control_has_the_same_architecture(name, control):
    assert control_of(name) == control
