"""A fine-tuning step against the 2022 study's way: fp32, NCHW, torch's plain SGD.

    python packages/medssl-eval/benchmarks/bench_finetune.py [--model random_r18] [--side 128]

The ways take turns on the same batches; medians and ratios are printed, then the largest distance
between the loss curves, and one line of JSON. bf16 is timed where the processor or the GPU
multiplies in it: elsewhere it is emulated, and slow.
"""

import argparse
import json
import statistics
import time

import torch
from medssl_eval.experiments.settings import FinetuneSettings
from medssl_eval.training.classifier import Classifier, laid_out, make_optimiser, training_step
from medssl_models import Backbone, create_model
from medssl_models.features.runtime import multiplies_in_bf16, resolve_device
from torch import Tensor

TARGET = 1.5
SETTINGS = FinetuneSettings()


class Study:
    """Contiguous fp32 and a plain loop."""

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.classifier = Classifier(backbone, 2).to(device).train()
        self.optimiser = torch.optim.SGD(
            self.classifier.parameters(),
            lr=SETTINGS.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=SETTINGS.weight_decay,
            foreach=False,
        )

    def __call__(self, images: Tensor, targets: Tensor) -> float:
        """Do one step."""
        self.optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(self.classifier(images), targets)
        loss.backward()
        self.optimiser.step()
        return loss.item()


class Ours:
    """What `medssl-eval finetune` does."""

    def __init__(self, backbone: Backbone, device: torch.device, precision: str) -> None:
        self.classifier = laid_out(Classifier(backbone, 2), device)
        self.optimiser = make_optimiser(self.classifier, SETTINGS)
        self.precision = precision

    def __call__(self, images: Tensor, targets: Tensor) -> float:
        """Do one step."""
        loss = training_step(
            self.classifier, self.optimiser, images, targets, precision=self.precision
        )
        return loss.item()


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="random_r18")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    device = resolve_device("auto")
    backbone = create_model(options.model)
    ways = {"study": Study(backbone, device), "fp32": Ours(backbone, device, "fp32")}
    if multiplies_in_bf16(device):
        ways["bf16"] = Ours(backbone, device, "bf16")
    times, losses = {name: [] for name in ways}, {name: [] for name in ways}
    for step in range(options.steps):
        generator = torch.Generator().manual_seed(step)
        targets = torch.arange(options.batch_size) % 2
        shape = (options.batch_size, 3, options.side, options.side)
        images = torch.randn(shape, generator=generator) + targets[:, None, None, None]
        images, targets = images.to(device), targets.to(device)
        for name, way in ways.items():
            begin = time.perf_counter()
            losses[name].append(way(images, targets))
            times[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    outcome = {"benchmark": "finetune", "device": str(device), "target": TARGET, **vars(options)}
    for name, median in medians.items():
        ratio = medians["study"] / median
        apart = max(abs(a - b) for a, b in zip(losses[name], losses["study"], strict=True))
        print(f"{name}: {1000 * median:.0f} ms a step, {ratio:.2f} times,", end=" ")
        print(f"losses at most {apart:.3f} from the study's way")
        outcome |= {f"{name}_s": median, f"{name}_ratio": ratio, f"{name}_loss_distance": apart}
    if "bf16" not in ways:
        print("bf16 is not native here and was not timed", f"(target with it: {TARGET} times)")
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
