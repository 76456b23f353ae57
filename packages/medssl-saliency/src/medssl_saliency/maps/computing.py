"""One map: a backbone, a picture and settings in, the map with all that must be known of it out.

Chooses the engine, measures the windows, fills in those that a near-exact mode leaves out and
states the error of that. Nothing here reads or writes files.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from medssl_models.features.runtime import batch_statistics
from torch import Tensor, nn

from medssl_saliency.attribution import attribute
from medssl_saliency.concentration import pearson
from medssl_saliency.errors import ImageError, SettingsError
from medssl_saliency.occluders import occluding_picture
from medssl_saliency.occlusion import (
    DEFAULT_MEMORY,
    build_engine,
    cut_margin,
    grid_positions,
    mean_over_windows,
    measure,
)
from medssl_saliency.sampling import (
    Report,
    Sampled,
    candidate_positions,
    complete_scores,
    measure_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from medssl_models import Backbone, Preprocessing
    from numpy.typing import NDArray
    from PIL.Image import Image

    from medssl_saliency.choices import CaptumMethod
    from medssl_saliency.occlusion import Engine
    from medssl_saliency.protocols import MapSettings
    from medssl_saliency.tape import Pair

__all__ = [
    "NearError",
    "Prepared",
    "SaliencyMap",
    "compute_map",
    "measurable_positions",
    "network_of",
    "prepare",
    "preprocessing_of",
]

SAMPLE = 64
"""Windows on which the error of a near-exact map is measured."""
FLAT = 1e-12


@dataclass(frozen=True)
class NearError:
    """How far a near-exact map's window scores are from the exact ones, on windows drawn at random.

    The map is the mean over the windows that cover a pixel, so its own error is smaller.

    Attributes:
        windows: How many were compared; where windows were left out, only such ones.
        rms: Root mean square error, relative to the standard deviation of the exact scores.
        pearson: Correlation of near and exact scores.
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
        """Say it in a line."""
        few = f", 1 window in {1 / self.measured:.0f}" if self.measured < 1 else ""
        halves = (
            f", r = {self.expected:.4f} as its halves tell" if self.expected is not None else ""
        )
        return (
            f"near-exact{few}{halves}; {self.windows} single windows against the exact scores: "
            f"r = {self.pearson:.4f}, rms error {100 * self.rms:.1f} % of their spread"
        )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as one model sees it.

    Attributes:
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
class SaliencyMap:
    """A map and what must be known of it.

    Attributes:
        values: `(H, W)` float32. Occlusion: the mean score of the windows that cover a pixel, the
            relative change of the features, not negative; other methods may be signed.
        picture: `(H, W, 3)` uint8, the same pixels.
        scores: `(n,)` float32, one for each measured window; empty for other methods.
        positions: `(n, 2)` int32, their corners in the uncut image.
        norm: Norm of the clean features.
        seconds: How long it took; 0 where it was read from a file.
        error: Of a near-exact mode.
        notes: What a reader should know.
    """

    values: NDArray[np.float32]
    picture: NDArray[np.uint8]
    scores: NDArray[np.float32]
    positions: NDArray[np.int32]
    norm: float
    seconds: float = 0.0
    error: NearError | None = None
    notes: tuple[str, ...] = ()

    @property
    def strength(self) -> NDArray[np.float32]:
        """The map without its sign: what concentration is measured on."""
        return np.abs(self.values)


# ----------------------------------------------------------------------- what the network is shown


def preprocessing_of(backbone: Backbone, settings: MapSettings) -> Preprocessing:
    """Decide how a picture reaches the network under some settings.

    Args:
        backbone: Knows its own preprocessing, and what the study fed it.
        settings: Geometry and normalisation.
    """
    return backbone.preprocessing_for(
        "published" if settings.normalisation == "study" else "corrected",
        resize=settings.resize,
        crop=settings.crop,
        interpolation=settings.interpolation,
    )


def prepare(image: Image, preprocessing: Preprocessing, settings: MapSettings) -> Prepared:
    """Resize, crop and normalise a picture, and make what windows show.

    Args:
        image: 8-bit RGB.
        preprocessing: As `preprocessing_of` decided.
        settings: Window, occluder and seed.

    Raises:
        ImageError: The picture has fewer pixels than the window, or one that is not finite.
        SettingsError: The window is larger than the crop.
    """
    crop, window = preprocessing.crop, settings.window
    if window > crop:
        message = f"window is {window} pixels, the crop {crop}; take a window of at most {crop}"
        raise SettingsError(message)
    if min(image.size) < window:
        wide, high = image.size
        message = (
            f"the picture has {wide} x {high} pixels, fewer than the window of {window}; "
            "take a smaller --window or a larger picture"
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


def network_of(backbone: Backbone, settings: MapSettings) -> nn.Module:
    """Give the network that is asked: the backbone's own, or a copy whose BatchNorm trains."""
    return batch_statistics(backbone.trunk) if settings.batchnorm == "training" else backbone.trunk


# ----------------------------------------------------------------------------------------- the map


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
    """Compute a map.

    Args:
        network: `(N, 3, H, W)` to `(N, D)`; it is not changed.
        prepared: The picture.
        settings: Method, window, windows that may be left out, precision.
        device: Where to run; None is the CPU.
        memory: Bytes for feature maps.
        known: Scores of an earlier run of the same, NaN where missing.
        report: Called after each batch of windows; see `medssl_saliency.sampling.Report`.

    Returns:
        The map, cut to the pixels that as many windows cover as any where `margin` says so.
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
    notes = (*made.notes, *_warnings(made, prepared))
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
    error = None
    if not settings.is_exact:
        if settings.precision != "fp32":
            scorer = dataclasses.replace(scorer, engine=build_engine(network, image)[0])
        error = _near_error(scorer, every, scores, found, settings)
    return SaliencyMap(
        values=cut_margin(values, window) if cut else values,
        picture=cut_margin(prepared.picture, window) if cut else prepared.picture,
        scores=found.scores,
        positions=found.positions.astype(np.int32),
        norm=float(engine.clean.norm()),
        seconds=time.perf_counter() - begin,
        error=error,
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


def _shortfall(found: Sampled, settings: MapSettings) -> str:
    """Say that a map is not as near to the exact one as was asked for."""
    if found.expected is None or settings.fidelity is None or found.expected >= settings.fidelity:
        return ""
    return (
        f"r = {settings.fidelity} with the exact map takes more than a quarter of its windows: "
        f"only {found.expected:.4f} is expected; without --fast or --fidelity the map is exact"
    )


def _near_error(
    exact: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    every: NDArray[np.int64],
    scores: NDArray[np.float64],
    found: Sampled,
    settings: MapSettings,
) -> NearError | None:
    """Compare with exact scores on a sample: of the windows left out, or else of all."""
    sample = _sample(every, found.positions, settings)
    if not len(sample):
        return None
    truth, near = exact(every[sample]), scores[sample]
    spread, mean = float(truth.std()) or 1.0, float(truth.mean()) or 1.0
    return NearError(
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


def _warnings(made: SaliencyMap, prepared: Prepared) -> tuple[str, ...]:
    warnings = []
    if prepared.is_constant:
        warnings.append("the picture is constant: its map shows the network's own borders")
    if made.norm == 0:
        warnings.append("the features are all zero: scores are absolute, not relative")
    if np.ptp(made.values) <= FLAT:
        warnings.append("the map is flat: occluding changes nothing, diffusion is 0 by definition")
    return tuple(warnings)
