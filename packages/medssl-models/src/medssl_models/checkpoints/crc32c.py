"""CRC-32C (Castagnoli) of large buffers in NumPy, and the masked form that TensorFlow stores.

The message is folded: a row of words is moved onto the next row by one multiplication by a power
of x, which two tables of 65,536 entries carry out for all words at once. That is half a look-up
a byte, in NumPy, instead of one a byte in Python.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["crc32c", "unmask"]

_POLYNOMIAL = 0x82F63B78  # of Castagnoli, bits reflected
_ONES = 0xFFFFFFFF
_WIDE, _NARROW = 16384, 128  # words of a row: one stays in a cache, the other ends at 512 bytes
_MASK_DELTA = 0xA282EAD8

Words = npt.NDArray[np.uint32]


def crc32c(data: bytes | memoryview) -> int:
    """Compute the CRC-32C of a contiguous buffer.

    Args:
        data: Any number of bytes.

    Returns:
        The checksum, 0 to 2**32 - 1; of `b"123456789"` it is 0xE3069283, of `b""` it is 0.
    """
    size = len(data)
    if size < 4 * _NARROW:
        return _push(_ONES, bytes(data)) ^ _ONES
    row = _fold(data, _WIDE) if size >= 4 * _WIDE else _fold(data, _NARROW)
    if len(row) == _WIDE:
        row = _fold(row.tobytes(), _NARROW)
    # The CRC is linear: the start from all ones is added afterwards, moved past the message.
    return _push(0, row.tobytes()) ^ _move(_ONES, size) ^ _ONES


def unmask(stored: int) -> int:
    """Return the CRC behind TensorFlow's masked form, which keeps CRCs of CRCs from cancelling."""
    rotated = (stored - _MASK_DELTA) & _ONES
    return ((rotated >> 17) | (rotated << 15)) & _ONES


def _fold(data: bytes | memoryview, width: int) -> Words:
    """Reduce a message to one row of words with the same remainder."""
    octets = np.frombuffer(data, np.uint8)
    first = len(octets) % (4 * width) or 4 * width
    padded = np.zeros(4 * width, np.uint8)  # zeros before a message change nothing
    padded[-first:] = octets[:first]
    row: Words = padded.view("<u4").astype(np.uint32)
    low, high = _tables(width)
    for following in octets[first:].view("<u4").reshape(-1, width):
        moved = low.take(row & 0xFFFF)
        moved ^= high.take(row >> 16)
        moved ^= following
        row = moved
    return row


@cache
def _tables(width: int) -> tuple[Words, Words]:
    """Tabulate what the halves of a word, low and high, become when moved on by `width` words."""
    columns = [_move(1 << bit, 4 * width) for bit in range(32)]
    return _span(columns[:16]), _span(columns[16:])


def _span(columns: list[int]) -> Words:
    """Compute all 65,536 sums (exclusive or) of 16 columns, by the bits that choose them."""
    table = np.zeros(1, np.uint32)
    for column in columns:
        table = np.concatenate([table, table ^ np.uint32(column)])
    return table


def _move(register: int, size: int) -> int:
    """Move a register past `size` zero bytes, by the operators of the powers of two."""
    for bit in range(size.bit_length()):
        if size >> bit & 1:
            register = _apply(_operator(bit), register)
    return register


@cache
def _operator(bit: int) -> tuple[int, ...]:
    """Return the 32 columns of the matrix over GF(2) that moves past 2**bit zero bytes."""
    if bit == 0:
        return tuple(_push(1 << column, b"\0") for column in range(32))
    half = _operator(bit - 1)
    return tuple(_apply(half, column) for column in half)


def _apply(operator: tuple[int, ...], register: int) -> int:
    result = 0
    for bit, column in enumerate(operator):
        if register >> bit & 1:
            result ^= column
    return result


def _push(register: int, data: bytes) -> int:
    """Move a register past some bytes, one at a time: for ends and short messages."""
    table = _byte_table()
    for octet in data:
        register = (register >> 8) ^ table[(register ^ octet) & 0xFF]
    return register


@cache
def _byte_table() -> tuple[int, ...]:
    return tuple(_push_bits(octet) for octet in range(256))


def _push_bits(register: int) -> int:
    for _ in range(8):
        register = (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)
    return register
