"""LPIPS, the learned perceptual distance, from torchmetrics; trunks come from local files only.

torchmetrics bundles the learned heads. The trunks are torchvision's ImageNet networks, which their
owner must bring once; nothing here opens a connection.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from medssl_models.hub.lpips_trunks import find_trunk, missing_trunks, read_trunk
from torch import Tensor, nn

from medssl_dip.errors import ImageRangeError, ImageSizeError, LibraryError, TrunkError
from medssl_dip.perceptual.metrics import NETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from medssl_dip.perceptual.metrics import NetName

__all__ = ["LPIPS", "check_pictures", "load_lpips", "nets_here", "trunk_name"]

SMALLEST = 32
"""Side in pixels below which AlexNet's maps vanish."""


class LPIPS(nn.Module):
    """LPIPS v0.1 of one net, without its downloads.

    Zero is the same picture; about 0.7 is a picture that has nothing in common with the other.

    Args:
        net: Which trunk and heads.
        trunk: Tensors of torchvision's network, `features.0.weight` and so on; heads of the
            classifier are ignored.

    Raises:
        TrunkError: A tensor is missing or has another shape.
        LibraryError: The installed torchmetrics builds LPIPS otherwise.

    Example:
        >>> import torchvision
        >>> untrained = torchvision.models.squeezenet1_1(weights=None)
        >>> metric = LPIPS("squeeze", untrained.state_dict())
        >>> picture = torch.rand(1, 3, 64, 64)
        >>> metric(picture, picture)
        tensor([0.])
    """

    def __init__(self, net: NetName, trunk: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        self.metric = _untrained(net)
        network = self.metric.get_submodule("net")
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        # torchmetrics cuts torchvision's `features` into slices but keeps the numbers inside.
        names = {name: re.sub(r"^slices?\.?\d+\.", "features.", name) for name in shapes}
        faults = [
            source
            for name, source in names.items()
            if source not in trunk or trunk[source].shape != shapes[name]
        ]
        if faults:
            message = f"trunk: not torchvision's {net}: {faults[0]} is missing or has another shape"
            raise TrunkError(message)
        network.load_state_dict({name: trunk[source] for name, source in names.items()})
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


def _untrained(net: NetName) -> nn.Module:
    """Build the metric with its heads and without a trunk's weights.

    The public class always downloads a trunk, so this takes the private one, whose arguments are
    the same in torchmetrics 1.4 and 1.9.

    Raises:
        LibraryError: This torchmetrics has no such class any more.
    """
    try:
        from torchmetrics.functional.image.lpips import _LPIPS

        return _LPIPS(net=net, pretrained=True, pnet_rand=True)
    except (ImportError, TypeError) as error:
        message = (
            f"LPIPS needs torchmetrics from 1.4 to 1.9, and {version('torchmetrics')} builds it "
            f"otherwise ({error}); install one of these, or measure without LPIPS"
        )
        raise LibraryError(message) from error


def check_pictures(first: Tensor, second: Tensor, *, smallest: int) -> None:
    """Refuse what a measure would turn into a silent bad number.

    Raises:
        ImageRangeError: As in `LPIPS.forward`.
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


def load_lpips(
    nets: Iterable[NetName] = NETS, *, folders: Sequence[Path] | None = None
) -> dict[NetName, LPIPS]:
    """Load LPIPS from local files.

    Args:
        nets: Which trunks.
        folders: Where to look; None is the local library and torch's own cache.

    Returns:
        One metric a net.

    Raises:
        MissingWeightsError: A file is not here; says which, from where, and how to import it.
        CheckpointError: A file is not what its name promises.

    Example:
        >>> load_lpips(nets_here())  # those that were imported before
        {}
    """
    wanted = tuple(nets)
    missing = missing_trunks(map(trunk_name, wanted), folders)
    if missing:
        raise missing
    return {
        net: _load(net, path, path.stat().st_mtime_ns)
        for net in wanted
        if (path := find_trunk(trunk_name(net), folders))
    }


@lru_cache(maxsize=len(NETS))
def _load(net: NetName, path: Path, _modified: int) -> LPIPS:
    """Read a file once a process, and again when it has changed: it may be half a gigabyte."""
    return LPIPS(net, read_trunk(trunk_name(net), path))


def nets_here(folders: Sequence[Path] | None = None) -> tuple[NetName, ...]:
    """List the nets whose trunks are here."""
    return tuple(net for net in NETS if find_trunk(trunk_name(net), folders))


def trunk_name(net: NetName) -> str:
    """Name a trunk as `medssl-models import` does."""
    return f"lpips-{net}"
