"""Deletion and insertion: does taking the bright pixels of a map away move the features soonest?

Petsiuk, Das and Saenko, RISE, BMVC 2018, on the feature distance instead of a class score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from medssl_saliency.engine.batched import depends_on_batch
from medssl_saliency.errors import MapError, SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medssl_saliency.engine.graph import Pair

__all__ = ["STEPS", "Curves", "brightest_first", "deletion_and_insertion", "random_first"]

STEPS = 20
BATCH = 7


@dataclass(frozen=True, eq=False)
class Curves:
    """Distances of the features from the picture's, in units of the occluding picture's distance.

    Args:
        deletion: `(steps + 1,)`, from the picture on, occluded pixel by pixel: 0 to 1.
        insertion: `(steps + 1,)`, from the occluding picture on, uncovered pixel by pixel: 1 to 0.
    """

    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]

    @property
    def deletion_area(self) -> float:
        """Area below the deletion curve; the larger, the sooner the features are gone."""
        return _area(self.deletion)

    @property
    def insertion_area(self) -> float:
        """Area below the insertion curve; the smaller, the sooner the features are back."""
        return _area(self.insertion)


@torch.inference_mode()
def deletion_and_insertion(
    network: nn.Module,
    image: Tensor,
    occluder: Tensor,
    order: NDArray[np.int64],
    *,
    steps: int = STEPS,
) -> Curves:
    """Occlude and uncover a picture in an order of its pixels.

    Args:
        network: `(N, 3, H, W)` to `(N, D)`.
        image: `(3, H, W)` float32, normalised.
        occluder: `(3, H, W)`, what is seen in place of the image.
        order: `(H, W)`, rank of each pixel from 0 on.
        steps: Points of a curve after the first.

    Returns:
        Both curves; all zero where the occluding picture has the features of the image.

    Raises:
        SettingsError: There are no steps.
        MapError: The order has another size than the image.

    Example:
        >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> order = np.arange(16).reshape(4, 4)
        >>> clean, nothing = torch.ones(3, 4, 4), torch.zeros(3, 4, 4)
        >>> curves = deletion_and_insertion(network, clean, nothing, order, steps=4)
        >>> curves.deletion.round(3).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    if steps < 1:
        message = f"steps is {steps}; it must be at least 1"
        raise SettingsError(message)
    if order.shape != tuple(image.shape[1:]):
        message = f"the order has {order.shape} pixels, the image {tuple(image.shape[1:])}"
        raise MapError(message)
    size = 1 if depends_on_batch(network) else BATCH
    ends = torch.split(torch.stack([image, occluder]), size)
    clean, nothing = torch.cat([network(some) for some in ends])
    whole = float((nothing - clean).norm())
    ranks = torch.from_numpy(order).to(image.device)
    cuts = torch.arange(steps + 1, device=image.device) * order.size / steps
    found = []
    for front, back in ((occluder, image), (image, occluder)):
        distances = [
            (network(torch.where(ranks < part[:, None, None, None], front, back)) - clean)
            for part in torch.split(cuts, size)
        ]
        found.append(torch.cat(distances).norm(dim=1).double().cpu().numpy() / (whole or 1.0))
    return Curves(*found)


def brightest_first(values: NDArray[np.floating], size: Pair) -> NDArray[np.int64]:
    """Rank pixels by a map, the brightest first.

    Args:
        values: `(h, w)` map; where it is smaller than the image its margin was cut.
        size: Height and width of the image; pixels beyond the map come last.

    Returns:
        `(H, W)` ranks from 0 on.

    Example:
        >>> brightest_first(np.array([[0.1, 0.9], [0.5, 0.2]]), (2, 2)).tolist()
        [[3, 0], [1, 2]]
    """
    framed = np.full(size, -np.inf)
    top, left = ((size[axis] - values.shape[axis]) // 2 for axis in range(2))
    framed[top : top + values.shape[0], left : left + values.shape[1]] = values
    return _ranks(-framed)


def random_first(size: Pair, *, block: int, seed: int) -> NDArray[np.int64]:
    """Rank pixels block by block in random order: what a map must beat.

    Single pixels in random order would be fine noise, which moves features more than any patch.

    Args:
        size: Height and width of the image.
        block: Side of a block.
        seed: Of the order.

    Returns:
        `(H, W)` ranks from 0 on.
    """
    blocks = tuple(-(-side // block) for side in size)
    drawn = np.random.default_rng(seed).permutation(blocks[0] * blocks[1]).reshape(blocks)
    return _ranks(np.kron(drawn, np.ones((block, block)))[: size[0], : size[1]])


def _ranks(keys: NDArray[np.floating]) -> NDArray[np.int64]:
    ranks = np.empty(keys.size, np.int64)
    ranks[np.argsort(keys, axis=None, kind="stable")] = np.arange(keys.size)
    return ranks.reshape(keys.shape)


def _area(curve: NDArray[np.float64]) -> float:
    return float((curve[1:] + curve[:-1]).mean() / 2)
