"""How often the search for confounders rings: on clean phantoms, and on those with a planted one.

Prints a line of Markdown for each kind of phantom. Columns of sex and age, which say nothing, are
tested on all of them beside the properties of the pictures.
"""

from __future__ import annotations

import argparse
import math

from medssl_data import load_dataset
from medssl_data.confounders.search import find_confounders

KINDS = (
    "",
    "confounder=view,strength=0.0",
    *(
        f"confounder={name},strength={strength}"
        for name in ("view", "marker", "brightness")
        for strength in (0.4, 0.6, 0.8)
    ),
)


def main() -> None:
    """Count on phantoms of many seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="Phantoms of each kind.")
    parser.add_argument("--count", type=int, default=120, help="Images of a phantom.")
    arguments = parser.parse_args()
    print("| phantom | it rang in | 95 % interval |\n|---|---|---|")
    for kind in KINDS:
        rang = sum(rings(kind, arguments.count, seed) for seed in range(arguments.seeds))
        low, high = wilson(rang, arguments.seeds)
        share = f"{rang} of {arguments.seeds}"
        print(f"| {kind or 'clean'} | {share} | {low:.0%} to {high:.0%} |", flush=True)


def rings(kind: str, count: int, seed: int) -> bool:
    """Tell whether anything rings on a phantom of this kind."""
    name = f"phantom:chest-xray,count={count},seed={seed},size=96,{kind}".rstrip(",")
    return bool(find_confounders(load_dataset(name, split="none")).ringing)


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share."""
    share, weight = hits / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / trials / 4)
    return middle - reach, middle + reach


if __name__ == "__main__":
    main()
