"""Maps of `--fast` against exact maps of real pictures: how near they are, and how much faster.

    python packages/medssl-saliency/benchmarks/fast_maps.py FOLDER [IMAGE...] [--model random_r18]

242x242, window 10x10, zero occluder. The exact maps are made first, unless they are in FOLDER: on
two cores 7 minutes a picture with a ResNet-18, 20 with a ResNet-50; an interruption keeps what is
done. The map of `--fast` is then made and timed as a whole, and beside it some single passes of the
study's loop. Without IMAGE scikit-image's retina and stained tissue are taken. It takes so long
that `nox -s bench` leaves it out.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from medssl_models import RunContext, create_model
from medssl_models.features.runtime import multiplies_in_bf16
from medssl_saliency import (
    FeatureExtractor,
    MapFolder,
    attentive_diffusion,
    compute_map,
    from_files,
    preset,
)
from medssl_saliency.engine.correlation import pearson
from medssl_saliency.engine.occlusion import cut_margin, grid_positions, reference_scores
from medssl_saliency.maps.preparation import Prepared
from medssl_saliency.maps.settings import FAST_FIDELITY
from PIL import Image

SIDE, WINDOW = 242, (10, 10)
EVERY = grid_positions((SIDE, SIDE), WINDOW)
PASSES = 12


def pictures(folder: Path) -> list[Path]:
    """Write scikit-image's two pictures."""
    from skimage import data

    paths = [folder / "retina.png", folder / "ihc.png"]
    folder.mkdir(parents=True, exist_ok=True)
    for path, image in zip(paths, (data.retina(), data.immunohistochemistry()), strict=True):
        Image.fromarray(image).save(path)
    return paths


def loop_seconds(network: torch.nn.Module, prepared: Prepared) -> float:
    """Time single passes, and tell from them how long all windows take so."""
    some = EVERY[:: len(EVERY) // PASSES][:PASSES]
    begin = time.perf_counter()
    reference_scores(network, prepared.normalised, some, window=WINDOW, occluder=prepared.occluder)
    # One pass more than windows: the clean image's.
    return (time.perf_counter() - begin) / (PASSES + 1) * len(EVERY)


def compare(exact: np.ndarray, near: np.ndarray) -> str:
    """Write correlation and difference of diffusion."""
    moved = attentive_diffusion(near) - attentive_diffusion(exact)
    return f"{pearson(exact.ravel(), near.ravel()):>9.4f}{moved:>+8.2f}"


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path, nargs="*")
    parser.add_argument("--model", default="random_r18", help="a card's name or a model folder")
    options = parser.parse_args()
    settings = preset(occluder="zero", resize=SIDE, crop=SIDE)
    native = multiplies_in_bf16(torch.device("cpu"))
    precision = "bf16" if native else "fp32"
    fast = settings.model_copy(update={"fidelity": FAST_FIDELITY, "precision": precision})
    extractor = FeatureExtractor(create_model(options.model), settings)
    maps = MapFolder(RunContext(output=options.folder, say=print, warn=print))
    items = from_files(options.images or pictures(options.folder / "pictures"))
    rows = []
    for stored in maps.maps(extractor, items):
        prepared = extractor.prepare(stored.item.read())
        loop = loop_seconds(extractor.network, prepared)
        near = compute_map(extractor.network, prepared, fast)
        times = f"{near.seconds:>7.1f}{loop / near.seconds:>8.0f}"
        few = f"1 in {len(EVERY) / len(near.scores):.1f}"
        exact, found = stored.map.values, near.values
        cut = compare(cut_margin(exact, WINDOW), cut_margin(found, WINDOW))
        row = f"{stored.item.name[:15]:<16}{few:>10}{times}{near.approximation.expected:>10.4f}"
        rows.append(row + compare(exact, found) + cut)
    print(
        f"{options.model}, {precision}; target: 100 x loop, r > 0.995, diffusion within 0.5 point"
    )
    print(f"{'':<51}{'whole map':>17}{'margin cut':>17}")
    print(f"{'picture':<16}{'windows':>10}{'s':>7}{'x loop':>8}{'expected':>10}", end="")
    print(f"{'r':>9}{'points':>8}" * 2)
    print("\n".join(rows))


if __name__ == "__main__":
    main()
