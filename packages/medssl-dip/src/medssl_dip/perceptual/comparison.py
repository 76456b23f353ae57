"""Two pictures from files, compared: at which size, and in whose features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medssl_models import Preprocessing
from medssl_models.features.runtime import resolve_device
from torchvision.transforms.v2.functional import pil_to_tensor

from medssl_dip.errors import ImageSizeError
from medssl_dip.feature_extractor import FeatureExtractor, preprocessing_of
from medssl_dip.perceptual.fidelity import feature_distance, measure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_models import Backbone
    from torch import Tensor

    from medssl_dip.feature_extractor import PrecisionName
    from medssl_dip.images import ImageItem
    from medssl_dip.perceptual.lpips import LPIPS
    from medssl_dip.settings import InputSettings

__all__ = ["compare", "compare_features"]


def compare(
    first: ImageItem,
    second: ImageItem,
    *,
    size: int | None = None,
    lpips: Mapping[str, LPIPS] | None = None,
    device: str = "auto",
) -> dict[str, float]:
    """Measure how far apart two pictures are.

    Args:
        first: The original.
        second: What is compared with it.
        size: Short side of both to it, bicubic, then the central square; None compares all pixels.
        lpips: By net.
        device: Where LPIPS runs.

    Returns:
        Metric to value, out of `metrics.METRICS`.

    Raises:
        ImageSizeError: The sizes differ and `size` is None, or they are too small for a metric.

    Example:
        >>> from PIL import Image
        >>> from medssl_dip.images import ImageItem
        >>> grey = ImageItem("grey", Image.new("RGB", (40, 30), "grey"))
        >>> compare(grey, grey)["psnr"]
        inf
    """
    if size is None and first.image.size != second.image.size:
        sizes = " and ".join(f"{one.image.width} x {one.image.height}" for one in (first, second))
        message = (
            f"{first.name} and {second.name} are {sizes} pixels; bring both to one size with "
            "size=224 (short side, then the central square)"
        )
        raise ImageSizeError(message)
    where = resolve_device(device)
    pair = [_pixels(one, size).to(where) for one in (first, second)]
    nets = {net: metric.to(where) for net, metric in (lpips or {}).items()}
    return dict(measure(*pair, lpips=nets).values)


def compare_features(
    backbone: Backbone,
    first: ImageItem,
    second: ImageItem,
    settings: InputSettings,
    *,
    device: str = "auto",
    precision: PrecisionName = "fp32",
) -> float:
    """Measure how far apart two pictures are for a model, each seen in the model's own way.

    Returns:
        L2 distance of the pooled features over the norm of the first's.
    """
    preprocessing = preprocessing_of(backbone, settings)
    extractor = FeatureExtractor(
        backbone, preprocessing, device=resolve_device(device), precision=precision
    )
    plain = preprocessing.replace(value_range=(0.0, 1.0))
    pair = [plain.pixels(one.image)[None].to(extractor.device) for one in (first, second)]
    return feature_distance(extractor, *pair)


def _pixels(picture: ImageItem, size: int | None) -> Tensor:
    if size is None:
        levels: Tensor = pil_to_tensor(picture.image)
        return levels.float() / 255
    square = Preprocessing.model_validate(
        {
            "resize": size,
            "crop": size,
            "interpolation": "bicubic",
            "normalisation": {"kind": "none"},
        }
    )
    return square.pixels(picture.image)
