"""A second reader of version 2, written from docs/snapshot-format.md alone.

It shares no code with the package, so that the document and the package can be compared. It checks
digests, and returns payloads as they are, memories as bytes.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

import msgpack
import zstandard

from tests.snapshot.trust import plain_crypto

PAGE, BATCH, LEAF = 4096, 262144, 65536
WITHOUT_ROW = {11, 23, 24, 25, 33, 34, 35, 40, 41, 44}


@dataclass
class Read:
    """What is in a snapshot: root and content digest, payloads by kind, memories by number, and
    the public keys that have signed it."""

    root: bytes
    content: bytes
    form: int
    payloads: dict[int, bytes] = field(default_factory=dict)
    memories: list[bytearray] = field(default_factory=list)
    signed_by: list[bytes] = field(default_factory=list)


def payload_digest(data: bytes) -> bytes:
    """Section 4: a tree over leaves of 65,536 bytes."""
    level = 0
    while True:
        parts = [data[at : at + LEAF] for at in range(0, len(data), LEAF)] or [b""]
        digests = [sha256(bytes([level]) + part).digest() for part in parts]
        if len(digests) == 1:
            return digests[0]
        data, level = b"".join(digests), level + 1


def space_digest(data: bytes) -> bytes:
    """Section 13.4: a full tree with 16 children; pages after the end are zeros."""
    zero = sha256(bytes(PAGE)).digest()
    level = [sha256(data[at : at + PAGE]).digest() for at in range(0, len(data), PAGE)] or [zero]
    while len(level) > 1:
        level += [zero] * (-len(level) % 16)
        level = [sha256(b"".join(level[at : at + 16])).digest() for at in range(0, len(level), 16)]
        zero = sha256(zero * 16).digest()
    return level[0]


def _batch(codec: int, stored: bytes, length: int, old: bytes) -> bytes:
    if codec == 0:
        assert len(stored) == length
        return stored
    prefix = None
    if codec == 2:
        prefix = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    window = 524288 if codec == 2 else 262144
    reader = zstandard.ZstdDecompressor(dict_data=prefix, max_window_size=window)
    plain = reader.decompress(stored, max_output_size=length)
    assert len(plain) == length
    if codec == 3:
        plain = bytes(one ^ other for one, other in zip(plain, old, strict=True))
    return plain


def _opener(head: bytes, form: int, secret: bytes) -> Callable[[int, int, int, int, bytes], bytes]:
    """Section 13.9: what decrypts the batches."""
    magic, algorithm, sections, zero, _, salt, check, _, reserved, crc = struct.unpack(
        "<8sHHIQ32s32s32sII", head
    )
    assert (magic, algorithm, zero, reserved) == (b"WSR key\n", 1, 0, 0)
    assert crc == zlib.crc32(head[:124])
    assert sections
    keys = plain_crypto.derive(secret, salt, b"wasmsr snapshot 2 encryption", 96)
    assert keys[32:64] == check

    def opened(kind: int, codec: int, plain: int, number: int, stored: bytes) -> bytes:
        place = struct.pack("<HHIQQ", form, kind, codec, plain, number)
        nonce = struct.pack("<IQ", kind, number)
        return plain_crypto.decrypt(keys[:32], nonce, stored, head + place)

    return opened


def _check_head(head: bytes, secret: bytes, sealed: list[int], store: bytes) -> None:
    """Section 13.9: the head counts the encrypted sections, and names the program."""
    assert struct.unpack_from("<H", head, 10)[0] == len(sealed)
    assert struct.unpack_from("<Q", head, 16)[0] == sum(sealed)
    keys = plain_crypto.derive(secret, head[24:56], b"wasmsr snapshot 2 encryption", 96)
    digests = b"".join(module["digest"] for module in msgpack.unpackb(store)["modules"])
    assert head[88:120] == hmac.digest(keys[64:], digests, "sha256")


def _signers(payload: bytes, root: bytes) -> list[bytes]:
    """Section 13.8: the keys whose signatures over the root are right."""
    found = []
    for algorithm, zero, reserved, key, value in struct.iter_unpack("<HHI32s64s", payload):
        assert (algorithm, zero, reserved) == (1, 0, 0)
        if plain_crypto.verify(key, value, b"wasmsr snapshot root\n" + root):
            found.append(key)
    return found


def read(data: bytes, base: Read | None = None, secret: bytes | None = None) -> Read:
    """Read a full or mapped snapshot, or an incremental one over its base; `secret` decrypts it."""
    magic, version, form, flags, count, total, root, zero, crc = struct.unpack_from(
        "<8sHHHHQ32sII", data
    )
    assert magic == b"\x89WSR\r\n\x1a\n"
    assert (version, zero) == (2, 0)
    assert crc == zlib.crc32(data[:60])
    assert form in ((1, 3) if base is None else (2,))
    found = Read(root, b"", form)
    at, sizes = 64, 0
    opened = None
    sealed: list[int] = []
    if flags & 4:
        assert secret is not None
        at, opened = 192, _opener(data[64:192], form, secret)
    places: list[tuple[int, int]] = []
    rows, others = b"", b""
    for _ in range(count):
        head = data[at : at + 16]
        kind, none, reserved, plain = struct.unpack("<HHIQ", head)
        assert none == reserved == 0
        at, sizes = at + 16, sizes + plain
        payload = b""
        while len(payload) < plain:
            codec, stored, check = struct.unpack_from("<III", data, at)
            piece = data[at + 12 : at + 12 + stored]
            assert zlib.crc32(piece) == check
            if opened is not None and kind != 41:
                piece = opened(kind, codec, plain, len(payload) // BATCH, piece)
            length = min(BATCH, plain - len(payload))
            old = _old(found, places, len(payload) // PAGE, length) if codec > 1 else b""
            payload += _batch(codec, piece, length, old)
            at += 12 + stored
        found.payloads[kind] = payload
        sealed += [] if kind == 41 else [plain]
        if kind == 12:
            found.memories = [
                bytearray(size * 65536) for _, _, _, size in struct.iter_unpack("<QQQQ", payload)
            ]
        if kind == 33:
            assert base is not None
            _lay(found, base, payload)
        if kind == 34:
            for space, zeros, number, first, pages in struct.iter_unpack("<HHIII", payload):
                assert space == 0
                if zeros & 1:
                    found.memories[number][first * PAGE : (first + pages) * PAGE] = bytes(
                        pages * PAGE
                    )
                else:
                    places += [(number, page) for page in range(first, first + pages)]
        if kind == 35:
            _fill(found, places, payload)
        if kind not in WITHOUT_ROW:
            row = head + payload_digest(payload)
            if kind == 1 or kind & 0x8000:
                others += row
            else:
                rows += row
    assert sizes == total
    if opened is not None:
        _check_head(data[64:192], secret or b"", sealed, found.payloads[3])
    end, tail, zero, crc = struct.unpack("<8s32sII", data[at : at + 48])
    if form == 3:
        assert not found.payloads.keys() & {34, 35}
        _check_padding(found, at + 48)
        _regions(data, at + 48, found)
    else:
        assert at + 48 == len(data)
        assert not found.payloads.keys() & {23, 40, 44}
    _check_spaces(found, found.payloads.get(36, b""))
    assert (end, zero) == (b"WSR end\n", 0)
    assert crc == zlib.crc32(data[at : at + 44])
    found.content = sha256(b"\xfe" + struct.pack("<HH", 2, 1) + rows).digest()
    found.root = sha256(b"\xff" + found.content + others).digest()
    assert found.root == tail
    assert root == (bytes(32) if flags & 2 else tail)
    found.signed_by = _signers(found.payloads.get(41, b""), found.root)
    return found


def _lay(found: Read, base: Read, payload: bytes) -> None:
    """Begin with the memories of the base."""
    link = msgpack.unpackb(payload)
    assert link["root"] == base.root
    assert link["content"] == base.content
    for mine, theirs in zip(found.memories, base.memories, strict=False):
        mine[: len(theirs)] = theirs


def _check_spaces(found: Read, payload: bytes) -> None:
    """Compare the digests of the spaces with their pages."""
    entries = struct.iter_unpack("<HHIQ32s", payload)
    for entry, memory in zip(entries, found.memories, strict=True):
        assert entry[3] == len(memory) // PAGE
        assert entry[4] == space_digest(bytes(memory))


def _fill(found: Read, places: list[tuple[int, int]], payload: bytes) -> None:
    """Put the pages of a payload where they belong."""
    for place, (number, page) in enumerate(places):
        part = payload[place * PAGE : (place + 1) * PAGE]
        found.memories[number][page * PAGE : (page + 1) * PAGE] = part


def _regions(data: bytes, end: int, found: Read) -> None:
    """Section 13.7: the memories are in the file as they are."""
    places = struct.iter_unpack("<HHIQQ", found.payloads.get(40, b""))
    for number, (memory, place) in enumerate(zip(found.memories, places, strict=True)):
        kind, flags, stated, offset, length = place
        assert (kind, flags, stated, length) == (0, 0, number, len(memory))
        assert offset == -(-end // 65536) * 65536
        assert not any(data[end:offset])
        memory[:] = data[offset : offset + length]
        end = offset + length
    if found.memories:
        assert not any(data[end:])
        end = -(-end // 65536) * 65536
    assert end == len(data)


def _check_padding(found: Read, end: int) -> None:
    """Section 13.7: the padding is zeros, and the head ends where the first region begins."""
    assert not any(found.payloads.get(23, b""))
    assert len(found.payloads.get(23, b"")) <= 256 << 20
    padding = found.payloads.get(44, b"")
    assert not any(padding)
    assert len(padding) <= 256 << 20
    if padding:
        assert found.memories
        room = -(-end // 65536) * 65536
        sizes = len(padding), len(padding) + 1
        one, more = (16 + -(-size // BATCH) * 12 + size for size in sizes)
        assert end - one <= room - 65536  # it is needed
        assert end - one + more > room  # and as long as it can be


def _old(found: Read, places: list[tuple[int, int]], first: int, length: int) -> bytes:
    """What the base has at the positions of a batch."""
    wanted = places[first : first + length // PAGE]
    return b"".join(found.memories[n][p * PAGE : (p + 1) * PAGE] for n, p in wanted)
