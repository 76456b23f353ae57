"""The study's grids to the last member, the corrected ones, and PIL against tensors."""

import math

import numpy as np
import pytest
import torch
from medssl_invariance.errors import GridError, UnknownFamilyError
from medssl_invariance.transforms.families import (
    FAMILIES,
    MEDICAL,
    PUBLISHED,
    find_families,
    find_family,
)
from medssl_invariance.transforms.functions import Scene
from PIL import Image
from torchvision.transforms.v2 import functional as tv


def published(name, k=None):
    return find_family(name).members("published", k)


def test_sizes_of_the_study():
    sizes = {name: len(published(name)) for name in PUBLISHED}
    switches = dict.fromkeys(("h_flip", "v_flip", "invert", "equalize", "grayscale"), 2)
    assert sizes == dict.fromkeys(PUBLISHED, 256) | switches | {"posterize": 7}


def test_grids_of_the_study():
    assert [m.at for m in published("rotation", 4)] == [0, 90, 180, 270]
    assert [m.identity for m in published("rotation", 4)] == [True, False, False, False]
    offsets = published("translation", 16)
    assert [(m.values["x"], m.values["y"]) for m in offsets[:5]] == [
        (-16, -16), (-16, -8), (-16, 0), (-16, 8), (-8, -16),
    ]  # fmt: skip
    assert {m.values["shear_x"] for m in (*offsets, *published("scale"))} == {1.0}
    assert (published("scale")[0].at, published("scale")[-1].at) == (0.25, 2.0)
    shears = published("shear")
    assert [place for place, m in enumerate(shears) if m.identity] == [8 * 16 + 8]
    box = published("resized_crop")[1].values
    assert box == pytest.approx({"top": 0, "left": 0, "height": 192, "width": 149.3333})
    assert [int(m.at) for m in published("deform")[:9]] == [10, 15, 21, 27, 32, 38, 44, 50, 10]
    assert (published("brightness")[0].at, published("brightness")[-1].at) == (0.25, 5.0)
    assert not any(m.identity for m in published("hue", 20))
    assert sum(m.identity for m in published("hue", 5)) == 1
    assert published("blur")[0].at == pytest.approx(1e-5)
    assert published("sharpness")[0].identity
    assert [m.at for m in published("posterize")] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("name", "k", "failure"),
    [
        ("translation", 20, "list index out of range.*16 members"),
        ("translation", 9, "not in list.*square of an even number"),
        ("resized_crop", 20, "list index out of range.*16 members"),
        ("h_flip", 3, "list index out of range.*2 members"),
        ("posterize", 8, "list index out of range.*7 members"),
        ("deform", 257, "list index out of range.*256 members"),
    ],
)
def test_the_study_fails_where_it_failed(name, k, failure):
    with pytest.raises(GridError, match=failure):
        published(name, k)
    with pytest.raises(IndexError):
        published(name, k)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_corrected_members_leave_the_identity_out(family):
    members = family.members("corrected")
    assert len(members) == family.corrected.size
    assert not any(member.identity for member in members)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand((2, 3, 64, 64), generator=generator)
    for place, member in enumerate(members):
        scene = Scene(64, 64 / 224, rows=(4, 9), member=place)
        changed = family.corrected.apply(pictures, member.values, scene)
        assert changed.shape[:2] == (2, 3)
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1 + 1e-6
        again = family.corrected.apply(pictures, member.values, scene)
        assert torch.equal(changed, again)
        if changed.shape == pictures.shape:
            assert not torch.equal(changed, pictures)


@pytest.mark.parametrize(
    ("name", "k"),
    [("scale", 3), ("translation", 12), ("resized_crop", 6), ("posterize", 8), ("h_flip", 2),
     ("motion_blur", 6), ("jpeg", 200)],
)  # fmt: skip
def test_corrected_grids_say_which_k_they_take(name, k):
    with pytest.raises(GridError, match=f"{name} with k={k}"):
        find_family(name).members("corrected", k)


def test_unknown_families_are_answered_with_the_list():
    with pytest.raises(UnknownFamilyError, match=r"did you mean rotation.*h_flip.*cutout"):
        find_family("rotatoin")
    with pytest.raises(UnknownFamilyError, match="gamma was not part of the study"):
        find_family("gamma").members("published")
    assert [one.name for one in find_families(["medical", "gamma", "h_flip"])] == [
        *MEDICAL, "h_flip",
    ]  # fmt: skip


def photograph(height=90, width=120):
    """A smooth, coloured picture with a few edges."""
    y, x = np.mgrid[:height, :width] / 20
    pixels = np.stack([np.sin(x) + y / 4, np.cos(y + x), np.sin(x * y / 6)], axis=-1)
    pixels = np.uint8(255 * (pixels - pixels.min()) / np.ptp(pixels))
    pixels[20:50, 30:40] = (250, 240, 10)
    return Image.fromarray(pixels)


# Mean absolute difference between PIL and tensors, in grey levels of 255, over all members. The
# larger ones: nearest-neighbour resampling takes the other pixel at a tie (rotation and its kin),
# PIL turns hues through an 8-bit colour circle, and rounds the smoothed picture to 8 bits before
# sharpening multiplies what was lost.
TOLERANCE = {
    "rotation": 2.5, "translation": 2.5, "scale": 2.5, "shear": 2.5, "resized_crop": 0.5,
    "deform": 0.51, "brightness": 0.51, "contrast": 0.8, "saturation": 0.8, "hue": 3.0,
    "blur": 0.51, "sharpness": 4.0, "grayscale": 0.6,
    "h_flip": 0, "v_flip": 0, "invert": 0, "equalize": 0, "posterize": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_tensors_do_what_pil_does(name):
    family, picture = find_family(name), photograph()
    tensor = tv.pil_to_tensor(picture)[None].float() / 255
    k = {"posterize": 7}.get(name, len(published(name)) if len(published(name)) == 2 else 16)
    for place, member in enumerate(family.members("published", k)):
        scene = Scene(64, smooth=False, member=place)
        by_pil = family.published.apply(picture, member.values, scene)
        by_tensor = family.published.apply(tensor, member.values, scene)[0].mul(255)
        difference = (tv.pil_to_tensor(by_pil).float() - by_tensor).abs().mean()
        assert float(difference) <= TOLERANCE[name] + 1e-3, member


def test_nothing_is_uncovered_within_the_frame():
    """A white frame stays white in the middle under every geometric transform."""
    from medssl_invariance.transforms.batches import frame_side

    for name in ("rotation", "translation", "scale", "shear", "deform"):
        grid = find_family(name).corrected
        side = frame_side(64, grid.frame)
        white = torch.ones((1, 3, side, side))
        for place, member in enumerate(grid.make(grid.size)):
            scene = Scene(64, 64 / 224, member=place)
            middle = tv.center_crop(grid.apply(white, member.values, scene), [64, 64])
            assert float(middle.min()) > 1 - 1e-5, (name, member)


def test_grey_pictures_stay_grey_under_noise():
    grey = torch.full((1, 3, 32, 32), 0.5)
    for name in ("gaussian_noise", "poisson_noise"):
        noisy = find_family(name).corrected.apply(grey, {"sigma": 0.1, "photons": 50}, Scene(32))
        assert torch.equal(noisy[:, 0], noisy[:, 1])
        assert float(noisy.std()) > 0.03


def test_lengths_scale_with_the_network():
    member = find_family("translation").members("corrected", 8)[0]
    assert math.hypot(member.values["x"], member.values["y"]) == pytest.approx(16)
    picture = torch.zeros((1, 3, 56, 56))
    picture[..., 28, 28] = 1
    moved = find_family("translation").corrected.apply(picture, member.values, Scene(56, 56 / 224))
    assert moved[0, 0].argmax().item() == 28 * 56 + 28 + 4


@pytest.mark.parametrize("name", ["rotation", "translation", "scale", "shear"])
@pytest.mark.parametrize("grey", [True, False])
def test_what_is_cut_from_a_turned_picture_is_its_centre(name, grey):
    """Torchvision turns the whole picture: its centre is what is resampled here alone."""
    from medssl_invariance.transforms.resampling import Pictures

    grid = find_family(name).corrected
    batch = torch.rand((2, 3, 90, 96), generator=torch.Generator().manual_seed(0))
    if grey:
        batch = batch[:, :1].expand(-1, 3, -1, -1)
    pictures, scene = Pictures.of(batch, grey=grey), Scene(64, 64 / 224)
    for member in grid.make(8):
        whole = tv.center_crop(grid.apply(batch, member.values, scene), [64, 64])
        cut = pictures.cut(grid.warp(member.values, scene), 64)
        torch.testing.assert_close(cut, whole, rtol=0, atol=2e-4)
