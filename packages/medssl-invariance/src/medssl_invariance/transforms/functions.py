# ruff: noqa: ARG001 # every transform has one signature, so that a record can hold it
"""What is done to a picture, one function a family: on PIL pictures or on batches of tensors.

A function takes a PIL picture (mode RGB) or a batch `(B, 3, H, W)` float32 in [0, 1], and gives the
same kind back; torchvision's v2 functions take both. Which values it is called with is decided in
`families`.
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as nn_functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["REFERENCE_SIDE", "Scene", "is_grey"]

P = TypeVar("P", Image.Image, Tensor)
REFERENCE_SIDE = 224
"""Lengths are given in pixels of a picture with this side, and scaled to the network's input."""
PUBLISHED_KERNEL = 23
_ANCHOR_JITTER = 50.0
_FIELD_KERNEL = 17


@dataclass(frozen=True)
class Scene:
    """Where a transform happens: scale, resampling, and whose randomness.

    Args:
        side: Side of the network's input in pixels.
        unit: Pixels of the picture for one pixel of a family's grid.
        smooth: Resample bilinearly; otherwise the nearest pixel is taken, as the study did.
        rows: Row numbers of the B pictures; each has random draws of its own.
        seed: Of the draws.
        member: Number of the member within its grid.
    """

    side: int
    unit: float = 1.0
    smooth: bool = True
    rows: tuple[int, ...] = (0,)
    seed: int = 0
    member: int = 0

    @property
    def interpolation(self) -> InterpolationMode:
        """How geometric transforms resample."""
        return InterpolationMode.BILINEAR if self.smooth else InterpolationMode.NEAREST

    def draws(self, family: str) -> Iterator[np.random.Generator]:
        """Make a generator for each picture; it depends on seed, family, row and member only."""
        name = zlib.crc32(family.encode())
        return (np.random.default_rng([self.seed, name, row, self.member]) for row in self.rows)


def is_grey(pixels: Tensor) -> Tensor:
    """Tell for each picture `(B, 3, H, W)` whether its three channels are the same: `(B,)` bool."""
    same = (pixels[:, 0] == pixels[:, 1]) & (pixels[:, 1] == pixels[:, 2])
    return same.flatten(1).all(dim=1)


# ----------------------------------------------------------------------------------------- geometry


def rotate(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Rotate counter-clockwise about the centre; `angle` in degrees."""
    turned: P = tv.rotate(picture, values["angle"], interpolation=scene.interpolation)
    return turned


def affine(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Shift by (`x`, `y`) pixels, scale by `scale`, shear by `shear_x` and `shear_y` degrees."""
    moved: P = tv.affine(
        picture,
        angle=0.0,
        translate=[values.get("x", 0.0) * scene.unit, values.get("y", 0.0) * scene.unit],
        scale=values.get("scale", 1.0),
        shear=[values.get("shear_x", 0.0), values.get("shear_y", 0.0)],
        interpolation=scene.interpolation,
    )
    return moved


def resized_crop(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Cut (`top`, `left`, `height`, `width`) in pixels and resize it to the network's side."""
    top, left, height, width = (
        values[name] * scene.unit for name in ("top", "left", "height", "width")
    )
    # PIL rounds the corners of a box, not its sides.
    rows, columns = (round(top), round(top + height)), (round(left), round(left + width))
    cut: P = tv.resized_crop(
        picture,
        rows[0],
        columns[0],
        rows[1] - rows[0],
        columns[1] - columns[0],
        [scene.side, scene.side],
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
    )
    return cut


def h_flip(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Mirror left and right where `on`."""
    return _switched(tv.horizontal_flip, picture, values)


def v_flip(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Mirror top and bottom where `on`."""
    return _switched(tv.vertical_flip, picture, values)


def jitter_anchors(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Deform as the study did: three anchors move by up to 50 pixels, and a field of `sigma`.

    The study called an elastic transform with its library's defaults of that year: an amplitude
    of 1, which leaves displacements of hundredths of a pixel whatever `sigma` is, and an affine
    map through three anchors that each move uniformly by up to 50 pixels, which is all one sees.
    Resampling is bilinear, the border is reflected. The study's draws were not seeded; these are.
    """
    if isinstance(picture, Image.Image):
        batch = tv.pil_to_tensor(picture)[None].float().div_(255)
        bent = jitter_anchors(batch, values, scene)[0]
        picture_again: Image.Image = tv.to_pil_image(bent.mul(255).round().to(torch.uint8))
        return picture_again
    height, width = picture.shape[-2:]
    grids = [_jittered_grid(height, width, values["sigma"], draw) for draw in scene.draws("deform")]
    return nn_functional.grid_sample(
        picture, torch.stack(grids), padding_mode="reflection", align_corners=True
    )


def _jittered_grid(height: int, width: int, sigma: float, draw: np.random.Generator) -> Tensor:
    """Where each output pixel comes from: `(H, W, 2)` in grid_sample's coordinates."""
    # The library took (rows, columns) for (x, y) in its anchors: this matters off the square.
    centre, arm = np.array([height, width]) // 2, min(height, width) // 3
    anchors = np.array([centre + arm, [centre[0] + arm, centre[1] - arm], centre - arm], float)
    moved = anchors + draw.uniform(-_ANCHOR_JITTER, _ANCHOR_JITTER, anchors.shape)
    backwards = np.linalg.lstsq(np.c_[moved, np.ones(3)], anchors, rcond=None)[0]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    noise = torch.from_numpy(draw.uniform(-1, 1, (2, height, width)))
    field = tv.gaussian_blur(noise, [_FIELD_KERNEL] * 2, [sigma] * 2).numpy()
    places = np.stack([x + field[0], y + field[1], np.ones_like(x)], axis=-1) @ backwards
    scaled = 2 * places / np.maximum([width - 1, height - 1], 1) - 1
    return torch.from_numpy(scaled.astype(np.float32))


def bend(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Deform smoothly: a random field with a root mean square of `rms` pixels, at most 3 times it.

    The field varies over an eighth of the picture, like tissue, not over the picture like a camera.
    """
    amplitude = values["rms"] * scene.unit
    fields = [_smooth_field(picture.shape[-2:], draw, 2) for draw in scene.draws("deform")]
    shifts = torch.stack(fields).clamp_(-3, 3).mul_(amplitude)  # (B, 2, H, W) in pixels
    height, width = picture.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    steps = shifts.new_tensor([2 / (width - 1), 2 / (height - 1)])
    grid = torch.stack([x, y], dim=-1) + shifts.permute(0, 2, 3, 1) * steps
    return nn_functional.grid_sample(picture, grid, padding_mode="border", align_corners=True)


def _smooth_field(size: tuple[int, ...], draw: np.random.Generator, channels: int) -> Tensor:
    """Draw a smooth field `(channels, H, W)` with mean square 1."""
    coarse = torch.from_numpy(draw.standard_normal((1, channels, 8, 8)).astype(np.float32))
    fine = nn_functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]
    return fine / fine.square().mean().sqrt()


# ------------------------------------------------------------------------------------------- colour


def grayscale(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Take the colour away where `on`; three channels remain."""
    return _switched(lambda x: tv.rgb_to_grayscale(x, num_output_channels=3), picture, values)


def brightness(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Multiply all values by `factor`, cut off at white."""
    changed: P = tv.adjust_brightness(picture, values["factor"])
    return changed


def contrast(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Stretch values about the picture's mean grey by `factor`."""
    changed: P = tv.adjust_contrast(picture, values["factor"])
    return changed


def saturation(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Stretch colours about their grey by `factor`."""
    changed: P = tv.adjust_saturation(picture, values["factor"])
    return changed


def hue(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Turn the colour circle by `turn`, where 1 is once around."""
    changed: P = tv.adjust_hue(picture, values["turn"])
    return changed


def invert(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Swap black and white where `on`."""
    return _switched(tv.invert, picture, values)


def equalize(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Equalise the 8-bit histogram of each channel where `on`."""
    return _switched(lambda x: _in_bytes(tv.equalize, x), picture, values)


def posterize(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Keep the highest `bits` of 8."""
    bits = int(values["bits"])
    return _in_bytes(lambda x: tv.posterize(x, bits), picture)


def gamma(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Raise values to the power of `gamma`."""
    return picture ** values["gamma"]


def window(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Show the grey values in a window: its `width`, and its `level` as a distance from 0.5."""
    low = 0.5 + values.get("level", 0.0) - values.get("width", 1.0) / 2
    return picture.sub(low).div_(values.get("width", 1.0)).clamp_(0, 1)


# --------------------------------------------------------------------------------- sharpness, noise


def published_blur(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Blur by a Gaussian of `sigma` pixels in a kernel of 23 pixels, whatever the sigma."""
    blurred: P = tv.gaussian_blur(picture, [PUBLISHED_KERNEL] * 2, [values["sigma"]] * 2)
    return blurred


def blur(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels in a kernel that holds it."""
    sigma = values["sigma"] * scene.unit
    reach = min(math.ceil(3 * sigma), min(picture.shape[-2:]) - 1)
    blurred: Tensor = tv.gaussian_blur(picture, [2 * reach + 1] * 2, [sigma] * 2)
    return blurred


def sharpness(picture: P, values: Mapping[str, float], scene: Scene) -> P:
    """Sharpen by `factor`; 1 leaves the picture alone."""
    changed: P = tv.adjust_sharpness(picture, values["factor"])
    return changed


def motion_blur(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Average along a line of `length` pixels in the direction `angle`, in degrees."""
    kernel = _line(values["length"] * scene.unit, math.radians(values["angle"]))
    reach = kernel.shape[-1] // 2
    padded = nn_functional.pad(picture, [reach] * 4, mode="reflect")
    return nn_functional.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)


def _line(length: float, angle: float) -> Tensor:
    """Draw an antialiased line through the centre of a kernel `(1, 1, K, K)` that sums to 1."""
    reach = max(math.ceil(length / 2), 1)
    y, x = torch.meshgrid(*[torch.arange(-reach, reach + 1.0)] * 2, indexing="ij")
    along = x * math.cos(angle) - y * math.sin(angle)
    across = x * math.sin(angle) + y * math.cos(angle)
    weight = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    return (weight / weight.sum())[None, None]


def gaussian_noise(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Add normal noise with standard deviation `sigma`, where white is 1."""
    noise = [
        torch.from_numpy(draw.standard_normal(tuple(picture.shape[1:]), dtype=np.float32))
        for draw in scene.draws("gaussian_noise")
    ]
    return _shared(picture + values["sigma"] * torch.stack(noise), picture)


def poisson_noise(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Count photons: white expects `photons` of them in a pixel."""
    peak = values["photons"]
    counts = [
        torch.from_numpy(draw.poisson(image.numpy() * peak).astype(np.float32))
        for draw, image in zip(scene.draws("poisson_noise"), picture.clamp(0, 1), strict=True)
    ]
    return _shared(torch.stack(counts) / peak, picture)


def _shared(noisy: Tensor, picture: Tensor) -> Tensor:
    """Keep grey pictures grey: a grey detector has one noise, not three."""
    grey = is_grey(picture)
    noisy[grey] = noisy[grey, :1].expand(-1, 3, -1, -1)
    return noisy.clamp_(0, 1)


def jpeg(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Compress and expand with a `quality` of 1 to 100."""
    return _in_bytes(lambda x: _through_jpeg(x, int(values["quality"])), picture)


def _through_jpeg(levels: Tensor, quality: int) -> Tensor:
    images = []
    for image in levels:
        with io.BytesIO() as buffer:
            tv.to_pil_image(image).save(buffer, "JPEG", quality=quality)
            with Image.open(buffer) as decoded:
                images.append(tv.pil_to_tensor(decoded))
    return torch.stack(images)


# ------------------------------------------------------------------------------------ the apparatus


def bias_field(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Shade the picture by a smooth random field between exp(-`strength`) and exp(`strength`)."""
    height, width = picture.shape[-2:]
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    terms = torch.stack([x, y, x * y, x * x - 1 / 3, y * y - 1 / 3])
    fields = []
    for draw in scene.draws("bias_field"):
        weights = torch.from_numpy(draw.standard_normal(len(terms)).astype(np.float32))
        field = torch.tensordot(weights, terms, dims=1)
        fields.append(torch.exp(values["strength"] * field / field.abs().max()))
    return (picture * torch.stack(fields)[:, None]).clamp_(0, 1)


def cutout(picture: Tensor, values: Mapping[str, float], scene: Scene) -> Tensor:
    """Cover a random square of `share` of the side, as markers and shutters do, black or white."""
    marked = picture.clone()
    height, width = picture.shape[-2:]
    side = max(round(values["share"] * min(height, width)), 1)
    for image, draw in zip(marked, scene.draws("cutout"), strict=True):
        top, left = draw.integers(0, height - side + 1), draw.integers(0, width - side + 1)
        image[:, top : top + side, left : left + side] = float(draw.integers(0, 2))
    return marked


# ------------------------------------------------------------------------------------------ shared


def _switched(function: Callable[[P], P], picture: P, values: Mapping[str, float]) -> P:
    return function(picture) if values["on"] else picture


def _in_bytes(function: Callable[..., object], picture: P) -> P:
    """Call a function that is defined on 8 bits; a batch is rounded to them and brought back."""
    if isinstance(picture, Image.Image):
        same_kind: P = function(picture)  # type: ignore[assignment] # as torchvision gives it
        return same_kind
    levels = picture.mul(255).round_().to(torch.uint8)
    changed: Tensor = function(levels)  # type: ignore[assignment] # as above
    return changed.to(torch.float32).div_(255)
