"""LPIPS, the learned perceptual distance, from torchmetrics; trunks come from local files only.

torchmetrics bundles the learned heads. The trunks are torchvision's ImageNet networks, which their
owner must bring once; nothing here opens a connection.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from medssl_models.checkpoints.torch_file import read_torch_file
from medssl_models.library import home
from torch import Tensor, nn

from medssl_dip.errors import ImageRangeError, ImageSizeError, MissingTrunkError, TrunkError

if TYPE_CHECKING:
    from torchmetrics.functional.image.lpips import _LPIPS

__all__ = [
    "NETS",
    "TRUNKS",
    "NetName",
    "Perceptual",
    "TrunkFile",
    "find_trunk",
    "load_perceptual",
    "missing_trunks",
    "trunk_folders",
]

NetName = Literal["alex", "vgg", "squeeze"]
NETS: tuple[NetName, ...] = get_args(NetName)
SMALLEST = 32
"""Side in pixels below which AlexNet's maps vanish."""


@dataclass(frozen=True)
class TrunkFile:
    """One of torchvision's weights files, named as torchvision names it.

    Args:
        filename: Its last part before the suffix is the start of the file's SHA-256.
        url: Where torchvision serves it.
    """

    filename: str
    url: str

    @property
    def hash_start(self) -> str:
        """First eight hexadecimal digits of the file's SHA-256."""
        return self.filename.removesuffix(".pth").rpartition("-")[2]


_ORIGIN = "https://download.pytorch.org/models"
TRUNKS: Mapping[NetName, TrunkFile] = {
    net: TrunkFile(name, f"{_ORIGIN}/{name}")
    for net, name in (
        ("alex", "alexnet-owt-7be5be79.pth"),
        ("vgg", "vgg16-397923af.pth"),
        ("squeeze", "squeezenet1_1-b8a52dc0.pth"),
    )
}


class Perceptual(nn.Module):
    """LPIPS v0.1 of one net, without its downloads.

    Zero is the same picture; about 0.7 is a picture that has nothing in common with the other.

    Args:
        net: Which trunk and heads.
        trunk: Tensors of torchvision's network, `features.0.weight` and so on; heads of the
            classifier are ignored.

    Raises:
        TrunkError: A tensor is missing or has another shape.
    """

    def __init__(self, net: NetName, trunk: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        self.metric = _untrained(net)
        own = self.metric.net.state_dict()
        # torchmetrics cuts torchvision's `features` into slices but keeps the numbers inside.
        names = {name: re.sub(r"^slices?\.?\d+\.", "features.", name) for name in own}
        faults = [
            source
            for name, source in names.items()
            if source not in trunk or trunk[source].shape != own[name].shape
        ]
        if faults:
            message = f"trunk: not torchvision's {net}: {faults[0]} is missing or has another shape"
            raise TrunkError(message)
        self.metric.net.load_state_dict({name: trunk[source] for name, source in names.items()})
        self.requires_grad_(requires_grad=False).eval()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare pictures pairwise.

        Args:
            first: (N, 3, H, W) float32 in [0, 1], at least 32 x 32.
            second: The same shape.

        Returns:
            (N,) float32, at least 0.

        Raises:
            ImageRangeError: A value is not finite or outside [0, 1].
            ImageSizeError: The shapes differ, or a side is shorter than 32.
        """
        check_pictures(first, second, smallest=SMALLEST)
        distances: Tensor = self.metric(first, second, normalize=True)
        return distances.flatten()


def _untrained(net: NetName) -> _LPIPS:
    """The metric with its heads; the public class has no way around the download."""
    from torchmetrics.functional.image.lpips import _LPIPS  # noqa: PLC0415, PLC2701 # see above

    return _LPIPS(net=net, pretrained=True, pnet_rand=True)


def check_pictures(first: Tensor, second: Tensor, *, smallest: int) -> None:
    """Refuse what a measure would turn into a silent bad number.

    Raises:
        ImageRangeError: As in `Perceptual.forward`.
        ImageSizeError: The same.
    """
    for name, pictures in (("first", first), ("second", second)):
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
            message = (
                f"{name}: expected floating (N, 3, H, W), got {pictures.dtype} "
                f"{tuple(pictures.shape)}"
            )
            raise ImageSizeError(message)
        low, high = (float(value) for value in torch.aminmax(pictures))
        if not (low >= 0 and high <= 1):
            message = (
                f"{name}: values from {low:.4g} to {high:.4g} are not finite or outside [0, 1]; "
                "divide 8-bit pictures by 255, and clip"
            )
            raise ImageRangeError(message)
    if first.shape != second.shape or min(first.shape[2:]) < smallest:
        sizes = " and ".join(f"{p.shape[3]} x {p.shape[2]}" for p in (first, second))
        message = f"pictures must be of one size, at least {smallest} x {smallest}; got {sizes}"
        raise ImageSizeError(message)


def trunk_folders(extra: Path | None = None) -> tuple[Path, ...]:
    """Give the folders that are searched for trunks, in order.

    They are `extra`, `home() / "perceptual"` and torch's own cache, where earlier programs may have
    left the same files.
    """
    cache = Path(os.environ.get("TORCH_HOME") or Path("~/.cache/torch").expanduser())
    own = (home() / "perceptual", cache / "hub" / "checkpoints")
    return own if extra is None else (extra, *own)


def find_trunk(net: NetName, folders: Sequence[Path]) -> Path | None:
    """Give the trunk's file from the first folder that has it."""
    paths = (folder / TRUNKS[net].filename for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def missing_trunks(nets: Iterable[NetName], folders: Sequence[Path]) -> MissingTrunkError | None:
    """Say what must be brought for some nets, or None when all is there."""
    wanted = [TRUNKS[net] for net in nets if find_trunk(net, folders) is None]
    if not wanted:
        return None
    files = ", ".join(f"{trunk.filename} from {trunk.url}" for trunk in wanted)
    target = folders[0] if folders else home() / "perceptual"
    return MissingTrunkError(
        f"LPIPS needs weights that are not here: bring {files} and put them into {target}; "
        "or measure without them (--net none)"
    )


def load_perceptual(
    nets: Iterable[NetName] = NETS, *, folder: Path | None = None
) -> dict[NetName, Perceptual]:
    """Load LPIPS from local files.

    Args:
        nets: Which trunks.
        folder: Searched first; see `trunk_folders`.

    Returns:
        One metric a net.

    Raises:
        MissingTrunkError: A file is not here; says which, from where, and where to put it.
        TrunkError: A file is not what its name promises.
    """
    wanted = tuple(nets)
    folders = trunk_folders(folder)
    missing = missing_trunks(wanted, folders)
    if missing:
        raise missing
    return {net: Perceptual(net, _read(path)) for net in wanted if (path := find_trunk(net, folders))}


def _read(path: Path) -> Mapping[str, Tensor]:
    start = next(trunk.hash_start for trunk in TRUNKS.values() if trunk.filename == path.name)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(start):
        message = (
            f"{path}: SHA-256 begins with {found[:8]}, not with {start}; the file is damaged or "
            "another one: bring it again"
        )
        raise TrunkError(message)
    return read_torch_file(path)
