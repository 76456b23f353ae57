"""A data set that a model can be fed with: lazy, picklable, indexed.

Holds a manifest and decodes a picture when it is asked for; whoever consumes it resizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from medssl_data.errors import EmptySourceError
from medssl_data.images.decoding import is_volume, read_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy.typing as npt
    from PIL import Image

    from medssl_data.card import DatasetCard
    from medssl_data.images.cache import PictureCache
    from medssl_data.manifest import Manifest

__all__ = ["ImageDataset"]


@dataclass(frozen=True, repr=False)
class ImageDataset:
    """Images and labels of a manifest, decoded on demand.

    Rows that the label policy left out are dropped. Satisfies the `ImageSource` protocol of
    medssl_models without knowing it.

    Args:
        manifest: Which images.
        card: What is known about the data set, where there is a card.
        cache: Keeps prepared pictures on disk; see `derive`.

    Raises:
        EmptySourceError: No labelled image is left.

    Example:
        >>> from medssl_data import load_dataset
        >>> data = load_dataset("phantom:chest-xray,count=20")
        >>> image, label = data[0]
        >>> image.mode, data.classes[label]
        ('RGB', 'normal')
    """

    manifest: Manifest
    card: DatasetCard | None = None
    cache: PictureCache | None = None

    thread_safe: ClassVar[bool] = True
    """Several threads may ask for pictures at a time: every call opens the file anew."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "manifest", self.manifest.filter(labelled=True))
        if not len(self.manifest):
            message = f"{self.name} has no labelled image; check its folder and the label policy"
            raise EmptySourceError(message)

    def __len__(self) -> int:
        return len(self.manifest)

    def __repr__(self) -> str:
        return f"<ImageDataset {self.manifest.summary()}>"

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Decode one picture.

        Args:
            index: Position in [-N, N).

        Returns:
            A PIL image of mode RGB and the label.

        Raises:
            UnreadableImageError: The file is not a picture; its name is in the message.
            MissingFileError: The file is gone.
        """
        return self.image(index), self.manifest.labels[index]

    def image(self, index: int) -> Image.Image:
        """Decode one picture to RGB."""
        manifest = self.manifest
        path, item = manifest.paths[index], manifest.items[index]
        if manifest.drawer is not None:
            return manifest.drawer(item)
        return read_rgb(manifest.root / path, item=item, reading=manifest.reading)[0]

    def derive(
        self, index: int, recipe: str, make: Callable[[Image.Image], Image.Image]
    ) -> Image.Image:
        """Return `make(image)`, from the cache where there is one and it was made before.

        Pictures inside archives and drawn ones are not kept: they are read as fast as a cache is.

        Args:
            index: Position in [-N, N).
            recipe: Names what `make` does, its settings included; another text is another picture.
            make: Prepares a picture, such as resizing and cropping; pure.
        """
        manifest, item = self.manifest, self.manifest.items[index]
        path = manifest.root / manifest.paths[index]
        in_archive = item and not is_volume(path)
        if self.cache is None or manifest.drawer is not None or in_archive:
            return make(self.image(index))
        whole = f"{manifest.reading.model_dump_json()} {item} {recipe}"
        return self.cache.picture(path, whole, lambda: make(self.image(index)))

    @property
    def name(self) -> str:
        """What the data set is called in records, whatever was selected of it."""
        return self.manifest.name

    @property
    def selection(self) -> dict[str, str]:
        """What was taken of the data set where its name alone means another thing.

        Names and values have one spelling and one order: two data sets of one name and selection,
        label policy and split differ in their files only. An empty selection is the data set as
        its card or its source has it.

        Example:
            >>> from medssl_data import load_dataset
            >>> load_dataset("phantom:chest-xray,seed=01,view=frontal,size=256").selection
            {'view': 'frontal', 'seed': '1'}
        """
        return dict(self.manifest.selection)

    @property
    def fingerprint(self) -> str:
        """Identity of the images in order, without labels, patients and splits."""
        return self.manifest.images_fingerprint

    @property
    def stamps(self) -> tuple[str, ...]:
        """Size and mtime_ns of each row's file, (N,)."""
        return self.manifest.stamps

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) int64 in [0, number of classes)."""
        labels = np.asarray(self.manifest.labels, np.int64)
        labels.flags.writeable = False
        return labels

    @property
    def targets(self) -> npt.NDArray[np.float32] | None:
        """(N,) float32 soft targets of class 1 in [0, 1], where the label policy makes them."""
        soft = self.manifest.targets
        return None if soft is None else np.asarray(soft, np.float32)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.manifest.classes

    @property
    def ids(self) -> tuple[str, ...]:
        """Unique names of the images, (N,)."""
        return self.manifest.ids

    @property
    def groups(self) -> tuple[str, ...]:
        """Patient of each image, (N,); "" is unknown."""
        return self.manifest.groups

    @property
    def views(self) -> tuple[str, ...]:
        """View of each image, (N,); "" is unknown."""
        return self.manifest.views

    @property
    def attributes(self) -> Mapping[str, tuple[str, ...]]:
        """Further columns by name, such as sex, age and site, each (N,); "" is missing."""
        return self.manifest.attributes

    @property
    def splits(self) -> tuple[str, ...]:
        """Split of each image, (N,); "" is none."""
        return self.manifest.splits

    @property
    def published_pictures(self) -> tuple[str, ...]:
        """Ids of the picture that stood for this data set in the study, where it is here."""
        named = () if self.card is None else self.card.published_pictures
        return tuple(name for name in named if name in self.ids)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that every record made from these images must carry."""
        return self.manifest.notes

    def select(self, indices: Iterable[int]) -> ImageDataset:
        """Return the images at these positions, in this order.

        Example:
            >>> from medssl_data import load_dataset
            >>> load_dataset("phantom:chest-xray,count=20").select([3, 1]).ids
            ('patient00001/0', 'patient00000/1')
        """
        return ImageDataset(self.manifest.select(indices), self.card, self.cache)

    def split(self, name: str) -> ImageDataset:
        """Return the images of one split.

        Raises:
            ManifestError: There is no such split.

        Example:
            >>> from medssl_data import load_dataset
            >>> len(load_dataset("phantom:chest-xray").split("test"))
            48
        """
        return ImageDataset(self.manifest.filter(split=name), self.card, self.cache)
