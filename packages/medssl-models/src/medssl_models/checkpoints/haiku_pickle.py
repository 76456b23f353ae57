"""Checkpoints of Haiku networks, pickled by dill or by pickle (BYOL), as named arrays.

No class of Haiku, JAX, jaxline, dill or NumPy is imported or called for the file: a short list of
stand-ins says what a name in it may mean. Arrays stay in the file until they are asked for.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_models.checkpoints.pickle_machine import Blob, Draft, Record, Standin, run
from medssl_models.errors import CheckpointError, UnsafeCheckpointError

__all__ = ["PickledArrays", "parse_haiku_pickle", "read_haiku_pickle"]

# Numbers only: an object array would hold further pickled values.
_DTYPES = frozenset({"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"})
_MAX_DIMENSIONS = 8
# A ResNet-50 of BYOL with everything beside it has 1,200 arrays.
_MAX_ARRAYS = 50_000
_MAX_VALUES = 200_000
_MAX_DEPTH = 24
_MAX_PATH = 512

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """Where an array of the file is and how to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    data: bytes | Blob

    def read(self) -> Array:
        """Return the array in native byte order: a read-only view of the file where it can be."""
        raw = self.data.read() if isinstance(self.data, Blob) else self.data
        if len(raw) != math.prod(self.shape) * self.dtype.itemsize:
            message = f"an array of shape {self.shape} {self.dtype} has {len(raw)} bytes of data"
            raise CheckpointError(message)
        flat = np.frombuffer(raw, self.dtype)
        array = flat.reshape(self.shape, order="F" if self.fortran else "C")
        return array.astype(self.dtype.newbyteorder("="), copy=False)


class PickledArrays(Mapping[str, Array]):
    """The arrays of a pickle by path, such as `experiment_state/online_params/.../initial_conv/w`.

    A path joins mapping keys, record fields and list positions by `/`. An array is decoded when it
    is asked for, and not kept, so that memory is that of the arrays in use.

    Args:
        stored: Path to array, in the order of the file.
        globals_seen: The globals that the file names, sorted; for `inspect`.
    """

    def __init__(self, stored: Mapping[str, StoredArray], globals_seen: tuple[str, ...]) -> None:
        self._stored = stored
        self.globals_seen = globals_seen

    def __getitem__(self, name: str) -> Array:
        try:
            return self._stored[name].read()
        except CheckpointError as error:
            message = f"{name}: {error}"
            raise CheckpointError(message) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one array, without reading it."""
        return self._stored[name].shape


def read_haiku_pickle(path: Path) -> PickledArrays:
    """Read the arrays of a pickled Haiku checkpoint without running anything that it says.

    Args:
        path: The file; it is memory-mapped and must not change while the arrays are in use.

    Returns:
        Its arrays by path; none is decoded yet.

    Raises:
        UnsafeCheckpointError: The file names a global that is not on the list, or is a bomb.
        CheckpointError: The file is cut off, malformed, or holds no arrays.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            message = f"{path}: the file is empty"
            raise CheckpointError(message)
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return parse_haiku_pickle(memoryview(data))
    except CheckpointError as error:
        message = f"{path}: {error}"
        raise type(error)(message) from error


def parse_haiku_pickle(data: bytes | memoryview) -> PickledArrays:
    """Read the arrays of a pickle in memory, as `read_haiku_pickle` does.

    Args:
        data: The whole pickle.

    Returns:
        Its arrays by path; they are views of `data` where they can be.
    """
    value, seen = run(data, _VOCABULARY)
    arrays = _collect(value)
    if not arrays:
        message = "the pickle holds no arrays; is it a checkpoint?"
        raise CheckpointError(message)
    return PickledArrays(arrays, tuple(seen))


def _collect(root: object) -> dict[str, StoredArray]:
    """Walk the value without recursion; shared and cyclic parts are bounded by count and depth."""
    found: dict[str, StoredArray] = {}
    pending: list[tuple[str, int, object]] = [("", 0, root)]
    visited = 0
    while pending:
        name, depth, value = pending.pop()
        if isinstance(value, Draft):
            value = _built(value, name)
        if isinstance(value, StoredArray):
            _add(found, name, value)
            continue
        visited += _size(value)
        if visited > _MAX_VALUES or depth > _MAX_DEPTH or len(name) > _MAX_PATH:
            message = f"its mappings unfold to too many, too deep or too long paths: {name[:120]!r}"
            raise UnsafeCheckpointError(message)
        children = [(_join(name, key), depth + 1, child) for key, child in _items(value)]
        pending.extend(reversed(children))
    return found


def _size(value: object) -> int:
    if isinstance(value, Record):
        return 1 + len(value.values)
    return 1 + len(value) if isinstance(value, dict | list | tuple) else 1


def _add(found: dict[str, StoredArray], name: str, array: StoredArray) -> None:
    if name in found:
        message = f"two arrays have the path {name!r}"
        raise CheckpointError(message)
    if len(found) == _MAX_ARRAYS:
        message = f"more than {_MAX_ARRAYS:,} arrays"
        raise UnsafeCheckpointError(message)
    found[name] = array


def _join(parent: str, key: object) -> str:
    return f"{parent}/{key}" if parent else str(key)


def _items(value: object) -> list[tuple[object, object]]:
    """List the parts of a container; scalars, texts and stand-ins have none."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, Record):
        return list(zip(value.fields, value.values, strict=True))
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return []


def _built(draft: Draft, name: str) -> object:
    if draft.value is None:
        message = f"the array {name!r} is announced but never filled"
        raise CheckpointError(message)
    return draft.value


# -- stand-ins: what the names in a file mean. Each only builds a value. ------------------------
def _refuse(what: str) -> CheckpointError:
    return UnsafeCheckpointError(f"{what}; nothing was run")


def _show(arguments: tuple[object, ...]) -> str:
    """Show arguments shortly: the `repr` of nested tuples can be exponentially long."""
    return ", ".join(
        f"{value!r:.80}" if isinstance(value, str) else type(value).__name__
        for value in arguments[:4]
    )


def _dtype(arguments: tuple[object, ...]) -> Draft:
    code = arguments[0] if arguments else None
    if not isinstance(code, str) or code.lstrip("<>|=") not in _DTYPES or len(arguments) > 3:
        message = f"arrays of dtype {_show(arguments)}"
        raise _refuse(message)
    dtype = np.dtype(code)

    def fill(state: object) -> np.dtype[Any]:
        plain = isinstance(state, tuple) and len(state) == 8 and state[2:5] == (None, None, None)
        if not plain or state[1] not in ("<", ">", "|", "="):  # type: ignore[index] # plain: a tuple
            message = "a dtype with fields, subarrays or metadata"
            raise _refuse(message)
        return dtype.newbyteorder(state[1])  # type: ignore[index] # plain: a tuple

    return Draft(fill, dtype)


def _stored(shape: object, dtype: object, fortran: object, data: object) -> StoredArray:
    dims = shape if isinstance(shape, tuple) else (shape,)
    if len(dims) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in dims):
        message = f"an array has a shape that is none: {_show(dims)}"
        raise CheckpointError(message)
    kind = dtype.value if isinstance(dtype, Draft) else None
    if not isinstance(kind, np.dtype):
        message = "an array has no dtype"
        raise CheckpointError(message)
    size = math.prod(dims) * kind.itemsize
    if not isinstance(data, bytes | Blob) or not _may_hold(data, size):
        message = f"an array of shape {dims} {kind} does not have {size} bytes of data"
        raise CheckpointError(message)
    return StoredArray(dims, kind, fortran in {True, "F"}, data)


def _may_hold(data: bytes | Blob, size: int) -> bool:
    return data.may_hold(size) if isinstance(data, Blob) else len(data) == size


def _array_from_state(state: object) -> StoredArray:
    if not isinstance(state, tuple) or len(state) != 5 or state[0] not in (0, 1):
        message = "an array has a state of an unknown version"
        raise CheckpointError(message)
    return _stored(*state[1:])


def _reconstruct(arguments: tuple[object, ...]) -> Draft:
    if len(arguments) != 3 or arguments[0] is not _NDARRAY:
        message = "it reconstructs something that is no array"
        raise _refuse(message)
    return Draft(_array_from_state)


def _scalar(arguments: tuple[object, ...]) -> Draft:
    if len(arguments) != 2:
        message = "a NumPy scalar without a value"
        raise CheckpointError(message)
    return Draft(_array_from_state, _stored((), arguments[0], None, arguments[1]), filled=True)


def _from_buffer(arguments: tuple[object, ...]) -> Draft:
    if len(arguments) != 4:
        message = "an array buffer without shape and order"
        raise CheckpointError(message)
    data, dtype, shape, order = arguments
    return Draft(_array_from_state, _stored(shape, dtype, order, data), filled=True)


def _wrapped_array(arguments: tuple[object, ...]) -> Draft:
    """Build an array as JAX and dill write it: NumPy's function, its arguments and a state."""
    match arguments:
        case (Standin() as function, tuple() as inner, tuple() as state, *_):
            draft = function.call(inner) if function.call is _reconstruct else None
            if isinstance(draft, Draft):
                draft.build(state)
                return draft
    message = "an array of JAX or dill in an unknown form"
    raise _refuse(message)


def _encode(arguments: tuple[object, ...]) -> bytes | Blob:
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1")
        case (Blob() as blob, "latin1" | "latin-1"):
            return blob.as_latin_1()
    message = "a codec other than Latin-1"
    raise _refuse(message)


def _mapping(arguments: tuple[object, ...]) -> object:
    match arguments:
        case ():
            return {}
        case (dict() as content,):
            return content
    message = "a mapping made of something else"
    raise _refuse(message)


def _no_bytes(arguments: tuple[object, ...]) -> bytes:
    if arguments:
        message = "bytes made of something else"
        raise _refuse(message)
    return b""


def _never(what: str) -> Callable[[tuple[object, ...]], object]:
    def call(_: tuple[object, ...]) -> object:
        message = f"it calls {what}"
        raise _refuse(message)

    return call


def _create_namedtuple(arguments: tuple[object, ...]) -> Standin:
    name, fields, *rest = (*arguments, None, None)
    texts = isinstance(fields, tuple | list) and all(isinstance(field, str) for field in fields)
    if not isinstance(name, str) or not texts or len(rest) > 4:
        message = "a named tuple without names"
        raise _refuse(message)
    return _record(name, tuple(fields))  # type: ignore[arg-type] # texts: a sequence of str


def _record(name: str, fields: tuple[str, ...]) -> Standin:
    def call(values: tuple[object, ...]) -> Record:
        if len(values) != len(fields):
            message = f"{name} has {len(fields)} fields and {len(values)} values"
            raise CheckpointError(message)
        return Record(name, fields, values)

    return Standin(name, call)


def _rebuild_record(arguments: tuple[object, ...]) -> object:
    """Build a named tuple as protocols 0 and 1 write it."""
    match arguments:
        case (Standin() as cls, Standin(name="tuple"), tuple() as values):
            return cls.call(values)
    message = "it reconstructs something that is no named tuple"
    raise _refuse(message)


def _import_module(arguments: tuple[object, ...]) -> Standin:
    match arguments:
        case (str() as name, *_) if name in _MODULES:
            return Standin(name, _never("a module"))
    message = f"it imports a module: {_show(arguments)}"
    raise _refuse(message)


def _get_attribute(arguments: tuple[object, ...]) -> Standin:
    match arguments:
        case (Standin(name=module), str() as name) if module in _MODULES:
            full = f"{module}.{name}"
            if full in _VOCABULARY and "." not in name:
                return _VOCABULARY[full]
    message = f"it takes an attribute: {_show(arguments)}"
    raise _refuse(message)


def _builtin(arguments: tuple[object, ...]) -> Standin:
    match arguments:
        case ("BytesType" | "TupleType" | "DictType" as name,):
            return _TYPES[name]
    message = f"it asks for a type: {_show(arguments)}"
    raise _refuse(message)


_NDARRAY = Standin("numpy.ndarray", _never("numpy.ndarray"))
_TUPLE = Standin("tuple", _never("tuple"))
_BYTES = Standin("bytes", _no_bytes)
_DICT = Standin("dict", _mapping)
_TYPES = {"BytesType": _BYTES, "TupleType": _TUPLE, "DictType": _DICT}
_STATE = _record(
    "_ByolExperimentState",
    ("online_params", "target_params", "online_state", "target_state", "opt_state"),
)
_FUNCTIONS: dict[Callable[[tuple[object, ...]], object], tuple[str, ...]] = {
    _create_namedtuple: ("dill._dill._create_namedtuple",),
    _get_attribute: ("dill._dill._get_attr",),
    _import_module: ("dill._dill._import_module",),
    _builtin: ("dill._dill._load_type",),
    _dtype: ("numpy.dtype",),
    _reconstruct: (
        "numpy.core._multiarray_umath._reconstruct",
        "numpy._core._multiarray_umath._reconstruct",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
    ),
    _scalar: (
        "numpy.core._multiarray_umath.scalar",
        "numpy._core._multiarray_umath.scalar",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    ),
    _from_buffer: ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    _encode: ("_codecs.encode",),
    _mapping: (
        "collections.OrderedDict",
        # Haiku named its immutable mapping frozendict until August 2020.
        "haiku._src.data_structures.FlatMap",
        "haiku._src.data_structures.FlatMapping",
        "haiku._src.data_structures.frozendict",
    ),
    _wrapped_array: (
        # Some versions of dill take every array for one of a subclass.
        "dill._dill._create_array",
        "jax._src.array._reconstruct_array",
        "jax._src.device_array.reconstruct_device_array",
        "jax.interpreters.xla.reconstruct_device_array",
    ),
    _rebuild_record: ("copy_reg._reconstructor", "copyreg._reconstructor"),
}
_VOCABULARY: dict[str, Standin] = {
    **{name: Standin(name, call) for call, names in _FUNCTIONS.items() for name in names},
    "numpy.ndarray": _NDARRAY,
    "__builtin__.bytes": _BYTES,
    "builtins.bytes": _BYTES,
    "__builtin__.tuple": _TUPLE,
    "builtins.tuple": _TUPLE,
    # Pickled without dill, jaxline's snapshot and BYOL's state are named by their classes.
    "byol.byol_experiment._ByolExperimentState": _STATE,
    "jaxline.utils.SnapshotNT": _record("SnapshotNT", ("id", "pickle_nest")),
}
_MODULES = frozenset(
    name.rpartition(".")[0] for name in _VOCABULARY if name.startswith(("numpy", "_codecs"))
)
