"""A trainable network with a linear layer: one training step, and predictions.

The loop is `trainer`'s business. Nothing here leaves torch's global generators changed.
"""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from medssl_models.backbone import Backbone
from medssl_models.features.runtime import inference, memory_format
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from medssl_eval.experiments.settings import FinetuneSettings

__all__ = [
    "Classifier",
    "laid_out",
    "learning_rate",
    "make_optimiser",
    "predict",
    "random_numbers",
    "training_step",
]


class Classifier(nn.Module):
    """A trainable copy of a backbone with a linear layer on its pooled features.

    Args:
        backbone: Is copied, not changed.
        classes: Outputs of the linear layer.
        seed: Of the linear layer's weights, which are drawn as `nn.Linear` draws them.
    """

    def __init__(self, backbone: Backbone, classes: int, *, seed: int = 0) -> None:
        super().__init__()
        trunk = copy.deepcopy(backbone.trunk)
        self.backbone = Backbone(backbone.card, trunk, name=backbone.name, trainable=True)
        self.backbone.checks_input = False  # the preprocessing checks each image
        self.head = _head(backbone.feature_dim, classes, seed)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(N, classes)` of normalised images `(N, 3, H, W)`."""
        features: Tensor = self.backbone(images)
        logits: Tensor = self.head(features)
        return logits


def _head(features: int, classes: int, seed: int) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # draws nothing from the global generator
        head = nn.Linear(features, classes)
    head.to_empty(device="cpu")
    bound = 1 / math.sqrt(features)  # what nn.Linear's Kaiming initialisation comes to
    with torch.no_grad():
        head.weight.uniform_(-bound, bound, generator=generator)
        head.bias.uniform_(-bound, bound, generator=generator)
    return head


def make_optimiser(classifier: Classifier, settings: FinetuneSettings) -> torch.optim.SGD:
    """Make the optimiser: SGD with Nesterov momentum and weight decay on all parameters."""
    return torch.optim.SGD(
        classifier.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate(settings: FinetuneSettings, step: int) -> float:
    """Compute the learning rate of a step: half a cosine from the first step to 0 after the last.

    References:
        Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017.
    """
    return settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2


def training_step(
    classifier: Classifier,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Tensor:
    """Take one step and return the loss before it.

    Args:
        classifier: In training mode, from `laid_out`.
        optimiser: Of its parameters.
        images: `(B, 3, H, W)` float32, normalised, on the device.
        targets: `(B,)` int64 classes, or `(B, K)` float32 shares of the classes.
        precision: bf16 runs the network in half precision; the loss is float32.

    Returns:
        The mean cross-entropy, without gradients.
    """
    images = images.contiguous(memory_format=_training_layout(classifier, images.device))
    half = precision == "bf16"
    with torch.autocast(images.device.type, torch.bfloat16) if half else nullcontext():
        logits = classifier(images)
    loss = functional.cross_entropy(logits.float(), targets)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call] # torch's stub
    optimiser.step()
    return loss.detach()


def predict(
    classifier: Classifier,
    batches: Iterable[Tensor],
    *,
    device: torch.device,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Tensor:
    """Predict the classes of images, in eval mode; the classifier's mode is put back.

    Args:
        classifier: On the device.
        batches: `(B, 3, H, W)` float32, normalised.
        device: Where it runs.
        precision: As in training.

    Returns:
        `(N, K)` float64 log-probabilities on the CPU.
    """
    training = classifier.training
    classifier.eval()
    found = []
    try:
        with inference(device, precision):
            layout = memory_format(classifier, device)
            for images in batches:
                inputs = images.contiguous(memory_format=layout).to(device, non_blocking=True)
                logits = classifier(inputs)
                found.append(functional.log_softmax(logits.double().cpu(), dim=1))
    finally:
        classifier.train(training)
    return torch.cat(found)


def laid_out(classifier: Classifier, device: torch.device) -> Classifier:
    """Bring a classifier to a device in training mode, in the memory layout of training."""
    in_layout: Classifier = classifier.to(memory_format=_training_layout(classifier, device))
    return in_layout.to(device).train()


def _training_layout(classifier: Classifier, device: torch.device) -> torch.memory_format:
    """Take channels last on CUDA, and on a CPU for depthwise convolutions.

    On a CPU a step of EfficientNet-Lite0 is 1.4 times faster so, one of ResNet-18 1.1 times, one of
    ResNet-50 or DenseNet-121 not at all, but BatchNorm makes gradients 2 to 4 times less exact
    (measured against float64): networks without depthwise convolutions do as the study did. Below 8
    channels, oneDNN's backward kernels for AVX2 write behind their arrays (torch 2.15).
    """
    if device.type == "cuda":
        return torch.channels_last
    convolutions = [each for each in classifier.modules() if isinstance(each, nn.Conv2d)]
    inner = [c.in_channels for c in convolutions[1:]] + [c.out_channels for c in convolutions]
    depthwise = any(convolution.groups > 1 for convolution in convolutions)
    safe = device.type == "cpu" and all(channels % 8 == 0 for channels in inner)
    return torch.channels_last if depthwise and safe else torch.contiguous_format


@contextmanager
def random_numbers(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Let dropout and the like draw what this step draws in every run, and disturb nobody else."""
    state = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(state)
        if cuda:
            torch.cuda.manual_seed(state)
        yield
