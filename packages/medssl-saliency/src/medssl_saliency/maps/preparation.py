"""What a network is shown: a picture resized, cropped and normalised, and what its windows show."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from medssl_models.features.runtime import batch_statistics
from torch import Tensor, nn

from medssl_saliency.errors import ImageError, SettingsError
from medssl_saliency.maps.occluders import occluding_picture

if TYPE_CHECKING:
    import numpy as np
    from medssl_models import Backbone, Preprocessing
    from numpy.typing import NDArray
    from PIL.Image import Image

    from medssl_saliency.engine.graph import Pair
    from medssl_saliency.maps.settings import MapSettings

__all__ = ["FeatureExtractor", "Prepared", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as one model sees it.

    Args:
        pixels: `(3, H, W)` float32 before normalisation.
        normalised: `(3, H, W)` float32.
        occluder: `(3, H, W)` float32, normalised: what a window shows.
        picture: `(H, W, 3)` uint8, for people.
        fingerprint: SHA-256 of the decoded picture, before any resizing.
        is_constant: Whether all pixels are alike.
        target: `(D,)` features from which occlusion measures distances; None is the picture's own.
    """

    pixels: Tensor
    normalised: Tensor
    occluder: Tensor
    picture: NDArray[np.uint8]
    fingerprint: str
    is_constant: bool
    target: Tensor | None = None

    @property
    def size(self) -> Pair:
        """Height and width."""
        return self.normalised.shape[1], self.normalised.shape[2]


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """A backbone under settings, with what is costly to find out about it.

    Args:
        backbone: The model.
        settings: Geometry, normalisation and mode of BatchNorm.

    Example:
        >>> from medssl_models import create_model
        >>> from medssl_saliency import preset
        >>> FeatureExtractor(create_model("random_r18"), preset(crop=96)).preprocessing.crop
        96
    """

    backbone: Backbone
    settings: MapSettings

    @cached_property
    def network(self) -> nn.Module:
        """The network to run: the backbone's own, or a copy with BatchNorm in training mode.

        Raises:
            SettingsError: The crop is so small that a map has one position: no statistics.
        """
        trunk = self.backbone.trunk
        if self.settings.batchnorm != "training":
            return trunk
        network, crop = batch_statistics(trunk), self.preprocessing.crop
        device = next(trunk.parameters()).device
        try:
            with torch.inference_mode():
                network(torch.zeros(1, 3, crop, crop, device=device))
        except ValueError as error:
            message = (
                f"batchnorm training: at a crop of {crop} pixels the deepest maps of {self.name} "
                "have one position, of which there are no statistics; take a larger crop"
            )
            raise SettingsError(message) from error
        return network

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights."""
        return self.backbone.fingerprint

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How a picture reaches the network."""
        return self.backbone.preprocessing_for(
            "published" if self.settings.normalisation == "published" else "corrected",
            resize=self.settings.resize,
            crop=self.settings.crop,
            interpolation=self.settings.interpolation,
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.backbone.name

    def prepare(self, image: Image) -> Prepared:
        """Prepare a picture; see `prepare`."""
        return prepare(image, self.preprocessing, self.settings)

    @torch.inference_mode()
    def features(self, image: Tensor) -> Tensor:
        """Compute the `(D,)` features of a normalised `(3, H, W)` image."""
        features: Tensor = self.network(image[None])[0]
        return features


def prepare(image: Image, preprocessing: Preprocessing, settings: MapSettings) -> Prepared:
    """Resize, crop and normalise a picture, and make what windows show.

    Args:
        image: 8-bit RGB.
        preprocessing: Of the model.
        settings: Window, occluder and seed.

    Raises:
        ImageError: The picture has fewer pixels than the window, or one that is not finite.
        SettingsError: The window is larger than the crop.

    Example:
        >>> from medssl_models import Preprocessing
        >>> from PIL import Image
        >>> from medssl_saliency import preset
        >>> seen = Preprocessing(resize=24, crop=16, normalisation={"kind": "imagenet"})
        >>> prepare(Image.new("RGB", (40, 30)), seen, preset()).size
        (16, 16)
    """
    crop, window = preprocessing.crop, settings.window
    if window > crop:
        message = f"window is {window} pixels, the crop {crop}; take a window of at most {crop}"
        raise SettingsError(message)
    if min(image.size) < window:
        wide, high = image.size
        message = (
            f"the picture has {wide} x {high} pixels, fewer than the window of {window}; "
            "take a smaller window or a larger picture"
        )
        raise ImageError(message)
    pixels = preprocessing.pixels(image)
    darkest, brightest = torch.aminmax(pixels.flatten(1), dim=1)
    normalised = preprocessing.normalise(pixels)
    low, high_value = preprocessing.value_range
    shown = (pixels - low) / (high_value - low) * 255
    return Prepared(
        pixels=pixels,
        normalised=normalised,
        occluder=occluding_picture(settings.occluder, pixels, normalised, seed=settings.seed),
        picture=shown.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy(),
        fingerprint=hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest(),
        is_constant=darkest.equal(brightest),
    )
