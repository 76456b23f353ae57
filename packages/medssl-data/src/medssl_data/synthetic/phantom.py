"""`phantom:NAME`: pictures drawn on demand, and what a phantom must say about itself.

Whole trees in the layout of a real data set are written by `layouts`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from medssl_data.errors import ManifestError, SettingError, UnknownDatasetError
from medssl_data.files import replacing, write_atomically
from medssl_data.manifest import Manifest, Row
from medssl_data.synthetic.drawing import draw_radiograph, stamp
from medssl_data.synthetic.layouts import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medssl_data.images.parallel import Progress

__all__ = [
    "NOTE",
    "PHANTOMS",
    "ChestXray",
    "chest_xray",
    "draw_phantom",
    "phantom_manifest",
    "write_phantom",
]

PHANTOMS = {"chest-xray": "synthetic chest radiograph"}
"""Phantoms that are drawn on demand, and what they stand for."""

NOTE = "synthetic phantom: procedural pictures of nobody; numbers say nothing about patients"


@dataclass(frozen=True)
class ChestXray:
    """Draws the radiographs of `phantom:chest-xray` from their item names; picklable.

    Args:
        difficulty: 0 plain to see, 1 invisible.
        seed: of the whole set.
        size: side of the pictures in pixels.
    """

    difficulty: float = 0.4
    seed: int = 0
    size: int = 256

    def __call__(self, item: str) -> Image.Image:
        """Draw `patient/image/class`, with its lettering burnt in."""
        patient, image, opacity = map(int, item.split("/"))
        plane = draw_radiograph(
            patient,
            image,
            opacity=bool(opacity),
            difficulty=self.difficulty,
            seed=self.seed,
            size=self.size,
        )
        pixels = np.rint(plane * 255).astype(np.uint8)
        stamp(pixels)
        return Image.fromarray(pixels).convert("RGB")


def chest_xray(
    *, count: int = 240, difficulty: float = 0.4, seed: int = 0, size: int = 256
) -> Manifest:
    """Plan a set of phantom radiographs, half of them with opacities.

    Args:
        count: number of images; a patient has one to three, all of one class.
        difficulty: 0 plain to see, 1 invisible.
        seed: another seed is another set of patients.
        size: side of the pictures in pixels.

    Returns:
        A manifest of classes normal and opacity with patients as groups.

    Raises:
        SettingError: a value is out of its range.
    """
    _check(count=(count, 2, 1_000_000), size=(size, 80, 4096), difficulty=(difficulty, 0, 1))
    generator = np.random.default_rng([seed, 0])
    rows: list[Row] = []
    source = f"phantom:chest-xray,difficulty={difficulty!r},seed={seed},size={size}"
    left = [count - count // 2, count // 2]
    patient = 0
    while sum(left):
        label = patient % 2 if left[patient % 2] else 1 - patient % 2
        images = min(int(generator.integers(1, 4)), left[label])
        left[label] -= images
        name = f"patient{patient:05d}"
        rows += [
            Row(f"{name}/{image}", source, label, name, "frontal", "", f"{patient}/{image}/{label}")
            for image in range(images)
        ]
        patient += 1
    return Manifest.from_rows(
        "phantom-chest-xray",
        Path(),
        ("normal", "opacity"),
        rows,
        label_policy="as drawn",
        notes=(f"{NOTE} (chest-xray, difficulty {difficulty:g}, seed {seed})",),
        synthetic=True,
        drawer=ChestXray(difficulty, seed, size),
    )


def phantom_manifest(name: str, settings: Mapping[str, str]) -> Manifest:
    """Plan the phantom set of this name.

    Args:
        name: what stands behind `phantom:`.
        settings: of `count`, `difficulty`, `seed` and `size`, as text.

    Raises:
        UnknownDatasetError: no phantom has that name.
        SettingError: a setting is unknown or no number.
    """
    if name not in _PLANS:
        msg = (
            f"phantom {name!r} is not drawn on demand (only {', '.join(_PLANS)}); "
            f"write it with `medssl-data phantom {name} --root DIR`, then use -d {name} --root DIR"
        )
        raise UnknownDatasetError(msg)
    plan = _PLANS[name]
    known: Mapping[str, type[int | float]] = {
        "count": int,
        "difficulty": float,
        "seed": int,
        "size": int,
    }
    values: dict[str, int | float] = {}
    for key, text in settings.items():
        if key not in known:
            msg = f"phantom:{name} has no setting {key!r}; it has {', '.join(known)}"
            raise SettingError(msg)
        try:
            values[key] = known[key](text)
        except ValueError as error:
            msg = f"phantom:{name}: {key}={text!r} is no number"
            raise SettingError(msg) from error
    return plan(**values)  # type: ignore[arg-type]  # converted just now


def draw_phantom(manifest: Manifest, directory: Path) -> Manifest:
    """Write drawn pictures as PNG files with a manifest beside them.

    Args:
        manifest: rows that are drawn.
        directory: gets `images/*.png` and `manifest.csv`.

    Returns:
        The manifest of the files.

    Raises:
        ManifestError: the rows are files already.
    """
    if manifest.drawer is None:
        msg = f"{manifest.name} lies in files already; copy them"
        raise ManifestError(msg)
    paths = tuple(f"images/{ident.replace('/', '_')}.png" for ident in manifest.ids)
    for path, item in zip(paths, manifest.items, strict=True):
        with replacing(directory / path) as temporary:
            manifest.drawer(item).convert("L").save(temporary, compress_level=3)
    written = replace(manifest, root=directory, paths=paths, items=(), drawer=None)
    written.to_csv(directory / "manifest.csv")
    return written


def write_phantom(
    name: str,
    root: Path,
    settings: Mapping[str, str],
    *,
    size: Literal["small", "full"] = "small",
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Write a phantom under the root.

    Args:
        name: one of `PHANTOMS`, or a layout's name.
        root: the phantom gets a folder `NAME` in it.
        settings: as for `phantom_manifest`; layouts take a seed, and those of CIFAR `archive`,
            "binary" or "python".
        size: "full" gives a layout the owner's number of rows.
        force: write into a folder that is there already.
        progress: makes a progress display.

    Returns:
        Where it lies, how many images it has, and what `-d` takes.

    Raises:
        UnknownDatasetError: no such phantom.
        SettingError: the folder is there and `force` is not given, or a setting does not fit.
    """
    directory = root / name
    known = [*PHANTOMS, *LAYOUTS]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"there is {', '.join(known)}"
        msg = f"no phantom is called {name!r}; {hint}"
        raise UnknownDatasetError(msg)
    if directory.exists() and not force:
        msg = f"{directory} is there already; remove it or add --force"
        raise SettingError(msg)
    if name in PHANTOMS:
        images = len(draw_phantom(phantom_manifest(name, settings), directory))
        use = f"table:{directory / 'manifest.csv'}"
    else:
        images = _write_layout(name, directory, settings, size=size, progress=progress)
        tables = f"table:{directory / 'images.csv'}"
        use = tables if (directory / "images.csv").is_file() else f"{name} --root {root}"
    write_atomically(directory / "PHANTOM.txt", f"{NOTE}\n".encode())
    return {"name": name, "path": str(directory), "images": images, "use": use}


def _write_layout(
    name: str,
    directory: Path,
    settings: Mapping[str, str],
    *,
    size: Literal["small", "full"],
    progress: Progress | None,
) -> int:
    from medssl_data.synthetic.stand_ins import write_layout

    known = {"seed"} | ({"archive"} if LAYOUTS[name].archives else set())
    foreign = sorted(set(settings) - known)
    if foreign:
        listed = ", ".join(sorted(known | {"size"}))
        msg = f"phantom {name} has no setting {', '.join(foreign)}; it has {listed}"
        raise SettingError(msg)
    archive = settings.get("archive", "binary")
    if archive not in ("binary", "python"):
        msg = f"phantom {name}: archive={archive!r} is neither binary nor python"
        raise SettingError(msg)
    return write_layout(
        name,
        directory,
        size=size,
        seed=int(settings.get("seed", "0")),
        archive="python" if archive == "python" else "binary",
        progress=progress,
    )


def _check(**ranges: tuple[float, float, float]) -> None:
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            msg = f"{name}={value:g} is out of range; it lies between {low:g} and {high:g}"
            raise SettingError(msg)


_PLANS = {"chest-xray": chest_xray}
