"""Maps of models and pictures in a folder: what is there is read, what is not is made.

An unfinished map is kept every few seconds and when the user interrupts; the same call goes on
from there. How long the rest will take is told from the first few batches.
"""

from __future__ import annotations

import dataclasses
import re
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from medssl_data.files import check_writable, drafts
from medssl_models.experiments.record import Provenance, package_versions

from medssl_saliency.map_file import (
    map_key,
    read_map,
    read_partial,
    write_array,
    write_map,
    write_partial,
)
from medssl_saliency.occlusion import DEFAULT_MEMORY
from medssl_saliency.saliency_map import (
    compute_map,
    measurable_positions,
    network_of,
    prepare,
    preprocessing_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medssl_models import Backbone, Preprocessing
    from medssl_models.console import Advance, Progress
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from medssl_saliency.protocols import MapSettings
    from medssl_saliency.saliency_map import Prepared, SaliencyMap
    from medssl_saliency.subjects import Subject

__all__ = ["Mapped", "Maps", "Target", "Viewer", "Voice", "duration"]

KEEP_EVERY = 10.0
"""Seconds between two copies of an unfinished map."""
PROBES = 5
"""Batches, from all over the picture, from which the time is told."""
WORTH_TELLING = 20.0
"""Seconds: a shorter wait is not announced."""


def _silence(_: str) -> None:
    """Say nothing."""


def _count(n: int = 1, *, note: str = "") -> None:
    """Satisfy `Advance` where nothing is shown."""


def _no_progress(description: str, total: int) -> AbstractContextManager[Advance]:  # noqa: ARG001
    return nullcontext(_count)


@dataclass(frozen=True)
class Voice:
    """Where notes, warnings and progress go; nowhere unless said.

    Attributes:
        say: Takes a note.
        warn: Takes a warning.
        progress: Counts windows.
    """

    say: Callable[[str], None] = _silence
    warn: Callable[[str], None] = _silence
    progress: Progress = _no_progress


@dataclass(frozen=True, eq=False)
class Viewer:
    """A backbone under settings, with what is costly to find out about it.

    Attributes:
        backbone: The model.
        settings: How it is asked.
    """

    backbone: Backbone
    settings: MapSettings

    @cached_property
    def network(self) -> nn.Module:
        """The network that is asked."""
        return network_of(self.backbone, self.settings)

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights."""
        return self.backbone.fingerprint

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How pictures reach it."""
        return preprocessing_of(self.backbone, self.settings)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.backbone.name


@dataclass(frozen=True, eq=False)
class Target:
    """Features that are not the picture's own, from which distances are measured.

    Attributes:
        identity: What they are the features of, the same at each run.
        features: `(D,)` float32.
    """

    identity: str
    features: Tensor


@dataclass(frozen=True, eq=False)
class Mapped:
    """A map, whose it is, and where it lies.

    Attributes:
        model: The model's name.
        is_control: Whether the model is an untrained control.
        subject: The picture.
        settings: How the map was asked for.
        made: The map.
        path: Its HDF5 file; the `.npy` and the pictures bear the same name.
        provenance: For records.
        fresh: Whether it was made now.
    """

    model: str
    is_control: bool
    subject: Subject
    settings: MapSettings
    made: SaliencyMap
    path: Path
    provenance: Provenance
    fresh: bool


@dataclass(frozen=True, eq=False)
class Maps:
    """A folder of maps under one way of making them.

    Attributes:
        output: The folder; a folder for each picture is made in it.
        device: Where networks run.
        memory: Bytes for feature maps.
        force: Make again what is there.
        skip_unreadable: Leave unreadable pictures out with a warning.
        voice: Where notes, warnings and progress go.

    Example:
        >>> maps = Maps(Path("saliency"))
        >>> mapped = maps.make(Viewer(create_model("random_r18"), preset()), subject)
    """

    output: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory: int = DEFAULT_MEMORY
    force: bool = False
    skip_unreadable: bool = False
    voice: Voice = field(default_factory=Voice)

    def each(self, viewer: Viewer, subjects: Sequence[Subject]) -> Iterator[Mapped]:
        """Give the map of every picture, in order.

        Args:
            viewer: The model.
            subjects: The pictures.

        Raises:
            OSError: The folder cannot be written.
            ImageError: A picture cannot be occluded; its name is in the message's note.
        """
        told = False
        for number, subject in enumerate(subjects, start=1):
            mapped = self._tried(viewer, subject)
            if mapped is None:
                continue
            yield mapped
            rest = (len(subjects) - number) * mapped.made.seconds
            if mapped.fresh and not told and rest > WORTH_TELLING:
                self.voice.say(
                    f"{viewer.name}: about {duration(rest)} for what remains, "
                    f"{number} of {len(subjects)} pictures are done"
                )
                told = True

    def make(self, viewer: Viewer, subject: Subject, *, target: Target | None = None) -> Mapped:
        """Give the map of one picture: from its file, or made and written to it.

        Args:
            viewer: The model.
            subject: The picture.
            target: From what occlusion measures distances; None is the picture itself.
        """
        prepared = prepare(subject.read(), viewer.preprocessing, viewer.settings)
        identity = _identity(viewer, prepared)
        if target is not None:
            identity["target"] = target.identity
            prepared = dataclasses.replace(prepared, target=target.features)
        key = map_key(identity)
        path = self.folder(subject) / f"{file_name(viewer, key)}.h5"
        made = None if self.force else read_map(path, key=key)
        fresh = made is None
        if made is None:
            array, partial = path.with_suffix(".npy"), _partial(path)
            own = (path, array, partial)
            left_over = [draft for draft, file in drafts(path.parent).items() if file in own]
            made = self._compute(viewer, subject, prepared, path=path, key=key)
            write_array(array, made.values)
            write_map(path, made, key=key, identity=identity)
            for file in (partial, *left_over):
                file.unlink(missing_ok=True)
        return Mapped(
            model=viewer.name,
            is_control=viewer.backbone.card.control,
            subject=subject,
            settings=viewer.settings,
            made=made,
            path=path,
            provenance=self.provenance(viewer, subject, prepared.fingerprint),
            fresh=fresh,
        )

    def folder(self, subject: Subject) -> Path:
        """Where everything about a picture lies."""
        return self.output / _fit(subject.dataset) / subject.name

    def provenance(self, viewer: Viewer, subject: Subject, images: str) -> Provenance:
        """Describe where a number of a model on a picture, or on a set of them, comes from."""
        return Provenance(
            model=viewer.name,
            weights=viewer.weights,
            preprocessing=viewer.preprocessing.fingerprint,
            padding=viewer.backbone.card.padding,
            dataset=subject.dataset or subject.name,
            images=images,
            protocol=viewer.settings.protocol,
            seed=viewer.settings.seed,
            device=self.device.type,
            precision=viewer.settings.precision,
            versions=package_versions(),
        )

    def _tried(self, viewer: Viewer, subject: Subject) -> Mapped | None:
        try:
            return self.make(viewer, subject)
        except Exception as error:
            if not self.skip_unreadable or getattr(error, "exit_code", None) != 3:
                error.add_note(f"picture {subject.name}")
                raise
            self.voice.warn(f"{subject.name} is left out: {error}")
            return None

    def _compute(
        self, viewer: Viewer, subject: Subject, prepared: Prepared, *, path: Path, key: str
    ) -> SaliencyMap:
        settings, partial = viewer.settings, _partial(path)
        check_writable(path.parent, option="--output")
        label = f"{viewer.name} on {subject.name}"
        occluded = settings.method == "occlusion"
        number = len(measurable_positions(prepared.size, settings)) if occluded else 1
        known = None if self.force else read_partial(partial, key=key, number=number)
        if known is not None:
            done = int(np.isfinite(known).sum())
            self.voice.say(f"{label}: going on after {done:,} windows")
        with ExitStack() as bars:
            watch = _Watch(label, partial, key=key, voice=self.voice, bars=bars)
            if settings.fidelity is None:
                watch.count_to(number)
            try:
                made = compute_map(
                    viewer.network,
                    prepared,
                    settings,
                    device=self.device,
                    memory=self.memory,
                    known=known,
                    report=watch,
                )
            except KeyboardInterrupt as stop:
                watch.stop(stop)
                raise
        for note in made.notes:
            self.voice.warn(f"{label}: {note}")
        if made.error is not None:
            self.voice.say(f"{label}: {made.error}")
        return made


class _Watch:
    """Follows a map while it is made: counts, keeps, tells the time."""

    def __init__(
        self, label: str, partial: Path, *, key: str, voice: Voice, bars: ExitStack
    ) -> None:
        self.label, self.partial, self.key = label, partial, key
        self.voice, self.bars = voice, bars
        self.kept = time.perf_counter()
        self.reports: list[tuple[float, float]] = []
        self.number = self.counted = 0
        self.advance: Advance = _count
        self.scores: NDArray[np.float32] | None = None

    def __call__(self, scores: NDArray[np.float32], number: int, share: float) -> None:
        now = time.perf_counter()
        self.scores = scores
        if number > self.number:
            self.count_to(number)
        done = int(np.isfinite(scores).sum())
        self.advance(done - self.counted)
        self.counted = done
        if len(self.reports) < PROBES:
            self.reports.append((now, share))
            self._tell_time()
        if now - self.kept > KEEP_EVERY:
            self._keep()

    def count_to(self, number: int) -> None:
        """Count up to a number from now on; of a near-exact map it is known bit by bit."""
        self.bars.close()
        more = f", {self.number:,} windows were too few" if self.number else ""
        rest = number - self.counted
        self.advance = self.bars.enter_context(self.voice.progress(self.label + more, rest))
        self.number, self.reports = number, []

    def stop(self, interrupt: KeyboardInterrupt) -> None:
        """Keep what there is, and have the interruption say so."""
        if self.scores is None:
            return
        self._keep()
        interrupt.add_note(
            f"{self.counted:,} of {self.number:,} windows of {self.label} are kept in "
            f"{self.partial.parent}; the same command goes on from there"
        )

    def _keep(self) -> None:
        if self.scores is not None:
            write_partial(self.partial, self.scores, key=self.key)
        self.kept = time.perf_counter()

    def _tell_time(self) -> None:
        """Tell the rest from the probes, without the first, in which everything is set up."""
        if len(self.reports) < PROBES:
            return
        (start, before), (end, after) = self.reports[0], self.reports[-1]
        rest = (end - start) / max(after - before, 1e-9) * (1 - after)
        if rest > WORTH_TELLING:
            self.voice.say(
                f"{self.label}: {self.number:,} windows, about {duration(rest)}; "
                "an interruption keeps what is done"
            )


def duration(seconds: float) -> str:
    """Say a time in words.

    Example:
        >>> duration(95)
        '2 min'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def file_name(viewer: Viewer, key: str) -> str:
    """Name the files of a map: model, method and the start of its key."""
    return f"{_fit(viewer.name)}-{viewer.settings.method}-{key[:8]}"


def _identity(viewer: Viewer, prepared: Prepared) -> dict[str, object]:
    return {
        "weights": viewer.weights,
        "model": viewer.name,
        "preprocessing": viewer.preprocessing.fingerprint,
        "settings": viewer.settings.model_dump(mode="json"),
        "picture": prepared.fingerprint,
    }


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial.npz")


def _fit(name: str) -> str:
    """Make a model's or data set's name fit for a file."""
    return re.sub(r"[^\w.+-]+", "-", Path(name).name if "/" in name else name).strip("-")
