"""An interpreter of pickle streams (protocols 0 to 5) that can build inert values and nothing else.

Python's own unpickler imports and calls what a file names. This one reads the same opcodes, knows
only the stand-ins that its caller allows, leaves long strings in the file until they are asked
for, and bounds the number of opcodes, so that its memory is bounded too. It imports no pickle.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from medssl_models.errors import CheckpointError, UnsafeCheckpointError

__all__ = ["Blob", "Draft", "Record", "Standin", "run"]

# The published checkpoints have some 45,000 opcodes at any width. An opcode leaves at most some
# 400 bytes behind, so that this keeps a file of nothing but small values under 400 MiB.
MAX_OPCODES = 1_000_000
MAX_PROTOCOL = 5
MAX_NAME = 256  # a longer text is data, and stays in the file
MAX_NAMES = 32 * 2**20
MAX_INTEGER = 16
MAX_LINE = 512


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """Bytes or text of the file that nobody has needed yet.

    `form` says how the bytes encode the value: as themselves, as UTF-8 or raw-unicode-escape text,
    or as such text that is itself the Latin-1 form of bytes (what protocols 0 to 2 do to bytes).
    """

    view: memoryview
    form: Literal["bytes", "utf-8", "raw-unicode-escape", "latin-1/utf-8", "latin-1/raw"]

    def as_latin_1(self) -> "Blob":
        """Return the bytes whose Latin-1 text this is, still unread."""
        if self.form == "utf-8":
            return Blob(self.view, "latin-1/utf-8")
        if self.form == "raw-unicode-escape":
            return Blob(self.view, "latin-1/raw")
        message = "something that is no text is encoded as Latin-1"
        raise CheckpointError(message)

    def may_hold(self, size: int) -> bool:
        """Tell without decoding whether this can be `size` bytes long."""
        length = len(self.view)
        longest = {"bytes": size, "latin-1/utf-8": 2 * size, "latin-1/raw": 6 * size}
        return size <= length <= longest.get(self.form, -1)

    def read(self) -> bytes | memoryview:
        """Return the bytes, decoded; a view into the file where it holds them as they are."""
        if self.form == "bytes":
            return self.view
        encoding = "utf-8" if self.form == "latin-1/utf-8" else "raw-unicode-escape"
        try:
            return str(self.view, encoding).encode("latin-1")
        except UnicodeError as error:
            message = f"array data is not valid {encoding} text of Latin-1 bytes"
            raise CheckpointError(message) from error


@dataclass(frozen=True, slots=True, eq=False)
class Standin:
    """What a global of the file becomes: a name and a function of ours that only builds values."""

    name: str
    call: Callable[[tuple[object, ...]], object]


@dataclass(slots=True, eq=False)
class Draft:
    """A value that the file builds in two steps; `fill` turns its state into the value, once."""

    fill: Callable[[object], object]
    value: object = None
    filled: bool = False

    def build(self, state: object) -> None:
        """Take the state; a second one is refused, since others may already hold the value."""
        if self.filled:
            message = "an array or dtype is built twice"
            raise CheckpointError(message)
        self.value = self.fill(state)
        self.filled = True


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A named tuple of the file: its fields and values, without its class."""

    name: str
    fields: tuple[str, ...]
    values: tuple[object, ...]


def run(data: bytes | memoryview, vocabulary: Mapping[str, Standin]) -> tuple[object, list[str]]:
    """Interpret one pickle stream.

    Args:
        data: The whole stream, usually a memory-mapped file.
        vocabulary: The globals that may be named, as `module.name`, and their stand-ins.

    Returns:
        The value, made of built-in scalars and containers, `Blob`, `Record`, `Draft` and
        `Standin`; and the globals that were named, sorted.

    Raises:
        UnsafeCheckpointError: A global that is not in the vocabulary, or a bound is exceeded.
        CheckpointError: The stream is cut off or malformed.
    """
    machine = _Machine(memoryview(data), vocabulary)
    try:
        value = machine.run()
    except CheckpointError as error:
        message = f"at byte {machine.start} of the pickle: {error}"
        raise type(error)(message) from error
    except (IndexError, KeyError, struct.error, ValueError) as error:
        message = f"at byte {machine.start} of the pickle: malformed stream ({error!r:.120})"
        raise CheckpointError(message) from error
    return value, sorted(machine.seen)


class _Mark:
    """Where an opened container begins on the stack."""


_MARK = _Mark()
_Key = str | int | bool | None
T = TypeVar("T")


class _Machine:
    """The stack, the memo and the position; one method an opcode family."""

    def __init__(self, data: memoryview, vocabulary: Mapping[str, Standin]) -> None:
        self.data = data
        self.vocabulary = vocabulary
        self.position = 0
        self.start = 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.names = 0
        self.seen: set[str] = set()

    def run(self) -> object:
        for _ in range(MAX_OPCODES):
            self.start = self.position
            opcode = bytes(self.take(1))
            if opcode == b".":
                return self.stop()
            action = _ACTIONS.get(opcode)
            if action is None:
                message = f"opcode {opcode!r} is not part of a checkpoint and is refused"
                raise UnsafeCheckpointError(message)
            action(self)
        message = f"more than {MAX_OPCODES:,} opcodes; a checkpoint has about 50,000"
        raise UnsafeCheckpointError(message)

    def stop(self) -> object:
        value = self.pop()
        if self.stack:
            message = f"{len(self.stack)} values are left over at the end"
            raise CheckpointError(message)
        if self.position != len(self.data):
            message = f"{len(self.data) - self.position} bytes follow the end of the pickle"
            raise CheckpointError(message)
        return value

    # -- reading ------------------------------------------------------------------------------
    def take(self, size: int) -> memoryview:
        end = self.position + size
        if size < 0 or end > len(self.data):
            message = f"the file is cut off: {size} bytes announced, {self.left()} left"
            raise CheckpointError(message)
        view = self.data[self.position : end]
        self.position = end
        return view

    def protocol(self, number: int) -> None:
        if number > MAX_PROTOCOL:
            message = f"pickle protocol {number}; {MAX_PROTOCOL} is the newest that is known"
            raise CheckpointError(message)

    def frame(self, size: int) -> None:
        """Check that the announced bytes are there; frames only help readers of streams."""
        if size > self.left():
            message = f"the file is cut off: a frame of {size} bytes, {self.left()} left"
            raise CheckpointError(message)

    def left(self) -> int:
        return len(self.data) - self.position

    def number(self, code: str) -> int:
        (value,) = struct.unpack(code, self.take(struct.calcsize(code)))
        return int(value)

    def line(self) -> str:
        return str(self.long_line(MAX_LINE), "ascii")

    def long_line(self, limit: int) -> memoryview:
        """Take bytes up to the next newline, searched in growing windows."""
        window = 512
        while True:
            head = bytes(self.data[self.position : self.position + min(window, limit)])
            end = head.find(b"\n")
            if end >= 0:
                view = self.take(end)
                self.take(1)
                return view
            if len(head) < window:
                message = "a line of text has no end, or is too long for a name"
                raise CheckpointError(message)
            window *= 4

    # -- stack --------------------------------------------------------------------------------
    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        value = self.stack.pop()
        if value is _MARK:
            message = "a container ends where it should not"
            raise CheckpointError(message)
        return value

    def pop_mark(self) -> list[object]:
        """Take everything above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        message = "a container ends that was never opened"
        raise CheckpointError(message)

    def top(self, kind: type[T]) -> T:
        value = self.stack[-1]
        if type(value) is not kind:
            message = f"a {kind.__name__} is expected, a {type(value).__name__} found"
            raise CheckpointError(message)
        return value

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        value = self.stack[-1]
        if value is _MARK or index < 0:
            message = "a memo entry has no value"
            raise CheckpointError(message)
        self.memo[index] = value

    # -- values -------------------------------------------------------------------------------
    def text(self, size: int) -> None:
        view = self.take(size)
        self.push(self.name(view, "utf-8") if size <= MAX_NAME else Blob(view, "utf-8"))

    def escaped_text(self) -> None:
        view = self.long_line(len(self.data))
        encoding: Literal["raw-unicode-escape"] = "raw-unicode-escape"
        short = len(view) <= MAX_NAME
        self.push(self.name(view, encoding) if short else Blob(view, encoding))

    def name(self, view: memoryview, encoding: str) -> str:
        self.names += len(view)
        if self.names > MAX_NAMES:
            message = f"more than {MAX_NAMES:,} bytes of short texts"
            raise UnsafeCheckpointError(message)
        return str(view, encoding)

    def octets(self, size: int) -> None:
        self.push(Blob(self.take(size), "bytes"))

    def integer(self, size: int) -> None:
        if not 0 <= size <= MAX_INTEGER:
            message = f"an integer of {size} bytes; {MAX_INTEGER} are allowed"
            raise UnsafeCheckpointError(message)
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def decimal(self) -> None:
        line = self.line()
        if line in {"00", "01"}:
            self.push(line == "01")
        elif len(line) > 2 * MAX_INTEGER:
            message = f"an integer of {len(line)} digits"
            raise UnsafeCheckpointError(message)
        else:
            self.push(int(line.removesuffix("L")))

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self, items: list[object]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[object]) -> None:
        _fill_dict(self.top(dict), items)

    def new_dict(self, items: list[object]) -> None:
        target: dict[_Key, object] = {}
        _fill_dict(target, items)
        self.push(target)

    # -- globals ------------------------------------------------------------------------------
    def find(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            message = "a global is named by something that is no text"
            raise CheckpointError(message)
        full = f"{module}.{name}"
        if full not in self.vocabulary or "." in name:
            message = (
                f"it asks for {full[:120]!r}, which is not among the {len(self.vocabulary)} names "
                "that a checkpoint may use; nothing was run"
            )
            raise UnsafeCheckpointError(message)
        self.seen.add(full)
        self.push(self.vocabulary[full])

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.find(module, name)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Standin or type(arguments) is not tuple:
            message = f"it calls a {type(function).__name__}; only known stand-ins may be called"
            raise UnsafeCheckpointError(message)
        self.push(function.call(arguments))

    def call_with_keywords(self) -> None:
        if self.pop() != {}:
            message = "it calls something with keyword arguments"
            raise UnsafeCheckpointError(message)
        self.call()

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if type(target) is not Draft:
            message = f"it sets the state of a {type(target).__name__}"
            raise UnsafeCheckpointError(message)
        target.build(state)


def _fill_dict(target: dict[_Key, object], items: list[object]) -> None:
    if len(items) % 2:
        message = "a mapping has a key without a value"
        raise CheckpointError(message)
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only flat keys: the hash of a nested tuple can cost more than the file is long.
        if key is not None and not isinstance(key, str | int):
            message = f"a mapping has a {type(key).__name__} as key"
            raise CheckpointError(message)
        if key in target:
            message = f"a mapping has the key {key!r:.120} twice"
            raise CheckpointError(message)
        target[key] = value


_ACTIONS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": lambda m: m.protocol(m.number("<B")),
    b"\x95": lambda m: m.frame(m.number("<Q")),
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.pop_mark(),
    b"2": lambda m: m.push(m.stack[-1]),
    # scalars
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),  # noqa: FBT003 # NEWTRUE
    b"\x89": lambda m: m.push(False),  # noqa: FBT003 # NEWFALSE
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"I": lambda m: m.decimal(),
    b"L": lambda m: m.decimal(),
    b"\x8a": lambda m: m.integer(m.number("<B")),
    b"\x8b": lambda m: m.integer(m.number("<i")),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(*struct.unpack(">d", m.take(8))),
    # text and bytes
    b"X": lambda m: m.text(m.number("<I")),
    b"\x8c": lambda m: m.text(m.number("<B")),
    b"\x8d": lambda m: m.text(m.number("<Q")),
    b"V": lambda m: m.escaped_text(),
    b"B": lambda m: m.octets(m.number("<I")),
    b"C": lambda m: m.octets(m.number("<B")),
    b"\x8e": lambda m: m.octets(m.number("<Q")),
    b"\x96": lambda m: m.octets(m.number("<Q")),
    # containers
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"l": lambda m: m.push(m.pop_mark()),
    b"d": lambda m: m.new_dict(m.pop_mark()),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_mark()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_mark()),
    # memo
    b"g": lambda m: m.get(int(m.line())),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"p": lambda m: m.put(int(m.line())),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    # globals: looked up in the vocabulary, never imported
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": lambda m: m.stack_global(),
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.call(),  # NEWOBJ: a record is made as if called
    b"\x92": lambda m: m.call_with_keywords(),
    b"b": lambda m: m.build(),
}
