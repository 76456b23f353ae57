from pathlib import Path

import numpy as np
import pytest
from medssl_data import load_dataset
from medssl_data.errors import SettingError, UnknownDatasetError
from medssl_data.synthetic.drawing import draw_radiograph, stamp
from medssl_data.synthetic.phantom import NOTE, chest_xray, write_phantom


def test_counts_patients_and_notes() -> None:
    data = load_dataset("phantom:chest-xray")
    assert data.manifest.counts() == {"normal": 120, "opacity": 120}
    assert data.manifest.synthetic
    assert "synthetic phantom" in data.notes[0]
    of_patient: dict[str, set[int]] = {}
    for group, label in zip(data.groups, data.labels.tolist(), strict=True):
        of_patient.setdefault(group, set()).add(label)
    assert all(len(labels) == 1 for labels in of_patient.values())
    assert 60 < len(of_patient) < 240


def test_seed_decides_everything() -> None:
    first, again, other = (load_dataset(f"phantom:chest-xray,count=4,seed={s}") for s in (1, 1, 2))
    np.testing.assert_array_equal(np.asarray(first[3][0]), np.asarray(again[3][0]))
    assert first.fingerprint == again.fingerprint
    assert not np.array_equal(np.asarray(first[3][0]), np.asarray(other[3][0]))


def test_settings_are_part_of_the_identity() -> None:
    names = ("phantom:chest-xray", "phantom:chest-xray,difficulty=0.1", "phantom:chest-xray,seed=3")
    assert len({load_dataset(name).fingerprint for name in names}) == 3


def test_every_picture_says_what_it_is() -> None:
    pixels = np.asarray(load_dataset("phantom:chest-xray,count=2")[0][0])[..., 0]
    lettered = np.full_like(pixels, 7)
    stamp(lettered)
    burnt = lettered != 7
    assert burnt.sum() > 1000
    np.testing.assert_array_equal(pixels[burnt], lettered[burnt])


def test_opacities_brighten_less_with_difficulty() -> None:
    def brighter(difficulty: float) -> float:
        with_, without = (
            draw_radiograph(3, 0, opacity=opacity, difficulty=difficulty, seed=0)
            for opacity in (True, False)
        )
        return float((with_ - without).mean())

    assert brighter(0.0) > brighter(0.5) > abs(brighter(1.0))


def test_default_is_learnable_and_not_trivial() -> None:
    """Nearest class mean of 16 x 16 thumbnails: well above chance, well below certainty."""
    data = load_dataset("phantom:chest-xray,size=96")
    pixels = np.stack(
        [np.asarray(data[i][0].convert("L").resize((16, 16)), float).ravel() for i in range(240)]
    )
    train = np.arange(240) % 2 == 0
    means = [pixels[train & (data.labels == label)].mean(0) for label in (0, 1)]
    distance = np.stack([((pixels[~train] - mean) ** 2).sum(1) for mean in means])
    accuracy = (distance.argmin(0) == data.labels[~train]).mean()
    assert 0.65 < accuracy < 0.95


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count=1", "count=1 is out of range"),
        ("difficulty=2", "difficulty=2 is out of range"),
        ("size=10", "size=10 is out of range"),
        ("seed=x", "seed='x' is not a number"),
        ("colour=1", "no setting 'colour'"),
    ],
)
def test_settings_out_of_range(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load_dataset(f"phantom:chest-xray,{text}")


def test_unknown_phantom() -> None:
    with pytest.raises(UnknownDatasetError, match="only chest-xray"):
        load_dataset("phantom:elbow")


def test_written_phantom_is_what_was_drawn(tmp_path: Path) -> None:
    facts = write_phantom("chest-xray", tmp_path, {"count": "6", "seed": "5"})
    written = load_dataset(str(facts["use"]), split="none")
    drawn = load_dataset("phantom:chest-xray,count=6,seed=5")
    assert written.manifest.synthetic
    assert written.notes == drawn.notes
    assert written.groups == drawn.groups
    for index in range(6):
        np.testing.assert_array_equal(np.asarray(written[index][0]), np.asarray(drawn[index][0]))
    assert NOTE in (tmp_path / "chest-xray" / "PHANTOM.txt").read_text()
    with pytest.raises(SettingError, match="is there already"):
        write_phantom("chest-xray", tmp_path, {})


def test_count_is_kept_to_the_image() -> None:
    for count in (2, 3, 7, 138):
        assert len(chest_xray(count=count)) == count
