"""A snapshot that was cut or changed by accident is always found out, in one sentence."""

from __future__ import annotations

import pytest

from tests.snapshot.samples import Kind, full, large, to_bytes
from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.container import BATCH, BATCH_SIZE, FIRST, HEADER, SECTION
from wasmsr.snapshot.format import Decoder, decode

TYPED = (FormatError, VersionError, DigestError)


def _refused(data: bytes) -> SnapshotError:
    """The error for `data`, which must be one of the three, with a sentence of its own."""
    with pytest.raises(TYPED) as caught:
        decode(data)
    message = caught.value.message
    assert 10 < len(message) < 200 and "\n" not in message
    return caught.value


@pytest.mark.parametrize("compress", [True, False])
def test_truncated_at_every_length(compress: bool) -> None:
    data = to_bytes(full(), compress)
    for length in range(len(data)):
        error = _refused(data[:length])
        assert type(error) is FormatError
        assert "cut off" in error.message


def test_truncated_in_pieces() -> None:
    data = to_bytes(full())
    for length in range(0, len(data), 13):
        decoder = Decoder()
        for start in range(0, length, 101):
            decoder.feed(data[start : min(start + 101, length)])
        with pytest.raises(FormatError, match="cut off"):
            decoder.finish()


@pytest.mark.parametrize("compress", [True, False])
def test_every_bit_of_the_header_flipped(compress: bool) -> None:
    data = to_bytes(full(), compress)
    for bit in range(HEADER.size * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        error = _refused(bytes(broken))
        if bit < 64:
            assert "not a snapshot" in error.message
        elif bit < 80:
            assert type(error) is VersionError
        else:
            assert type(error) is DigestError and "header" in error.message


@pytest.mark.parametrize("compress", [True, False])
def test_bits_flipped_everywhere(compress: bool) -> None:
    """A bit of nearly every byte, and every 97th byte as a whole."""
    data = to_bytes(full(), compress)
    for bit in range(HEADER.size * 8, len(data) * 8, 11):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        _refused(bytes(broken))
    for byte in range(0, len(data), 97):
        _refused(data[:byte] + bytes([data[byte] ^ 0xFF]) + data[byte + 1 :])


def test_a_flip_in_a_payload_names_the_section() -> None:
    data = bytearray(to_bytes(full(), compress=False))
    first_page = data.index(bytes(full().memories[0].data[4096:8192]))
    data[first_page] ^= 1
    error = _refused(bytes(data))
    assert type(error) is DigestError
    assert error.message == "the snapshot is damaged: a checksum in its page bytes section differs"
    data = bytearray(to_bytes(full()))
    data[HEADER.size + FIRST.size] ^= 1
    assert "lineage section" in _refused(bytes(data)).message


@pytest.mark.parametrize("extra", [b"\0", b"x" * 100])
def test_bytes_after_the_end(extra: bytes) -> None:
    assert "bytes follow the end" in _refused(to_bytes(full()) + extra).message
    decoder = Decoder()
    decoder.feed(to_bytes(full()))
    with pytest.raises(FormatError):
        decoder.feed(extra)
    with pytest.raises(FormatError):
        decoder.finish()


def test_inserted_and_removed_bytes() -> None:
    data = to_bytes(full())
    for position in range(0, len(data), 31):
        _refused(data[:position] + b"\0" + data[position:])
        _refused(data[:position] + data[position + 1 :])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off in its header"),
        (b"hello", "not a snapshot: it begins with 68 65 6c 6c 6f"),
        (b"\0asm\1\0\0\0" + bytes(100), "it is a WebAssembly module"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd"),
        (b"\x89WSR\n\x1a\n" + bytes(100), "transfer in text mode"),
        (b"\x09WSR\r\n\x1a\n" + bytes(100), "transfer in text mode"),
        (bytes(1000), "not a snapshot"),
    ],
)
def test_other_files(data: bytes, words: str) -> None:
    assert words in _refused(data).message


def test_a_failed_decoder_stays_failed() -> None:
    decoder = Decoder()
    data = bytearray(to_bytes(full()))
    data[70] ^= 1
    with pytest.raises(TYPED) as first:
        decoder.feed(data)
    with pytest.raises(TYPED) as second:
        decoder.feed(b"")
    with pytest.raises(TYPED) as third:
        decoder.finish()
    assert first.value is second.value is third.value


def test_exchanged_batches_of_the_same_size_are_found() -> None:
    """Each has a right checksum; the digest tree has their order."""
    data = to_bytes(large(), compress=False)
    decoder = Decoder()
    decoder.feed(data)
    decoder.finish()
    at = HEADER.size
    for section in decoder.sections:
        if section.kind == Kind.PAGE_BYTES:
            break
        at += section.stored
    size = BATCH.size + BATCH_SIZE
    one = at + SECTION.size
    two, end = one + size, one + 2 * size
    assert data[one:two] != data[two:end] and BATCH.unpack_from(data, two)[1] == BATCH_SIZE
    error = _refused(data[:one] + data[two:end] + data[one:two] + data[end:])
    assert type(error) is DigestError
    assert "not what its digest names" in error.message
