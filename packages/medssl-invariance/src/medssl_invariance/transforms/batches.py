"""Transformed versions of images as batches that are ready for the network.

Two ways: all images of a block under one member at once, after they were resized, on tensors; or
each file's own pixels under many members, with PIL in threads, as the 2022 study did.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from medssl_invariance.transforms.functions import REFERENCE_SIDE, Scene
from medssl_invariance.transforms.resampling import Pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medssl_models import ImageSource, Preprocessing
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from medssl_invariance.experiments.settings import SyntheticSettings
    from medssl_invariance.transforms.families import Family, Grid
    from medssl_invariance.transforms.grids import Member

__all__ = ["Batch", "Block", "ViewMaker", "frame_side", "resized_views"]


class Block:
    """Some images of a data set, decoded when they are asked for and not kept.

    Args:
        source: `source[row]` is an image of mode RGB and a label.
        rows: `(B,)` which of them.

    Attributes:
        grey: `(B,)` bool, which of those that were decoded have no colour.
    """

    def __init__(self, source: ImageSource, rows: NDArray[np.int64]) -> None:
        self.source = source
        self.rows = rows
        self.grey = np.zeros(len(rows), dtype=np.bool_)

    def pictures(self) -> Iterator[Image.Image]:
        """Decode one image after the other."""
        for place, row in enumerate(self.rows):
            picture, _ = self.source[int(row)]
            self.grey[place] = _is_grey_picture(picture)
            yield picture


def _is_grey_picture(picture: Image.Image) -> bool:
    if picture.mode != "RGB":
        return True
    pixels = np.asarray(picture)
    return bool(
        (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()
    )


@dataclass(frozen=True)
class Batch:
    """Views that run through the network together.

    Args:
        pixels: `(V, 3, crop, crop)` float32, normalised.
        images: `(V,)` which image of the block each view is of.
        members: `(V,)` which member of the family it is.
    """

    pixels: Tensor
    images: NDArray[np.int64]
    members: NDArray[np.int64]


@dataclass(frozen=True)
class ViewMaker:
    """Makes the views of one family.

    Args:
        family: Which transforms.
        settings: Whose grid, before or after the resize, border, seed.
        preprocessing: Of the clean image.
        batch_size: Views at a time where pictures are transformed one by one.
        workers: Threads that do so.
    """

    family: Family
    settings: SyntheticSettings
    preprocessing: Preprocessing
    batch_size: int
    workers: int

    def batches(self, block: Block, places: NDArray[np.int64]) -> Iterator[Batch]:
        """Make all views of a block under some members.

        Args:
            block: Images.
            places: Numbers of the members in the grid, ascending.
        """
        make = self._native if self.settings.applied == "native" else self._resized
        return make(block, places)

    def _members(self) -> list[Member]:
        return self.family.members(self.settings.ranges, self.settings.members)

    @property
    def _grid(self) -> Grid:
        return self.family.grid(self.settings.ranges)

    def _resized(self, block: Block, places: NDArray[np.int64]) -> Iterator[Batch]:
        members = self._members()
        plain = resized_views(
            block,
            self.preprocessing,
            self._grid,
            [(int(place), members[place]) for place in places],
            frame=self._grid.frame if self.settings.border == "inscribed" else 1.0,
            seed=self.settings.seed,
        )
        everyone = np.arange(len(block.rows))
        for place, pixels in zip(places, plain, strict=True):
            yield Batch(self._normalise(pixels), everyone, np.full(len(everyone), place))

    def _native(self, block: Block, places: NDArray[np.int64]) -> Iterator[Batch]:
        members = self._members()
        size = self.batch_size
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            for image, picture in enumerate(block.pictures()):
                row = int(block.rows[image])
                for some in (places[start : start + size] for start in range(0, len(places), size)):
                    waiting = [
                        pool.submit(self._native_view, picture, members[place], row, int(place))
                        for place in some
                    ]
                    pixels = torch.stack([view.result() for view in waiting])
                    yield Batch(self._normalise(pixels), np.full(len(some), image), some)

    def _native_view(self, picture: Image.Image, member: Member, row: int, place: int) -> Tensor:
        scene = Scene(
            side=self.preprocessing.crop,
            smooth=self.settings.ranges == "corrected",
            rows=(row,),
            seed=self.settings.seed,
            member=place,
        )
        geometry = self.preprocessing
        if self.family.final:
            geometry = geometry.replace(resize=geometry.crop)
        return geometry.pixels(self._grid.apply(picture, member.values, scene))

    def _normalise(self, pixels: Tensor) -> Tensor:
        own = self.preprocessing
        broken = self.settings.transformed_normalisation == "never_histogram"
        if broken and own.normalisation.kind == "histogram":
            own = own.replace(normalisation={"kind": "imagenet"})
        return own.normalise(pixels)


def resized_views(
    block: Block,
    preprocessing: Preprocessing,
    grid: Grid,
    members: Sequence[tuple[int, Member]],
    *,
    frame: float = 1.0,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Resize pictures and transform them together, one member after the other.

    Args:
        block: B images.
        preprocessing: Of the clean image.
        grid: Whose transform.
        members: With their numbers in the grid, which their random draws depend on.
        frame: How many times larger than the crop the transformed frame is.
        seed: Of the draws.

    Yields:
        For each member `(B, 3, crop, crop)` float32 in the preprocessing's range, not normalised.
    """
    crop = preprocessing.crop
    larger = preprocessing.replace(crop=frame_side(crop, frame))
    low, high = preprocessing.value_range
    unit = torch.stack([larger.pixels(picture) for picture in block.pictures()])
    unit.sub_(low).div_(high - low)
    rows = tuple(int(row) for row in block.rows)
    transform = _transform(unit, grid, grey=bool(block.grey.all()))
    for place, member in members:
        scene = Scene(crop, crop / REFERENCE_SIDE, rows=rows, seed=seed, member=place)
        with torch.inference_mode():
            changed = transform(member, scene)
        yield changed if (low, high) == (0.0, 1.0) else changed * (high - low) + low


def _transform(unit: Tensor, grid: Grid, *, grey: bool) -> Callable[[Member, Scene], Tensor]:
    """Prepare a batch in [0, 1] for a family: from a member to the centres that it leaves."""
    from torchvision.transforms.v2 import functional as tv

    if grid.warp is None:
        return lambda member, scene: tv.center_crop(
            grid.apply(unit, member.values, scene), [scene.side, scene.side]
        )
    warp, pictures = grid.warp, Pictures.of(unit, grey=grey)
    return lambda member, scene: pictures.cut(warp(member.values, scene), scene.side)


def frame_side(crop: int, frame: float) -> int:
    """Compute a side from which the crop is cut at whole pixels, whichever way halves are rounded.

    Args:
        crop: Side of the crop.
        frame: How many times larger the side must be at least.
    """
    return crop + 4 * math.ceil(crop * (frame - 1) / 4 - 1e-9)
