"""Traces a network: runs it once and notes what it does to its input, as a `Graph`.

What a network does is observed, not guessed from its modules, so any code that is made of the
operations in `OPERATIONS` is understood. Only inference, and only for one size of input.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from medssl_saliency.engine.geometry import Reach
from medssl_saliency.engine.graph import Kind, Node, simplify
from medssl_saliency.errors import UnsupportedNetworkError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medssl_saliency.engine.graph import Graph, Pair

__all__ = ["trace"]

Arguments = dict[str, Any]


def trace(network: nn.Module, size: Pair, *, channels: int = 3) -> Graph:
    """Run a network once and note what it does to its input.

    Args:
        network: In eval mode; maps `(N, channels, H, W)` to `(N, D)` by a global mean. A copy of it
            is run.
        size: Height and width of the input.
        channels: Channels of the input.

    Returns:
        The nodes on which the result depends, with BatchNorm folded into convolutions and ReLU
        into the node before it. Their result is the network's own up to rounding.

    Raises:
        UnsupportedNetworkError: There is no kind of node for an operation; the message names it.
    """
    traced = copy.deepcopy(network)  # a BatchNorm in training mode would keep what it has seen
    parameter = next(traced.parameters(), torch.zeros(()))
    # In inference mode tensors would not count their changes, by which `_Tracer` knows them.
    with torch.inference_mode(mode=False), torch.no_grad():
        x = torch.zeros((1, channels, *size), device=parameter.device)
        tracer = _Tracer(x)
        with tracer:
            output = traced(x)
    return simplify(tracer.nodes, tracer.last(output))


class _Tracer(TorchFunctionMode):
    """Keeps a node for every tensor that an understood operation makes out of known tensors."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.nodes = [Node(Kind.INPUT, (), (x.shape[1], x.shape[2], x.shape[3]))]
        self.known = {id(x): 0}
        self.foreign: dict[int, str] = {}
        self.alive = [x]  # an id is only unique among living tensors

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # part of torch's signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 # whatever the operation returns
        name = _name(func)
        options = dict(kwargs or {})
        # An operation in place would change what earlier nodes refer to.
        run = OUT_OF_PLACE.get(name, func)
        if name == "relu":
            args, options = args[:1], {}  # without `inplace`
        read = [t for t in _tensors((*args, *options.values())) if id(t) in self.known]
        versions = [tensor._version for tensor in read]
        result = run(*args, **options)
        for tensor, version in zip(read, versions, strict=True):
            if tensor._version != version:  # another operation in place: no longer as it was
                self.foreign[id(tensor)] = name
                self.known.pop(id(tensor), None)
        if isinstance(result, Tensor):
            self._remember(name, result, args, options)
        return result

    def _remember(
        self, name: str, result: Tensor, args: tuple[Any, ...], options: Arguments
    ) -> None:
        tensors = _tensors((*args, *options.values()))
        if not any(id(t) in self.known or id(t) in self.foreign for t in tensors):
            return
        self.alive.append(result)
        try:
            operation = OPERATIONS[name]
            node = operation.read(self, result, operation.bind(args, options))
        except LookupError:  # another operation, an unknown argument, or a foreign input
            node = None
        if node is None:  # what comes of a foreign tensor is foreign for the same reason
            reasons = (self.foreign[id(t)] for t in tensors if id(t) in self.foreign)
            self.foreign.setdefault(id(result), next(reasons, name))
        elif isinstance(node, int):
            self.known[id(result)] = node
        else:
            self.known[id(result)] = len(self.nodes)
            self.nodes.append(node)

    def index(self, tensor: Tensor) -> int:
        """Find the node that made a tensor; KeyError when there is none."""
        return self.known[id(tensor)]

    def last(self, output: Tensor) -> int:
        """Find the node that made the network's result, a global mean.

        Raises:
            UnsupportedNetworkError: It was made by something else.
        """
        node = self.known.get(id(output))
        if node is not None and self.nodes[node].kind is Kind.MEAN:
            return node
        names = sorted(set(self.foreign.values())) or ["a network without a global mean at its end"]
        message = f"incremental inference does not support {', '.join(names)}"
        raise UnsupportedNetworkError(message)


@dataclass(frozen=True)
class _Operation:
    """A function of torch: its signature, and the node that it becomes.

    Args:
        read: Returns the node, the index of a node with the same values, or None when the call
            does something that is not known.
        names: The names of its arguments, in order.
        defaults: Values of those that may be left out.
    """

    read: Callable[[_Tracer, Tensor, Arguments], Node | int | None]
    names: tuple[str, ...] = ("input",)
    defaults: Mapping[str, object] = field(default_factory=dict)

    def bind(self, args: Sequence[object], options: Arguments) -> Arguments:
        """Bind all arguments to their names.

        Raises:
            LookupError: An argument is not known.
        """
        bound = dict(zip(self.names, args, strict=False)) | options
        if len(args) > len(self.names) or bound.keys() - set(self.names):
            message = f"unknown arguments of {self.names}"
            raise LookupError(message)
        return {**self.defaults, **bound}


def _name(func: Callable[..., Any]) -> str:
    """Name an operation without its module: `conv2d`, `__iadd__`, `max_pool2d`."""
    name: str = resolve_name(func) or getattr(func, "__name__", str(func))
    return name.rpartition(".")[2]


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _shape(tensor: Tensor) -> tuple[int, int, int]:
    if tensor.ndim != 4:
        message = f"a feature map has 4 dimensions, not {tensor.ndim}"
        raise LookupError(message)
    return tensor.shape[1], tensor.shape[2], tensor.shape[3]


def _reaches(kernel: int | Sequence[int], a: Arguments) -> tuple[Reach, Reach]:
    """Return how a kernel reads along rows and columns."""
    if isinstance(a["padding"], str):
        message = f"padding {a['padding']!r} is not a number"
        raise LookupError(message)
    stride = kernel if a["stride"] in {None, ()} else a["stride"]
    pairs = [_pair(value) for value in (kernel, stride, a["padding"], a.get("dilation", 1))]
    rows, columns = zip(*pairs, strict=True)
    return Reach(*rows), Reach(*columns)


# ------------------------------------------------------------------ what the operations of torch do


def _read_convolution(tracer: _Tracer, result: Tensor, a: Arguments) -> Node:
    weight, bias = a["weight"].detach().cpu(), a["bias"]
    rows, columns = _reaches(tuple(weight.shape[2:]), a)
    return Node(
        Kind.CONVOLUTION,
        (tracer.index(a["input"]),),
        _shape(result),
        rows,
        columns,
        weight=weight,
        bias=torch.zeros(len(weight)) if bias is None else bias.detach().cpu(),
        groups=a["groups"],
    )


def _read_batch_norm(tracer: _Tracer, result: Tensor, a: Arguments) -> Node | None:
    if a["training"]:
        return None
    # In double precision, so that folding costs no more than one rounding.
    mean, variance = (a[name].detach().cpu().double() for name in ("running_mean", "running_var"))
    factor = (variance + a["eps"]).rsqrt()
    if a["weight"] is not None:
        factor = factor * a["weight"].detach().cpu().double()
    offset = -mean * factor
    if a["bias"] is not None:
        offset = offset + a["bias"].detach().cpu().double()
    return Node(
        Kind.AFFINE,
        (tracer.index(a["input"]),),
        _shape(result),
        weight=factor[:, None, None],
        bias=offset[:, None, None],
    )


def _read_relu(tracer: _Tracer, result: Tensor, a: Arguments) -> Node:
    return Node(Kind.RELU, (tracer.index(a["input"]),), _shape(result))


def _read_max_pool(tracer: _Tracer, result: Tensor, a: Arguments) -> Node | None:
    if a["ceil_mode"] or a["return_indices"]:
        return None
    rows, columns = _reaches(a["kernel_size"], a)
    source, shape = tracer.index(a["input"]), _shape(result)
    return Node(Kind.MAX_POOL, (source,), shape, rows, columns, fill=float("-inf"))


def _read_average_pool(tracer: _Tracer, result: Tensor, a: Arguments) -> Node | None:
    uneven = any(_pair(a["padding"])) and not a["count_include_pad"]
    if a["ceil_mode"] or a["divisor_override"] is not None or uneven:
        return None
    rows, columns = _reaches(a["kernel_size"], a)
    return Node(Kind.AVERAGE_POOL, (tracer.index(a["input"]),), _shape(result), rows, columns)


def _read_pad(tracer: _Tracer, result: Tensor, a: Arguments) -> Node | None:
    sides = a["pad"]
    if a["mode"] != "constant" or len(sides) != 4 or min(sides) < 0:
        return None
    rows, columns = Reach(padding=sides[2]), Reach(padding=sides[0])
    source, shape = tracer.index(a["input"]), _shape(result)
    return Node(Kind.PAD, (source,), shape, rows, columns, fill=float(a["value"] or 0.0))


def _read_add(tracer: _Tracer, result: Tensor, a: Arguments) -> Node | None:
    one, other = a["input"], a["other"]
    if not isinstance(other, Tensor) or one.shape != other.shape:
        return None
    return Node(Kind.ADD, (tracer.index(one), tracer.index(other)), _shape(result))


def _read_concatenation(tracer: _Tracer, result: Tensor, a: Arguments) -> Node | int | None:
    if a["dim"] not in {1, -3}:
        return None
    sources = tuple(tracer.index(tensor) for tensor in a["tensors"])
    return sources[0] if len(sources) == 1 else Node(Kind.CONCATENATE, sources, _shape(result))


def _read_adaptive_pool(tracer: _Tracer, result: Tensor, a: Arguments) -> Node | None:
    if _pair(a["output_size"]) != (1, 1):
        return None
    return Node(Kind.MEAN, (tracer.index(a["input"]),), _shape(result))


def _read_mean(tracer: _Tracer, result: Tensor, a: Arguments) -> Node | None:
    if sorted(axis % 4 for axis in a["dim"]) != [2, 3]:
        return None
    return Node(Kind.MEAN, (tracer.index(a["input"]),), (result.shape[1], 1, 1))


def _read_flatten(tracer: _Tracer, result: Tensor, a: Arguments) -> int | None:
    source = tracer.index(a["input"])
    flat = result.ndim == 2 and tracer.nodes[source].kind is Kind.MEAN
    return source if flat else None


def _read_dropout(tracer: _Tracer, _result: Tensor, a: Arguments) -> int | None:
    return None if a["training"] and a["p"] > 0 else tracer.index(a["input"])


_WINDOW = {"stride": None, "padding": 0}
OPERATIONS: dict[str, _Operation] = {
    "conv2d": _Operation(
        _read_convolution,
        ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
        {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1},
    ),
    "batch_norm": _Operation(
        _read_batch_norm,
        (
            *("input", "running_mean", "running_var", "weight", "bias"),
            *("training", "momentum", "eps"),
        ),
        {"weight": None, "bias": None, "training": False, "eps": 1e-5},
    ),
    "max_pool2d": _Operation(
        _read_max_pool,
        ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
        {**_WINDOW, "dilation": 1, "ceil_mode": False, "return_indices": False},
    ),
    "avg_pool2d": _Operation(
        _read_average_pool,
        (
            *("input", "kernel_size", "stride", "padding", "ceil_mode"),
            *("count_include_pad", "divisor_override"),
        ),
        {**_WINDOW, "ceil_mode": False, "count_include_pad": True, "divisor_override": None},
    ),
    "pad": _Operation(
        _read_pad, ("input", "pad", "mode", "value"), {"mode": "constant", "value": None}
    ),
    "cat": _Operation(_read_concatenation, ("tensors", "dim"), {"dim": 0}),
    "adaptive_avg_pool2d": _Operation(_read_adaptive_pool, ("input", "output_size")),
    "mean": _Operation(_read_mean, ("input", "dim", "keepdim"), {"keepdim": False}),
    "flatten": _Operation(_read_flatten, ("input", "start_dim", "end_dim")),
    "dropout": _Operation(
        _read_dropout, ("input", "p", "training", "inplace"), {"p": 0.5, "training": True}
    ),
    **dict.fromkeys(("relu", "relu_"), _Operation(_read_relu)),
    **dict.fromkeys(
        ("add", "add_", "__add__", "__iadd__"), _Operation(_read_add, ("input", "other"))
    ),
}
OUT_OF_PLACE: dict[str, Callable[..., Any]] = {
    "relu_": torch.relu,
    "add_": torch.add,
    "__iadd__": torch.add,
}
