"""Finished runs, summarised: the restarts of one image, model and layer as one.

Everything is read from the folders of runs; nothing is measured here.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl_models.errors import did_you_mean

from medssl_dip.errors import SettingsError
from medssl_dip.inversion.run_folder import load_picture, read_finished
from medssl_dip.perceptual.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from medssl_dip.inversion.run_folder import RunIdentity

__all__ = ["RunSummary", "choose_picture", "summarise"]


@dataclass(frozen=True)
class RunSummary:
    """All restarts of one image, model and layer.

    Args:
        identity: Of the first restart.
        paths: One folder a restart, by seed.
        results: What each kept, in the same order, and its seed.
    """

    identity: RunIdentity
    paths: tuple[Path, ...]
    results: tuple[Mapping[str, Any], ...]

    @property
    def file(self) -> Path:
        """The reconstruction of the first restart."""
        return self.paths[0] / str(self.results[0]["file"])

    @property
    def original(self) -> Path:
        """The original that all restarts approached."""
        return self.paths[0] / "original.png"

    @property
    def picture(self) -> str:
        """The image's id in its data set, or the name of its file."""
        return str(self.results[0].get("id", self.identity.picture))

    @property
    def layer(self) -> str:
        """The layer as it was asked for, such as `last`."""
        return str(self.identity.settings["layer"])

    @property
    def side(self) -> int:
        """Side of the picture, pixels."""
        return load_picture(self.original).shape[2]

    @property
    def kept(self) -> list[Mapping[str, Any]]:
        """What the restarts kept that did not diverge."""
        return [result for result in self.results if result["stopped"] != "diverged"]

    @property
    def measured(self) -> dict[str, list[float]]:
        """Metric to its values, one a restart that did not diverge, where all have one."""
        rows = [{"loss": result["loss"], **result.get("fidelity", {})} for result in self.kept]
        return {
            name: [row[name] for row in rows]
            for name in METRICS
            if rows and all(row.get(name) is not None for row in rows)
        }

    @property
    def values(self) -> dict[str, float]:
        """Mean of each metric over the restarts."""
        return {name: statistics.fmean(values) for name, values in self.measured.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a record, as far as the folders tell them."""
        kept = {name: value for name, value in self.identity.settings.items() if name != "protocol"}
        first = self.results[0]
        asked = "published" if self.identity.settings["protocol"] == "published" else "model"
        return kept | {
            "restarts": len(self.paths),
            "padding": first.get("padding", asked),
            "picture": self.picture,
        }


def summarise(runs: Iterable[Path]) -> list[RunSummary]:
    """Summarise finished runs.

    Args:
        runs: Their folders.

    Returns:
        In the order in which the first restarts came.

    Raises:
        RunError: A folder is damaged.

    Example:
        >>> summarise([])
        []
    """
    groups: dict[tuple[str, ...], list[tuple[RunIdentity, Path, dict[str, Any]]]] = {}
    for path in runs:
        identity, result = read_finished(path)
        kept = {**result, "seed": identity.seed}
        groups.setdefault(_all_but_the_seed(identity), []).append((identity, path, kept))
    summaries = []
    for group in groups.values():
        ordered = sorted(group, key=lambda run: run[0].seed)
        identities, paths, results = zip(*ordered, strict=True)
        summaries.append(RunSummary(identities[0], paths, results))
    return summaries


def choose_picture(
    summaries: Sequence[RunSummary], picture: str | None, *, where: Path
) -> list[RunSummary]:
    """Choose the summaries of one picture.

    Args:
        summaries: Of any pictures.
        picture: Its id or name; None where there is only one.
        where: The folder, for messages.

    Raises:
        SettingsError: No finished run, no such picture, or several to choose from.
    """
    if not summaries:
        message = f"{where}: no finished run; make some with: medssl-dip reconstruct IMAGE -m MODEL"
        raise SettingsError(message)
    fitting = [one for one in summaries if picture in {None, one.picture, one.identity.picture}]
    found = sorted({one.picture for one in fitting})
    if not found:
        known = sorted({one.picture for one in summaries})
        message = f"picture: no run of {picture!r} in {where}" + did_you_mean(str(picture), known)
        raise SettingsError(message)
    if len(found) > 1:
        message = f"picture: {where} has runs of {', '.join(found)}; choose one"
        raise SettingsError(message)
    return fitting


def _all_but_the_seed(identity: RunIdentity) -> tuple[str, ...]:
    return tuple(str(value) for name, value in vars(identity).items() if name != "seed")
