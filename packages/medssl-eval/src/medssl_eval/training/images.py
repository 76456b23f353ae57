"""The images of a training run as one long sequence that depends on nothing but the seed.

What is at a position (which image, which crop, mirrored or not) is decided by seed and position
alone: a run that goes on after a crash meets the images that it would have met, whoever reads them
ahead. Epochs follow one another without a gap; `stretches` says where batches begin and end.
"""

from __future__ import annotations

import math
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from medssl_models import ImageSource
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["Augmentation", "TrainingImages", "random_crop", "stretches"]

RATIOS = (3 / 4, 4 / 3)
ATTEMPTS = 10
_ORDER, _CROP = 1, 2  # which stream of random numbers

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image.

    Args:
        side: Height and width of the result.
        interpolation: Filter of the resize.
        smallest_crop: Random crops cover at least this share of the area.
        flip: Mirror half of the images left to right.
    """

    side: int
    interpolation: str
    smallest_crop: float = 0.08
    flip: bool = True

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Crop, resize and perhaps mirror an image.

        Args:
            image: Any size.
            generator: Decides.

        Returns:
            An image of `side` x `side`.
        """
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        width, height = image.size
        top, left, tall, wide = random_crop(height, width, generator, smallest=self.smallest_crop)
        cropped: Image.Image = functional.resized_crop(
            image,
            top,
            left,
            tall,
            wide,
            [self.side, self.side],
            InterpolationMode(self.interpolation),
        )
        mirrored = self.flip and generator.random() < 0.5
        return functional.horizontal_flip(cropped) if mirrored else cropped


def random_crop(
    height: int, width: int, generator: np.random.Generator, *, smallest: float = 0.08
) -> Box:
    """Draw a crop of random area and shape.

    The area is uniform from `smallest` to 1 of the image's, the logarithm of width by height
    uniform between those of 3/4 and 4/3; what does not fit is drawn again, and after ten vain
    attempts the largest centred crop of an allowed shape is taken.

    Args:
        height: Of the image.
        width: Of the image.
        generator: Decides.
        smallest: Smallest share of the area.

    Returns:
        Top, left, height and width; inside the image.

    References:
        Szegedy et al., Going deeper with convolutions, 2015; the limits are torchvision's.

    Example:
        >>> random_crop(480, 640, np.random.default_rng(0))
        (45, 387, 219, 165)
    """
    for _ in range(ATTEMPTS):
        area = height * width * generator.uniform(smallest, 1.0)
        ratio = math.exp(generator.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            top = int(generator.integers(0, height - tall, endpoint=True))
            left = int(generator.integers(0, width - wide, endpoint=True))
            return top, left, tall, wide
    return _centred(height, width)


def _centred(height: int, width: int) -> Box:
    wide = min(width, max(1, round(height * RATIOS[1])))
    tall = min(height, max(1, round(width / RATIOS[0])))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def stretches(
    images: int, size: int, steps: int, *, start: int = 0, full: bool = True
) -> Iterator[NDArray[np.int64]]:
    """Yield the positions of a run, in stretches that are cut into batches one by one.

    Args:
        images: In an epoch, N.
        size: Of a batch.
        steps: Of the run.
        start: The first step that is wanted.
        full: Whether all is one stretch, so that every batch is full. Else an epoch is one, so that
            its last batch may be short; a short batch of one image is left out.

    Example:
        >>> [stretch.tolist() for stretch in stretches(5, 3, 4, full=False)]
        [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
        >>> [stretch.tolist() for stretch in stretches(5, 3, 4, start=2)]
        [[6, 7, 8, 9, 10, 11]]
    """
    if full:
        yield np.arange(start * size, steps * size)
        return
    used = images - (1 if images > size > 1 and images % size == 1 else 0)
    batches = math.ceil(used / size)
    while start < steps:
        epoch, before = divmod(start, batches)
        count = min(batches - before, steps - start)
        ends = min((before + count) * size, used)
        yield np.arange(before * size, ends) + epoch * images
        start += count


@dataclass(frozen=True)
class TrainingImages:
    """What a run is trained on, position after position; an `ImageSource` for the reader.

    Args:
        source: The data set.
        rows: (N,) int64, the rows of it that are trained on.
        length: Number of positions: steps x batch size, or more than are used.
        augment: What is done to each image.
        seed: Of order and augmentation.
    """

    source: ImageSource
    rows: NDArray[np.int64]
    length: int
    augment: Augmentation
    seed: int = 0
    thread_safe: bool = True  # the gate below keeps threads out of a source that is not
    _gate: AbstractContextManager[object] = field(init=False, repr=False)
    _order: Callable[[int], NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        safe = getattr(self.source, "thread_safe", False)
        object.__setattr__(self, "_gate", nullcontext() if safe else threading.Lock())
        # Neighbouring epochs are asked for in turns where a batch reaches into the next one.
        object.__setattr__(self, "_order", lru_cache(maxsize=4)(self._permute))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        """Return the augmented image at a position and its row."""
        row = self.row(position)
        with self._gate:
            image = self.source[row][0]
            image.load()
        generator = np.random.default_rng([self.seed, _CROP, position])
        return self.augment(image, generator), row

    def row(self, position: int) -> int:
        """Return which row of the source is at a position."""
        epoch, place = divmod(position, len(self.rows))
        return int(self._order(epoch)[place])

    @property
    def fingerprint(self) -> str:
        """Identity of the source; the reader does not need more."""
        return self.source.fingerprint

    @property
    def names(self) -> _Names:
        """Names of the images by position, for messages."""
        return _Names(self)

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self.seed, _ORDER, epoch])
        return np.asarray(generator.permutation(self.rows), dtype=np.int64)


@dataclass(frozen=True)
class _Names:
    images: TrainingImages

    def __getitem__(self, position: int) -> str:
        row = self.images.row(position)
        source = self.images.source
        names = getattr(source, "names", None) or getattr(source, "ids", None)
        return f"row {row}" if names is None else str(names[row])
