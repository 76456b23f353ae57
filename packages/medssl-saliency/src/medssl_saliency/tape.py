"""A network as a list of steps on feature maps, recorded while it runs once.

The list is what incremental inference executes. What a network does is observed, not guessed from
its modules, so any code made of the operations below is understood; BatchNorm is folded away.
Only inference is recorded, for one size of input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, resolve_name

from medssl_saliency.errors import UnsupportedNetworkError
from medssl_saliency.geometry import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Kind", "Step", "Tape", "record"]

Pair = tuple[int, int]


class Kind(StrEnum):
    """What a step does."""

    INPUT = "input"
    CONVOLUTION = "convolution"
    AFFINE = "affine"
    RELU = "relu"
    MAX_POOL = "max-pool"
    AVERAGE_POOL = "average-pool"
    PAD = "pad"
    ADD = "add"
    CONCATENATE = "concatenate"
    MEAN = "mean"


@dataclass(frozen=True, eq=False)
class Step:
    """One operation on feature maps.

    Attributes:
        kind: What it does.
        inputs: Indices of the steps that it reads.
        shape: `(C, H, W)` of its result; `(C, 1, 1)` of a mean.
        rows: How it reads along the height.
        columns: How it reads along the width.
        weight: `(out, in, k, k)` of a convolution, `(C, 1, 1)` factors of an affine step.
        bias: `(C,)` of a convolution, `(C, 1, 1)` offsets of an affine step.
        groups: Groups of a convolution.
        fill: What lies beyond the map.
        rectified: Whether a ReLU follows within the step.
    """

    kind: Kind
    inputs: tuple[int, ...]
    shape: tuple[int, int, int]
    rows: Reach = Reach()
    columns: Reach = Reach()
    weight: Tensor | None = None
    bias: Tensor | None = None
    groups: int = 1
    fill: float = 0.0
    rectified: bool = False

    @property
    def work(self) -> float:
        """Multiplications for one cell of the result; one a channel where there are no weights."""
        if self.kind is Kind.CONVOLUTION and self.weight is not None:
            return float(self.weight.numel())
        return float(self.shape[0] * self.rows.kernel * self.columns.kernel)


@dataclass(frozen=True, eq=False)
class Tape:
    """The steps of a network, in the order in which they run; the last gives the features."""

    steps: tuple[Step, ...]

    def consumers(self) -> list[list[int]]:
        """List for each step the steps that read it."""
        readers: list[list[int]] = [[] for _ in self.steps]
        for index, step in enumerate(self.steps):
            for source in step.inputs:
                readers[source].append(index)
        return readers

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Tape:
        """Copy the tape with its weights on a device and in a precision."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            memory = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
            return tensor.to(device=device, dtype=dtype, memory_format=memory)

        steps = (replace(s, weight=moved(s.weight), bias=moved(s.bias)) for s in self.steps)
        return Tape(tuple(steps))


def record(network: nn.Module, size: Pair, *, channels: int = 3) -> Tape:
    """Run a network once and write down what it does to its input.

    Args:
        network: In eval mode; maps `(N, channels, H, W)` to `(N, D)` by a global mean.
        size: Height and width of the input.
        channels: Channels of the input.

    Returns:
        The steps on which the result depends, with BatchNorm folded into convolutions and ReLU
        into the step before it. They give the network's own result up to rounding.

    Raises:
        UnsupportedNetworkError: It does something else than the kinds of steps above; the message
            names the operation.
    """
    parameter = next(network.parameters(), torch.zeros(()))
    x = torch.zeros((1, channels, *size), device=parameter.device)
    recorder = _Recorder(x)
    with torch.inference_mode(), recorder:
        output = network(x)
    return _fuse(_fold(_reachable(recorder.finish(output))))


class _Recorder(TorchFunctionMode):
    """Keeps a step for every tensor that an understood operation makes out of known tensors."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.steps = [Step(Kind.INPUT, (), (x.shape[1], x.shape[2], x.shape[3]))]
        self.known = {id(x): 0}
        self.foreign: dict[int, str] = {}
        self.alive = [x]  # an id is only unique among living tensors

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # noqa: ARG002 # part of torch's signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 # whatever the operation returns
        name = _name(func)
        # An operation in place would change what earlier steps refer to.
        run = OUT_OF_PLACE.get(name, func)
        options = {key: value for key, value in (kwargs or {}).items() if key != "inplace"}
        if name == "relu" and len(args) > 1:
            args = args[:1]
        result = run(*args, **options)
        if isinstance(result, Tensor):
            self._remember(name, result, args, options)
        return result

    def _remember(
        self, name: str, result: Tensor, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        tensors = _tensors((*args, *options.values()))
        if not any(id(t) in self.known or id(t) in self.foreign for t in tensors):
            return
        self.alive.append(result)
        step = None
        if name in UNDERSTOOD:
            try:
                step = UNDERSTOOD[name](self, result, *args, **options)
            except (KeyError, TypeError):  # a foreign input, or an option that is not understood
                step = None
        if step is None:
            self.foreign.setdefault(id(result), name)
        elif isinstance(step, int):
            self.known[id(result)] = step
        else:
            self.known[id(result)] = len(self.steps)
            self.steps.append(step)

    def index(self, tensor: Tensor) -> int:
        """Find the step that made a tensor; KeyError when there is none."""
        return self.known[id(tensor)]

    def finish(self, output: Tensor) -> tuple[list[Step], int]:
        """Give all steps and the index of the one that made the network's result."""
        if id(output) in self.known:
            last = self.known[id(output)]
            if self.steps[last].kind is Kind.MEAN:
                return self.steps, last
        names = ", ".join(sorted(set(self.foreign.values()))) or "no global mean at the end"
        message = f"incremental inference does not know how to do: {names}"
        raise UnsupportedNetworkError(message)


def _name(func: Callable[..., Any]) -> str:
    """Name an operation without its module: `conv2d`, `__iadd__`, `max_pool2d`."""
    return (resolve_name(func) or getattr(func, "__name__", str(func))).rpartition(".")[2]


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


def _map_shape(tensor: Tensor) -> tuple[int, int, int]:
    if tensor.ndim != 4:
        message = f"a feature map has 4 dimensions, not {tensor.ndim}"
        raise TypeError(message)
    return tensor.shape[1], tensor.shape[2], tensor.shape[3]


def _reaches(
    kernel: int | Sequence[int],
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
) -> tuple[Reach, Reach]:
    """Give how a kernel reads along rows and columns."""
    if isinstance(padding, str):
        message = f"padding {padding!r} is not a number"
        raise TypeError(message)
    pairs = (_pair(kernel), _pair(stride), _pair(padding), _pair(dilation))
    rows, columns = zip(*pairs, strict=True)
    return Reach(*rows), Reach(*columns)


# ------------------------------------------------------- one reader for each operation's signature


def _read_conv2d(
    recorder: _Recorder,
    result: Tensor,
    input: Tensor,  # noqa: A002 # torch's name, as in all readers below
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Step:
    rows, columns = _reaches(tuple(weight.shape[2:]), stride, padding, dilation)
    zero = torch.zeros(weight.shape[0], device=weight.device)
    return Step(
        Kind.CONVOLUTION,
        (recorder.index(input),),
        _map_shape(result),
        rows,
        columns,
        weight=weight.detach(),
        bias=zero if bias is None else bias.detach(),
        groups=groups,
    )


def _read_batch_norm(
    recorder: _Recorder,
    result: Tensor,
    input: Tensor,  # noqa: A002
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002 # torch's signature
    momentum: float = 0.1,  # noqa: ARG001
    eps: float = 1e-5,
) -> Step | None:
    if training:
        return None
    # In double precision, so that folding costs no more than one rounding.
    factor = (running_var.double() + eps).rsqrt()
    factor = factor if weight is None else factor * weight.double()
    offset = -running_mean.double() * factor
    offset = offset if bias is None else offset + bias.double()
    return Step(
        Kind.AFFINE,
        (recorder.index(input),),
        _map_shape(result),
        weight=factor.detach()[:, None, None],
        bias=offset.detach()[:, None, None],
    )


def _read_relu(recorder: _Recorder, result: Tensor, input: Tensor) -> Step:  # noqa: A002
    return Step(Kind.RELU, (recorder.index(input),), _map_shape(result))


def _read_max_pool2d(
    recorder: _Recorder,
    result: Tensor,
    input: Tensor,  # noqa: A002
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002
    return_indices: bool = False,  # noqa: FBT001, FBT002
) -> Step | None:
    if ceil_mode or return_indices:
        return None
    rows, columns = _reaches(kernel_size, stride or kernel_size, padding, dilation)
    source, shape = recorder.index(input), _map_shape(result)
    return Step(Kind.MAX_POOL, (source,), shape, rows, columns, fill=float("-inf"))


def _read_avg_pool2d(
    recorder: _Recorder,
    result: Tensor,
    input: Tensor,  # noqa: A002
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,  # noqa: FBT001, FBT002
    count_include_pad: bool = True,  # noqa: FBT001, FBT002
    divisor_override: int | None = None,
) -> Step | None:
    padded = any(_pair(padding))
    if ceil_mode or divisor_override is not None or (padded and not count_include_pad):
        return None
    rows, columns = _reaches(kernel_size, stride or kernel_size, padding)
    return Step(Kind.AVERAGE_POOL, (recorder.index(input),), _map_shape(result), rows, columns)


def _read_pad(
    recorder: _Recorder,
    result: Tensor,
    input: Tensor,  # noqa: A002
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Step | None:
    if mode != "constant" or len(pad) != 4 or min(pad) < 0:
        return None
    rows, columns = Reach(padding=pad[2]), Reach(padding=pad[0])
    source, shape = recorder.index(input), _map_shape(result)
    return Step(Kind.PAD, (source,), shape, rows, columns, fill=float(value or 0.0))


def _read_add(recorder: _Recorder, result: Tensor, input: Tensor, other: Tensor) -> Step | None:  # noqa: A002
    if input.shape != other.shape:
        return None
    return Step(Kind.ADD, (recorder.index(input), recorder.index(other)), _map_shape(result))


def _read_cat(
    recorder: _Recorder, result: Tensor, tensors: Sequence[Tensor], dim: int = 0
) -> Step | None:
    if dim not in {1, -3}:
        return None
    sources = tuple(recorder.index(tensor) for tensor in tensors)
    return Step(Kind.CONCATENATE, sources, _map_shape(result))


def _read_adaptive_avg_pool2d(
    recorder: _Recorder,
    result: Tensor,
    input: Tensor,  # noqa: A002
    output_size: int | Sequence[int],
) -> Step | None:
    if _pair(output_size) != (1, 1):
        return None
    return Step(Kind.MEAN, (recorder.index(input),), _map_shape(result))


def _read_mean(
    recorder: _Recorder,
    result: Tensor,
    input: Tensor,  # noqa: A002
    dim: Sequence[int],
    keepdim: bool = False,  # noqa: ARG001, FBT001, FBT002
) -> Step | None:
    if sorted(axis % 4 for axis in dim) != [2, 3]:
        return None
    return Step(Kind.MEAN, (recorder.index(input),), (result.shape[1], 1, 1))


def _read_flatten(
    recorder: _Recorder,
    result: Tensor,  # noqa: ARG001
    input: Tensor,  # noqa: A002
    start_dim: int = 0,
    end_dim: int = -1,
) -> int | None:
    source = recorder.index(input)
    plain = recorder.steps[source].kind is Kind.MEAN and (start_dim, end_dim) == (1, -1)
    return source if plain else None


def _read_same(
    recorder: _Recorder,
    result: Tensor,
    input: Tensor,  # noqa: A002
    *_: object,
    **__: object,
) -> int | None:
    """Read an operation that leaves the values as they are, such as dropout at inference."""
    return recorder.index(input) if result.shape == input.shape else None


def _read_dropout(
    recorder: _Recorder,
    result: Tensor,  # noqa: ARG001
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,  # noqa: FBT001, FBT002
) -> int | None:
    return None if training and p > 0 else recorder.index(input)


UNDERSTOOD: dict[str, Callable[..., Step | int | None]] = {
    "conv2d": _read_conv2d,
    "batch_norm": _read_batch_norm,
    "relu": _read_relu,
    "relu_": _read_relu,
    "max_pool2d": _read_max_pool2d,
    "avg_pool2d": _read_avg_pool2d,
    "pad": _read_pad,
    "add": _read_add,
    "add_": _read_add,
    "__add__": _read_add,
    "__iadd__": _read_add,
    "cat": _read_cat,
    "adaptive_avg_pool2d": _read_adaptive_avg_pool2d,
    "mean": _read_mean,
    "flatten": _read_flatten,
    "contiguous": _read_same,
    "dropout": _read_dropout,
}
OUT_OF_PLACE: dict[str, Callable[..., Any]] = {
    "relu_": torch.relu,
    "add_": torch.add,
    "__iadd__": torch.add,
}


# ----------------------------------------------------------------------------------- simplification


def _reachable(recorded: tuple[list[Step], int]) -> Tape:
    """Keep the steps on which the last one depends, renumbered."""
    steps, last = recorded
    wanted = {last}
    for index in range(last, -1, -1):
        if index in wanted:
            wanted.update(steps[index].inputs)
    kept = sorted(wanted)
    return _renumber([(index, steps[index]) for index in kept], {i: i for i in kept})


def _renumber(kept: Sequence[tuple[int, Step]], replaced: dict[int, int]) -> Tape:
    """Number steps anew; `replaced` maps every old index to the old index that stands for it."""
    places = {old: new for new, (old, _) in enumerate(kept)}
    steps = (
        replace(step, inputs=tuple(places[replaced[source]] for source in step.inputs))
        for _, step in kept
    )
    return Tape(tuple(steps))


def _absorb(tape: Tape, merge: Callable[[Step, Step], Step | None]) -> Tape:
    """Merge each step into the one before it where `merge` can and nobody else reads that one."""
    readers = tape.consumers()
    kept: dict[int, Step] = {}
    replaced: dict[int, int] = {}
    for index, step in enumerate(tape.steps):
        replaced[index] = index
        if len(step.inputs) == 1 and len(readers[step.inputs[0]]) == 1:
            source = replaced[step.inputs[0]]
            merged = merge(kept[source], step)
            if merged is not None:
                kept[source] = merged
                replaced[index] = source
                continue
        kept[index] = step
    return _renumber(list(kept.items()), replaced)


def _fold(tape: Tape) -> Tape:
    """Fold each affine step into the convolution before it."""

    def merge(first: Step, second: Step) -> Step | None:
        if first.kind is not Kind.CONVOLUTION or second.kind is not Kind.AFFINE:
            return None
        if first.weight is None or second.weight is None or second.bias is None:
            return None
        factor = second.weight.flatten()
        weight = first.weight.double() * factor[:, None, None, None]
        offset = 0.0 if first.bias is None else first.bias.double() * factor
        return replace(first, weight=weight, bias=second.bias.flatten() + offset)

    return _absorb(tape, merge)


def _fuse(tape: Tape) -> Tape:
    """Fuse each ReLU into the step before it."""
    fusible = {Kind.CONVOLUTION, Kind.AFFINE, Kind.ADD}

    def merge(first: Step, second: Step) -> Step | None:
        if second.kind is not Kind.RELU or first.kind not in fusible or first.rectified:
            return None
        return replace(first, rectified=True)

    return _absorb(tape, merge)
