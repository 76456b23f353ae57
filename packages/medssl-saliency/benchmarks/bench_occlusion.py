"""Occlusion maps against the 2022 study's way: one full forward pass for each of 54,289 windows.

    python packages/medssl-saliency/benchmarks/bench_occlusion.py [--model random_r50] [--rounds 5]

242x242, window 10x10, stride 1. The ways take turns on windows from all over the image; the time of
a whole map is extrapolated from them. bf16 is measured only where the processor multiplies in it.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from medssl_models import create_model
from medssl_models.features.runtime import multiplies_in_bf16
from medssl_saliency.engine.correlation import pearson
from medssl_saliency.engine.occlusion import (
    DEFAULT_MEMORY,
    build_engine,
    grid_positions,
    measure,
    reference_scores,
)
from medssl_saliency.engine.planning import Tile
from medssl_saliency.engine.sampling import FIRST, spread_positions
from torch import Tensor, nn

SIZE, WINDOW = (242, 242), (10, 10)
EVERY = grid_positions(SIZE, WINDOW)
FEWEST = spread_positions(SIZE, WINDOW, round(FIRST * len(EVERY)))
"""The windows that `--fast` measures before it judges the map."""
SINGLE, BATCH, COMPARED = 6, 16, 64


class Way:
    """One way to measure windows: its time and its scores on those it was given."""

    def __init__(self, name: str, target: str = "") -> None:
        self.name, self.target = name, target
        self.seconds, self.work, self.windows = 0.0, 0.0, 0
        self.total = float(len(EVERY))
        self.scores = {}

    def time(self, positions: np.ndarray, work: float, call: Callable[[], np.ndarray]) -> None:
        """Run it once on some windows."""
        begin = time.perf_counter()
        scores = call()
        self.seconds += time.perf_counter() - begin
        self.work, self.windows = self.work + work, self.windows + len(positions)
        corners = map(tuple, positions.tolist())
        self.scores.update(zip(corners, scores.tolist(), strict=True))

    @property
    def map_seconds(self) -> float:
        """Time of a whole map, extrapolated by the share of its work that was done."""
        return self.seconds / self.work * self.total


class Incremental(Way):
    """Ours, on tiles from all over the image."""

    def __init__(
        self, name: str, target: str, setting: tuple[nn.Module, Tensor, str], windows: np.ndarray
    ) -> None:
        super().__init__(name, target)
        network, image, precision = setting
        self.engine, note = build_engine(network, image, precision=precision)
        if note:
            raise SystemExit(note)
        self.tiles = self.engine.plan(windows, WINDOW, memory=DEFAULT_MEMORY).tiles
        self.total = sum(tile.work for tile in self.tiles)

    def turn(self, share: float, occluder: Tensor) -> np.ndarray:
        """Measure the tile that lies at a share of all; give its windows."""
        tile = self.tiles[int(share * len(self.tiles))]
        self.time(tile.positions, tile.work, lambda: self._score(tile, occluder))
        return tile.positions

    def _score(self, tile: Tile, occluder: Tensor) -> np.ndarray:
        features, clean = self.engine.run(tile, occluder, WINDOW), self.engine.clean
        return ((features - clean).norm(dim=1) / clean.norm()).numpy()


@torch.inference_mode()
def batched_scores(
    network: nn.Module, image: Tensor, positions: np.ndarray, occluder: Tensor
) -> np.ndarray:
    """Measure windows by full inference on one channels-last batch."""
    images = image.expand(len(positions), -1, -1, -1).clone(memory_format=torch.channels_last)
    for one, (top, left) in zip(images, positions.tolist(), strict=True):
        where = (slice(None), slice(top, top + WINDOW[0]), slice(left, left + WINDOW[1]))
        one[where] = occluder[where]
    clean = network(image[None])[0]
    return ((network(images) - clean).norm(dim=1) / clean.norm()).numpy()


def picture() -> Tensor:
    """Draw a smooth picture with some grain, normalised, (3, 242, 242)."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn((1, 3, 16, 16), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=SIZE, mode="bicubic")[0]
    return smooth + 0.1 * torch.randn((3, *SIZE), generator=generator)


def take_turns(model: str, rounds: int) -> list[Way]:
    """Let all ways take turns."""
    network, image = create_model(model).trunk, picture()
    laid_out = create_model(model).trunk.to(memory_format=torch.channels_last)
    occluder = torch.zeros_like(image)
    loop, batched = Way("loop of single passes"), Way("batched, channels-last")
    ours = [Incremental("ours, fp32", "5", (network, image, "fp32"), EVERY)]
    native = multiplies_in_bf16(torch.device("cpu"))
    precision = "bf16" if native else "fp32"
    if native:
        ours.append(Incremental("ours, bf16", "9", (network, image, "bf16"), EVERY))
    name = f"--fast, 1 in {1 / FIRST:.0f}, {precision}"
    ours.append(Incremental(name, "100", (network, image, precision), FEWEST))
    batched_scores(laid_out, image, EVERY[:1], occluder)
    reference_scores(network, image, EVERY[:1], window=WINDOW, occluder=occluder)
    for number in range(rounds):
        share = (number + 0.5) / rounds
        windows, *_ = [one.turn(share, occluder) for one in ours]
        few, some = windows[:SINGLE], windows[:BATCH]
        batched.time(
            some, len(some), lambda some=some: batched_scores(laid_out, image, some, occluder)
        )
        # One pass of the loop is the clean image's, which a whole map needs only once.
        loop.time(
            few,
            len(few) + 1,
            lambda few=few: reference_scores(network, image, few, window=WINDOW, occluder=occluder),
        )
    return [loop, batched, *ours]


def bf16_correlation(model: str) -> float:
    """Correlate bf16 scores with fp32 scores; where bf16 is emulated, only its speed is untrue."""
    network, image, some = create_model(model).trunk, picture(), FEWEST[:COMPARED]
    occluder = torch.zeros_like(image)
    engines = (build_engine(network, image, precision=name)[0] for name in ("fp32", "bf16"))
    scores = [measure(engine, some, window=WINDOW, occluder=occluder) for engine in engines]
    return pearson(*scores)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="random_r50", help="or random_r18, random_d121")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways = take_turns(options.model, options.rounds)
    loop, batched, exact = ways[:3]
    print(f"{options.model}, {SIZE[0]}x{SIZE[1]}, window 10x10, {len(EVERY):,} windows,", end=" ")
    print(f"{torch.get_num_threads()} threads")
    print(f"{'way':<28}{'windows':>8}{'a map, s':>10}{'x loop':>8}{'target':>8}{'x batched':>11}")
    for way in ways:
        ratios = loop.map_seconds / way.map_seconds, batched.map_seconds / way.map_seconds
        print(f"{way.name:<28}{way.windows:>8}{way.map_seconds:>10.0f}", end="")
        print(f"{ratios[0]:>8.2f}{way.target:>8}{ratios[1]:>11.2f}")
    error = max(abs(exact.scores[one] - value) / value for one, value in loop.scores.items())
    print(f"fp32 against full inference: at most {error:.1e} off (target 1e-4);", end=" ")
    print("3 times batched is the other target of fp32")
    outcome = {"benchmark": "occlusion", "model": options.model, "error": error}
    outcome |= {way.name: way.map_seconds for way in ways}
    if len(ways) < 5:
        print("bf16 is not native here: it was not timed (target 9)")
    outcome["bf16_r"] = bf16_correlation(options.model)
    print(f"bf16 against fp32 on {COMPARED} windows: r = {outcome['bf16_r']:.5f} (target 0.999)")
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
