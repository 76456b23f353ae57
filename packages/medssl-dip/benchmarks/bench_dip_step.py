"""One step of a reconstruction: the study's way against ours, in turns in one process.

The study's way is the hourglass layer by layer and the whole backbone with gradients of its own
weights, NCHW, fp32. Both get the same picture, seed and learning rate. Times are medians over a few
of the 3,001 steps of a run, at the study's size (prior 256, picture 224); the loss is followed over
100 steps of a smaller picture (`--curve-size`). bf16 is measured where the device computes in it.
`--compile` adds torch.compile, whose first step takes a minute or two. Run it as
`python bench_dip_step.py [--quick] [--compile] [--device cuda] [--model NAME]`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING

import torch
from medssl_dip.errors import CompilerError
from medssl_dip.feature_extractor import FeatureExtractor, preprocessing_of
from medssl_dip.inversion.objective import Objective
from medssl_dip.inversion.optimisation import Inversion, compiler_advice
from medssl_dip.prior import Hourglass
from medssl_dip.settings import settings_for
from medssl_dip.testing import PlainHourglass, load_from
from medssl_models import create_model
from medssl_models.console import Console
from medssl_models.features.runtime import multiplies_in_bf16

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medssl_dip.feature_extractor import PrecisionName
    from medssl_models import Backbone
    from torch import Tensor

SETTINGS = settings_for("published")
CROP = 224
TARGETS = {"fp32": 1.5, "bf16": 2.2}
BATCH = 4
CHECK_EVERY = 10


class StudyStep:
    """The study's loop: nothing frozen, nothing folded."""

    def __init__(self, backbone: Backbone, original: Tensor) -> None:
        self.network = copy.deepcopy(backbone).requires_grad_(requires_grad=True)
        self.network.checks_input = False
        self.crop = original.shape[-1]
        size = SETTINGS.generator.size_for(self.crop)
        prior = Hourglass(SETTINGS.generator, seed=0, size=size)
        self.generator = PlainHourglass(SETTINGS.generator)
        self.input = load_from(self.generator, prior).contiguous().to(original.device)
        self.generator.to(original.device)
        self.adam = torch.optim.Adam(self.generator.parameters(), lr=SETTINGS.learning_rate)
        with torch.no_grad():
            self.target = self._features(original)

    def __call__(self) -> float:
        """Make one update, and return the loss before it."""
        self.adam.zero_grad()
        loss = self._loss()
        loss.backward()
        self.adam.step()
        return loss.item()

    @torch.no_grad()
    def loss_of(self, prior: Hourglass) -> float:
        """Compute the loss of a prior's weights the study's way."""
        load_from(self.generator, prior)
        return self._loss().item()

    def _loss(self) -> Tensor:
        drawn = self.generator(self.input)[:, :, : self.crop, : self.crop]
        return torch.nn.functional.mse_loss(self._features(drawn), self.target)

    def _features(self, x: Tensor) -> Tensor:
        return self.network.forward_layers(x, ("layer4", "pooled"))["layer4"]


def our_steps(
    backbone: Backbone,
    original: Tensor,
    *,
    precision: PrecisionName = "fp32",
    runs: int = 1,
    compiled: bool = False,
) -> Inversion:
    """Prepare our way."""
    crop = original.shape[-1]
    preprocessing = preprocessing_of(backbone, SETTINGS.replace(size=crop))
    extractor = FeatureExtractor(
        backbone, preprocessing, device=original.device, precision=precision
    )
    objective = Objective(
        extractor,
        original.expand(runs, -1, -1, -1),
        layer="layer4",
        comparable_taps=SETTINGS.comparable_taps,
        relative=SETTINGS.relative_loss,
    )
    return Inversion(objective, SETTINGS, seeds=range(runs), crop=crop, compiled=compiled)


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Time one call."""
    begin = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def in_turns(
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
    device: torch.device,
) -> tuple[float, float]:
    """Time two ways in turns after one round to warm up, and return the median of each."""
    turns = [(seconds(first, device), seconds(second, device)) for _ in range(rounds + 1)][1:]
    return statistics.median(one for one, _ in turns), statistics.median(two for _, two in turns)


def picture(device: torch.device, side: int = CROP) -> Tensor:
    """Draw a smooth picture, (1, 3, side, side) in [0, 1]."""
    coarse = torch.rand((1, 3, 14, 14), generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic")
    return smooth.clamp(0, 1).to(device)


def compare_curves(
    study: StudyStep, ours: Inversion, steps: int
) -> tuple[list[float], list[float]]:
    """Follow our optimisation and compute its loss the study's way at every tenth step."""
    found, expected = [], []
    for step in range(steps):
        if step % CHECK_EVERY == 0:
            prior = ours._runs[0].prior  # the benchmark looks inside on purpose
            expected.append(study.loss_of(prior))
            found.append(float(ours.update()[0]))
        else:
            ours.update()
    return found, expected


def step_rows(
    backbone: Backbone, device: torch.device, *, rounds: int, compiled: bool
) -> Iterator[list[str]]:
    """Measure all ways of a step against the study's, in turns."""
    original = picture(device)
    study, ours = StudyStep(backbone, original), our_steps(backbone, original)
    plain, mine = in_turns(study, ours.update, rounds, device)
    yield row("fp32", plain, mine, TARGETS["fp32"])
    if multiplies_in_bf16(device):
        half = our_steps(backbone, original, precision="bf16")
        yield row("bf16", *in_turns(study, half.update, rounds, device), TARGETS["bf16"])
    else:
        yield ["bf16", "", "", "not measured: no bf16 arithmetic here", str(TARGETS["bf16"])]
    many = our_steps(backbone, original, runs=BATCH)
    one, together = in_turns(ours.update, many.update, max(rounds // 2, 1), device)
    yield row(f"fp32, {BATCH} runs a batch against one, a run", one, together / BATCH, None)
    if compiled:
        yield compiled_row(backbone, original, study, rounds)


def curve_row(backbone: Backbone, device: torch.device, *, steps: int, side: int) -> list[str]:
    """Follow the loss over a whole course, at the same weights both ways."""
    original = picture(device, side)
    study, ours = StudyStep(backbone, original), our_steps(backbone, original)
    found, expected = compare_curves(study, ours, steps)
    worst = max(abs(a - b) / b for a, b in zip(found, expected, strict=True))
    return [f"loss over {steps} steps, {side} px", "", "", f"{worst:.1e} off", "0.01"]


def compiled_row(backbone: Backbone, original: Tensor, study: StudyStep, rounds: int) -> list[str]:
    """Measure `torch.compile`, where there is a compiler."""
    compiled = our_steps(backbone, original, compiled=True)
    try:
        with compiler_advice():
            first = seconds(compiled.update, original.device)
    except CompilerError as error:
        return ["fp32, torch.compile", "", "", str(error), ""]
    times = in_turns(study, compiled.update, rounds, original.device)
    return row(f"fp32, torch.compile ({first:.0f} s once)", *times, None)


def row(name: str, plain: float, ours: float, target: float | None) -> list[str]:
    """Make a line of the table."""
    wanted = "" if target is None else f"{target:.1f}"
    return [name, f"{plain:.3f}", f"{ours:.3f}", f"{plain / ours:.2f}", wanted]


def report(rows: Sequence[Sequence[str]], device: torch.device) -> None:
    """Write a table and one JSON line."""
    columns = ("way", "s a step before", "s a step, ours", "ratio", "target")
    Console().table(columns, rows, title=f"A step of a reconstruction on {device}")
    summary = {"benchmark": "dip_step", "threads": torch.get_num_threads(), "rows": rows}
    summary["cpu"] = torch.backends.cpu.get_cpu_capability()
    sys.stdout.write(json.dumps(summary) + "\n")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="random_r50")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=6, help="timed steps of each way")
    parser.add_argument("--steps", type=int, default=100, help="of the loss curve")
    parser.add_argument("--curve-size", type=int, default=96, help="side of its picture")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it runs")
    given = parser.parse_args()
    device = torch.device(given.device)
    backbone = create_model(given.model).to(device)
    rounds, steps = (2, 11) if given.quick else (given.rounds, given.steps)
    rows = []
    for one in step_rows(backbone, device, rounds=rounds, compiled=given.compile):
        sys.stderr.write("  ".join(one) + "\n")  # a run that is cut off has told what it knew
        rows.append(one)
    rows.append(curve_row(backbone, device, steps=steps, side=given.curve_size))
    report(rows, device)


if __name__ == "__main__":
    main()
