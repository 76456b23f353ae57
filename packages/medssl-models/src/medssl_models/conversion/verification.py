"""Is a converted folder the model that it claims to be, whole and unchanged?

A conversion stores statistics of every tensor and the features of a seeded input; verifying
recomputes them on this machine.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from medssl_models.conversion.model_folder import Proof, damage_of, read_origin, read_state
from medssl_models.errors import CheckpointError, ModelError, some_of
from medssl_models.networks.build import build_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Check", "Verification", "faults", "features_of", "prove", "seeded_input", "verify"]

SIDE = 64  # of the seeded input, where the network takes images of any side
FEATURE_TOLERANCE = 1e-4  # relative L2; other processors and thread counts give about 1e-6
STATISTIC_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, whether it holds, and what was found."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """The result for one folder; later checks are left out where an earlier one forbids them."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)


def seeded_input(seed: int, shape: tuple[int, ...] = (2, 3, SIDE, SIDE)) -> Tensor:
    """Draw noise in [-1, 1) that is the same on every machine: the raw stream of PCG64.

    Args:
        seed: Of the stream.
        shape: Of the result.

    Returns:
        float32 of that shape.
    """
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    unit = (raw >> np.uint64(40)).astype(np.float32) / np.float32(2**23)
    return torch.from_numpy(unit - 1).reshape(shape)


def features_of(trunk: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Run a network with given weights.

    Args:
        trunk: As `build_network` makes it; it takes the tensors over.
        state: Our names to tensors, complete.
        x: `(N, 3, H, W)` float32.

    Returns:
        `(N, D)` float32 pooled features.
    """
    trunk.load_state_dict(dict(state), assign=True)
    with torch.inference_mode():
        features: Tensor = trunk.eval()(x)
    return features


def prove(trunk: nn.Module, state: Mapping[str, Tensor], *, seed: int = 0) -> Proof:
    """Compute what `verify` will compare with.

    Args:
        trunk: The network, without weights.
        state: Its tensors.
        seed: Of the input.

    Raises:
        CheckpointError: The network gives features that are not finite.
    """
    shape = _shape_for(trunk)
    features = features_of(trunk, state, seeded_input(seed, shape))
    if not bool(torch.isfinite(features).all()):
        message = "the weights give features that are not finite"
        raise CheckpointError(message)
    data = features.numpy().astype("<f4").tobytes()
    return Proof(
        seed=seed,
        shape=shape,
        features=base64.b64encode(data).decode(),
        statistics=_statistics(state),
    )


def faults(tensors: Mapping[str, Tensor]) -> list[str]:
    """List what is impossible about some tensors: values not finite, negative variances."""
    found = []
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        # One pass over the values: a NaN is both the smallest and the largest, an infinity one.
        if tensor.numel() and not all(map(isfinite, torch.stack(torch.aminmax(tensor)).tolist())):
            found.append(f"{name} has values that are not finite")
        elif name.endswith(".running_var") and bool((tensor < 0).any()):
            found.append(f"{name} has negative variances")
    return found


def verify(folder: Path) -> Verification:
    """Check a converted folder: record, hash, keys, shapes, values, statistics, features.

    Args:
        folder: As `conversion.convert` writes it.

    Returns:
        All checks; a broken file is a failed check, not an exception.

    Example:
        >>> from medssl_models.hub.exporting import export_model
        >>> verify(export_model("random_r18", folder / "r18").folder).passed
        True
    """
    try:
        origin = read_origin(folder)
        card = origin.card
        trunk = build_network(card)
        state, damage = read_state(folder, checked=False), damage_of(folder)
    except ModelError as error:
        return Verification(folder, (Check("files", passed=False, detail=str(error)),))
    checks = [
        Check("files", passed=True, detail=f"{len(state)} tensors of {card.name}"),
        Check("hash", passed=not damage, detail=damage or "as written"),
    ]
    for name, check in _CHECKS.items():
        found = check(origin.proof, trunk, state)
        checks.append(Check(name, passed=not found, detail=some_of(found) or "as expected"))
        if found and name in _NEEDED:
            break
    return Verification(folder, tuple(checks))


def _shape_for(trunk: nn.Module) -> tuple[int, int, int, int]:
    """Return the shape of two images, of the side that the network needs if it needs one."""
    side = getattr(trunk, "fixed_side", None) or SIDE
    return 2, 3, side, side


def _check_keys(_: Proof, trunk: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    expected = trunk.state_dict()
    missing = [f"{name} is missing" for name in expected if name not in state]
    surplus = [f"{name} does not belong here" for name in state if name not in expected]
    shapes = [
        f"{name} is {state[name].dtype} {tuple(state[name].shape)}, "
        f"expected {tensor.dtype} {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state
        and (state[name].shape != tensor.shape or state[name].dtype != tensor.dtype)
    ]
    return missing + surplus + shapes


def _check_values(_: Proof, __: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    return faults(state)


def _check_statistics(proof: Proof, _: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    stored, found = proof.statistics, _statistics(state)
    if stored.keys() != found.keys():
        return [f"{len(stored)} tensors have stored statistics, the file has {len(found)}"]
    return [
        f"{name} has mean {found[name][0]:.6g} and deviation {found[name][1]:.6g}, "
        f"stored are {mean:.6g} and {deviation:.6g}"
        for name, (mean, deviation) in stored.items()
        if not np.allclose(found[name], (mean, deviation), rtol=STATISTIC_TOLERANCE, atol=1e-9)
    ]


def _check_features(proof: Proof, trunk: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    try:
        stored = np.frombuffer(base64.b64decode(proof.features, validate=True), "<f4")
    except (binascii.Error, ValueError):
        return ["the stored features cannot be read"]
    shape = _shape_for(trunk)
    found = features_of(trunk, state, seeded_input(proof.seed, shape)).double().numpy().ravel()
    if stored.size != found.size or proof.shape != shape:
        return [f"{stored.size} features are stored, the network gives {found.size}"]
    scale = max(float(np.linalg.norm(stored)), 1e-30)
    error = float(np.linalg.norm(found - stored)) / scale
    return [] if error < FEATURE_TOLERANCE else [f"the features differ by {error:.3g} (rel. L2)"]


_CHECKS: Mapping[str, Callable[[Proof, nn.Module, Mapping[str, Tensor]], list[str]]] = {
    "keys and shapes": _check_keys,
    "values": _check_values,
    "statistics": _check_statistics,
    "features": _check_features,
}
_NEEDED = frozenset({"keys and shapes", "values"})


def _statistics(state: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    return {name: _moments(tensor) for name, tensor in state.items() if tensor.is_floating_point()}


def _moments(tensor: Tensor) -> tuple[float, float]:
    """Compute mean and deviation in float64 sums, which do not depend on the machine."""
    values = tensor.detach().reshape(-1).numpy()
    mean = float(values.mean(dtype=np.float64))
    with np.errstate(over="ignore"):  # damaged weights may have any value
        squares = np.square(values - mean).mean(dtype=np.float64)
    return mean, float(np.sqrt(max(0.0, float(squares))))
