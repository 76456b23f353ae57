"""Occlusion maps on the feature distance: where windows lie, what a map is, how it is run.

score(window) = ||f(image) - f(occluded image)|| / ||f(image)||, no label needed; a pixel of the map
is the mean score of the windows that cover it. `reference_scores` is the definition, one forward
pass a window; everything else must agree with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from medssl_saliency.engine.batched import BatchedNetwork
from medssl_saliency.engine.incremental import IncrementalNetwork
from medssl_saliency.errors import ImageError, SettingsError, UnsupportedNetworkError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from medssl_saliency.engine.graph import Pair
    from medssl_saliency.engine.planning import Tile, TilePlan

__all__ = [
    "DEFAULT_MEMORY",
    "Engine",
    "build_engine",
    "check_image",
    "cut_margin",
    "grid_positions",
    "mean_over_windows",
    "measure",
    "reference_scores",
]

T = TypeVar("T", bound=np.generic)
DEFAULT_MEMORY = 2 * 2**30
"""Bytes for feature maps; with torch and the network itself a run stays below 4 GiB."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Engine(Protocol):
    """A network that answers for one image with windows occluded."""

    clean: Tensor

    def plan(
        self, positions: NDArray[np.int64], window: Pair, *, memory: int, side: Pair | None = None
    ) -> TilePlan:
        """Cut windows into batches."""
        ...

    def run(self, tile: Tile, occluder: Tensor, window: Pair) -> Tensor:
        """Compute the `(n, D)` features of a batch."""
        ...


# ------------------------------------------------------------------------------ where windows lie


def grid_positions(size: Pair, window: Pair, *, stride: int = 1) -> NDArray[np.int64]:
    """List top-left corners on a square grid, row by row; the last row and column are included.

    Args:
        size: Height and width of the image.
        window: Height and width of the window.
        stride: Distance of neighbouring corners.

    Returns:
        `(n, 2)` int64.

    Raises:
        SettingsError: The stride is not positive or the window does not fit.

    Example:
        >>> grid_positions((4, 3), (2, 2)).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    """
    if stride < 1:
        message = f"stride is {stride}; it must be at least 1"
        raise SettingsError(message)
    axes = [_corners(size[axis], window[axis], stride) for axis in range(2)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _corners(size: int, window: int, stride: int) -> NDArray[np.int64]:
    if not 1 <= window <= size:
        message = f"window is {window} pixels, the image {size}; take a window from 1 to {size}"
        raise SettingsError(message)
    corners = np.arange(0, size - window + 1, stride, dtype=np.int64)
    last = size - window
    return corners if corners[-1] == last else np.append(corners, last)


# --------------------------------------------------------------------------------- what a map is


def mean_over_windows(
    positions: NDArray[np.int64], scores: NDArray[np.floating], size: Pair, window: Pair
) -> NDArray[np.float32]:
    """Average for each pixel the scores of the windows that cover it.

    Args:
        positions: `(n, 2)` corners.
        scores: `(n,)`.
        size: Height and width of the image.
        window: Height and width of the window.

    Returns:
        `(H, W)` float32; NaN where no window lies.
    """
    total = _cover(positions, scores.astype(np.float64), size, window)
    count = np.rint(_cover(positions, np.ones(len(positions)), size, window))
    mean = np.full(size, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.astype(np.float32)


def _cover(
    positions: NDArray[np.int64], values: NDArray[np.float64], size: Pair, window: Pair
) -> NDArray[np.float64]:
    """Sum values over windows: four corners a window, then a running sum along each axis."""
    edges = np.zeros((size[0] + 1, size[1] + 1))
    for down, right, sign in ((0, 0, 1), (window[0], 0, -1), (0, window[1], -1), (*window, 1)):
        np.add.at(edges, (positions[:, 0] + down, positions[:, 1] + right), sign * values)
    covered: NDArray[np.float64] = edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
    return covered


def cut_margin(values: NDArray[T], window: Pair) -> NDArray[T]:
    """Keep the pixels that as many windows cover as any: `window - 1` rows and columns go.

    Args:
        values: `(H, W)` map or `(H, W, 3)` picture.
        window: Height and width of the window.
    """
    rows, columns = (_interior(values.shape[axis], window[axis]) for axis in range(2))
    return np.ascontiguousarray(values[rows, columns])


def _interior(size: int, window: int) -> slice:
    edge = min(window - 1, (size - 1) // 2)
    return slice(edge, size - edge)


# ------------------------------------------------------------------------------------ how it is run


def check_image(image: Tensor) -> None:
    """Refuse an image that cannot be occluded.

    Raises:
        ImageError: It is not a finite `(C, H, W)` tensor.
    """
    if image.ndim != 3:
        message = f"image has the shape {tuple(image.shape)}; (channels, height, width) is needed"
        raise ImageError(message)
    if not bool(torch.isfinite(image).all()):
        message = "image has NaN or infinite pixels"
        raise ImageError(message)


@torch.inference_mode()
def reference_scores(
    network: nn.Module,
    image: Tensor,
    positions: NDArray[np.int64],
    *,
    window: Pair,
    occluder: Tensor,
) -> NDArray[np.float64]:
    """Measure windows as the definition says: one forward pass each. Slow; for tests and benches.

    Args:
        network: In eval mode.
        image: `(3, H, W)` float32.
        positions: `(n, 2)` corners.
        window: Height and width of the window.
        occluder: `(3, H, W)` float32, what is seen in place of the image.

    Returns:
        `(n,)` scores.
    """
    clean = network(image[None])[0]
    scores = []
    for top, left in positions.tolist():
        occluded = image.clone()
        where = (slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
        occluded[where] = occluder[where]
        feature = network(occluded[None])[0]
        scores.append(float((clean - feature).norm() / clean.norm()))
    return np.array(scores)


def build_engine(
    network: nn.Module, image: Tensor, *, precision: str = "fp32"
) -> tuple[Engine, str]:
    """Make the fastest exact way to run a network on one image.

    Args:
        network: Maps `(N, 3, H, W)` to `(N, D)`; it is never changed.
        image: `(3, H, W)` float32 on the network's device.
        precision: `fp32` or `bf16`.

    Returns:
        The engine, and a note that is empty unless only full inference was possible.
    """
    check_image(image)
    dtype = DTYPES[precision]
    try:
        return IncrementalNetwork(network, image, precision=dtype), ""
    except UnsupportedNetworkError as error:
        note = f"full inference for every window: {error}"
        return BatchedNetwork(network, image, precision=dtype), note


def measure(  # noqa: PLR0913 # what is asked, and how far an earlier run came
    engine: Engine,
    positions: NDArray[np.int64],
    *,
    window: Pair,
    occluder: Tensor,
    target: Tensor | None = None,
    known: NDArray[np.float32] | None = None,
    memory: int = DEFAULT_MEMORY,
    report: Callable[[NDArray[np.float32], float], None] | None = None,
) -> NDArray[np.float32]:
    """Measure windows; those that are known already are not measured again.

    Batches far apart come first, so that the time for all can be told from the first few.

    Args:
        engine: Of `build_engine`.
        positions: `(n, 2)` corners.
        window: Height and width of the window.
        occluder: `(3, H, W)` float32, what is seen in place of the image.
        target: `(D,)` features; None is the clean image's own. Of another target a score is by how
            much the distance from it changes.
        known: `(n,)` scores of an earlier run, NaN where missing.
        memory: Bytes for feature maps.
        report: Called after each batch with all scores and the share of the work that is done.

    Returns:
        `(n,)` scores. Where the clean features are all zero, they are distances, not relative.
    """
    norm = float(engine.clean.norm())
    values = np.full(len(positions), np.nan, np.float32) if known is None else known.copy()
    rank = {tuple(corner): index for index, corner in enumerate(positions.tolist())}
    if np.isnan(values).any():
        # The cut is that of all windows: a map that goes on is bit for bit one made in one go.
        every = engine.plan(positions, window, memory=memory).tiles
        members = [[rank[tuple(corner)] for corner in tile.positions.tolist()] for tile in every]
        open_ = [i for i, rows in enumerate(members) if np.isnan(values[rows]).any()]
        total = sum(every[i].work for i in open_)
        done = 0.0
        for index in _spread_first(open_):
            features = engine.run(every[index], occluder, window)
            moved = _change(features, engine.clean, target) / (norm or 1.0)
            rows = np.array(members[index])
            fresh = np.isnan(values[rows])
            values[rows[fresh]] = moved.cpu().numpy()[fresh]
            done += every[index].work
            if report is not None:
                report(values, done / total)
    return values


def _change(features: Tensor, clean: Tensor, target: Tensor | None) -> Tensor:
    """Compute by how much each row's distance from the target differs from the clean one."""
    if target is None:
        moved: Tensor = (features - clean).norm(dim=1)
    else:
        moved = ((features - target).norm(dim=1) - (clean - target).norm()).abs()
    return moved


def _spread_first(tiles: Sequence[int], probes: int = 5) -> list[int]:
    """Put a few tiles from all over the image first."""
    step = max(len(tiles) // probes, 1)
    first = list(range(step // 2, len(tiles), step))[:probes]
    chosen = set(first)
    return [tiles[i] for i in [*first, *(i for i in range(len(tiles)) if i not in chosen)]]
