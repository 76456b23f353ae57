"""The families of transforms: how each is applied, and over which members under each protocol.

A family is a record: two grids out of `grids`, transforms out of `functions`. Those of the 2022
study come first, those that medicine adds after them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medssl_models.errors import did_you_mean

from medssl_invariance.errors import GridError, UnknownFamilyError
from medssl_invariance.transforms import functions, grids, resampling

if TYPE_CHECKING:
    from medssl_invariance.transforms.grids import Maker, Member
    from medssl_invariance.transforms.resampling import Warp

__all__ = ["FAMILIES", "MEDICAL", "PUBLISHED", "Family", "Grid", "find_families", "find_family"]

Ranges = Literal["corrected", "published"]
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
        name: As a user types it.
        axis: What the place of a member on a curve means, with its unit.
        corrected: What a scanner, a viewer or a technician could do.
        published: The study's way; None where it had no such family.
        colour: Whether it does nothing to grey pictures.
        log: Whether a curve reads better on a logarithmic axis.
        final: Whether the result already has the size of the network's input.
    """

    name: str
    axis: str
    corrected: Grid
    published: Grid | None = None
    colour: bool = False
    log: bool = False
    final: bool = False

    @property
    def title(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ")

    def grid(self, ranges: Ranges) -> Grid:
        """Return the grid of a protocol.

        Raises:
            UnknownFamilyError: The study had no such family; those that it had are listed.
        """
        found = self.corrected if ranges == "corrected" else self.published
        if found is None:
            message = (
                f"{self.name} was not part of the study, whose families are "
                f"{', '.join(PUBLISHED)}; the corrected protocol has it"
            )
            raise UnknownFamilyError(message)
        return found

    def members(self, ranges: Ranges, k: int | None = None) -> list[Member]:
        """List the members of a grid.

        Args:
            ranges: Whose grid.
            k: How many; None takes the family's own number.

        Raises:
            GridError: The grid has no k members: which k it takes, or how the study failed.
            UnknownFamilyError: As `grid`.

        Example:
            >>> [member.at for member in find_family("rotation").members("corrected", 3)]
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
                f"{len(made)} members, and there it stopped; k={len(made)} takes them all"
            )
            raise GridError(message)
        return made[:wanted]


def find_families(names: Sequence[str]) -> list[Family]:
    """Find families by name, in order and each once; `all`, `published`, `medical` mean several.

    Args:
        names: Families or groups of them.

    Raises:
        UnknownFamilyError: A name that no family bears; all are listed.

    Example:
        >>> [family.title for family in find_families(["gamma", "h_flip", "gamma"])]
        ['gamma', 'h flip']
    """
    groups = {"all": tuple(FAMILIES), "published": PUBLISHED, "medical": MEDICAL}
    single = [one for name in names for one in groups.get(name, (name,))]
    return [find_family(name) for name in dict.fromkeys(single)]


def find_family(name: str) -> Family:
    """Find a family by name.

    Raises:
        UnknownFamilyError: No family bears this name; all are listed.

    Example:
        >>> find_family("rotation").axis
        'angle, degrees'
    """
    if name in FAMILIES:
        return FAMILIES[name]
    message = (
        f"unknown transform {name!r}{did_you_mean(name, FAMILIES, close_only=True)} (there are "
        f"{', '.join(FAMILIES)}; all, published and medical mean several)"
    )
    raise UnknownFamilyError(message)


def _switch(name: str, apply: Apply, *, colour: bool = False) -> Family:
    return Family(
        name,
        "off or on",
        corrected=Grid(apply, grids.switch, 1),
        published=Grid(apply, grids.published_switch, 2),
        colour=colour,
    )


def _factor(name: str, apply: Apply, *, colour: bool = False) -> Family:
    return Family(
        name,
        "factor",
        corrected=Grid(apply, grids.two_sided("factor", 2.0, ratio=True), 8),
        published=Grid(apply, grids.published_ramp("factor", 0.25, 5, neutral=1.0), 256),
        colour=colour,
        log=True,
    )


_PUBLISHED = (
    Family(
        "rotation",
        "angle, degrees",
        corrected=Grid(
            functions.rotate,
            grids.corrected_turns,
            23,
            frame=math.sqrt(2),
            warp=resampling.rotation_source,
        ),
        published=Grid(functions.rotate, grids.published_turns, 256),
    ),
    _switch("h_flip", functions.h_flip),
    _switch("v_flip", functions.v_flip),
    Family(
        "translation",
        "distance, pixels of 224",
        corrected=Grid(
            functions.affine,
            grids.compass(16),
            24,
            frame=256 / 224,
            warp=resampling.affine_source,
        ),
        published=Grid(functions.affine, grids.published_translations, 256),
    ),
    Family(
        "scale",
        "scale",
        corrected=Grid(
            functions.affine,
            grids.two_sided("scale", 1.25, ratio=True),
            8,
            frame=1.25,
            warp=resampling.affine_source,
        ),
        published=Grid(functions.affine, grids.published_scales, 256),
        log=True,
    ),
    Family(
        "shear",
        "shear, degrees",
        corrected=Grid(
            functions.affine,
            grids.two_sided("shear_x", 20),
            8,
            frame=1 + math.tan(math.radians(20)),
            warp=resampling.affine_source,
        ),
        published=Grid(functions.affine, grids.published_shears, 256),
    ),
    Family(
        "resized_crop",
        "side of the crop, share",
        corrected=Grid(functions.resized_crop, grids.corner_crops, 20),
        published=Grid(functions.resized_crop, grids.published_crops, 256),
        final=True,
    ),
    Family(
        "deform",
        "displacement, pixels of 224",
        corrected=Grid(functions.bend, grids.steps("rms", 1, 6), 8, frame=1 + 2 * 18 / 224),
        published=Grid(functions.jitter_anchors, grids.published_deformations, 256),
    ),
    _switch("grayscale", functions.grayscale, colour=True),
    _factor("brightness", functions.brightness),
    _factor("contrast", functions.contrast),
    _factor("saturation", functions.saturation, colour=True),
    Family(
        "hue",
        "turn of the colour circle",
        corrected=Grid(functions.hue, grids.two_sided("turn", 0.1), 8),
        published=Grid(functions.hue, grids.published_ramp("turn", -0.5, 0.5, neutral=0.0), 256),
        colour=True,
    ),
    Family(
        "blur",
        "sigma, pixels of 224",
        corrected=Grid(functions.blur, grids.steps("sigma", 0.5, 4), 8),
        published=Grid(
            functions.published_blur, grids.published_ramp("sigma", 1e-5, 20, neutral=None), 256
        ),
    ),
    Family(
        "sharpness",
        "factor",
        corrected=Grid(functions.sharpness, grids.steps("factor", 1.5, 5), 8),
        published=Grid(
            functions.sharpness, grids.published_ramp("factor", 1, 30, neutral=1.0), 256
        ),
    ),
    _switch("invert", functions.invert),
    _switch("equalize", functions.equalize),
    Family(
        "posterize",
        "bits",
        corrected=Grid(functions.posterize, grids.falling_bits, 5),
        published=Grid(functions.posterize, grids.published_bits, 7),
    ),
)

_MEDICAL = (
    Family(
        "gamma",
        "gamma",
        corrected=Grid(functions.gamma, grids.two_sided("gamma", 2.0, ratio=True), 8),
        log=True,
    ),
    Family(
        "window_width",
        "width, 1 is all",
        corrected=Grid(functions.window, grids.two_sided("width", 1.6, ratio=True), 8),
        log=True,
    ),
    Family(
        "window_level",
        "shift, 1 is black to white",
        corrected=Grid(functions.window, grids.two_sided("level", 0.2), 8),
    ),
    Family(
        "gaussian_noise",
        "deviation, 1 is white",
        corrected=Grid(functions.gaussian_noise, grids.steps("sigma", 0.01, 0.08), 8),
    ),
    Family(
        "poisson_noise",
        "photons where white",
        corrected=Grid(functions.poisson_noise, grids.ratios("photons", 3000, 30), 8),
        log=True,
    ),
    Family("jpeg", "quality", corrected=Grid(functions.jpeg, grids.whole("quality", 90, 10), 8)),
    Family(
        "motion_blur",
        "length, pixels of 224",
        corrected=Grid(functions.motion_blur, grids.directions(4, 16), 12),
    ),
    Family(
        "bias_field",
        "strength, log of shading",
        corrected=Grid(functions.bias_field, grids.steps("strength", 0.1, 0.8), 8),
    ),
    Family(
        "cutout",
        "side, share",
        corrected=Grid(functions.cutout, grids.steps("share", 0.05, 0.3), 8),
    ),
)

FAMILIES: Mapping[str, Family] = {one.name: one for one in (*_PUBLISHED, *_MEDICAL)}
"""All families by name."""
PUBLISHED = tuple(one.name for one in _PUBLISHED)
"""Names of the study's families."""
MEDICAL = tuple(one.name for one in _MEDICAL)
"""Names of those that the study had not."""
