"""Pages are compressed where that is worth while; what comes over the wire is hostile."""

from __future__ import annotations

from typing import Any

import pytest
import zstandard

from wasmsr.errors import FormatError
from wasmsr.snapshot.live.packing import BatchPacker, unpack

MIB = 1 << 20


def back(packer: BatchPacker, data: bytes) -> bytes:
    packed, small = packer.pack(data)
    return unpack(bytes(packed), len(data), packed=small)


@pytest.mark.parametrize("data", [b"", bytes(8192), bytes(range(256)) * 64, b"\1" * MIB])
def test_what_was_packed_is_unpacked(data: bytes) -> None:
    assert back(BatchPacker(), data) == data


def test_a_fast_line_gets_pages_as_they_are() -> None:
    packer = BatchPacker()
    text = bytes(range(256)) * 512
    assert packer.pack(text)[1]
    packer.rate = 1e12
    assert sum(packer.pack(text)[1] for _ in range(32)) <= 2
    packer.rate = 1e6
    assert packer.pack(text)[1]


def frame(data: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


@pytest.mark.parametrize(
    ("size", "data", "packed"),
    [
        (4096, bytes(4095), False),
        (4096, bytes(8192), False),
        (4096, frame(bytes(8192)), True),
        (8192, frame(bytes(4096)), True),
        (4096, frame(bytes(4096), write_content_size=False), True),
        (4096, frame(bytes(4096)) + b"x", True),
        (4096, frame(bytes(4096)) * 2, True),
        (4096, frame(bytes(4096))[:-3], True),
        (4096, b"", True),
        (4096, b"no frame", True),
        (4096, frame(bytes(1 << 28)), True),
    ],
)
def test_a_batch_that_is_not_what_it_says(size: int, data: bytes, packed: bool) -> None:
    with pytest.raises(FormatError):
        unpack(data, size, packed=packed)
