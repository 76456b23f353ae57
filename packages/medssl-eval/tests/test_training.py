"""The training loop: the right optimiser, stopping, and the same weights after a kill."""

import copy
import math
import os

import numpy as np
import pytest
import torch
from medssl_eval.errors import CheckpointFileError, DivergedError
from medssl_eval.experiments.settings import FinetuneSettings, preset
from medssl_eval.training.classifier import (
    Classifier,
    laid_out,
    learning_rate,
    make_optimiser,
    predict,
    random_numbers,
    training_step,
)
from medssl_eval.training.trainer import Trainer, TrainerOptions, Validation
from medssl_models.testing import tiny_backbone
from torch import nn
from torch.nn import functional

CPU = torch.device("cpu")


def settings(**changes):
    values = {"steps": 24, "batch_size": 4, "validate_every": 5, "patience": 2}
    return preset(FinetuneSettings, **(values | changes))


def batch(step, size=4, side=32):
    generator = torch.Generator().manual_seed(step)
    targets = torch.arange(size) % 2
    images = torch.randn(size, 3, side, side, generator=generator)
    return images + 2 * targets[:, None, None, None], targets


def large_batch(step):
    """BatchNorm of a few values is chaotic: where numbers are compared there are enough."""
    return batch(step, size=16, side=64)


def batches(start, stop=24):
    return (batch(step) for step in range(start, stop))


def trainer(*, scores=None, options=None, classifier=None, **changes):
    left = iter(scores or [])
    chosen = settings(**changes)
    return Trainer(
        classifier or Classifier(tiny_backbone(), 2),
        chosen,
        validate=(lambda _: Validation(0.5, next(left))) if scores else None,
        options=options,
    )


def weights(run):
    return {name: tensor.clone() for name, tensor in run.classifier.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class KilledError(Exception):
    pass


def dying(start, last):
    for step in range(start, last):
        yield batch(step)
    raise KilledError


@pytest.mark.parametrize(
    ("precision", "last"),
    [("fp32", 3), ("fp32", 10), ("fp32", 17), ("fp32", 23), ("bf16", 17)],
)
def test_a_run_that_dies_goes_on_to_the_same_weights(tmp_path, last, precision):
    scores = [0.5, 0.6, 0.55, 0.7, 0.1]
    whole = trainer(scores=scores, options=TrainerOptions(precision=precision))
    whole.run(batches)
    options = TrainerOptions(checkpoint=tmp_path / "run.safetensors", every=4, precision=precision)
    first = trainer(scores=scores, options=options)
    with pytest.raises(KilledError):
        first.run(lambda start: dying(start, last))
    looks = (last // 4 * 4) // 5  # validations that the checkpoint has seen
    second = trainer(scores=scores[looks:], options=options)
    started = []
    second.run(lambda start: (started.append(start), batches(start))[1])
    assert started == [last // 4 * 4]
    assert equal(weights(whole), weights(second))
    assert whole.state.points == second.state.points
    assert whole.state.best_step == second.state.best_step == 20


def test_a_finished_run_is_not_run_again(tmp_path):
    options = TrainerOptions(checkpoint=tmp_path / "run.safetensors")
    first = trainer(options=options)
    first.run(batches)
    again = trainer(options=options)
    state = again.run(lambda start: pytest.fail("nothing is left to train"))
    assert state.finished
    assert equal(weights(first), weights(again))


def test_the_rate_falls_as_torchs_cosine_does():
    chosen = settings(steps=50, learning_rate=0.3)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 50)
    for step in range(50):
        assert learning_rate(chosen, step) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert learning_rate(chosen, 50) == 0


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("width", [2, 8])
def test_steps_are_those_of_a_plain_loop(width, soft):
    """The oracle: NCHW, torch's plain SGD, a loop as in any tutorial."""
    chosen = settings(learning_rate=0.01, weight_decay=0.05)
    ours = Trainer(Classifier(tiny_backbone(width=width), 2), chosen)
    plain = copy.deepcopy(ours.classifier)
    optimiser = torch.optim.SGD(
        plain.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.05
    )
    losses = []
    for step in range(6):
        images, targets = large_batch(step)
        target = torch.eye(2)[targets] * 0.8 + 0.1 if soft else targets
        optimiser.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 24)) / 2
        optimiser.zero_grad()
        logits = plain.head(plain.backbone.trunk(images))
        shares = target if soft else torch.eye(2)[targets]
        loss = -(shares * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        ours._step(images, target)
    assert ours.state.pending == pytest.approx(losses, rel=1e-5)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(
            ours.classifier.state_dict()[name], tensor, rtol=2e-5, atol=2e-6, msg=name
        )


@pytest.mark.parametrize(
    ("channels", "groups", "last"), [(8, 8, True), (8, 1, False), (6, 6, False)]
)
def test_channels_come_last_on_a_cpu_for_depthwise_convolutions_only(channels, groups, last):
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3), nn.Conv2d(channels, channels, 3, groups=groups)
    )
    weight = laid_out(network, CPU)[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.parametrize(
    ("scores", "changes", "stopped", "best"),
    [
        ([0.9, 0.8, 0.7, 0.6], {}, 15, 5),
        ([0.5, 0.6, 0.5, 0.7, 0.6], {}, 24, 20),
        ([0.5, 0.5, 0.5, 0.5, 0.5], {}, 15, 5),
        ([0.5, 0.5, 0.5, 0.5, 0.5], {"ties": "progress"}, 24, 24),
    ],
)
def test_it_stops_when_the_validation_gets_worse(scores, changes, stopped, best):
    run = trainer(scores=scores, **changes)
    state = run.run(batches)
    assert (state.step, state.best_step) == (stopped, best)


def test_the_best_weights_are_tested_or_the_studys_last():
    seen = []

    def validate(classifier):
        seen.append(copy.deepcopy(classifier.state_dict()))
        return Validation(0.5, [0.9, 0.8, 0.7][len(seen) - 1])

    for tested, expected in (("best", 0), ("last", 2)):
        seen.clear()
        run = Trainer(
            Classifier(tiny_backbone(), 2), settings(tested_weights=tested), validate=validate
        )
        run.run(batches)
        assert len(seen) == 3
        assert equal(seen[expected], weights(run))
        assert not equal(seen[2 - expected], weights(run))


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_a_run_that_diverges_is_stopped_with_advice(tmp_path, rate):
    options = TrainerOptions(checkpoint=tmp_path / "run.safetensors", every=2)
    run = trainer(options=options, learning_rate=rate)
    with pytest.raises(DivergedError, match=r"diverged at step .*smaller learning rate"):
        run.run(batches)
    assert not list(tmp_path.iterdir())


def test_validation_that_is_no_number_stops_it():
    run = trainer()
    run.validate = lambda _: Validation(math.nan, 0.5)
    with pytest.raises(DivergedError, match="step 5"):
        run.run(batches)


def test_a_damaged_checkpoint_is_named(tmp_path):
    options = TrainerOptions(checkpoint=tmp_path / "run.safetensors")
    trainer(options=options).run(batches)
    whole = options.checkpoint.read_bytes()
    for bad in (whole[: len(whole) // 2], b"", b"x" * 100):
        options.checkpoint.write_bytes(bad)
        with pytest.raises(CheckpointFileError, match=r"run\.safetensors is damaged"):
            trainer(options=options).run(batches)


def test_drafts_of_a_killed_process_are_removed(tmp_path):
    options = TrainerOptions(checkpoint=tmp_path / "run.safetensors")
    draft = tmp_path / f".run.safetensors.{'0a' * 8}.draft.safetensors"
    draft.write_bytes(b"half")
    os.utime(draft, (0, 0))
    trainer(options=options).run(batches)
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_dropout_is_repeated_and_the_global_generator_is_left_alone(tmp_path):
    def dropping():
        classifier = Classifier(tiny_backbone(), 2)
        classifier.head = nn.Sequential(nn.Dropout(0.5), classifier.head)
        classifier.head.out_features = 2
        return classifier

    before = torch.get_rng_state()
    one, other = (trainer(classifier=dropping()) for _ in range(2))
    one.run(batches)
    torch.rand(3)
    other.run(batches)
    assert equal(weights(one), weights(other))
    torch.set_rng_state(before)
    with random_numbers(0, 1, CPU):
        torch.rand(9)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_head_is_seeded_and_drawn_as_torch_draws_it():
    before = torch.get_rng_state()
    heads = [Classifier(tiny_backbone(), 3, seed=seed).head for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    wide = Classifier(tiny_backbone(width=64), 50).head
    weight, bound = wide.weight.detach(), 1 / math.sqrt(512)
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_the_backbone_is_copied():
    backbone = tiny_backbone()
    before = backbone.fingerprint
    run = trainer(classifier=Classifier(backbone, 2))
    run.run(batches)
    assert backbone.fingerprint == before
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_half_precision_stays_near():
    chosen = settings(learning_rate=1e-3)
    losses = {}
    for precision in ("fp32", "bf16"):
        classifier = Trainer(Classifier(tiny_backbone(width=8), 2), chosen).classifier
        optimiser = make_optimiser(classifier, chosen)
        losses[precision] = [
            training_step(classifier, optimiser, *large_batch(step), precision=precision).item()
            for step in range(4)
        ]
        assert all(parameter.dtype == torch.float32 for parameter in classifier.parameters())
    assert losses["bf16"] != losses["fp32"]
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], atol=0.05)


def test_predictions_are_those_of_eval_mode():
    classifier = Classifier(tiny_backbone(), 2).train()
    images, _ = batch(0)
    found = predict(classifier, [images[:3], images[3:]], device=CPU)
    assert classifier.training
    with torch.no_grad():
        expected = classifier.eval()(images).double().log_softmax(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
