"""What is seen in an occluded window: zeros after normalisation, or a picture in pixel space.

Pictures in pixel space are the same for every model; each model's own normalisation follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

if TYPE_CHECKING:
    from medssl_saliency.maps.settings import Occluder

__all__ = ["occluding_picture"]

BLUR = 0.05
"""Standard deviation of the blur, as a share of the image's side."""


def occluding_picture(kind: Occluder, pixels: Tensor, normalised: Tensor, *, seed: int) -> Tensor:
    """Make the picture that windows show in place of the image.

    Args:
        kind: `zero` is 0 after normalisation; `mean` the image's own mean colour, `blur` the image
            blurred, `noise` its own pixels shuffled, all three in pixel space.
        pixels: `(3, H, W)` before normalisation.
        normalised: `(3, H, W)`, what the network sees.
        seed: Of the shuffle.

    Returns:
        `(3, H, W)` float32, normalised. A normalisation that depends on the whole image, such as a
        histogram's, is the clean image's: a window must not change what lies outside it.

    Example:
        >>> pixels = torch.tensor([[[0.0, 1.0]]] * 3)
        >>> occluding_picture("mean", pixels, 2 * pixels, seed=0)[0].tolist()
        [[1.0, 1.0]]
    """
    if kind == "zero":
        return torch.zeros_like(normalised)
    if kind == "noise":
        cells = normalised.shape[1] * normalised.shape[2]
        order = torch.from_numpy(np.random.default_rng(seed).permutation(cells))
        return normalised.flatten(1)[:, order.to(normalised.device)].view_as(normalised)
    if kind == "mean":
        picture = pixels.mean(dim=(1, 2), keepdim=True).expand_as(pixels)
    else:
        picture = _blurred(pixels)
    return _as_in(pixels, normalised, picture)


def _blurred(pixels: Tensor) -> Tensor:
    sigma = BLUR * min(pixels.shape[1:])
    radius = min(int(3 * sigma) + 1, min(pixels.shape[1:]) - 1)
    blurred: Tensor = functional.gaussian_blur(pixels, [2 * radius + 1] * 2, [sigma, sigma])
    return blurred


def _as_in(pixels: Tensor, normalised: Tensor, picture: Tensor) -> Tensor:
    """Map each channel's values as the image's own values were stored, linear between them."""
    channels = []
    for before, after, values in zip(pixels, normalised, picture, strict=True):
        known, first = np.unique(before.cpu().numpy(), return_index=True)
        targets = after.cpu().numpy().ravel()[first]
        channels.append(np.interp(values.cpu().numpy(), known, targets))
    return torch.from_numpy(np.stack(channels)).to(normalised)
