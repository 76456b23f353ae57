"""The prior against the plain hourglass of the protocol page: shapes, numbers, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_dip.prior import Hourglass
from medssl_dip.settings import GeneratorSettings
from medssl_dip.testing import PlainHourglass, load_from
from pydantic import ValidationError


def pair(shape, seed=0, size=None):
    """Make a prior and the plain hourglass with the same weights, both in float64."""
    prior = Hourglass(shape, seed=seed, size=size or shape.size_for(1)).double()
    plain = PlainHourglass(shape).double()
    return prior, plain, load_from(plain, prior)


def relative(ours, theirs):
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


def test_the_studys_generator_has_2606763_parameters():
    prior = Hourglass(GeneratorSettings(), seed=0, size=128)

    assert sum(parameter.numel() for parameter in prior.parameters()) == 2_606_763
    assert prior.input.shape == (1, 32, 128, 128)


def test_the_study_draws_256_pixels_for_a_crop_of_224():
    assert GeneratorSettings().size_for(224) == 256


@pytest.mark.parametrize("fold_from", [0, 1024], ids=["folded", "not-folded"])
def test_it_draws_what_the_plain_hourglass_draws(fold_from, monkeypatch):
    monkeypatch.setattr("medssl_dip.prior.FOLD_FROM", fold_from)
    shape = GeneratorSettings(channels=(6, 8, 5), kernels=(7, 5, 3), input_channels=3)
    prior, plain, x = pair(shape, size=32)

    drawn, expected = prior(), plain(x)

    assert relative(drawn, expected) < 1e-9
    drawn.square().mean().backward()
    expected.square().mean().backward()
    for name, ours, theirs in gradients(prior, plain):
        assert relative(ours, theirs) < 1e-7, name


def gradients(prior, plain):
    """Pair the gradients of the weights that matter: a bias before a normalisation has none."""
    for index, level in enumerate(plain_levels(plain)):
        ours = prior.levels[index]
        yield f"halve {index}", ours.halve.weight.grad, level.main[0].weight.grad
        yield f"refine {index}", ours.refine.weight.grad, level.main[4].weight.grad
        yield f"join {index}", ours.join.weight.grad, level.join[1].weight.grad
        yield f"join_norm {index}", ours.join_norm.weight.grad, level.join[0].weight.grad
        yield f"mix_norm {index}", ours.mix_norm.bias.grad, level.join[5].bias.grad
        yield f"skip {index}", ours.skip.weight.grad, level.skip[0].weight.grad
    yield "output", prior.output.weight.grad, plain.output.weight.grad


def plain_levels(plain):
    level = plain.levels
    while hasattr(level, "inner"):
        yield level
        level = level.inner


@settings(max_examples=12, deadline=None)
@given(
    levels=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([1, 3, 5])), min_size=1, max_size=3
    ),
    skip=st.integers(1, 3),
    seed=st.integers(0, 2**40),
)
def test_any_shape_draws_what_its_plain_twin_draws(levels, skip, seed):
    channels, kernels = zip(*levels, strict=True)
    shape = GeneratorSettings(
        channels=channels, kernels=kernels, skip_channels=skip, input_channels=2
    )
    prior, plain, x = pair(shape, seed=seed, size=2 * shape.size_for(1))

    with torch.no_grad():
        torch.testing.assert_close(prior(), plain(x), rtol=1e-6, atol=1e-8)


@settings(deadline=None)
@given(crop=st.integers(1, 600), levels=st.integers(1, 6))
def test_the_drawn_picture_holds_the_crop_and_can_be_halved(crop, levels):
    size = GeneratorSettings(channels=(4,) * levels, kernels=(3,) * levels).size_for(crop)

    assert size >= max(crop, 2 * 2**levels)
    assert size % 2**levels == 0
    assert size - crop < 2**levels or size == 2 * 2**levels


def test_a_seed_decides_everything_and_the_global_generator_nothing():
    shape = GeneratorSettings(channels=(4,), kernels=(3,))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again = (Hourglass(shape, seed=7, size=8)() for _ in range(2))

    assert torch.equal(first, again)
    assert not torch.equal(first, Hourglass(shape, seed=8, size=8)())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_input_is_uniform_below_its_scale_and_is_not_trained():
    prior = Hourglass(GeneratorSettings(channels=(4,), kernels=(3,)), seed=0, size=64)

    assert 0 <= float(prior.input.min()) < 0.001
    assert 0.099 < float(prior.input.max()) < 0.1
    assert "input" not in dict(prior.named_parameters())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"channels": (4, 4), "kernels": (3,)}, "same levels, got 2 and 1"),
        ({"channels": (4,), "kernels": (4,)}, "odd and positive"),
        ({"channels": (), "kernels": ()}, "got 0 and 0"),
    ],
)
def test_shapes_that_cannot_be(wrong, told):
    with pytest.raises(ValidationError, match=told):
        GeneratorSettings(**wrong)


def test_a_size_that_cannot_be_halved():
    with pytest.raises(ValueError, match="multiple of 4 and at least 8, got 30"):
        Hourglass(GeneratorSettings(channels=(4, 4), kernels=(3, 3)), seed=0, size=30)
