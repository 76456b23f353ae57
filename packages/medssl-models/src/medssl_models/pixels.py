"""The arithmetic of preprocessing, on PIL images and tensors.

The records in `preprocessing` import it; it knows of them only what it reads, as a protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from medssl_models.errors import InputRangeError

if TYPE_CHECKING:
    from PIL import Image

    Moments = tuple[float, float, float]

__all__ = ["as_transform", "equalise", "fit", "normalise", "to_unit"]

BINS = 256
TOP = 255.0
# Bicubic resizing of a tensor overshoots by a few per cent at hard edges; an image that was
# normalised before lies much further outside.
OVERSHOOT = 0.05
LARGEST = 2**26  # pixels of a resized image; a very narrow one grows without end


class _Normalisation(Protocol):
    """How values in range are normalised."""

    @property
    def kind(self) -> str: ...
    @property
    def moments(self) -> tuple[Moments, Moments] | None: ...


class _Recipe(Protocol):
    """What a preprocessing says."""

    @property
    def resize(self) -> int | tuple[int, int]: ...
    @property
    def crop(self) -> int: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def value_range(self) -> tuple[float, float]: ...
    @property
    def normalisation(self) -> _Normalisation: ...


def fit(preprocessing: _Recipe, image: Image.Image) -> Image.Image:
    """Resize and crop an 8-bit image to mode RGB and crop x crop pixels."""
    if image.mode not in {"RGB", "L"}:
        message = (
            f"image: mode {image.mode!r} cannot be used without losing values; "
            "convert it to 8-bit RGB first (medssl_data.read_image does)"
        )
        raise InputRangeError(message)
    _check_growth(preprocessing, image)
    resized = functional.resize(
        image.convert("RGB"), _size(preprocessing), InterpolationMode(preprocessing.interpolation)
    )
    cropped: Image.Image = functional.center_crop(resized, [preprocessing.crop, preprocessing.crop])
    return cropped


def _check_growth(preprocessing: _Recipe, image: Image.Image) -> None:
    """Refuse an image whose long side would become enormous when its short one is scaled."""
    short, long = sorted(image.size)
    side = preprocessing.resize
    if isinstance(side, int) and side * side * long > LARGEST * max(short, 1):
        message = (
            f"image: {image.width} x {image.height} pixels, scaled to a short side of {side}, are "
            f"over {LARGEST:,}; crop it first"
        )
        raise InputRangeError(message)


def to_unit(preprocessing: _Recipe, fitted: Image.Image) -> Tensor:
    """Scale what `fit` gave; `(3, crop, crop)` float32 in the declared range."""
    return _stretch(_unit(functional.pil_to_tensor(fitted)), preprocessing.value_range)


def normalise(preprocessing: _Recipe, pixels: Tensor) -> Tensor:
    """Check `(..., 3, H, W)` pixels against the declared range and normalise them to float32."""
    inside = _checked(pixels, preprocessing.value_range)
    if preprocessing.normalisation.kind == "histogram":
        return equalise(inside)
    moments = preprocessing.normalisation.moments
    if moments is None:
        return inside
    mean, std = (inside.new_tensor(values)[:, None, None] for values in moments)
    return (inside - mean) / std


def equalise(pixels: Tensor) -> Tensor:
    """Equalise the histogram of every image, its channels pooled.

    256 equal bins lie between the image's smallest and largest value; a value is mapped by
    linear interpolation through (left edge of bin b, share of values up to and including b),
    the shares scaled to 255. The smallest value becomes the share of the first bin, not 0; a
    constant image becomes 255 everywhere. This is what the MIMIC-CheXpert checkpoints were
    trained on (facebookresearch/CovidPrognosis, `HistogramNormalize`).

    Args:
        pixels: `(..., C, H, W)` floating, any range.

    Returns:
        `(..., C, H, W)` float32 in (0, 255].
    """
    images = pixels.to(torch.float32).reshape(-1, *pixels.shape[-3:])
    if not len(images):
        return images.reshape(pixels.shape)
    return torch.stack([_equalise_one(image) for image in images]).reshape(pixels.shape)


def as_transform(preprocessing: _Recipe) -> v2.Transform:
    """Build the torchvision v2 transform: resize, crop, to float32 in range, normalise."""
    size = _size(preprocessing)
    return v2.Compose(
        [
            v2.Resize(size, InterpolationMode(preprocessing.interpolation), antialias=True),
            v2.CenterCrop(preprocessing.crop),
            v2.PILToTensor(),
            Normalise(preprocessing),
        ]
    )


class Normalise(nn.Module):
    """Last step of the transform: 8-bit or [0, 1] pixels to what the network was trained on."""

    def __init__(self, preprocessing: _Recipe) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        """Map `(..., 3, H, W)` uint8, or floating in [0, 1], to a plain normalised tensor."""
        plain = pixels.as_subclass(Tensor)
        if plain.dtype == torch.uint8:
            plain = _unit(plain)
        return normalise(self.preprocessing, _stretch(plain, self.preprocessing.value_range))

    def extra_repr(self) -> str:
        """Show the kind of normalisation in the printed transform."""
        return self.preprocessing.normalisation.kind


def _size(preprocessing: _Recipe) -> list[int]:
    resize = preprocessing.resize
    return [resize] if isinstance(resize, int) else list(resize)


def _unit(pixels: Tensor) -> Tensor:
    # Divided, not multiplied by 1/255: the last bit decides the bin of a histogram.
    return pixels.to(torch.float32).div_(TOP)


def _stretch(unit: Tensor, value_range: tuple[float, float]) -> Tensor:
    low, high = value_range
    return unit if value_range == (0.0, 1.0) else unit * (high - low) + low


def _checked(pixels: Tensor, value_range: tuple[float, float]) -> Tensor:
    if pixels.ndim < 3 or pixels.shape[-3] != 3 or not pixels.is_floating_point():
        message = (
            f"pixels: expected floating (..., 3, H, W), got {pixels.dtype} "
            f"{tuple(pixels.shape)}; scale 8-bit images to {list(value_range)} first"
        )
        raise InputRangeError(message)
    low, high = value_range
    if not pixels.numel():
        return pixels.to(torch.float32)
    smallest, largest = (float(value) for value in torch.aminmax(pixels.detach()))
    slack = OVERSHOOT * (high - low)
    if not (low - slack <= smallest and largest <= high + slack):
        message = (
            f"pixels: values from {smallest:.4g} to {largest:.4g} are outside the declared range "
            f"{list(value_range)} or not finite; give pixels before normalisation, scaled to it"
        )
        raise InputRangeError(message)
    return pixels.to(torch.float32).clamp(low, high)


def _equalise_one(image: Tensor) -> Tensor:
    values = image.reshape(-1)
    low, high = values.amin().double(), values.amax().double()  # torch 2.6 derives these
    if low == high:
        return torch.full_like(image, TOP)
    steps = torch.arange(BINS + 1, dtype=torch.float64, device=image.device)
    # Rounded to float32 as numpy.histogram rounds the edges of float32 data: a value that lies on
    # an edge must fall into the same bin.
    edges = (low + steps * ((high - low) / BINS)).to(torch.float32)
    index = torch.bucketize(values, edges[1:-1], right=True)
    shares = torch.bincount(index, minlength=BINS).cumsum(0).double()
    shares *= TOP / values.numel()
    lefts = edges[:-1].double()
    widths = lefts.diff()
    slopes = torch.zeros_like(shares)
    # Where values are so close that float32 edges coincide there is nothing to interpolate.
    slopes[:-1] = torch.where(widths > 0, shares.diff() / widths, 0.0)
    equalised = shares[index] + slopes[index] * (values.double() - lefts[index])
    return equalised.to(torch.float32).reshape(image.shape)
