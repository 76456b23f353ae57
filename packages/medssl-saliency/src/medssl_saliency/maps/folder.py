"""A folder of maps: what is there is read, what is not is computed and written.

An unfinished map is kept every few seconds and when the user interrupts; the same call goes on
from there.
"""

from __future__ import annotations

import dataclasses
import re
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from medssl_models.features.runtime import resolve_device
from medssl_models.files import check_writable, clear_drafts
from medssl_models.preprocessing import resampling

from medssl_saliency.engine.occlusion import DEFAULT_MEMORY
from medssl_saliency.maps.computing import compute_map, measurable_positions
from medssl_saliency.maps.progress import WORTH_TELLING, Watch, duration
from medssl_saliency.maps.storage import (
    map_key,
    read_map,
    read_partial,
    write_array,
    write_map,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from medssl_models import RunContext
    from torch import Tensor

    from medssl_saliency.images import ImageItem
    from medssl_saliency.maps.computing import SaliencyMap
    from medssl_saliency.maps.preparation import FeatureExtractor, Prepared

__all__ = ["MapFolder", "StoredMap", "Target"]


@dataclass(frozen=True, eq=False)
class Target:
    """Features that are not the picture's own, from which distances are measured.

    Args:
        identity: What they are the features of, the same at each run.
        features: `(D,)` float32.
    """

    identity: str
    features: Tensor


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A map, whose it is, and where it lies.

    Args:
        extractor: The model, and how the map was asked for.
        item: The image.
        map: The map.
        fingerprint: Of the decoded image.
        path: Its HDF5 file; the `.npy` and the pictures bear the same name. None where it is not
            kept.
        fresh: Whether it was computed now.
    """

    extractor: FeatureExtractor
    item: ImageItem
    map: SaliencyMap
    fingerprint: str
    path: Path | None
    fresh: bool

    @property
    def model(self) -> str:
        """The model's name."""
        return self.extractor.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What every number of the map must carry, beside its approximation."""
        signed = (
            ("signed map: numbers of its absolute values",) if self.map.values.min() < 0 else ()
        )
        return (*self.map.notes, *signed)


@dataclass(frozen=True, eq=False)
class MapFolder:
    """Maps of models and images, kept in a folder where the context names one.

    Args:
        context: Output folder, device, whether to do again what is there or to leave unreadable
            images out, and where notes, warnings and progress go.
        memory: Bytes for feature maps.

    Example:
        >>> from medssl_models import RunContext, create_model
        >>> from PIL import Image
        >>> from medssl_saliency import FeatureExtractor, from_files, preset
        >>> Image.new("RGB", (40, 30)).save("scan.png")
        >>> extractor = FeatureExtractor(create_model("random_r18"), preset(stride=8, crop=32))
        >>> (item,) = from_files(["scan.png"])
        >>> stored = MapFolder(RunContext()).load_or_compute(extractor, item)
        >>> stored.map.values.shape
        (32, 32)
    """

    context: RunContext
    memory: int = DEFAULT_MEMORY

    @cached_property
    def device(self) -> torch.device:
        """Where networks run."""
        return resolve_device(self.context.extracting.device)

    def maps(self, extractor: FeatureExtractor, items: Sequence[ImageItem]) -> Iterator[StoredMap]:
        """Yield the map of every image, in order.

        Args:
            extractor: The model.
            items: The images.

        Raises:
            OSError: The folder cannot be written.
            ImageError: An image cannot be occluded; its name is in the message's note.
        """
        told = False
        for number, item in enumerate(items, start=1):
            stored = self._tried(extractor, item)
            if stored is None:
                continue
            yield stored
            rest = (len(items) - number) * stored.map.seconds
            if stored.fresh and not told and rest > WORTH_TELLING:
                self.context.say(
                    f"{extractor.name}: about {duration(rest)} for what remains, "
                    f"{number} of {len(items)} pictures are done"
                )
                told = True

    def load_or_compute(
        self, extractor: FeatureExtractor, item: ImageItem, *, target: Target | None = None
    ) -> StoredMap:
        """Read the map of an image from its file, or compute it and write it there.

        Args:
            extractor: The model.
            item: The image.
            target: From what occlusion measures distances; None is the image itself.
        """
        prepared = extractor.prepare(item.read())
        identity = _identity(extractor, prepared)
        if target is not None:
            identity["target"] = target.identity
            prepared = dataclasses.replace(prepared, target=target.features)
        key = map_key(identity)
        folder = self.folder(item)
        path = None if folder is None else folder / f"{_file_name(extractor, key)}.h5"
        found = None if path is None or self.context.force else read_map(path, key=key)
        fresh = found is None
        if found is None:
            found = self._compute(extractor, item, prepared, path=path, key=key)
            if path is not None:
                array, partial = path.with_suffix(".npy"), _partial(path)
                write_array(array, found.values)
                write_map(path, found, key=key, identity=identity)
                partial.unlink(missing_ok=True)
                clear_drafts(path.parent)
        return StoredMap(extractor, item, found, prepared.fingerprint, path, fresh)

    def folder(self, item: ImageItem) -> Path | None:
        """Where everything about an image lies; None where nothing is kept."""
        output = self.context.output
        return None if output is None else output / _fit(item.dataset) / item.name

    def aside(self, name: str) -> MapFolder:
        """Return the folder of this name in this one."""
        output = self.context.output
        inner = None if output is None else output / name
        return dataclasses.replace(self, context=dataclasses.replace(self.context, output=inner))

    def _tried(self, extractor: FeatureExtractor, item: ImageItem) -> StoredMap | None:
        try:
            return self.load_or_compute(extractor, item)
        except Exception as error:
            skipping = self.context.extracting.skip_unreadable
            if not skipping or getattr(error, "exit_code", None) != 3:
                error.add_note(f"picture {item.name}")
                raise
            self.context.warn(f"{item.name} is left out: {error}")
            return None

    def _compute(
        self,
        extractor: FeatureExtractor,
        item: ImageItem,
        prepared: Prepared,
        *,
        path: Path | None,
        key: str,
    ) -> SaliencyMap:
        settings, context = extractor.settings, self.context
        label = f"{extractor.name} on {item.name}"
        occluded = settings.method == "occlusion"
        number = len(measurable_positions(prepared.size, settings)) if occluded else 1
        partial = known = None
        if path is not None:
            check_writable(path.parent, option="output")
            partial = _partial(path)
            known = None if context.force else read_partial(partial, key=key, number=number)
        if known is not None:
            context.say(f"{label}: going on after {int(np.isfinite(known).sum()):,} windows")
        with ExitStack() as bars:
            watch = Watch(label, partial, key=key, context=context, bars=bars)
            if settings.fidelity is None:
                watch.count_to(number)
            try:
                made = compute_map(
                    extractor.network,
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
            context.warn(f"{label}: {note}")
        if made.approximation is not None:
            context.say(f"{label}: {made.approximation}")
        return made


def _file_name(extractor: FeatureExtractor, key: str) -> str:
    """Name the files of a map: model, method and the start of its key."""
    return f"{_fit(extractor.name)}-{extractor.settings.method}-{key[:8]}"


def _identity(extractor: FeatureExtractor, prepared: Prepared) -> dict[str, object]:
    return {
        "weights": extractor.weights,
        "model": extractor.name,
        "preprocessing": extractor.preprocessing.fingerprint,
        "settings": extractor.settings.of_the_map(),
        "picture": prepared.fingerprint,
        **resampling(),
    }


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.stem}.partial.npz")


def _fit(name: str) -> str:
    """Make a model's or data set's name fit for a file."""
    return re.sub(r"[^\w.+-]+", "-", Path(name).name if "/" in name else name).strip("-")
