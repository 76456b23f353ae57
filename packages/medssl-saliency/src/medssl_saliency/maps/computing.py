"""One map: a network, a picture and settings in, the map with all that must be known of it out.

Chooses the engine, measures the windows, fills in those that an approximate mode leaves out and
states the error of that. Nothing here reads or writes files.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from medssl_saliency.attribution import attribute
from medssl_saliency.engine.correlation import pearson
from medssl_saliency.engine.occlusion import (
    DEFAULT_MEMORY,
    build_engine,
    cut_margin,
    grid_positions,
    mean_over_windows,
    measure,
)
from medssl_saliency.engine.sampling import (
    Measured,
    Report,
    candidate_positions,
    complete_scores,
    measure_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from medssl_saliency.engine.graph import Pair
    from medssl_saliency.engine.occlusion import Engine
    from medssl_saliency.maps.preparation import Prepared
    from medssl_saliency.maps.settings import CaptumMethod, MapSettings

__all__ = ["Approximation", "SaliencyMap", "compute_map", "measurable_positions"]

SAMPLE = 64
"""Windows on which the error of an approximate map is measured."""
FLAT = 1e-12


@dataclass(frozen=True)
class Approximation:
    """How far the window scores of an approximate map are from the exact ones, on a random sample.

    The map is the mean over the windows that cover a pixel, so its own error is smaller.

    Args:
        windows: How many were compared; where windows were left out, only such ones.
        rms: Root mean square error, relative to the standard deviation of the exact scores.
        pearson: Correlation of approximate and exact scores.
        bias: Mean error, relative to the mean of the exact scores.
        measured: Share of all windows that were measured.
        expected: Correlation of the map itself with the exact one, as its two halves tell; None
            where windows were not chosen by that.
    """

    windows: int
    rms: float
    pearson: float
    bias: float
    measured: float = 1.0
    expected: float | None = None

    def __str__(self) -> str:
        """Word it in one line."""
        few = f", 1 window in {1 / self.measured:.0f}" if self.measured < 1 else ""
        halves = (
            f", r = {self.expected:.4f} as its halves tell" if self.expected is not None else ""
        )
        return (
            f"approximate{few}{halves}; {self.windows} single windows against the exact scores: "
            f"r = {self.pearson:.4f}, rms error {100 * self.rms:.1f} % of their spread"
        )


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """A map and what must be known of it.

    Args:
        values: `(H, W)` float32. Occlusion: the mean score of the windows that cover a pixel, the
            relative change of the features, not negative; other methods may be signed.
        picture: `(H, W, 3)` uint8, the same pixels.
        scores: `(n,)` float32, one for each measured window; empty for other methods.
        positions: `(n, 2)` int32, their corners in the uncut image.
        norm: Norm of the clean features.
        seconds: How long it took; 0 where it was read from a file.
        approximation: How far it is from the exact map; None where it is exact.
        notes: What a reader should know.
    """

    values: NDArray[np.float32]
    picture: NDArray[np.uint8]
    scores: NDArray[np.float32]
    positions: NDArray[np.int32]
    norm: float
    seconds: float = 0.0
    approximation: Approximation | None = None
    notes: tuple[str, ...] = ()

    @property
    def strength(self) -> NDArray[np.float32]:
        """The map without its sign: what concentration is measured on."""
        return np.abs(self.values)


def compute_map(
    network: nn.Module,
    prepared: Prepared,
    settings: MapSettings,
    *,
    device: torch.device | None = None,
    memory: int = DEFAULT_MEMORY,
    known: NDArray[np.float32] | None = None,
    report: Report | None = None,
) -> SaliencyMap:
    """Compute the map of a picture.

    Args:
        network: `(N, 3, H, W)` to `(N, D)`; it is not changed.
        prepared: The picture.
        settings: Method, window, windows that may be left out, precision.
        device: Where to run; None is the CPU.
        memory: Bytes for feature maps.
        known: Scores of an earlier run of the same, NaN where missing.
        report: Called after each batch of windows; see `medssl_saliency.engine.sampling.Report`.

    Returns:
        The map, cut to the pixels that as many windows cover as any where `margin` says so.

    Example:
        >>> from medssl_models import Preprocessing
        >>> from PIL import Image
        >>> from torch import nn
        >>> from medssl_saliency import prepare, preset
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> seen = Preprocessing(resize=24, crop=16, normalisation={"kind": "imagenet"})
        >>> prepared = prepare(Image.new("RGB", (40, 30)), seen, preset())
        >>> compute_map(network.eval(), prepared, preset()).values.shape
        (16, 16)
    """
    device = device or torch.device("cpu")
    network = network if device.type == "cpu" else copy.deepcopy(network).to(device)
    if settings.method != "occlusion":
        made = _attributed(settings.method, network, prepared, settings, device)
    else:
        made = _occluded(
            network,
            prepared,
            settings,
            device=device,
            memory=memory,
            known=known,
            report=report,
        )
    notes = (*made.notes, *_warnings(made, prepared, settings))
    return dataclasses.replace(made, notes=notes)


def measurable_positions(size: Pair, settings: MapSettings) -> NDArray[np.int64]:
    """List the windows that may be measured, in the order in which they are."""
    window = (settings.window, settings.window)
    if settings.fidelity is not None:
        return candidate_positions(size, window)
    return grid_positions(size, window, stride=settings.stride)


def _attributed(
    method: CaptumMethod,
    network: nn.Module,
    prepared: Prepared,
    settings: MapSettings,
    device: torch.device,
) -> SaliencyMap:
    image, occluder = prepared.normalised.to(device), prepared.occluder.to(device)
    values = attribute(method, network, image, occluder, seed=settings.seed)
    with torch.inference_mode():
        norm = float(network(image[None]).norm())
    nothing = np.empty((0, 2), np.int32)
    return SaliencyMap(values, prepared.picture, np.empty(0, np.float32), nothing, norm)


def _occluded(
    network: nn.Module,
    prepared: Prepared,
    settings: MapSettings,
    *,
    device: torch.device,
    memory: int,
    known: NDArray[np.float32] | None,
    report: Report | None,
) -> SaliencyMap:
    begin = time.perf_counter()
    size, window = prepared.size, (settings.window, settings.window)
    image, cut = prepared.normalised.to(device), settings.margin == "cut"
    engine, note = build_engine(network, image, precision=settings.precision)
    scorer = _Scorer(engine, prepared, window, memory)
    candidates = measurable_positions(size, settings)
    found = measure_until(
        scorer,
        candidates,
        size,
        window,
        wanted=settings.fidelity,
        known=np.full(len(candidates), np.nan, np.float32) if known is None else known,
        report=report or _ignore,
        cut=cut,
    )
    every, scores = found.positions, found.scores.astype(np.float64)
    if settings.leaves_windows_out:
        every = grid_positions(size, window)
        scores = complete_scores(found.positions, found.scores, every)
    values = mean_over_windows(every, scores, size, window)
    approximation = None
    if not settings.is_exact:
        if settings.precision != "fp32":
            scorer = dataclasses.replace(scorer, engine=build_engine(network, image)[0])
        approximation = _approximation(scorer, every, scores, found, settings)
    return SaliencyMap(
        values=cut_margin(values, window) if cut else values,
        picture=cut_margin(prepared.picture, window) if cut else prepared.picture,
        scores=found.scores,
        positions=found.positions.astype(np.int32),
        norm=float(engine.clean.norm()),
        seconds=time.perf_counter() - begin,
        approximation=approximation,
        notes=tuple(filter(None, (note, _shortfall(found, settings)))),
    )


@dataclass(frozen=True, eq=False)
class _Scorer:
    """Measures windows of one picture with one engine."""

    engine: Engine
    prepared: Prepared
    window: Pair
    memory: int

    def __call__(
        self,
        positions: NDArray[np.int64],
        *,
        known: NDArray[np.float32] | None = None,
        report: Callable[[NDArray[np.float32], float], None] | None = None,
    ) -> NDArray[np.float32]:
        device, target = self.engine.clean.device, self.prepared.target
        return measure(
            self.engine,
            positions,
            window=self.window,
            occluder=self.prepared.occluder.to(device),
            target=None if target is None else target.to(device),
            known=known,
            memory=self.memory,
            report=report,
        )


def _ignore(scores: NDArray[np.float32], number: int, share: float) -> None:
    """Satisfy `Report` where nobody follows."""


def _shortfall(found: Measured, settings: MapSettings) -> str:
    """Word that a map is not as near to the exact one as was asked for."""
    if found.expected is None or settings.fidelity is None or found.expected >= settings.fidelity:
        return ""
    return (
        f"r = {settings.fidelity} with the exact map takes more than a quarter of its windows: "
        f"only {found.expected:.4f} is expected; a map of all windows is exact"
    )


def _approximation(
    exact: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    every: NDArray[np.int64],
    scores: NDArray[np.float64],
    found: Measured,
    settings: MapSettings,
) -> Approximation | None:
    """Compare with exact scores on a sample: of the windows left out, or else of all."""
    sample = _sample(every, found.positions, settings)
    if not len(sample):
        return None
    truth, near = exact(every[sample]), scores[sample]
    spread, mean = float(truth.std()) or 1.0, float(truth.mean()) or 1.0
    return Approximation(
        windows=len(sample),
        rms=float(np.sqrt(np.mean((near - truth) ** 2))) / spread,
        pearson=pearson(near, truth),
        bias=float(np.mean(near - truth)) / mean,
        measured=len(found.positions) / len(every),
        expected=found.expected,
    )


def _sample(
    every: NDArray[np.int64], measured: NDArray[np.int64], settings: MapSettings
) -> NDArray[np.int64]:
    """Draw the indices of windows."""
    wanted = np.arange(len(every))
    if settings.leaves_windows_out:
        width = every.max() + 1
        wanted = wanted[~np.isin(every @ [width, 1], measured @ [width, 1])]
    order = np.random.default_rng(settings.seed).permutation(len(wanted))[:SAMPLE]
    return wanted[np.sort(order)]


def _warnings(made: SaliencyMap, prepared: Prepared, settings: MapSettings) -> tuple[str, ...]:
    warnings = []
    if prepared.is_constant:
        warnings.append("the picture is constant: its map shows the network's own borders")
    if made.norm == 0:
        warnings.append("the features are all zero: scores are absolute, not relative")
    if np.ptp(made.values) <= FLAT:
        flat = (
            "occluding changes nothing"
            if settings.method == "occlusion"
            else f"{settings.method} gives every pixel {made.values.flat[0]:.3g}"
        )
        warnings.append(f"the map is flat: {flat}; attentive diffusion is 0 by definition")
    return tuple(warnings)
