"""How an image becomes the tensor that a model was trained on: geometry, range, normalisation.

The records are plain data (no torch is imported to read a card); the arithmetic is in `pixels.py`.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medssl_models.errors import SettingsError
from medssl_models.experiments.settings import fault_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image
    from torch import Tensor
    from torchvision.transforms import v2

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Normalisation", "Preprocessing", "resampling"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Side = Annotated[int, Field(ge=1, le=8192)]
Moments = tuple[float, float, float]


class Normalisation(BaseModel):
    """What is done to pixel values once they are in the declared range.

    `imagenet` and `constant` subtract a mean and divide by a standard deviation for each channel,
    `none` leaves the pixels as they are, `histogram` equalises them over 256 bins into (0, 255].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["imagenet", "none", "constant", "histogram"]
    mean: Moments | None = None
    std: Moments | None = None

    @model_validator(mode="after")
    def _moments_belong_to_constant(self) -> Self:
        given = (self.mean is not None, self.std is not None)
        if given != (self.kind == "constant",) * 2:
            message = f"mean and std are given exactly with kind='constant', not with {self.kind!r}"
            raise ValueError(message)
        if self.std is not None and min(self.std) <= 0:
            message = f"std must be positive, got {self.std}"
            raise ValueError(message)
        return self

    @property
    def moments(self) -> tuple[Moments, Moments] | None:
        """Mean and standard deviation for each channel; None where nothing is subtracted."""
        if self.kind == "imagenet":
            return IMAGENET_MEAN, IMAGENET_STD
        if self.mean is None or self.std is None:
            return None
        return self.mean, self.std


class Preprocessing(BaseModel):
    """A model's own way from an image to its input tensor.

    Args:
        resize: An int scales the short side to it and keeps the aspect; a pair is exactly
            (height, width). Always antialiased, as PIL does.
        crop: Side of the square that is cut from the centre.
        interpolation: Filter of the resize.
        value_range: Range of the pixels before normalisation.
        normalisation: What is done to the pixels then.

    Example:
        >>> own = Preprocessing(resize=256, crop=224, normalisation={"kind": "imagenet"})
        >>> own.replace(resize=224, interpolation="bicubic").crop
        224
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Side | tuple[Side, Side]
    crop: Side
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    value_range: tuple[float, float] = (0.0, 1.0)
    normalisation: Normalisation

    @model_validator(mode="after")
    def _range_ascends(self) -> Self:
        if not self.value_range[0] < self.value_range[1]:
            message = f"value_range must ascend, got {self.value_range}"
            raise ValueError(message)
        return self

    def pixels(self, image: Image.Image) -> Tensor:
        """Resize, crop and scale an image, without normalising it.

        Args:
            image: An 8-bit image in mode RGB or L.

        Returns:
            `(3, crop, crop)` float32 in `value_range`. An image that is smaller than the crop is
            padded with black, as torchvision's CenterCrop does.

        Raises:
            InputRangeError: The image has another mode (16-bit grey would be clipped silently).
        """
        from medssl_models import pixels

        return pixels.to_unit(self, pixels.fit(self, image))

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize and crop an image; what is the same for all models of one geometry.

        Args:
            image: An 8-bit image in mode RGB or L.

        Returns:
            An image in mode RGB of crop x crop pixels.

        Raises:
            InputRangeError: The image has another mode.
        """
        from medssl_models import pixels

        return pixels.fit(self, image)

    def finish(self, fitted: Image.Image) -> Tensor:
        """Turn what `fit` gave into a normalised `(3, crop, crop)` float32 tensor."""
        from medssl_models import pixels

        return self.normalise(pixels.to_unit(self, fitted))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Bring pixels to what the network was trained on.

        Args:
            pixels: `(..., 3, H, W)` floating, in `value_range`. An overshoot of up to 5 % of the
                range, as bicubic resizing of tensors makes it, is clipped.

        Returns:
            `(..., 3, H, W)` float32 in `normalised_range`.

        Raises:
            InputRangeError: Pixels are not finite, outside the range or not of this shape.
        """
        from medssl_models import pixels as arithmetic

        return arithmetic.normalise(self, pixels)

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn an image into a normalised `(3, crop, crop)` float32 tensor."""
        return self.normalise(self.pixels(image))

    def transform(self) -> v2.Transform:
        """Build a torchvision v2 transform that does the same to PIL images and tensors."""
        from medssl_models import pixels

        return pixels.as_transform(self)

    def replace(self, **changes: object) -> Preprocessing:
        """Return a new, validated record with some fields changed.

        Raises:
            SettingsError: A value is not allowed.
        """
        try:
            return Preprocessing.model_validate(dict(self) | changes)
        except ValidationError as error:
            raise SettingsError(fault_of(error, Preprocessing)) from error

    @property
    def normalised_range(self) -> tuple[float, float]:
        """Smallest and largest value that `normalise` can give."""
        if self.normalisation.kind == "histogram":
            return 0.0, 255.0
        moments = self.normalisation.moments
        if moments is None:
            return self.value_range
        low, high = self.value_range
        pairs = list(zip(*moments, strict=True))
        return min((low - m) / s for m, s in pairs), max((high - m) / s for m, s in pairs)

    @property
    def geometry(self) -> str:
        """Canonical JSON of all that decides what `fit` gives."""
        parts = self.model_dump(mode="json", include={"resize", "crop", "interpolation"})
        parts["torchvision"] = _torchvision()
        return json.dumps({**parts, **resampling()}, sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """Canonical JSON: equal exactly when the preprocessing is the same."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


@cache
def resampling() -> Mapping[str, str]:
    """Tell Pillow's ways of resizing apart, for the keys of what is made from resized images.

    Releases 9.2 to 12.3 agree exactly and are not named, so that what was computed with them keeps
    its keys; 13 differs from them by a level in many pictures.
    """
    return {} if int(version("pillow").partition(".")[0]) < 13 else {"resampling": "pillow 13"}


@cache
def _torchvision() -> str:
    """Return torchvision's version: it rounds the sides of a resized image."""
    return version("torchvision")
