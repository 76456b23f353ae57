"""CRC-32C against its definition, bit by bit, and against published values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl_models.checkpoints.crc32c import crc32c, unmask


def bitwise(data: bytes) -> int:
    register = 0xFFFFFFFF
    for octet in data:
        register ^= octet
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, appendix B.4
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_published_values(data, expected):
    assert crc32c(data) == expected


@given(st.binary(max_size=3000))
@settings(deadline=None, max_examples=50)
def test_equals_the_definition(data):
    assert crc32c(data) == crc32c(memoryview(data)) == bitwise(data)


@pytest.mark.parametrize("size", [511, 512, 513, 65535, 65536, 65537, 70001, 131072])
def test_every_width_of_rows_equals_the_definition(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bitwise(data)


def test_a_flipped_bit_far_in_is_seen():
    data = bytearray(np.random.default_rng(0).bytes(300_000))
    before = crc32c(bytes(data))
    data[123_456] ^= 1
    assert crc32c(bytes(data)) != before


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_unmask_undoes_the_mask(checksum):
    masked = (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert unmask(masked) == checksum
