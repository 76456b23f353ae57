"""How a network runs here: device, precision, threads, and the copy of it that is fastest.

Context managers put back what they change. What runs is a copy: the caller's network
is not touched.
"""

from __future__ import annotations

import copy
import math
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medssl_models.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import TypeIs

    from medssl_models.backbone import Backbone
    from medssl_models.protocols import BatchNormName

__all__ = [
    "DeviceName",
    "FeatureNetwork",
    "PrecisionName",
    "batch_statistics",
    "fold_batchnorm",
    "fold_is_exact",
    "inference",
    "memory_format",
    "multiplies_in_bf16",
    "probe_batch_size",
    "relative_error",
    "resolve_device",
    "threads",
]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["fp32", "bf16"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

CPU_BATCH_SIZES = (16, 32)
"""Best on few cores: at 64 every layout loses a fifth or more to the caches."""
ACCELERATOR_BATCH_SIZE = 128
_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FOLD_TOLERANCE = 1e-3
"""Folding changes features by about 1e-5; a wrong pair of layers changes them by about 1."""


# ------------------------------------------------------------------------------------ surroundings


def resolve_device(name: DeviceName | str = "auto") -> torch.device:
    """Choose the device to run on.

    Args:
        name: `auto` takes CUDA, else MPS, else the CPU.

    Returns:
        A device that is available.

    Raises:
        SettingsError: The device that was asked for is not available here.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, is_here in available.items() if is_here()))
    if name not in available:
        message = f"device: {name!r} is not one of auto, {', '.join(sorted(available))}"
        raise SettingsError(message)
    if not available[name]():
        message = (
            f"device: {name} is not available here (torch {torch.__version__}); "
            "choose device auto, or install a torch build and a driver for it"
        )
        raise SettingsError(message)
    return torch.device(name)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with a number of CPU threads inside operations; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def multiplies_in_bf16(device: torch.device) -> bool:
    """Tell whether a device has arithmetic for bf16.

    A CPU without it emulates it, several times slower than fp32. Where torch cannot tell (2.6 has
    no `get_capabilities`), or the architecture has other words for it, the answer is yes.
    """
    if device.type != "cpu":
        return True
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    known = [able[name] for name in ("avx512_bf16", "amx_bf16", "bf16") if name in able]
    return any(known) if known else True


def memory_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Choose how weights and images lie in memory: channels last, except where that is worse.

    It is slower on MPS. On a CPU, BatchNorm in training mode sums the channels in float32: features
    of ResNet-50 were measured to be 8e-5 off, against 2e-5 where channels come first.
    """
    if device.type == "mps" or (device.type == "cpu" and _uses_batch_statistics(network)):
        return torch.contiguous_format
    return torch.channels_last


def _uses_batch_statistics(network: nn.Module) -> bool:
    return any(norm.training for norm in network.modules() if isinstance(norm, _BATCHNORMS))


@contextmanager
def inference(device: torch.device, precision: PrecisionName) -> Iterator[None]:
    """Run without gradients, in the precision that was asked for and the same on every run.

    CUDA's own default rounds the inputs of fp32 convolutions to TF32 (1e-3); here fp32 is fp32.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device.type == "cuda":
            exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
            stack.enter_context(exact)
        if precision == "bf16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16, cache_enabled=False))
        yield


# ----------------------------------------------------------------------------------------- folding


def fold_batchnorm(module: ModuleT) -> ModuleT:
    """Copy a network for inference with BatchNorm folded into the convolutions before it.

    A pair is a convolution and the BatchNorm that its parent registers right after it, as ResNets
    (`conv1`, `bn1`) and DenseNets (`conv0`, `norm0`; `conv1`, `norm2`) do; a BatchNorm before a
    convolution stays. Subclasses of BatchNorm that also activate stay too. The order of
    registration is a convention, not a proof: `fold_is_exact` checks the result.

    Args:
        module: A network in evaluation mode; it is not changed.

    Returns:
        A copy whose outputs differ by rounding only (about 1e-5 relative), without gradients.

    Raises:
        SettingsError: The network is in training mode.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
        >>> fold_batchnorm(network)[1]
        Identity()
    """
    if module.training:
        message = "module: BatchNorm can be folded in evaluation mode only; call .eval() first"
        raise SettingsError(message)
    folded = copy.deepcopy(module).requires_grad_(requires_grad=False)
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and _follows(norm, conv):
                setattr(parent, conv_name, _fold_pair(conv, norm))
                setattr(parent, norm_name, nn.Identity())
    return folded.requires_grad_(requires_grad=False)


def batch_statistics(module: ModuleT) -> ModuleT:
    """Copy a network so that BatchNorm normalises with the statistics of each batch.

    That is what the study's newest code did by mistake (I-1): the features of an image depend on
    the images that are with it in the batch. Running statistics are neither used nor changed.

    Args:
        module: A network in evaluation mode; it is not changed.
    """
    changed = copy.deepcopy(module)
    for norm in changed.modules():
        if isinstance(norm, _BATCHNORMS):
            norm.train()
            norm.momentum = 0.0
    return changed


def _fold_pair(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Fold in float64, so that the weights are rounded once."""
    kind = conv.weight.dtype
    return fuse_conv_bn_eval(conv.double(), norm.double()).to(kind)


def _follows(norm: nn.Module, conv: nn.Conv2d) -> TypeIs[nn.BatchNorm2d]:
    return (
        type(norm) is nn.BatchNorm2d
        and norm.running_mean is not None
        and norm.num_features == conv.out_channels
    )


def fold_is_exact(
    network: Callable[[Tensor], Tensor], folded: Callable[[Tensor], Tensor], example: Tensor
) -> bool:
    """Tell whether a folded copy computes what the network computes.

    Args:
        network: The original.
        folded: Its folded copy.
        example: An input of both, with the batch first.
    """
    with torch.inference_mode():
        return relative_error(folded(example), network(example)) < FOLD_TOLERANCE


def relative_error(approximate: Tensor, exact: Tensor) -> float:
    """Compute the L2 norm of the difference over the exact values' norm, 0 where both are 0.

    Example:
        >>> relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
        0.1
    """
    difference = torch.linalg.vector_norm(approximate.double() - exact.double())
    norm = torch.linalg.vector_norm(exact.double())
    return float(difference / norm) if norm else (math.inf if difference else 0.0)


# ----------------------------------------------------------------------------------------- network


@dataclass(frozen=True)
class FeatureNetwork:
    """The fastest copy of a backbone that gives the features of one layer.

    Args:
        backbone: The copy, on the device.
        layer: A layer of it; maps and tokens are averaged over their positions.
        device: Where it runs.
        precision: The arithmetic inside; features are float32 in any case.
    """

    backbone: Backbone
    layer: str
    device: torch.device
    precision: PrecisionName

    @classmethod
    def prepare(
        cls,
        backbone: Backbone,
        *,
        layer: str = "pooled",
        device: torch.device,
        precision: PrecisionName = "fp32",
        batchnorm: BatchNormName = "eval",
        crop: int,
    ) -> FeatureNetwork:
        """Copy, fold, lay out in memory and move a backbone.

        Args:
            backbone: The original; it is not changed.
            layer: A name out of `backbone.layers`.
            device: Where to run.
            precision: `fp32` or `bf16`.
            batchnorm: `training` normalises with the statistics of each batch, and folds nothing.
            crop: Side of the images, for the check that folding is exact.
        """
        plain = _quiet_copy(backbone)
        network = batch_statistics(plain) if batchnorm == "training" else _folded(plain, crop)
        network = network.to(memory_format=memory_format(network, device))
        return cls(network.to(device), layer, device, precision).in_precision(precision)

    def in_precision(self, precision: PrecisionName) -> FeatureNetwork:
        """Return this network in a precision; bf16 rounds the weights of convolutions once."""
        network = self.backbone
        if precision == "bf16":
            network = copy.deepcopy(network)
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        return FeatureNetwork(network, self.layer, self.device, precision)

    def __call__(self, images: Tensor) -> Tensor:
        """Compute features.

        Args:
            images: `(B, 3, H, W)` float32, normalised, on the CPU.

        Returns:
            `(B, D)` float32 on the CPU.
        """
        with inference(self.device, self.precision):
            images = images.contiguous(memory_format=memory_format(self.backbone, self.device))
            outputs = self.backbone.forward_layers(
                images.to(self.device, non_blocking=True), (self.layer,)
            )
            features = _over_positions(outputs[self.layer].float())
            return features.contiguous().cpu()


def _folded(plain: Backbone, crop: int) -> Backbone:
    """Fold, unless that gives other features; differing layers would show in the pooled ones."""
    folded = fold_batchnorm(plain)
    noise = torch.rand((1, 3, crop, crop), generator=torch.Generator().manual_seed(0))
    return folded if fold_is_exact(plain, folded, noise) else plain


def _over_positions(output: Tensor) -> Tensor:
    """Average maps `(N, C, h, w)` or a transformer's tokens `(N, T, C)` to `(N, C)`."""
    if output.ndim == 3:
        return output.mean(1)
    return output.flatten(2).mean(2) if output.ndim > 3 else output


def _quiet_copy(backbone: Backbone) -> Backbone:
    """Copy for inference; the range guard sits in the preprocessing, once for each image."""
    quiet = copy.deepcopy(backbone).eval().requires_grad_(requires_grad=False)
    quiet.checks_input = False
    return quiet


def probe_batch_size(network: FeatureNetwork, crop: int, *, rows: int) -> int:
    """Find the batch size that gives the most images a second.

    Few images do not pay for the measurement and get the largest candidate, as does a probe that
    cannot be timed; accelerators get a fixed size.

    Args:
        network: What will run.
        crop: Side of the images.
        rows: How many images will be run.
    """
    largest = CPU_BATCH_SIZES[-1]
    if network.device.type != "cpu":
        return min(ACCELERATOR_BATCH_SIZE, max(rows, 1))
    if rows < 32 * largest:
        return min(largest, max(rows, 1))
    return min(CPU_BATCH_SIZES, key=lambda size: _seconds_an_image(network, size, crop))


def _seconds_an_image(network: FeatureNetwork, size: int, crop: int) -> float:
    images = torch.zeros((size, 3, crop, crop))
    network(images)  # the first call also plans the kernels
    begin = time.perf_counter()
    network(images)
    return (time.perf_counter() - begin) / size
