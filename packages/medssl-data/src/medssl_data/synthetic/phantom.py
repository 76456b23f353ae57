"""`phantom:NAME`: pictures drawn on demand, and what a phantom must say about itself.

Whole trees in the layout of a real data set are written by `layouts`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from medssl_data.errors import ManifestError, SettingError, UnknownDatasetError, did_you_mean
from medssl_data.files import replacing, write_atomically
from medssl_data.manifest import Manifest, Row
from medssl_data.synthetic.drawing import draw_radiograph, stamp
from medssl_data.synthetic.layouts import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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

_CONFOUNDERS = ("view", "marker", "brightness")
_BRIGHTER = 0.08
"""Share of white by which exposed patients are brighter."""

_TABLES = ("manifest.csv", "images.csv")
"""Tables that name the pictures of phantoms without a card."""

NOTE = "synthetic phantom: procedural pictures of nobody; numbers say nothing about patients"


@dataclass(frozen=True)
class ChestXray:
    """Draws the radiographs of `phantom:chest-xray` from their item names; picklable.

    Args:
        difficulty: 0 plain to see, 1 invisible.
        seed: Of the whole set.
        size: Side of the pictures in pixels.
        confounder: What tells exposed patients from others; see `chest_xray`.
    """

    difficulty: float = 0.4
    seed: int = 0
    size: int = 256
    confounder: str = ""

    def __call__(self, item: str) -> Image.Image:
        """Draw `patient/image/class`, with its lettering burnt in; a fourth number is exposure."""
        patient, image, opacity, *exposed = map(int, item.split("/"))
        plane = draw_radiograph(
            patient,
            image,
            opacity=bool(opacity),
            difficulty=self.difficulty,
            seed=self.seed,
            size=self.size,
        )
        if exposed and self.confounder in {"view", "brightness"}:
            plane = np.clip(plane + _BRIGHTER * exposed[0], 0, 1)
        pixels = np.rint(plane * 255).astype(np.uint8)
        stamp(pixels)
        if exposed and self.confounder == "view":
            stamp(pixels, "AP" if exposed[0] else "PA", corner="upper right")
        if exposed and exposed[0] and self.confounder == "marker":
            side = self.size // 12
            pixels[2 : 2 + side, 2 : 2 + side] = 255
        return Image.fromarray(pixels).convert("RGB")


def chest_xray(
    *,
    count: int = 240,
    difficulty: float = ChestXray.difficulty,
    seed: int = ChestXray.seed,
    size: int = ChestXray.size,
    confounder: str = ChestXray.confounder,
    strength: float = 0.8,
) -> Manifest:
    """Plan a set of phantom radiographs, half of them with opacities.

    Sex and age of the patients are carried as attributes; they say nothing about the class.

    Args:
        count: Number of images; a patient has one to three, all of one class.
        difficulty: 0 plain to see, 1 invisible.
        seed: Another seed is another set of patients.
        size: Side of the pictures in pixels.
        confounder: Plants what follows the class without being the disease: "brightness" exposes
            the film more, "view" makes a patient AP, exposed more, or PA, and burns that in,
            "marker" puts a bright square into the upper left corner. "" plants nothing.
        strength: Difference of its share between the classes, about Cramer's V; 0 plants it at
            random.

    Returns:
        A manifest of classes normal and opacity with patients as groups.

    Raises:
        SettingError: A value is out of its range.

    Example:
        >>> chest_xray(count=20).counts()
        {'normal': 10, 'opacity': 10}
    """
    _check(
        count=(count, 2, 1_000_000),
        size=(size, 80, 4096),
        difficulty=(difficulty, 0, 1),
        strength=(strength, 0, 1),
    )
    if confounder not in ("", *_CONFOUNDERS):
        message = (
            f"confounder {confounder!r} cannot be planted{did_you_mean(confounder, _CONFOUNDERS)}"
        )
        raise SettingError(message)
    generator = np.random.default_rng([seed, 0])
    rows: list[Row] = []
    source = f"phantom:chest-xray,difficulty={difficulty!r},seed={seed},size={size}"
    source += f",confounder={confounder}" if confounder else ""
    sexes, ages = list[str](), list[str]()
    left = [count - count // 2, count // 2]
    patient = 0
    while sum(left):
        label = patient % 2 if left[patient % 2] else 1 - patient % 2
        images = min(int(generator.integers(1, 4)), left[label])
        left[label] -= images
        name = f"patient{patient:05d}"
        person = np.random.default_rng([seed, 5, patient])
        sexes += ["F" if person.random() < 0.5 else "M"] * images
        ages += [str(person.integers(20, 90))] * images
        exposed = int(person.random() < 0.5 + strength * (label - 0.5))
        view = ("pa", "ap")[exposed] if confounder == "view" else "frontal"
        end = f"/{exposed}" if confounder else ""
        rows += [
            Row(f"{name}/{i}", source, label, name, view, "", f"{patient}/{i}/{label}{end}")
            for i in range(images)
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
        selection=_selection(
            chest_xray,
            count=count,
            difficulty=float(difficulty),
            seed=seed,
            size=size,
            confounder=confounder,
            strength=float(strength),
        ),
        attributes={"sex": tuple(sexes), "age": tuple(ages)},
        drawer=ChestXray(difficulty, seed, size, confounder),
    )


def phantom_manifest(name: str, settings: Mapping[str, str]) -> Manifest:
    """Plan the phantom set of this name.

    Args:
        name: What stands behind `phantom:`.
        settings: Of the arguments of `chest_xray`, as text.

    Raises:
        UnknownDatasetError: No phantom has that name.
        SettingError: A setting is unknown or no number.
    """
    if name not in _PLANS:
        message = (
            f"phantom {name!r} is not drawn on demand (only {', '.join(_PLANS)}); "
            f"write it with `medssl-data phantom {name}`, then load {name!r} without the prefix"
        )
        raise UnknownDatasetError(message)
    plan = _PLANS[name]
    defaults = _defaults(plan)
    values: dict[str, Any] = {}
    for key, text in settings.items():
        if key not in defaults:
            message = f"phantom:{name} has no setting {key!r}; it has {', '.join(defaults)}"
            raise SettingError(message)
        try:
            values[key] = type(defaults[key])(text)
        except ValueError as error:
            message = f"phantom:{name}: {key}={text!r} is not a number"
            raise SettingError(message) from error
    return plan(**values)


def _defaults(plan: Callable[..., Manifest]) -> dict[str, Any]:
    return plan.__kwdefaults__ or {}


def _selection(plan: Callable[..., Manifest], **values: float | str) -> dict[str, str]:
    """Spell the values that are not the defaults."""
    defaults = _defaults(plan)
    return {name: str(value) for name, value in values.items() if value != defaults[name]}


def draw_phantom(manifest: Manifest, directory: Path) -> Manifest:
    """Write drawn pictures as PNG files with a manifest beside them.

    Args:
        manifest: Rows that are drawn.
        directory: Gets `images/*.png` and `manifest.csv`.

    Returns:
        The manifest of the files.

    Raises:
        ManifestError: The rows are files already.
    """
    if manifest.drawer is None:
        message = f"{manifest.name} is already stored as files; copy them"
        raise ManifestError(message)
    paths = tuple(f"images/{ident.replace('/', '_')}.png" for ident in manifest.ids)
    for path, item in zip(paths, manifest.items, strict=True):
        with replacing(directory / path) as draft:
            manifest.drawer(item).convert("L").save(draft, compress_level=3)
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
        name: One of `PHANTOMS`, or a layout's name.
        root: The phantom gets a folder `NAME` in it.
        settings: As for `phantom_manifest`; layouts take a seed, and those of CIFAR `archive`,
            "binary" or "python".
        size: "full" gives a layout the owner's number of rows.
        force: Write into a folder that is there already.
        progress: Makes a progress display.

    Returns:
        Where it lies, how many images it has, and what names it from then on.

    Raises:
        UnknownDatasetError: No such phantom.
        SettingError: The folder is there and `force` is not given, or a setting does not fit.

    Example:
        >>> write_phantom("cifar10", Path("data"), {"seed": "1"})["images"]
        600
    """
    directory = root / name
    known = [*PHANTOMS, *LAYOUTS]
    if name not in known:
        message = f"no phantom is called {name!r}{did_you_mean(name, known)}"
        raise UnknownDatasetError(message)
    if directory.exists() and not force:
        message = f"{directory} is there already; remove it, or set force to write into it"
        raise SettingError(message)
    if name in PHANTOMS:
        images = len(draw_phantom(phantom_manifest(name, settings), directory))
    else:
        from medssl_data.synthetic.stand_ins import write_layout

        seed, archive = _layout_settings(name, settings)
        images = write_layout(
            name, directory, size=size, seed=seed, archive=archive, progress=progress
        )
    write_atomically(directory / "PHANTOM.txt", f"{NOTE}\n".encode())
    tables = [path for path in map(directory.joinpath, _TABLES) if path.is_file()]
    use = f"table:{tables[0]}" if tables else f"{name} --root {root}"
    return {"name": name, "path": str(directory), "images": images, "use": use}


def _layout_settings(
    name: str, settings: Mapping[str, str]
) -> tuple[int, Literal["binary", "python"]]:
    known = {"seed"} | ({"archive"} if LAYOUTS[name].archives else set())
    foreign = sorted(set(settings) - known)
    if foreign:
        listed = ", ".join(sorted(known | {"size"}))
        message = f"phantom {name} has no setting {', '.join(foreign)}; it has {listed}"
        raise SettingError(message)
    archive = settings.get("archive", "binary")
    if archive not in ("binary", "python"):
        message = f"phantom {name}: archive={archive!r} is neither binary nor python"
        raise SettingError(message)
    return int(settings.get("seed", "0")), "python" if archive == "python" else "binary"


def _check(**ranges: tuple[float, float, float]) -> None:
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            message = f"{name}={value:g} is out of range; it lies between {low:g} and {high:g}"
            raise SettingError(message)


_PLANS = {"chest-xray": chest_xray}
