"""The optimisation: batches against single runs, restoring, stopping, running out of memory."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from medssl_dip.errors import OutOfMemoryError
from medssl_dip.feature_extractor import FeatureExtractor, preprocessing_of
from medssl_dip.inversion.objective import Objective
from medssl_dip.inversion.optimisation import Inversion, StopRule, memory_advice
from medssl_dip.prior import Hourglass
from medssl_dip.testing import PlainHourglass, load_from


def inversion_of(backbone, settings, originals, seeds):
    extractor = FeatureExtractor(backbone, preprocessing_of(backbone, settings))
    objective = Objective(extractor, originals, layer="layer4")
    return Inversion(objective, settings, seeds=seeds, crop=originals.shape[-1])


def test_a_batch_gives_what_its_runs_give_alone(backbone, settings, pictures):
    """Several pictures and several seeds of one picture, over the first steps.

    Each step begins from the same states: the course of an optimisation magnifies rounding, which
    differs from one processor to the next. Adam's moments tell what the gradients were.
    """
    originals = pictures(3)[[0, 1, 2, 2]]
    seeds = [0, 0, 0, 5]
    together = inversion_of(backbone, settings, originals, seeds)
    alone = [
        inversion_of(backbone, settings, originals[row : row + 1], [seed])
        for row, seed in enumerate(seeds)
    ]

    for step in range(5):
        for row, run in enumerate(alone):
            run.restore([together.state(row)], step=step)
        losses, drawn = together.update()
        single = [run.update() for run in alone]
        torch.testing.assert_close(losses, torch.cat([one[0] for one in single]), rtol=1e-4, atol=0)
        torch.testing.assert_close(drawn, torch.cat([one[1] for one in single]), rtol=0, atol=1e-4)
        for row, run in enumerate(alone):
            ours, theirs = moments(together.state(row)), moments(run.state(0))
            assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def moments(state):
    """Adam's running mean of a run's gradients, as one vector."""
    return torch.cat([state[name].flatten() for name in sorted(state) if "exp_avg/" in name])


def test_the_steps_are_those_of_plain_adam_on_the_plain_hourglass(backbone, settings, pictures):
    """The study's loop, written out: losses agree until rounding grows (Adam divides by it)."""
    original = pictures(1)
    ours = inversion_of(backbone, settings, original, [3])
    shape = settings.generator
    plain = PlainHourglass(shape)
    x = load_from(plain, Hourglass(shape, seed=3, size=shape.size_for(32)))
    adam = torch.optim.Adam(plain.parameters(), lr=1e-3)
    features = lambda seen: backbone.trunk.run(seen, ("layer4",))["layer4"]  # noqa: E731
    mean, std = (
        torch.tensor(m)[:, None, None] for m in backbone.preprocessing.normalisation.moments
    )
    target = features((original - mean) / std)

    for _ in range(3):
        adam.zero_grad()
        error = features((plain(x)[..., :32, :32] - mean) / std) - target
        loss = error.square().mean() / target.square().mean()
        loss.backward()
        adam.step()
        assert float(ours.update()[0]) == pytest.approx(float(loss.detach()), rel=2e-3)


def test_the_loss_falls(backbone, settings, pictures):
    run = inversion_of(backbone, settings, pictures(1), [0])
    losses = [float(run.update()[0]) for _ in range(40)]

    assert min(losses[-10:]) < 0.7 * losses[0]


def test_a_restored_run_goes_on_exactly(backbone, settings, pictures):
    whole = inversion_of(backbone, settings, pictures(2), [0, 1])
    for _ in range(3):
        whole.update()
    states = [whole.state(row) for row in range(2)]
    other = inversion_of(backbone, settings, pictures(2), [8, 9])
    other.restore(states, step=3)

    for _ in range(3):
        expected, found = whole.update(), other.update()
        assert torch.equal(expected[0], found[0])
        assert torch.equal(expected[1], found[1])
    assert other.step == 6


def test_a_fresh_state_restores_too(backbone, settings, pictures):
    first = inversion_of(backbone, settings, pictures(1), [0])
    other = inversion_of(backbone, settings, pictures(1), [1])
    other.restore([first.state(0)], step=0)

    assert torch.equal(first.update()[0], other.update()[0])


def test_runs_that_go_on_do_not_notice_who_left(backbone, settings, pictures):
    together = inversion_of(backbone, settings, pictures(3), [0, 1, 2])
    alone = inversion_of(backbone, settings, pictures(3)[2:], [2])
    together.update()
    alone.restore([together.state(2)], step=1)
    together.keep([2])

    torch.testing.assert_close(together.update()[0], alone.update()[0], rtol=1e-4, atol=0)
    assert together.runs == 1


def test_a_run_that_is_not_finite_leaves_its_fellows_alone(backbone, settings, pictures):
    pair = inversion_of(backbone, settings, pictures(2), [0, 1])
    alone = inversion_of(backbone, settings, pictures(2)[1:], [1])
    pair.objective.scales[0] = math.nan
    for step in range(2):
        alone.restore([pair.state(1)], step=step)
        losses, expected = pair.update()[0], alone.update()[0]

        assert math.isnan(losses[0])
        torch.testing.assert_close(losses[1:], expected, rtol=1e-4, atol=0)


# ------------------------------------------------------------------------------------- stopping


def judge(losses, *, steps=1000, patience=None, tolerance=0.01, divergence=100.0):
    rule = StopRule(steps, patience, tolerance, divergence)
    return [rule.see(step, loss) for step, loss in enumerate(losses)]


def test_the_last_step_stops_a_run():
    assert judge([3.0, 2.0, 1.0], steps=3) == ["go", "go", "steps"]


def test_a_plateau_stops_a_run_after_its_patience():
    verdicts = judge([1.0, 0.5, 0.499, 0.498, 0.497, 0.496], patience=3)

    assert verdicts == ["go", "go", "go", "go", "plateau", "plateau"]


def test_slow_progress_is_no_plateau():
    """Each step falls by less than the tolerance, but their sum does not."""
    assert set(judge([0.996**step for step in range(200)], patience=10)) == {"go"}


@pytest.mark.parametrize("loss", [math.nan, math.inf, 101.0])
def test_what_diverges(loss):
    assert judge([1.0, loss]) == ["go", "diverged"]


def test_a_first_loss_that_is_not_finite_has_diverged():
    assert judge([math.nan]) == ["diverged"]


@examples(deadline=None)
@given(
    losses=st.lists(st.floats(0.001, 50), min_size=2, max_size=40),
    cut=st.integers(1, 39),
    patience=st.integers(1, 8),
)
def test_a_rule_that_reads_the_past_again_judges_the_future_alike(losses, cut, patience):
    whole = judge(losses, patience=patience)
    again = StopRule(1000, patience, 0.01, 100.0)
    past = [again.see(step, loss) for step, loss in enumerate(losses[:cut])]
    future = [again.see(step, loss) for step, loss in enumerate(losses) if step >= cut]

    assert past + future == whole


# --------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_is_advice(error):
    told = "4 runs in a batch; use a smaller batch size"
    with pytest.raises(OutOfMemoryError, match=told), memory_advice(4):
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), memory_advice(1):
        raise RuntimeError("shapes differ")
