"""From a source's names to torchvision's: each tensor of the file is used or dropped by a rule.

Works on names alone; reading, checking and writing of tensors is the business of `conversion`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medssl_models.errors import CheckpointError, some_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from medssl_models.card import KeyMap, Scheme

__all__ = ["SCHEMES", "Plan", "creation_order", "plan"]

_WRAPPERS = ("state_dict", "model")


@dataclass(frozen=True)
class Plan:
    """What becomes of the tensors of a source file.

    Args:
        used: Name in our state dict to name in the source.
        dropped: Name in the source to the name of the rule that leaves it out.
    """

    used: Mapping[str, str]
    dropped: Mapping[str, str]


def plan(names: Iterable[str], key_map: KeyMap, expected: Iterable[str]) -> Plan:
    """Decide what every tensor of a source file is for.

    Args:
        names: All tensors of the file; entries of a nested file are joined by `/`.
        key_map: Of the model's card.
        expected: Names of our state dict.

    Returns:
        A plan in which every source name occurs once and every expected name is used, except
        counters of BatchNorm (`num_batches_tracked`), which some frameworks do not keep.

    Raises:
        CheckpointError: Tensors that no rule accounts for, that mean the same parameter, or
            that are missing; the message lists them.
    """
    wanted = list(expected)
    namer = SCHEMES[key_map.scheme](wanted)
    used: dict[str, str] = {}
    dropped: dict[str, str] = {}
    unknown: list[str] = []
    for name, inner in _inside(list(names), key_map):
        rule = _rule(inner, key_map) if inner is not None else "outside the weights"
        target = None if rule or inner is None else _target(inner, key_map, namer)
        if rule:
            dropped[name] = rule
        elif target not in wanted or target is None:
            unknown.append(name)
        elif target in used:
            message = f"{used[target]!r} and {name!r} both mean {target!r}"
            raise CheckpointError(message)
        else:
            used[target] = name
    _check(unknown, [name for name in wanted if name not in used])
    return Plan(used, dropped)


def _inside(names: list[str], key_map: KeyMap) -> list[tuple[str, str | None]]:
    """Pair each name with its form inside the entry that holds the weights; None outside.

    Files are published with and without a wrapper, so that a declared one may be absent and one
    of the customary ones may be there undeclared; the names inside decide all the same.
    """
    prefix = f"{key_map.top_level}/" if key_map.top_level else ""
    if not any(name.startswith(prefix) for name in names):
        prefix = ""
    if not prefix and key_map.scheme == "torchvision":
        tops = {name.partition("/")[0] for name in names if "/" in name}
        prefix = next((f"{top}/" for top in _WRAPPERS if top in tops), "")
    return [
        (name, name.removeprefix(prefix) if name.startswith(prefix) else None) for name in names
    ]


def _rule(name: str, key_map: KeyMap) -> str | None:
    return next((drop.name for drop in key_map.drops if re.fullmatch(drop.pattern, name)), None)


def _target(name: str, key_map: KeyMap, namer: Callable[[str], str | None]) -> str | None:
    if not name.startswith(key_map.prefix):
        return None
    short = name.removeprefix(key_map.prefix)
    for rename in key_map.renames:
        short = re.sub(rename.pattern, rename.replacement, short)
    return namer(short)


def _check(unknown: list[str], unfilled: list[str]) -> None:
    missing = [name for name in unfilled if not name.endswith(".num_batches_tracked")]
    faults = []
    if unknown:
        faults.append(f"{len(unknown)} tensors that no rule accounts for: {_some(unknown)}")
    if missing:
        faults.append(f"{len(missing)} parameters missing: {_some(missing)}")
    if faults:
        message = "; ".join(faults) + "; is it the checkpoint of another model?"
        raise CheckpointError(message)


def _some(names: list[str]) -> str:
    return some_of([name[:120] for name in names], most=8, separator=", ")


# ---------------------------------------------------------------------------- how sources name


def _as_torchvision(_: list[str]) -> Callable[[str], str | None]:
    return lambda name: name


# A subclass of Haiku's network that makes its own stem gives it the name with a number.
_HAIKU = re.compile(
    r"(?P<tree>params|state)/res_net\d+/~/"
    r"(?:(?P<stem>initial_conv(?:_\d+)?|initial_batchnorm)"
    r"|block_group_(?P<group>\d+)/~/block_(?P<block>\d+)/~/(?P<part>\w+?)(?:_(?P<index>\d+))?)"
    r"/(?P<leaf>w|scale|offset|~/mean_ema/average|~/var_ema/average)"
)
_HAIKU_LEAVES = {
    "w": "weight",
    "scale": "weight",
    "offset": "bias",
    "~/mean_ema/average": "running_mean",
    "~/var_ema/average": "running_var",
}
_HAIKU_PARTS = {
    "conv": "conv{}",
    "batchnorm": "bn{}",
    "shortcut_conv": "downsample.0",
    "shortcut_batchnorm": "downsample.1",
}


def _as_haiku(_: list[str]) -> Callable[[str], str | None]:
    return _haiku_name


def _haiku_name(name: str) -> str | None:
    found = _HAIKU.fullmatch(name)
    if not found:
        return None
    leaf = _HAIKU_LEAVES[found["leaf"]]
    if found["stem"]:
        return ("conv1" if found["stem"].startswith("initial_conv") else "bn1") + f".{leaf}"
    part = _HAIKU_PARTS.get(found["part"])
    if part is None or ("{}" in part) != (found["index"] is not None):
        return None
    inner = part.format(int(found["index"]) + 1 if found["index"] else "")
    return f"layer{int(found['group']) + 1}.{int(found['block'])}.{inner}.{leaf}"


_TF = re.compile(r"(?P<kind>conv2d|batch_normalization)(?:_(?P<number>[1-9]\d*))?/(?P<leaf>\w+)")
_TF_LEAVES = {
    ("conv2d", "kernel"): "weight",
    ("batch_normalization", "gamma"): "weight",
    ("batch_normalization", "beta"): "bias",
    ("batch_normalization", "moving_mean"): "running_mean",
    ("batch_normalization", "moving_variance"): "running_var",
}


def _as_tensorflow(expected: list[str]) -> Callable[[str], str | None]:
    order = creation_order(expected)

    def name_of(name: str) -> str | None:
        found = _TF.fullmatch(name)
        leaf = _TF_LEAVES.get((found["kind"], found["leaf"])) if found else None
        if not found or not leaf:
            return None
        number = int(found["number"] or 0)
        if number >= len(order):
            return None
        conv, norm = order[number]
        return f"{conv if found['kind'] == 'conv2d' else norm}.{leaf}"

    return name_of


_UNIT = re.compile(r"(?:layer(\d+)\.(\d+)\.)?(?:conv(\d+)|downsample\.0)\.weight")


def creation_order(expected: Iterable[str]) -> list[tuple[str, str]]:
    """List the convolutions of a ResNet with their BatchNorms, as SimCLR's code makes them.

    TensorFlow numbers layers as they are created: the stem, then block by block, in each block
    the shortcut first (torchvision registers it last).

    Args:
        expected: Torchvision names of a ResNet's parameters.

    Returns:
        Pairs of module names; the position is the number in TensorFlow's names.
    """
    units = []
    for name in expected:
        found = _UNIT.fullmatch(name)
        if found:
            layer, block, conv = (int(number or 0) for number in found.groups())
            module = name.removesuffix(".weight")
            norm = module.replace("conv", "bn").replace("downsample.0", "downsample.1")
            units.append(((layer, block, conv), (module, norm)))
    return [pair for _, pair in sorted(units)]


SCHEMES: Mapping[Scheme, Callable[[list[str]], Callable[[str], str | None]]] = {
    "torchvision": _as_torchvision,
    "haiku_resnet": _as_haiku,
    "tf_resnet": _as_tensorflow,
}
"""For each scheme: from the expected names to a function that names a source tensor, or None."""
