"""Other ways to ask what a backbone looks at, all through captum, all without labels.

The target is the feature distance. Methods that take parts away measure the distance from the
clean image's features; methods that follow gradients measure the distance from the features of the
occluding picture, because the first has no gradient at the image itself.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from medssl_saliency.engine.occlusion import check_image
from medssl_saliency.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from medssl_saliency.engine.graph import Pair
    from medssl_saliency.maps.settings import CaptumMethod

__all__ = ["METHODS", "FeatureDistance", "attribute", "captum_occlusion", "superpixels"]

STEPS = 32
"""Points on the path of integrated gradients, and samples of gradient-SHAP."""
BATCH = 8


class FeatureDistance(nn.Module):
    """Relative distance of an image's features from fixed ones: captum's scalar target.

    Args:
        network: `(N, 3, H, W)` to `(N, D)`.
        reference: `(D,)`, the features from which the distance is measured.
        norm: What distances are divided by; the norm of the clean features.
    """

    def __init__(self, network: nn.Module, reference: Tensor, norm: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("reference", reference)
        self.norm = norm or 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Compute the `(N,)` distances of `(N, 3, H, W)` images."""
        distances: Tensor = (self.network(x) - self.reference).norm(dim=1) / self.norm
        return distances


def attribute(
    method: CaptumMethod, network: nn.Module, image: Tensor, occluder: Tensor, *, seed: int = 0
) -> NDArray[np.float32]:
    """Attribute the feature distance to pixels.

    Args:
        method: One of `METHODS`.
        network: In eval mode; a copy is used, so it is never changed.
        image: `(3, H, W)` float32, normalised.
        occluder: `(3, H, W)`, the baseline: what stands for "nothing to see".
        seed: Of everything random.

    Returns:
        `(H, W)` float32. Positive where the image moves the features away from the baseline's;
        integrated gradients sum to the distance between image and baseline.

    Raises:
        SettingsError: The method is not known, or does not suit the network.
        ImageError: The image is not finite.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> clean, nothing = torch.ones(3, 8, 8), torch.zeros(3, 8, 8)
        >>> attribute("integrated-gradients", network.eval(), clean, nothing).shape
        (8, 8)
    """
    if method not in METHODS:
        message = f"method is {method!r}; choose from {', '.join(METHODS)}"
        raise SettingsError(message)
    check_image(image)
    copied = _without_in_place(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum tells on every call that it sets hooks
        attribution = METHODS[method](copied, image, occluder, seed)
    values: NDArray[np.float32] = attribution.detach().sum(dim=(0, 1)).float().cpu().numpy()
    return values


def captum_occlusion(
    network: nn.Module, image: Tensor, occluder: Tensor, window: Pair, *, stride: int = 1
) -> NDArray[np.float32]:
    """Occlude through captum: slow, and the oracle of our own maps.

    Args:
        network: In eval mode.
        image: `(3, H, W)` float32, normalised.
        occluder: `(3, H, W)`, what windows show.
        window: Height and width of the window.
        stride: Distance of neighbouring windows.

    Returns:
        `(H, W)` float32: the mean score of the windows that cover a pixel.
    """
    from captum.attr import Occlusion

    with torch.inference_mode():
        clean = network(image[None])[0]
        target = FeatureDistance(network, clean, float(clean.norm()))
        attribution = Occlusion(target).attribute(
            image[None],
            sliding_window_shapes=(len(image), *window),
            strides=(len(image), stride, stride),
            baselines=occluder[None],
            perturbations_per_eval=BATCH,
        )
    # captum returns what is lost, target(image) - target(occluded), once for each channel.
    values: NDArray[np.float32] = -attribution[0].mean(dim=0).cpu().numpy()
    return values


def superpixels(image: Tensor, *, number: int = 64) -> Tensor:
    """Group pixels that are near and alike, by k-means on position and colour.

    Args:
        image: `(3, H, W)`.
        number: About how many groups.

    Returns:
        `(H, W)` int64 group numbers from 0 on.
    """
    from scipy.cluster.vq import kmeans2

    _, height, width = image.shape
    side = max(round(number**0.5), 1)
    rows, columns = np.mgrid[:height, :width]
    colours = image.cpu().numpy().astype(np.float64)
    spread = colours.std() or 1.0
    places = np.stack([rows / height * side, columns / width * side])
    points = np.concatenate([places, colours / spread]).reshape(5, -1).T
    grid = [((np.arange(side) + 0.5) * size / side).astype(int) for size in (height, width)]
    starts = (grid[0][:, None] * width + grid[1]).ravel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty group is harmless here
        _, groups = kmeans2(points, points[starts], iter=5, minit="matrix")
    _, dense = np.unique(groups, return_inverse=True)
    return torch.from_numpy(dense.reshape(height, width).astype(np.int64))


# --------------------------------------------------------------------------------- captum's methods


def _integrated_gradients(
    network: nn.Module, image: Tensor, occluder: Tensor, _seed: int
) -> Tensor:
    from captum.attr import IntegratedGradients

    target = _from_baseline(network, image, occluder)
    result: Tensor = IntegratedGradients(target).attribute(
        image[None], baselines=occluder[None], n_steps=STEPS, internal_batch_size=BATCH
    )
    return result


def _gradient_shap(network: nn.Module, image: Tensor, occluder: Tensor, seed: int) -> Tensor:
    from captum.attr import GradientShap

    target = _from_baseline(network, image, occluder)
    # captum draws from the global generators: seeded inside, and put back behind.
    state = np.random.get_state()  # noqa: NPY002 # captum's own choice
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 # within fork_rng
        np.random.seed(seed)  # noqa: NPY002, TID251 # put back below
        try:
            result: Tensor = GradientShap(target).attribute(
                image[None], baselines=occluder[None], n_samples=STEPS, stdevs=0.05
            )
        finally:
            np.random.set_state(state)  # noqa: NPY002
    return result


def _grad_cam(network: nn.Module, image: Tensor, occluder: Tensor, _seed: int) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    layer = _last_map(network, image)
    cam = LayerGradCam(_from_baseline(network, image, occluder), layer)
    result: Tensor = LayerAttribution.interpolate(
        cam.attribute(image[None].requires_grad_(), relu_attributions=True),
        tuple(image.shape[1:]),
        "bilinear",
    )
    return result


def _guided_grad_cam(network: nn.Module, image: Tensor, occluder: Tensor, _seed: int) -> Tensor:
    from captum.attr import GuidedGradCam

    layer = _last_map(network, image)
    guided = GuidedGradCam(_from_baseline(network, image, occluder), layer)
    result: Tensor = guided.attribute(image[None].requires_grad_(), interpolate_mode="bilinear")
    return result


def _feature_ablation(network: nn.Module, image: Tensor, occluder: Tensor, _seed: int) -> Tensor:
    from captum.attr import FeatureAblation

    with torch.inference_mode():
        clean = network(image[None])[0]
        target = FeatureDistance(network, clean, float(clean.norm()))
        result: Tensor = FeatureAblation(target).attribute(
            image[None],
            baselines=occluder[None],
            feature_mask=superpixels(image)[None, None].to(image.device),
            perturbations_per_eval=BATCH,
        )
    return -result / len(image)  # every channel carries the whole loss


METHODS: dict[str, Callable[[nn.Module, Tensor, Tensor, int], Tensor]] = {
    "integrated-gradients": _integrated_gradients,
    "gradient-shap": _gradient_shap,
    "grad-cam": _grad_cam,
    "guided-grad-cam": _guided_grad_cam,
    "feature-ablation": _feature_ablation,
}


def _from_baseline(network: nn.Module, image: Tensor, occluder: Tensor) -> FeatureDistance:
    with torch.no_grad():
        clean, nothing = network(torch.stack([image, occluder]))
    return FeatureDistance(network, nothing, float(clean.norm()))


def _without_in_place(network: nn.Module) -> nn.Module:
    """Copy a network for gradients: an operation in place breaks captum's hooks."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return copied


def _last_map(network: nn.Module, image: Tensor) -> nn.Module:
    """Find the module that makes the last map with more than one cell.

    Raises:
        SettingsError: There is none, or the network is a transformer: what its modules make in four
            dimensions, such as the keys of an attention, is no map of the image.
    """
    found: list[nn.Module] = []
    tokens: list[nn.Module] = []
    with torch.inference_mode():
        for _ in _while_watching(network, found, tokens):
            network(image[None])
    if tokens or not found:
        why = "computes tokens, as transformers do" if tokens else "has no module that makes one"
        message = f"Grad-CAM needs a convolutional feature map, and this network {why}"
        raise SettingsError(message)
    return found[-1]


def _while_watching(
    network: nn.Module, maps: list[nn.Module], tokens: list[nn.Module]
) -> Iterator[None]:
    """Collect the modules that make maps, `(N, C, h, w)`, and tokens, `(N, n, D)`."""

    def watch(module: nn.Module, _: object, output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 4 and output.shape[2:].numel() > 1:
            maps.append(module)
        elif output.ndim == 3 and output.shape[1] > 1:
            tokens.append(module)

    hooks = [module.register_forward_hook(watch) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
