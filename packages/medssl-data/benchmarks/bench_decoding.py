"""Decoding and resizing to 224 x 224 in threads against a plain loop over Pillow.

Both take turns in one process. The pictures of both are compared: equal by default and with the
cache; with `reduced` decoding the mean difference in grey levels is printed. The cache is warm: the
first pass, which fills it, is not timed. Run `python bench_decoding.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from medssl_data.console import Console
from medssl_data.images.cache import PictureCache
from medssl_data.images.decoding import read_rgb
from medssl_data.images.parallel import each
from medssl_data.images.reading import Reading
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

SIDE = 224
CASES = (
    ("TIFF", 2048, 1536, "default"),
    ("TIFF", 2048, 1536, "cached"),
    ("JPEG", 3000, 2000, "default"),
    ("JPEG", 3000, 2000, "cached"),
    ("JPEG", 3000, 2000, "reduced"),
    ("PNG", 1024, 1024, "default"),
    ("PNG", 1024, 1024, "cached"),
)
SETTLING = 2.5
"""Seconds after which a file is old enough to be kept."""


def write_pictures(folder: Path, kind: str, width: int, height: int, count: int) -> list[Path]:
    """Write smooth pictures with some noise, as cameras and scanners make them."""
    paths = []
    for index in range(count):
        generator = np.random.default_rng(index)
        coarse = generator.integers(0, 255, (12, 16, 3), np.uint8)
        smooth = np.asarray(
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        )
        noise = generator.integers(-6, 7, (height, width, 1))
        pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
        paths.append(folder / f"{kind}-{width}-{index}.{kind.lower()}")
        Image.fromarray(pixels).save(paths[-1], kind)
    return paths


def read_plainly(paths: Sequence[Path]) -> list[npt.NDArray[np.uint8]]:
    """Decode as a script would: one after the other."""
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB").resize((SIDE, SIDE))))
    return pictures


def read_ours(paths: Sequence[Path], way: str) -> list[npt.NDArray[np.uint8]]:
    """Decode as the package's commands do: checked, in threads, in order."""
    reading = Reading(reduced=SIDE if way == "reduced" else None)
    cache = PictureCache(paths[0].parent / "kept", 10**9) if way == "cached" else None

    def read(index: int) -> npt.NDArray[np.uint8]:
        def make() -> Image.Image:
            return read_rgb(paths[index], reading=reading)[0].resize((SIDE, SIDE))

        picture = make() if cache is None else cache.picture(paths[index], "bicubic", make)
        return np.asarray(picture)

    return list(each(read, len(paths), "decoding"))


def time_it(work: Callable[[], object]) -> float:
    """Give the seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(paths: Sequence[Path], way: str, rounds: int) -> dict[str, object]:
    """Measure one kind of file in both ways, in turns."""
    if way == "cached":
        time.sleep(SETTLING)
        read_ours(paths, way)
    pairs = zip(read_plainly(paths), read_ours(paths, way), strict=True)
    apart = [np.abs(plain.astype(int) - ours).mean() for plain, ours in pairs]
    turns = [
        (time_it(lambda: read_plainly(paths)), time_it(lambda: read_ours(paths, way)))
        for _ in range(rounds)
    ]
    return {
        "plain_per_s": round(len(paths) / statistics.median(plain for plain, _ in turns), 1),
        "ours_per_s": round(len(paths) / statistics.median(ours for _, ours in turns), 1),
        "ratio": round(statistics.median(plain / ours for plain, ours in turns), 2),
        "target": 1.0 if way == "default" else 2.0,
        "difference": round(float(np.mean(apart)), 3),
    }


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=12, help="pictures of each kind")
    given = parser.parse_args()
    outcomes = []
    for kind, width, height, way in CASES:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_pictures(Path(folder), kind, width, height, given.count)
            outcome = {"files": f"{kind} {width} x {height}", "way": way}
            outcomes.append(outcome | measure(paths, way, given.rounds))
    heads = tuple(outcomes[0])
    rows = [tuple(one.values()) for one in outcomes]
    Console().table(heads, rows, title=f"Pictures a second, decoded and resized to {SIDE}")
    sys.stdout.write(json.dumps({"benchmark": "decoding", "outcomes": outcomes}) + "\n")


if __name__ == "__main__":
    main()
