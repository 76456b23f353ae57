"""Maps of some windows against exact maps: how much `--fast` loses, by lattice and interpolation.

    python packages/medssl-saliency/benchmarks/fast_maps.py FOLDER [IMAGE...] [--model random_r18]

242x242, window 10x10, zero occluder. The exact maps are made first, unless they are in FOLDER: on
two cores 7 minutes a picture with a ResNet-18, 24 with a ResNet-50; an interruption keeps what is
done. Every lattice is then a choice of their windows, so the rest takes a minute. Without IMAGE
scikit-image's retina and stained tissue are taken. It takes so long that `nox -s bench` leaves it
out.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from medssl_models import create_model
from medssl_saliency import Maps, Viewer, attentive_diffusion, from_files, preset
from medssl_saliency.concentration import pearson
from medssl_saliency.mapping import Voice
from medssl_saliency.occlusion import (
    cut_margin,
    grid_positions,
    interpolate_scores,
    lattice_positions,
    mean_over_windows,
)
from medssl_saliency.protocols import FAST_LATTICE
from PIL import Image
from scipy.interpolate import RBFInterpolator

SIDE, WINDOW = (242, 242), (10, 10)
EVERY = grid_positions(SIDE, WINDOW)
LATTICES = (FAST_LATTICE, (17, 13), (19, 14), (23, 18))
NUGGET = 3.0
"""Variance of neighbouring windows' scores over its growth with each pixel of distance."""


def kriged(positions: np.ndarray, scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Estimate scores by ordinary kriging with a linear variogram and a nugget."""
    surface = RBFInterpolator(positions, scores, kernel="linear", smoothing=NUGGET)
    return surface(wanted)


WAYS: dict[str, Callable[..., np.ndarray]] = {"linear": interpolate_scores, "kriging": kriged}


def pictures(folder: Path) -> list[Path]:
    """Write scikit-image's two pictures."""
    from skimage import data

    paths = [folder / "retina.png", folder / "ihc.png"]
    folder.mkdir(parents=True, exist_ok=True)
    for path, image in zip(paths, (data.retina(), data.immunohistochemistry()), strict=True):
        Image.fromarray(image).save(path)
    return paths


def compare(exact: np.ndarray, near: np.ndarray) -> str:
    """Give correlation and difference of diffusion, of all pixels and without the margin."""
    parts = []
    for cut in (False, True):
        maps = [mean_over_windows(EVERY, scores, SIDE, WINDOW) for scores in (exact, near)]
        one, other = [cut_margin(m, WINDOW) if cut else m for m in maps]
        moved = attentive_diffusion(other) - attentive_diffusion(one)
        parts.append(f"{pearson(one.ravel(), other.ravel()):>9.4f}{moved:>+9.2f}")
    return "".join(parts)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--model", default="random_r18")
    options = parser.parse_args()
    settings = preset(occluder="zero", resize=SIDE[0], crop=SIDE[0])
    viewer = Viewer(create_model(options.model), settings)
    maps = Maps(options.folder, voice=Voice(say=print, warn=print))
    subjects = from_files(options.images or pictures(options.folder / "pictures"))
    print(f"{options.model}, targets: r > 0.995, diffusion within 0.5 point")
    print(f"{'':<38}{'whole map':>18}{'margin cut':>18}")
    print(f"{'picture':<16}{'lattice':<12}{'way':<10}", end="")
    print(f"{'r':>9}{'points':>9}" * 2)
    for mapped in maps.each(viewer, subjects):
        exact = mapped.made.scores
        for period, shift in LATTICES:
            some = lattice_positions(SIDE, WINDOW, period=period, shift=shift)
            measured = exact[some @ [SIDE[1] - WINDOW[1] + 1, 1]]
            for name, way in WAYS.items():
                found = compare(exact, way(some, measured, EVERY))
                lattice = f"1 in {period}, {shift}"
                print(f"{mapped.subject.name[:15]:<16}{lattice:<12}{name:<10}{found}", flush=True)


if __name__ == "__main__":
    main()
