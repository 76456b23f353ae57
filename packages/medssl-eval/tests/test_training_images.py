"""The sequence of training images: every image once an epoch, whatever reads it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_eval.training.images import Augmentation, TrainingImages, random_crop, stretches
from medssl_models.testing.sources import NoiseSource
from torchvision.transforms import v2

WHOLE = Augmentation(side=16, interpolation="bilinear")


def images(rows=7, length=50, seed=0, **augmentation):
    source = NoiseSource(rows=20)
    chosen = np.arange(3, 3 + rows)
    augment = Augmentation(**({"side": 16, "interpolation": "bilinear"} | augmentation))
    return TrainingImages(source, chosen, length, augment, seed=seed)


@examples(deadline=None)
@given(rows=st.integers(1, 12), seed=st.integers(0, 5))
def test_every_epoch_meets_every_row_once(rows, seed):
    sequence = images(rows, length=3 * rows, seed=seed)
    met = [sequence.row(position) for position in range(len(sequence))]
    for epoch in range(3):
        assert sorted(met[epoch * rows : (epoch + 1) * rows]) == list(range(3, 3 + rows))


@examples(deadline=None)
@given(rows=st.integers(1, 40), size=st.integers(1, 12), steps=st.integers(1, 30), data=st.data())
def test_short_batches_are_those_of_torchs_loader(rows, size, steps, data):
    """Its loader is asked for a few epochs; a last batch of one image is passed over."""
    loader = torch.utils.data.DataLoader(range(rows), batch_size=size)
    usable = [batch.tolist() for batch in loader]
    if len(usable) > 1 and len(usable[-1]) == 1 < size:
        usable.pop()
    expected = [
        [image + epoch * rows for image in batch] for epoch in range(steps) for batch in usable
    ][:steps]
    start = data.draw(st.integers(0, steps - 1))
    found = [
        stretch[first : first + size].tolist()
        for stretch in stretches(rows, size, steps, start=start, full=False)
        for first in range(0, len(stretch), size)
    ]
    assert found == expected[start:]


def test_a_position_is_the_same_whatever_was_read_before():
    there, back = images(), images()
    forward = [np.asarray(there[position][0]) for position in range(20)]
    for position in reversed(range(20)):
        np.testing.assert_array_equal(np.asarray(back[position][0]), forward[position])
    assert any(
        not np.array_equal(np.asarray(images(seed=1)[position][0]), forward[position])
        for position in range(20)
    )


def test_orders_and_crops_change_from_epoch_to_epoch():
    sequence = images(rows=7)
    orders = [[sequence.row(7 * epoch + place) for place in range(7)] for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    again = {sequence.row(k): k for k in range(7)}
    later = {sequence.row(k): k for k in range(7, 14)}
    row = 5
    assert not np.array_equal(
        np.asarray(sequence[again[row]][0]), np.asarray(sequence[later[row]][0])
    )


@examples(deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    seed=st.integers(0, 9),
    smallest=st.floats(0.01, 1),
)
def test_crops_lie_inside(height, width, seed, smallest):
    generator = np.random.default_rng(seed)
    top, left, tall, wide = random_crop(height, width, generator, smallest=smallest)
    assert 0 <= top <= top + tall <= height
    assert 0 <= left <= left + wide <= width
    assert tall > 0 < wide


@pytest.mark.parametrize(("height", "width"), [(60, 60), (40, 100)])
def test_crops_are_distributed_as_torchvisions(height, width):
    generator = np.random.default_rng(0)
    ours = np.array([random_crop(height, width, generator) for _ in range(4000)])
    theirs_of = v2.RandomResizedCrop(8, scale=(0.08, 1.0))
    blank = torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [theirs_of.make_params([blank]) for _ in range(4000)]
    theirs = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    for column in range(4):
        quantiles = np.linspace(0.05, 0.95, 10)
        one, other = (np.quantile(found[:, column], quantiles) for found in (ours, theirs))
        assert np.abs(one - other).max() <= 0.05 * (height, width, height, width)[column]


def test_half_of_the_images_are_mirrored():
    source = NoiseSource(rows=1)
    still = TrainingImages(
        source, np.array([0]), 200, Augmentation(32, "bilinear", smallest_crop=1.0, flip=True)
    )
    plain = np.asarray(source[0][0])
    # A crop of the whole square image is the image: its shape must be 1 to fit.
    kinds = [np.asarray(still[position][0]) for position in range(200)]
    same = sum(np.array_equal(kind, plain) for kind in kinds)
    mirrored = sum(np.array_equal(kind, plain[:, ::-1]) for kind in kinds)
    assert same + mirrored == 200
    assert 70 < mirrored < 130


def test_a_broken_image_is_named():
    sequence = images()
    assert sequence.names[4] == f"noise-{sequence.row(4)}.png"
