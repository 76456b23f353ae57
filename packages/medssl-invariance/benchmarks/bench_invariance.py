"""Time rotations of 100 images, 256 of each, against the 2022 study's way, interleaved.

The study's way: a PIL rotation and a resize of each view, one batch of k views, one cosine and one
SciPy Mahalanobis distance a view. Measured on a sample of views (`--views` of the 256) of a block
of 32 images; the whole is the sample times what is left out. bf16 is measured where the CPU has it.
The network alone bounds what end to end can reach: its share of the study's time is printed.

    python bench_invariance.py [--native 1024] [--rounds 2] [--views 64]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from medssl_invariance.similarity import cosine
from medssl_invariance.transforms.batches import Block, resized_views
from medssl_invariance.transforms.families import find_family
from medssl_invariance.transforms.grids import Member
from medssl_invariance.whitening import Whitening, fit_whitening
from medssl_models import Preprocessing, create_model
from medssl_models.features.runtime import FeatureNetwork, multiplies_in_bf16
from PIL import Image
from scipy.spatial.distance import mahalanobis
from torchvision.transforms.v2 import functional as tv

IMAGES, MEMBERS = 100, 256
BLOCK = 32


def picture(side: int) -> Image.Image:
    """Draw a grey picture with structure at two scales."""
    y, x = np.mgrid[:side, :side] / side
    grey = np.uint8(127 + 60 * np.sin(20 * x) + 60 * np.cos(13 * y * x))
    return Image.fromarray(np.stack([grey] * 3, axis=-1))


class Pictures:
    """The same picture in every row."""

    def __init__(self, side: int) -> None:
        self.picture = picture(side)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return self.picture, 0


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Time a call; give its result too."""
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def study_views(
    image: Image.Image, angles: Sequence[float], preprocessing: Preprocessing
) -> torch.Tensor:
    """Rotate with PIL and resize, view by view."""
    return torch.stack([preprocessing(tv.rotate(image, angle)) for angle in angles])


def study_similarity(
    clean: torch.Tensor, features: torch.Tensor, whitening: Whitening
) -> np.ndarray:
    """Compare view by view: `(2, N)` cosines and distances."""
    mean = torch.from_numpy(whitening.mean).float()
    factor = torch.from_numpy(whitening.factor)
    a = (mean - clean) @ factor
    both = []
    for row in features:
        b = (mean - row) @ factor
        s = torch.nn.functional.cosine_similarity(a, b, dim=-1).mean()
        both.append((float(s), mahalanobis(clean, row, whitening.precision)))
    return np.array(both).T


def our_similarity(clean: torch.Tensor, features: torch.Tensor, whitening: Whitening) -> np.ndarray:
    """Compare all views at once: `(2, N)` cosines and distances."""
    views, own = features.numpy(), clean.numpy()[None]
    s = cosine(whitening.deviations(own), whitening.deviations(views))
    return np.stack([s, whitening.distances(np.repeat(own, len(views), 0), views)])


def bench(name: str, native: int, rounds: int, views: int) -> None:
    """Time one network."""
    backbone = create_model(name)
    own = backbone.preprocessing
    grid = find_family("rotation").corrected
    framed = own.replace(resize=max(own.resize, 320))
    dimension = backbone.feature_dim
    rng = np.random.default_rng(0)
    sample = rng.normal(size=(3000, dimension)).astype(np.float32)
    whitening = fit_whitening(sample, "sample")
    clean = torch.from_numpy(sample[0])
    source = Pictures(native)
    block = Block(source, np.arange(BLOCK))
    angles = np.linspace(0, 360, views + 1)[:views].tolist()
    members = [(j, Member(a, {"angle": a})) for j, a in enumerate(angles)]
    eager = create_model(name)
    cpu = torch.device("cpu")
    fast = {
        precision: FeatureNetwork.prepare(backbone, device=cpu, precision=precision, crop=own.crop)
        for precision in ("fp32", "bf16")
        if precision == "fp32" or multiplies_in_bf16(torch.device("cpu"))
    }
    batch = torch.stack([own(source.picture)] * BLOCK)
    features = torch.from_numpy(sample[1 : views + 1])
    both = torch.from_numpy(sample[1 : 8 * views + 1])
    times = {word: [] for word in ("views", "our views", "match", "our match", "net", *fast)}
    for _ in range(rounds + 1):
        spent, _ = seconds(lambda: study_views(source.picture, angles, own))
        times["views"].append(spent / views)
        spent, made = seconds(
            # One batch after the other, as a run takes them: none is kept.
            lambda: sum(
                len(framed.normalise(pixels))
                for pixels in resized_views(block, framed, grid, members, frame=grid.frame)
            )
        )
        times["our views"].append(spent / made)
        spent, theirs = seconds(lambda: study_similarity(clean, features, whitening))
        times["match"].append(spent / views)
        spent, _ = seconds(lambda: our_similarity(clean, both, whitening))
        times["our match"].append(spent / len(both))
        with torch.no_grad():
            spent, _ = seconds(lambda: eager(torch.cat([batch] * (views // BLOCK))))
        times["net"].append(spent / (views // BLOCK * BLOCK))
        for precision, network in fast.items():
            spent, _ = seconds(lambda network=network: network(batch))
            times[precision].append(spent / len(batch))
    median = {word: statistics.median(values[1:]) for word, values in times.items()}
    error = np.abs(our_similarity(clean, features, whitening) - theirs).max(axis=1)
    report(name, native, median, error)


def report(name: str, native: int, median: dict[str, float], error: np.ndarray) -> None:
    """Print what was measured, and what follows for the whole."""
    study = median["views"] + median["match"]
    ours = median["our views"] + median["our match"]
    whole = IMAGES * MEMBERS
    print(f"{name}, native {native} x {native}, {IMAGES} images x {MEMBERS} rotations")
    print("  ms a view: " + ", ".join(f"{word} {1000 * s:.3g}" for word, s in median.items()))
    print(f"  largest difference: cosine {error[0]:.1e}, distance {error[1]:.1e} (target 1e-4)")
    print(
        f"  without the network: {whole * study:.0f} s -> {whole * ours:.0f} s, "
        f"{study / ours:.1f} times (target 10)"
    )
    old = study + median["net"]
    print(
        f"  the network is {median['net'] / old:.0%} of the study's time and {gain(median):.2f} "
        f"times faster here: end to end is bound by {old / median['fp32']:.1f} times in fp32"
    )
    for precision, target in (("fp32", 2.0), ("bf16", 3.5)):
        if precision not in median:
            print(f"  end to end, {precision}: not measured, this CPU has no such arithmetic")
            continue
        new = ours + median[precision]
        print(
            f"  end to end, {precision}: {whole * old / 60:.1f} min -> {whole * new / 60:.1f} min, "
            f"{old / new:.1f} times (target {target})"
        )


def gain(median: dict[str, float]) -> float:
    """Give how much faster the network alone is in fp32."""
    return median["net"] / median["fp32"]


def main() -> None:
    """Run both networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--native", type=int, default=1024, help="side of the files' pictures")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--views", type=int, default=64, help="views in a sample")
    arguments = parser.parse_args()
    for name in ("random_r18", "random_r50"):
        bench(name, arguments.native, arguments.rounds, arguments.views)


if __name__ == "__main__":
    main()
