"""The families of transforms: how each is applied, and over which members under each protocol.

A family is a record: two grids out of `grids`, functions out of `transforms`. Those of the 2022
study come first, those that medicine adds after them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medssl_models.suggestions import did_you_mean

from medssl_invariance.errors import GridError, UnknownFamilyError
from medssl_invariance.transforms import functions, grids, resampling

if TYPE_CHECKING:
    from medssl_invariance.transforms.grids import Maker, Member
    from medssl_invariance.transforms.resampling import Warp

__all__ = ["FAMILIES", "MEDICAL", "STUDY", "Family", "Grid", "find_families", "find_family"]

Ranges = Literal["honest", "study"]
Apply = Callable[[Any, Mapping[str, float], functions.Scene], Any]
"""`apply(picture, values, scene)`: a PIL picture or a batch `(B, 3, H, W)` -> the same kind."""


@dataclass(frozen=True)
class Grid:
    """What a protocol does under a family's name.

    Args:
        apply: The transform.
        make: From k to members.
        size: k where nobody asks for another.
        frame: How many times larger than the network's input the picture must be so that the
            transform uncovers nothing.
        warp: The same transform as a map of places, where it is one: batches are resampled by it.
    """

    apply: Apply
    make: Maker
    size: int
    frame: float = 1.0
    warp: Warp | None = None


@dataclass(frozen=True)
class Family:
    """Transforms of one kind.

    Args:
        name: As typed after `--transform`.
        axis: What the place of a member on a curve means, with its unit.
        honest: Under `corrected`.
        study: Under `published`; None where the study had no such family.
        colour: Whether it does nothing to grey pictures.
        log: Whether a curve reads better on a logarithmic axis.
        final: Whether the result already has the size of the network's input.
    """

    name: str
    axis: str
    honest: Grid
    study: Grid | None = None
    colour: bool = False
    log: bool = False
    final: bool = False

    @property
    def title(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ")

    def grid(self, ranges: Ranges) -> Grid:
        """Give the grid of a protocol.

        Raises:
            UnknownFamilyError: The study had no such family; those that it had are listed.
        """
        found = self.honest if ranges == "honest" else self.study
        if found is None:
            message = (
                f"{self.name} was not part of the study; its families are {', '.join(STUDY)}; "
                "use --protocol corrected"
            )
            raise UnknownFamilyError(message)
        return found

    def members(self, ranges: Ranges, k: int | None = None) -> list[Member]:
        """Give the members of a grid.

        Args:
            ranges: Whose grid.
            k: How many; None takes the family's own number.

        Raises:
            GridError: The grid has no k members: which k it takes, or how the study failed.
            UnknownFamilyError: As `grid`.

        Example:
            >>> [member.at for member in find_family("rotation").members("honest", 3)]
            [90.0, 180.0, 270.0]
        """
        grid = self.grid(ranges)
        wanted = grid.size if k is None else k
        try:
            made = list(grid.make(wanted))
        except GridError as error:
            message = f"{self.name} with k={wanted}: {error}"
            raise GridError(message) from error
        if len(made) < wanted:
            message = (
                f"{self.name} with k={wanted}: list index out of range: the study's grid holds "
                f"{len(made)} members, and there it stopped; --k {len(made)} takes them all"
            )
            raise GridError(message)
        return made[:wanted]


def find_families(names: Sequence[str]) -> list[Family]:
    """Find families by name, in order and each once; `all`, `study` and `medical` mean several.

    Raises:
        UnknownFamilyError: A name that no family bears; all are listed.
    """
    groups = {"all": tuple(FAMILIES), "study": STUDY, "medical": MEDICAL}
    single = [one for name in names for one in groups.get(name, (name,))]
    return [find_family(name) for name in dict.fromkeys(single)]


def find_family(name: str) -> Family:
    """Find a family by name.

    Raises:
        UnknownFamilyError: No family bears this name; all are listed.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    message = (
        f"unknown transform {name!r}{did_you_mean(name, FAMILIES, close_only=True)} (there are "
        f"{', '.join(FAMILIES)}; all, study and medical mean several)"
    )
    raise UnknownFamilyError(message)


def _switch(name: str, apply: Apply, *, colour: bool = False) -> Family:
    return Family(
        name,
        "off or on",
        honest=Grid(apply, grids.switch, 1),
        study=Grid(apply, grids.study_switch, 2),
        colour=colour,
    )


def _factor(name: str, apply: Apply, *, colour: bool = False) -> Family:
    return Family(
        name,
        "factor",
        honest=Grid(apply, grids.two_sided("factor", 2.0, ratio=True), 8),
        study=Grid(apply, grids.study_ramp("factor", 0.25, 5, neutral=1.0), 256),
        colour=colour,
        log=True,
    )


_IN_STUDY = (
    Family(
        "rotation",
        "angle, degrees",
        honest=Grid(
            functions.rotate,
            grids.honest_turns,
            23,
            frame=math.sqrt(2),
            warp=resampling.rotation_source,
        ),
        study=Grid(functions.rotate, grids.study_turns, 256),
    ),
    _switch("h_flip", functions.h_flip),
    _switch("v_flip", functions.v_flip),
    Family(
        "translation",
        "distance, pixels of 224",
        honest=Grid(
            functions.affine,
            grids.compass(16),
            24,
            frame=256 / 224,
            warp=resampling.affine_source,
        ),
        study=Grid(functions.affine, grids.study_translations, 256),
    ),
    Family(
        "scale",
        "scale",
        honest=Grid(
            functions.affine,
            grids.two_sided("scale", 1.25, ratio=True),
            8,
            frame=1.25,
            warp=resampling.affine_source,
        ),
        study=Grid(functions.affine, grids.study_scales, 256),
        log=True,
    ),
    Family(
        "shear",
        "shear, degrees",
        honest=Grid(
            functions.affine,
            grids.two_sided("shear_x", 20),
            8,
            frame=1 + math.tan(math.radians(20)),
            warp=resampling.affine_source,
        ),
        study=Grid(functions.affine, grids.study_shears, 256),
    ),
    Family(
        "resized_crop",
        "side of the crop, share",
        honest=Grid(functions.resized_crop, grids.corner_crops, 20),
        study=Grid(functions.resized_crop, grids.study_crops, 256),
        final=True,
    ),
    Family(
        "deform",
        "displacement, pixels of 224",
        honest=Grid(functions.bend, grids.steps("rms", 1, 6), 8, frame=1 + 2 * 18 / 224),
        study=Grid(functions.jitter_anchors, grids.study_deformations, 256),
    ),
    _switch("grayscale", functions.grayscale, colour=True),
    _factor("brightness", functions.brightness),
    _factor("contrast", functions.contrast),
    _factor("saturation", functions.saturation, colour=True),
    Family(
        "hue",
        "turn of the colour circle",
        honest=Grid(functions.hue, grids.two_sided("turn", 0.1), 8),
        study=Grid(functions.hue, grids.study_ramp("turn", -0.5, 0.5, neutral=0.0), 256),
        colour=True,
    ),
    Family(
        "blur",
        "sigma, pixels of 224",
        honest=Grid(functions.blur, grids.steps("sigma", 0.5, 4), 8),
        study=Grid(functions.study_blur, grids.study_ramp("sigma", 1e-5, 20, neutral=None), 256),
    ),
    Family(
        "sharpness",
        "factor",
        honest=Grid(functions.sharpness, grids.steps("factor", 1.5, 5), 8),
        study=Grid(functions.sharpness, grids.study_ramp("factor", 1, 30, neutral=1.0), 256),
    ),
    _switch("invert", functions.invert),
    _switch("equalize", functions.equalize),
    Family(
        "posterize",
        "bits",
        honest=Grid(functions.posterize, grids.falling_bits, 5),
        study=Grid(functions.posterize, grids.study_bits, 7),
    ),
)

_MEDICAL = (
    Family(
        "gamma",
        "gamma",
        honest=Grid(functions.gamma, grids.two_sided("gamma", 2.0, ratio=True), 8),
        log=True,
    ),
    Family(
        "window_width",
        "width, 1 is all",
        honest=Grid(functions.window, grids.two_sided("width", 1.6, ratio=True), 8),
        log=True,
    ),
    Family(
        "window_level",
        "shift, 1 is black to white",
        honest=Grid(functions.window, grids.two_sided("level", 0.2), 8),
    ),
    Family(
        "gaussian_noise",
        "deviation, 1 is white",
        honest=Grid(functions.gaussian_noise, grids.steps("sigma", 0.01, 0.08), 8),
    ),
    Family(
        "poisson_noise",
        "photons where white",
        honest=Grid(functions.poisson_noise, grids.ratios("photons", 3000, 30), 8),
        log=True,
    ),
    Family("jpeg", "quality", honest=Grid(functions.jpeg, grids.whole("quality", 90, 10), 8)),
    Family(
        "motion_blur",
        "length, pixels of 224",
        honest=Grid(functions.motion_blur, grids.directions(4, 16), 12),
    ),
    Family(
        "bias_field",
        "strength, log of shading",
        honest=Grid(functions.bias_field, grids.steps("strength", 0.1, 0.8), 8),
    ),
    Family(
        "cutout",
        "side, share",
        honest=Grid(functions.cutout, grids.steps("share", 0.05, 0.3), 8),
    ),
)

FAMILIES: Mapping[str, Family] = {one.name: one for one in (*_IN_STUDY, *_MEDICAL)}
"""All families by name."""
STUDY = tuple(one.name for one in _IN_STUDY)
"""Names of the study's families."""
MEDICAL = tuple(one.name for one in _MEDICAL)
"""Names of those that the study had not."""
