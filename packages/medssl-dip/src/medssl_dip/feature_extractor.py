"""A backbone that sees pictures in [0, 1] and lets gradients through to them.

The backbone is a frozen, folded copy; gradients flow through it to the pictures and stop there.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from medssl_models.features.runtime import fold_batchnorm, fold_is_exact
from medssl_models.networks.trunks import resolve_layers
from medssl_models.pixels import equalise
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from medssl_models import Backbone, Preprocessing

    from medssl_dip.settings import InputSettings

__all__ = ["FeatureExtractor", "PrecisionName", "autocast", "preprocessing_of", "resolve_layer"]

PrecisionName = Literal["fp32", "bf16"]
LAST = "last"


def preprocessing_of(backbone: Backbone, settings: InputSettings) -> Preprocessing:
    """Return the preprocessing from a file's picture to the backbone's input.

    A size given in the settings is the study's geometry: short side to it, bicubic, centre crop.
    Values of the picture lie in [0, 1], whatever range the model's normalisation starts from.
    """
    own = backbone.preprocessing
    if settings.size is not None:
        own = own.replace(resize=settings.size, crop=settings.size, interpolation="bicubic")
    return own if settings.normalised_input else own.replace(normalisation={"kind": "none"})


def resolve_layer(backbone: Backbone, layer: str) -> str:
    """Return a backbone's own name of a layer; `last` is its deepest feature map.

    Raises:
        LayerError: No such layer; the message lists those there are.

    Example:
        >>> from medssl_models import create_model
        >>> resolve_layer(create_model("random_d121"), "layer4")
        'denseblock4'
    """
    asked = backbone.layers[-2] if layer == LAST else layer
    return resolve_layers(backbone.trunk, (asked,))[asked]  # type: ignore[arg-type] # see Backbone


class FeatureExtractor(nn.Module):
    """A backbone that sees pictures in [0, 1] and lets gradients through to them.

    Args:
        backbone: The original; it is copied, not changed.
        preprocessing: Its range and normalisation are applied, unclipped, to what is seen.
        device: Where it runs.
        precision: Of its arithmetic; features are float32.

    Example:
        >>> from medssl_models import create_model
        >>> backbone = create_model("random_r18")
        >>> extractor = FeatureExtractor(backbone, backbone.preprocessing)
        >>> extractor(torch.zeros(1, 3, 64, 64), "layer3").shape
        torch.Size([1, 256, 4, 4])
    """

    def __init__(
        self,
        backbone: Backbone,
        preprocessing: Preprocessing,
        *,
        device: torch.device | str = "cpu",
        precision: PrecisionName = "fp32",
    ) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.network = _folded(backbone, preprocessing.crop).to(self.device)
        if self.device.type != "mps":  # channels last is slower there
            self.network.to(memory_format=torch.channels_last)
        if precision == "bf16":  # rounded once; autocast would round them at every step
            for module in self.network.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(torch.bfloat16)
        self.precision = precision
        self._normalise = _normalisation(preprocessing, self.device)

    def resolve(self, layer: str) -> str:
        """Return the network's own name of a layer; `last` is the deepest feature map.

        Raises:
            LayerError: No such layer; the message lists those there are.
        """
        return resolve_layer(self.network, layer)

    def forward(self, pictures: Tensor, layer: str) -> Tensor:
        """Compute one layer.

        Args:
            pictures: (N, 3, H, W) float32; [0, 1] is black to white, beyond is not clipped.
            layer: A name in the network's layers.

        Returns:
            (N, ...) float32, one row a picture.
        """
        with autocast(pictures.device, self.precision):
            seen = self._normalise(pictures)
            if seen.device.type != "mps":
                seen = seen.contiguous(memory_format=torch.channels_last)
            features = self.network.forward_layers(seen, (layer,))[layer]
        return features.float()


def autocast(
    device: torch.device, precision: PrecisionName
) -> AbstractContextManager[None | torch.autocast]:
    """Run in a precision; fp32 changes nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _folded(backbone: Backbone, crop: int) -> Backbone:
    """Copy for inference, folded where that computes the same."""
    folded = fold_batchnorm(backbone)
    folded.checks_input = False  # what a prior draws on the way has no bounds
    noise = torch.rand((1, 3, crop, crop), generator=torch.Generator().manual_seed(0))
    if fold_is_exact(backbone, folded, noise):
        return folded
    plain = copy.deepcopy(backbone).eval().requires_grad_(requires_grad=False)
    plain.checks_input = False
    return plain


def _normalisation(
    preprocessing: Preprocessing, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Differentiable and unclipped: the guard of the range is for pictures that were read."""
    low, high = preprocessing.value_range
    if preprocessing.normalisation.kind == "histogram":
        return lambda pictures: equalise(pictures * (high - low) + low)
    moments = preprocessing.normalisation.moments or ((0.0,) * 3, (1.0,) * 3)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in moments)
    return lambda pictures: (pictures * (high - low) + low - mean) / std
