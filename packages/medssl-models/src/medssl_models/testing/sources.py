"""Image sources for tests of ours and of plug-in authors: small, seeded, with faults on demand."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

__all__ = ["NoiseSource"]


@dataclass
class NoiseSource:
    """Seeded noise images, a different one in every row; satisfies `ImageSource` by shape.

    Args:
        rows: N.
        side: Height and width.
        seed: Of the noise.
        broken: Rows that raise `OSError`.
        delay: Seconds that reading an image takes.
        stamps: One text a row, or None.
        reads: Rows that were read, in order.

    Example:
        >>> image, label = NoiseSource(rows=3)[2]
        >>> image.size, label
        ((32, 32), 0)
    """

    rows: int
    side: int = 32
    seed: int = 0
    broken: frozenset[int] = frozenset()
    delay: float = 0.0
    stamps: list[str] | None = None
    reads: list[int] = field(default_factory=list)

    name = "noise"

    @property
    def fingerprint(self) -> str:
        """Identity of the images."""
        return f"noise:{self.rows}:{self.side}:{self.seed}"

    @property
    def names(self) -> list[str]:
        """Names as files would have them."""
        return [f"noise-{row}.png" for row in range(self.rows)]

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        """Return an RGB image and the parity of its row.

        Raises:
            OSError: The row is broken.
        """
        self.reads.append(index)
        time.sleep(self.delay)
        if index in self.broken:
            message = "cannot identify image file"
            raise OSError(message)
        stamp = self.stamps[index] if self.stamps else ""
        entropy = [self.seed, index, *stamp.encode()]
        pixels = np.random.default_rng(entropy).integers(0, 256, (self.side, self.side, 3))
        return Image.fromarray(pixels.astype(np.uint8)), index % 2
