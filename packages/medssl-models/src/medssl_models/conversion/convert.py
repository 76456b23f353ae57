"""A published checkpoint becomes a folder that loads without its framework; or an error says why.

Every tensor of the source is used or left out by a named rule, every parameter of the network is
filled, and every value is checked, before anything is written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medssl_models.checkpoints.opening import open_checkpoint
from medssl_models.conversion import verification
from medssl_models.conversion.key_maps import plan
from medssl_models.conversion.model_folder import Origin, write_folder
from medssl_models.errors import CheckpointError, some_of
from medssl_models.files import sha256_of
from medssl_models.networks.build import build_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medssl_models.card import ModelCard, Scheme
    from medssl_models.conversion.key_maps import Plan

__all__ = ["Conversion", "assemble", "convert"]

Array = npt.NDArray[Any]
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        folder: The folder that was written.
        origin: The record in it: card, source files and their hashes, rules that left tensors out.
        used: Number of source tensors that became parameters.
    """

    folder: Path
    origin: Origin
    used: int


def convert(path: Path, card: ModelCard, out: Path, *, force: bool = False) -> Conversion:
    """Convert a published checkpoint.

    Args:
        path: The file as it was downloaded, or the folder of a TensorFlow checkpoint. Its content
            decides how it is read, not its name.
        card: Of the model that it should be.
        out: The folder to write; it appears only when all is well.
        force: Replace `out` if it is there, and take a file with another hash than the published.

    Returns:
        What was done.

    Raises:
        CheckpointError: The file is damaged, unsafe, or not this model's checkpoint.
        SettingsError: `out` exists and `force` is off.

    Example:
        >>> from medssl_models.catalog import model_card
        >>> from medssl_models.testing import shrunken, tiny_state, write_torch_checkpoint
        >>> card = shrunken(model_card("moco-v2"))  # in place of a published file, a tiny twin
        >>> write_torch_checkpoint(folder / "tiny.pth", card, tiny_state(card))
        >>> convert(folder / "tiny.pth", card, folder / "converted").used
        318
    """
    opened = open_checkpoint(path)
    trunk = build_network(card)
    expected = trunk.state_dict()
    try:
        mapping = plan(opened.tensors, card.key_map, expected)
        state = assemble(opened.tensors, mapping, expected, scheme=card.key_map.scheme)
    except CheckpointError as error:
        message = f"{path}: not converted to {card.name}: {error}"
        raise type(error)(message) from error
    sources = {file.name: sha256_of(file) for file in opened.files}
    if not force:
        _check_hash(path, card, list(sources.values()))
    origin = Origin(
        card=card,
        container=opened.container,
        sources=sources,
        dropped=dict(Counter(mapping.dropped.values())),
        versions={name: version(name) for name in ("medssl-models", "torch", "torchvision")},
        proof=verification.prove(trunk, state),
    )
    write_folder(out, state, origin, force=force)
    return Conversion(out, origin, len(mapping.used))


def _check_hash(path: Path, card: ModelCard, found: Sequence[str]) -> None:
    """Refuse weights that fit but have another hash than the published ones, where it is known."""
    if len(card.weights) != 1 or len(found) != 1:
        return
    known = card.weights[0].hash_start
    if not found[0].startswith(known):
        message = (
            f"{path}: SHA-256 begins with {found[0][: len(known)]}, that of "
            f"{card.weights[0].filename} with {known}: other weights than those of {card.name}; "
            "force takes them nevertheless"
        )
        raise CheckpointError(message)


def assemble(
    source: Mapping[str, Tensor | Array],
    mapping: Plan,
    expected: Mapping[str, Tensor],
    *,
    scheme: Scheme,
) -> dict[str, Tensor]:
    """Take the tensors of a plan out of a source, in our layout.

    Args:
        source: Source name to tensor; read one at a time, so that a lazy source stays small.
        mapping: What is used.
        expected: Our names to tensors of the right shape, which need no data.
        scheme: Of the source; other frameworks lay tensors out differently.

    Returns:
        All of our names, float32 (counters int64), contiguous; none shares memory with another.

    Raises:
        CheckpointError: A tensor has another shape, is no floating tensor, or has impossible
            values; the message lists them.
    """
    state: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, blank in expected.items():
        if name.endswith(_COUNTER):
            state[name] = _counter(source, mapping.used.get(name))
            continue
        found = source[mapping.used[name]]
        ours = isinstance(found, np.ndarray)
        if isinstance(found, np.ndarray):
            found = _from_numpy(found, blank.ndim, foreign=scheme != "torchvision")
        if found.shape != blank.shape:
            wrong.append(f"{name} is {tuple(found.shape)}, expected {tuple(blank.shape)}")
        elif not found.is_floating_point():
            wrong.append(f"{name} is {found.dtype}, expected floating numbers")
        else:
            state[name] = _own(found, copy=not ours)
            wrong += verification.faults({name: state[name]})
    if wrong:
        message = f"{len(wrong)} tensors are wrong: {some_of(wrong)}"
        raise CheckpointError(message)
    return state


def _own(tensor: Tensor, *, copy: bool) -> Tensor:
    """Make a tensor contiguous float32; a copy where it may be a mapped file or share storage."""
    return tensor.detach().to("cpu", torch.float32, copy=copy).contiguous()


def _from_numpy(array: Array, ndim: int, *, foreign: bool) -> Tensor:
    """Copy an array that may be a read-only, unaligned or strided view.

    JAX and TensorFlow keep kernels as (height, width, in, out), matrices as (in, out), and
    Haiku keeps vectors with leading dimensions of one.
    """
    if foreign and ndim == 1 and array.size == array.shape[-1]:
        array = array.reshape(-1)
    elif foreign and ndim == array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif foreign and ndim == array.ndim == 2:
        array = array.T
    return torch.from_numpy(np.array(array, order="C"))


def _counter(source: Mapping[str, Tensor | Array], name: str | None) -> Tensor:
    """Read how many batches a BatchNorm has seen: unused in eval mode, 0 where unknown."""
    return torch.tensor(0 if name is None else int(source[name]), dtype=torch.int64)
