"""Networks of a measure instead of models: the ImageNet trunks of LPIPS, brought in by hand.

They are torchvision's own weights files, kept as they are and checked against the hash in their
name. They have no card: nobody extracts features with them. Importing this module imports no torch.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from medssl_models.errors import CheckpointError, MissingWeightsError
from medssl_models.files import home, refuse_existing, replacing, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

__all__ = [
    "TRUNKS",
    "TrunkFile",
    "find_trunk",
    "import_trunk",
    "missing_trunks",
    "read_trunk",
    "trunk_folders",
]


@dataclass(frozen=True)
class TrunkFile:
    """One of torchvision's weights files.

    Args:
        name: As typed after `medssl-models import`.
        filename: As torchvision names it; its last part is the start of the file's SHA-256.
        layers: Tensors that the trunk has, without the classifier.
    """

    name: str
    filename: str
    layers: int

    @property
    def url(self) -> str:
        """Where torchvision serves it."""
        return f"https://download.pytorch.org/models/{self.filename}"

    @property
    def hash_start(self) -> str:
        """First eight hexadecimal digits of the file's SHA-256."""
        return self.filename.removesuffix(".pth").rpartition("-")[2]


TRUNKS: Mapping[str, TrunkFile] = {
    trunk.name: trunk
    for trunk in (
        TrunkFile("lpips-alex", "alexnet-owt-7be5be79.pth", 10),
        TrunkFile("lpips-vgg", "vgg16-397923af.pth", 26),
        TrunkFile("lpips-squeeze", "squeezenet1_1-b8a52dc0.pth", 50),
    )
}


def trunk_folders(library: Path | None = None) -> tuple[Path, ...]:
    """List the folders that are searched for trunks, in order.

    They are `library` or else `home() / "measures"`, and torch's own cache, where earlier programs
    may have left the same files.
    """
    cache = Path(os.environ.get("TORCH_HOME") or Path("~/.cache/torch").expanduser())
    return (_kept_in(library), cache / "hub" / "checkpoints")


def find_trunk(name: str, folders: Sequence[Path] | None = None) -> Path | None:
    """Find a trunk's file in the first folder that has it."""
    paths = (folder / TRUNKS[name].filename for folder in folders or trunk_folders())
    return next((path for path in paths if path.is_file()), None)


def missing_trunks(
    names: Iterable[str], folders: Sequence[Path] | None = None
) -> MissingWeightsError | None:
    """Say what must be brought for some trunks, or None when all are here."""
    wanted = [TRUNKS[name] for name in names if find_trunk(name, folders) is None]
    if not wanted:
        return None
    addresses = " and ".join(trunk.url for trunk in wanted)
    commands = " and ".join(f"medssl-models import {t.name} {t.filename}" for t in wanted)
    message = f"LPIPS needs weights that are not here: download {addresses} and run: {commands}"
    return MissingWeightsError(message)


def import_trunk(
    name: str, source: Path, *, library: Path | None = None, force: bool = False
) -> Path:
    """Check a trunk's file and keep a copy of it.

    Args:
        name: A name in `TRUNKS`.
        source: The file as it was downloaded.
        library: Where to keep it instead of `home() / "measures"`.
        force: Replace a file that is there.

    Returns:
        The copy.

    Raises:
        CheckpointError: The file is damaged or another one.
        SettingsError: A file is there and `force` is off.
    """
    trunk = TRUNKS[name]
    read_trunk(name, source)
    folder = _kept_in(library)
    target = folder / trunk.filename
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        refuse_existing(target, force=force)
        with replacing(target) as draft:
            shutil.copyfile(source, draft)
    return target


def read_trunk(name: str, path: Path) -> dict[str, Tensor]:
    """Read a trunk's tensors, `features.0.weight` and so on, without running the file.

    Raises:
        CheckpointError: The file is not what its name promises.
    """
    from medssl_models.checkpoints import torch_file

    trunk = TRUNKS[name]
    found = sha256_of(path)
    if not found.startswith(trunk.hash_start):
        message = (
            f"{path}: SHA-256 begins with {found[:8]}, not with {trunk.hash_start}: damaged, or "
            f"not {trunk.filename}; download {trunk.url} again"
        )
        raise CheckpointError(message)
    tensors = torch_file.read_torch_file(path)
    features = {key: tensor for key, tensor in tensors.items() if key.startswith("features.")}
    if len(features) != trunk.layers:
        message = f"{path}: holds {len(features)} tensors of features, {name} has {trunk.layers}"
        raise CheckpointError(message)
    return features


def _kept_in(library: Path | None) -> Path:
    return library if library is not None else home() / "measures"
