"""Writers of checkpoints as the source frameworks write them, without the frameworks: for tests.

Real names, real containers, random weights at any width. Nothing here reads a checkpoint, and
nothing is shared with the converters, so that both can be held against each other.
"""

from __future__ import annotations

import struct
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl_models.checkpoints.tf_bundle import masked_checksum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "Call",
    "byol_tree",
    "pickle_bytes",
    "resnet_state",
    "simclr_variables",
    "write_byol_pickle",
    "write_tf_bundle",
    "write_tf_zip",
]

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


# ---------------------------------------------------------------------------------- the network


class _Unit(NamedTuple):
    """A convolution and its BatchNorm, with both names and the convolution's shape."""

    conv: str
    norm: str
    shape: tuple[int, int, int, int]


def _units(architecture: str, width: int) -> Iterator[_Unit]:
    """Yield all units in TensorFlow's order of creation: a block's shortcut comes first."""
    yield _Unit("conv1", "bn1", (width, 3, 7, 7))
    channels = width
    for stage, blocks in enumerate(_BLOCKS[architecture]):
        inner = width << stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            if architecture == "resnet50":
                convs = [(inner, channels, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)]
            else:
                convs = [(inner, channels, 3, 3), (inner, inner, 3, 3)]
            outer = convs[-1][0]
            if channels != outer:
                shortcut = (outer, channels, 1, 1)
                yield _Unit(f"{name}.downsample.0", f"{name}.downsample.1", shortcut)
            for index, shape in enumerate(convs):
                yield _Unit(f"{name}.conv{index + 1}", f"{name}.bn{index + 1}", shape)
            channels = outer


def resnet_state(architecture: str = "resnet50", *, width: int = 2, seed: int = 0) -> Arrays:
    """Draw seeded weights and statistics of a ResNet that keep its signal finite.

    Args:
        architecture: `resnet18`, `resnet34` or `resnet50`.
        width: Channels of the stem.
        seed: Of all values.

    Returns:
        Torchvision's name to float32 array, no head and no `num_batches_tracked`.
    """
    rng = np.random.default_rng(seed)
    state: Arrays = {}
    for unit in _units(architecture, width):
        scale = np.float32(np.sqrt(2 / np.prod(unit.shape[1:])))
        state[f"{unit.conv}.weight"] = rng.standard_normal(unit.shape, np.float32) * scale
        channels = unit.shape[0]
        state[f"{unit.norm}.weight"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
        state[f"{unit.norm}.bias"] = rng.normal(0, 0.1, channels).astype(np.float32)
        state[f"{unit.norm}.running_mean"] = rng.normal(0, 0.1, channels).astype(np.float32)
        state[f"{unit.norm}.running_var"] = rng.uniform(0.5, 2, channels).astype(np.float32)
    return state


# ------------------------------------------------------------------------------------ TensorFlow


def simclr_variables(
    state: Mapping[str, Array], *, architecture: str = "resnet50", classes: int = 10
) -> Arrays:
    """Name weights as SimCLR's TensorFlow code does, with its head and step counter.

    Args:
        state: As `resnet_state` gives.
        architecture: Of the state.
        classes: Of the supervised head.

    Returns:
        Variable name to array; convolutions as (height, width, in, out).
    """
    width = state["conv1.weight"].shape[0]
    variables: Arrays = {}
    for k, unit in enumerate(_units(architecture, width)):
        suffix = f"_{k}" if k else ""
        kernel = state[f"{unit.conv}.weight"].transpose(2, 3, 1, 0)
        variables[f"base_model/conv2d{suffix}/kernel"] = kernel
        scope = f"base_model/batch_normalization{suffix}"
        variables[f"{scope}/gamma"] = state[f"{unit.norm}.weight"]
        variables[f"{scope}/beta"] = state[f"{unit.norm}.bias"]
        variables[f"{scope}/moving_mean"] = state[f"{unit.norm}.running_mean"]
        variables[f"{scope}/moving_variance"] = state[f"{unit.norm}.running_var"]
        features = unit.shape[0]
    head = "head_supervised/linear_layer/dense"
    variables[f"{head}/kernel"] = np.zeros((features, classes), np.float32)
    variables[f"{head}/bias"] = np.zeros(classes, np.float32)
    variables["global_step"] = np.array(225206, np.int64)
    return variables


_TF_TYPES = {"f4": 1, "f8": 2, "i4": 3, "u1": 4, "i2": 5, "i1": 6, "i8": 9, "b1": 10, "f2": 19}


def write_tf_bundle(prefix: Path, variables: Mapping[str, Array], *, shards: int = 1) -> Path:
    """Write a TensorFlow V2 checkpoint.

    Args:
        prefix: Such as `folder/model.ckpt-225206`.
        variables: Name to array.
        shards: Number of data files; variables take turns.

    Returns:
        The `.index` file.
    """
    entries = {b"": _field(1, shards) + _field(3, _field(1, 1))}
    paths = [
        prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{shards:05d}")
        for number in range(shards)
    ]
    files = [path.open("wb") for path in paths]
    for turn, (name, array) in enumerate(sorted(variables.items())):
        number = turn % shards
        entries[name.encode()] = _entry(array, number, files[number].tell())
        files[number].write(_tensor_bytes(array))
    for file in files:
        file.close()
    index = prefix.with_name(prefix.name + ".index")
    index.write_bytes(index_bytes(entries))
    return index


def write_tf_zip(path: Path, variables: Mapping[str, Array], *, folder: Path) -> Path:
    """Write the archive in which SimCLR was published: a folder with a checkpoint and a `hub`.

    Args:
        path: The archive.
        variables: Name to array.
        folder: Where the checkpoint lies before it is packed.

    Returns:
        `path`.
    """
    index = write_tf_bundle(folder / "model.ckpt-225206", variables)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.glob(index.stem + ".*")):
            archive.write(file, f"ResNet50_1x/{file.name}")
        archive.writestr("ResNet50_1x/hub/variables/variables.index", b"another checkpoint")
    return path


def index_bytes(entries: Mapping[bytes, bytes], *, per_block: int = 100) -> bytes:
    """Write an index table: data blocks, an empty meta-index, the index of blocks, a footer.

    Args:
        entries: Key to value; sorted here.
        per_block: Entries of a data block.
    """
    table, handles = b"", {}
    keys = sorted(entries)
    for start in range(0, len(keys), per_block):
        chosen = keys[start : start + per_block]
        block = _block({key: entries[key] for key in chosen})
        handles[chosen[-1]] = _varint(len(table)) + _varint(len(block) - 5)
        table += block
    footer = b""
    for block in (_block({}), _block(handles)):
        footer += _varint(len(table)) + _varint(len(block) - 5)
        table += block
    return table + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def _block(entries: Mapping[bytes, bytes], *, interval: int = 16) -> bytes:
    content, restarts, previous = b"", [], b""
    for position, (key, value) in enumerate(entries.items()):
        if position % interval == 0:
            restarts.append(len(content))
            previous = b""
        shared = _common(previous, key)
        content += _varint(shared) + _varint(len(key) - shared) + _varint(len(value))
        content += key[shared:] + value
        previous = key
    restarts = restarts or [0]
    content += struct.pack(f"<{len(restarts) + 1}L", *restarts, len(restarts)) + b"\0"
    return content + struct.pack("<L", masked_checksum(content))


def _entry(array: Array, shard: int, offset: int) -> bytes:
    shape = b"".join(_field(2, _field(1, size)) for size in array.shape)
    entry = _field(1, _TF_TYPES[array.dtype.str[1:]]) + _field(2, shape)
    entry += _field(3, shard) if shard else b""
    entry += _field(4, offset) if offset else b""
    data = _tensor_bytes(array)
    return entry + _field(5, len(data)) + b"\x35" + struct.pack("<L", masked_checksum(data))


def _tensor_bytes(array: Array) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(8 * number) + _varint(value)
    return _varint(8 * number + 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _common(first: bytes, second: bytes) -> int:
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length


# ----------------------------------------------------------------------------------------- Haiku


class Call(NamedTuple):
    """What a pickle rebuilds by calling a global: `name` is `module name`, `state` is set after."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def byol_tree(
    state: Mapping[str, Array], *, stem: str = "initial_conv", architecture: str = "resnet50"
) -> tuple[dict[str, dict[str, Array]], dict[str, dict[str, Array]]]:
    """Name weights as BYOL's Haiku code does, with its heads.

    Args:
        state: As `resnet_state` gives.
        stem: `initial_conv`, or `initial_conv_1` as a subclass of Haiku's network names it.
        architecture: Of the state.

    Returns:
        Parameters and state, module to name to array; convolutions as (height, width, in, out).
    """
    root = f"res_net{architecture.removeprefix('resnet')}/~/"
    params: dict[str, dict[str, Array]] = {}
    averages: dict[str, dict[str, Array]] = {}
    for unit in _units(architecture, state["conv1.weight"].shape[0]):
        conv, norm = _haiku_names(unit, stem)
        params[root + conv] = {"w": state[f"{unit.conv}.weight"].transpose(2, 3, 1, 0)}
        values = {
            key: state[f"{unit.norm}.{key}"].reshape(1, 1, 1, -1)
            for key in ("weight", "bias", "running_mean", "running_var")
        }
        params[root + norm] = {"offset": values["bias"], "scale": values["weight"]}
        for moment, key in (("mean_ema", "running_mean"), ("var_ema", "running_var")):
            averages[f"{root}{norm}/~/{moment}"] = {
                "average": values[key],
                "counter": np.array(1000, np.int32),
                "hidden": values[key],
            }
    features = values["weight"].shape[-1]
    params |= _byol_heads(features)
    counter = {"average": np.zeros((1, 4), np.float32), "counter": np.array(1, np.int32)}
    averages["projector/batch_norm/~/mean_ema"] = counter
    return params, averages


def _byol_heads(features: int) -> dict[str, dict[str, Array]]:
    weight, bias = np.ones((features, 4), np.float32), np.zeros(4, np.float32)
    norm = {"offset": bias[None], "scale": bias[None]}
    return {
        "classifier": {"b": bias, "w": weight},
        "predictor/linear": {"w": weight, "b": bias},
        "projector/batch_norm": norm,
        "projector/linear": {"w": weight, "b": bias},
    }


def _haiku_names(unit: _Unit, stem: str) -> tuple[str, str]:
    if unit.conv == "conv1":
        return stem, "initial_batchnorm"
    stage, block, part, *_ = unit.conv.split(".")
    scope = f"block_group_{int(stage[5:]) - 1}/~/block_{block}/~/"
    if part == "downsample":
        return f"{scope}shortcut_conv", f"{scope}shortcut_batchnorm"
    index = int(part[4:]) - 1
    return f"{scope}conv_{index}", f"{scope}batchnorm_{index}"


def write_byol_pickle(
    path: Path,
    params: Mapping[str, Mapping[str, Array]],
    averages: Mapping[str, Mapping[str, Array]],
    *,
    protocol: int = 2,
    mapping: str = "haiku._src.data_structures FlatMapping",
) -> Path:
    """Write a BYOL checkpoint as dill does, with online, target and optimiser sets.

    Args:
        path: The pickle.
        params: Module to name to array.
        averages: Module to name to array.
        protocol: 2 (bytes as text, 1.5 times the size) or 4.
        mapping: Class of the mappings as `module name`, or empty for plain ones.

    Returns:
        `path`.
    """

    def wrapped(tree: Mapping[str, Mapping[str, Array]]) -> object:
        plain = {name: dict(leaves) for name, leaves in tree.items()}
        if not mapping:
            return plain
        inner = {name: Call(mapping, (leaves,)) for name, leaves in plain.items()}
        return Call(mapping, (inner,))

    fields = ("online_params", "target_params", "online_state", "target_state", "opt_state")
    state_type = _namedtuple("_ByolExperimentState", fields, "byol.byol_experiment")
    optimiser = _namedtuple("ScaleByLarsState", ("mu",), "byol.utils.optimizers")
    sets = wrapped(params), wrapped(params), wrapped(averages), wrapped(averages)
    state = _Make(state_type, (*sets, [_Make(optimiser, (wrapped(params),))]))
    tree = {"experiment_state": state, "step": 300_000, "rng": np.array([0, 7], np.uint32)}
    with path.open("wb") as file:
        for chunk in _pickle_chunks(tree, protocol):
            file.write(chunk)
    return path


def pickle_bytes(value: object, *, protocol: int = 2) -> bytes:
    """Write a pickle of built-in values, arrays and `Call`s; any global may be named.

    Args:
        value: What to write.
        protocol: 2 or 4.
    """
    return b"".join(_pickle_chunks(value, protocol))


class _Make(NamedTuple):
    """An instance that is made by a class which is itself the result of a call."""

    kind: Call
    values: tuple[Any, ...]


def _namedtuple(name: str, fields: Sequence[str], module: str) -> Call:
    return Call("dill._dill _create_namedtuple", (name, tuple(fields), module))


def _pickle_chunks(value: object, protocol: int) -> Iterator[bytes]:
    yield b"\x80" + bytes([protocol])
    yield from _Emitter(protocol).emit(value)
    yield b"."


class _Emitter:
    """Opcodes for a value; globals and dtypes are put into the memo and taken from it again."""

    def __init__(self, protocol: int) -> None:
        self.protocol = protocol
        self.memo: dict[str, int] = {}

    def emit(self, value: Any) -> Iterator[bytes]:  # noqa: ANN401 # any picklable value
        match value:
            case None:
                yield b"N"
            case bool():
                yield b"\x88" if value else b"\x89"
            case int():
                yield b"J" + struct.pack("<i", value)
            case str():
                text = value.encode()
                yield b"X" + struct.pack("<L", len(text)) + text
            case Call():
                yield from self._call(value)
            case _Make():
                yield from (*self.emit(value.kind), *self.emit(value.values), b"\x81")
            case np.dtype():
                yield from self._dtype(value)
            case np.ndarray():
                yield from self._array(value)
            case _:
                yield from self._container(value)

    def _container(self, value: object) -> Iterator[bytes]:
        match value:
            case bytes():
                yield from self._bytes(value)
            case tuple():
                yield from self._items(b"(", value, b"t")
            case list():
                yield from self._items(b"](", value, b"e")
            case dict():
                flat = [part for pair in value.items() for part in pair]
                yield from self._items(b"}(", flat, b"u")
            case _:
                message = f"no opcode for a {type(value).__name__}"
                raise TypeError(message)

    def _items(self, start: bytes, items: Sequence[object], end: bytes) -> Iterator[bytes]:
        yield start
        for item in items:
            yield from self.emit(item)
        yield end

    def _call(self, call: Call) -> Iterator[bytes]:
        yield from self._global(call.name)
        yield from self.emit(call.arguments)
        yield b"R"
        if call.state is not None:
            yield from (*self.emit(call.state), b"b")

    def _global(self, name: str) -> Iterator[bytes]:
        yield from self._once(name, [b"c" + name.replace(" ", "\n").encode() + b"\n"])

    def _once(self, key: str, chunks: Sequence[bytes]) -> Iterator[bytes]:
        if key in self.memo:
            yield b"j" + struct.pack("<L", self.memo[key])
            return
        yield from chunks
        index = self.memo[key] = len(self.memo)
        yield b"r" + struct.pack("<L", index)

    def _hidden(self, module: str, name: str) -> list[bytes]:
        """Emit a built-in function as dill hides it: an attribute of an imported module."""
        imported = Call("dill._dill _import_module", (module,))
        return list(self._call(Call("dill._dill _get_attr", (imported, name))))

    def _bytes(self, value: bytes) -> Iterator[bytes]:
        if self.protocol > 2:
            yield b"B" + struct.pack("<L", len(value)) + value
            return
        yield from self._once("encode", self._hidden("_codecs", "encode"))
        text = value.decode("latin-1").encode()
        yield b"X" + struct.pack("<L", len(text))
        yield text
        yield b"X" + struct.pack("<L", 6) + b"latin1" + b"\x86R"

    def _array(self, array: Array) -> Iterator[bytes]:
        umath = self._hidden("numpy.core._multiarray_umath", "_reconstruct")
        yield from self._once("_reconstruct", umath)
        yield b"("
        yield from self._global("numpy ndarray")
        yield from (*self.emit((0,)), *self.emit(b"b"), b"tR")
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        data = array.tobytes(order="F" if fortran else "C")
        yield from self.emit((1, array.shape, array.dtype, fortran, data))
        yield b"b"

    def _dtype(self, dtype: np.dtype[Any]) -> Iterator[bytes]:
        order = "|" if dtype.itemsize == 1 else "<"
        state = (3, order, None, None, None, -1, -1, 0)
        call = Call("numpy dtype", (dtype.str[1:], False, True), state)
        yield from self._once(dtype.str, list(self._call(call)))
