"""Parts of the binary format of modules, read and written (specification, section 5).

What is read here was validated before, so no position is out of range.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from wasmsr.errors import UnportableState

MAGIC = b"\0asm\1\0\0\0"
CUSTOM, TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT = range(8)
START, ELEMENT, CODE, DATA, DATA_COUNT, TAG = range(8, 14)
"""Ids of sections."""
END = 0x0B
"""The end of an expression."""


def unsigned(number: int) -> bytes:
    """Return a number in unsigned LEB128."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def signed(number: int) -> bytes:
    """Return a number in signed LEB128."""
    parts = bytearray()
    while not -64 <= number < 64:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number & 0x7F)
    return bytes(parts)


def as_signed(bits: int, width: int) -> int:
    """Return the signed number that bits are."""
    return bits - (1 << width) if bits >> (width - 1) else bits


def name(text: str) -> bytes:
    """Return a name."""
    data = text.encode("utf-8", "replace")
    return unsigned(len(data)) + data


def vector(items: Sequence[bytes]) -> bytes:
    """Return a vector."""
    return unsigned(len(items)) + b"".join(items)


def section(kind: int, payload: bytes) -> bytes:
    """Return a section."""
    return bytes([kind]) + unsigned(len(payload)) + payload


def sections(binary: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield id and payload of the sections of a module."""
    at = len(MAGIC)
    while at < len(binary):
        kind = binary[at]
        cursor = BinaryCursor(binary, at + 1)
        size, at = cursor.number(), cursor.at
        yield kind, binary[at : at + size]
        at += size


def constant(code: int, bits: int) -> bytes:
    """Return an expression with a value of a number type, by its type code and its bits."""
    if code == 0x7F:
        body = b"\x41" + signed(as_signed(bits, 32))
    elif code == 0x7E:
        body = b"\x42" + signed(as_signed(bits, 64))
    elif code == 0x7D:
        body = b"\x43" + bits.to_bytes(4, "little")
    elif code == 0x7C:
        body = b"\x44" + bits.to_bytes(8, "little")
    else:
        body = b"\xfd\x0c" + bits.to_bytes(16, "little")
    return body + bytes([END])


class BinaryCursor:
    """Reads one thing after the other.

    Args:
        data: The bytes.
        at: The place.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def byte(self) -> int:
        """Return the next byte."""
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        """Return the next unsigned number."""
        found = shift = 0
        while (byte := self.byte()) & 0x80:
            found |= (byte & 0x7F) << shift
            shift += 7
        return found | byte << shift

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        self.at += size
        return self.data[self.at - size : self.at]

    def skip_leb(self) -> None:
        """Skip a number of either kind."""
        while self.byte() & 0x80:
            pass

    def value_type(self) -> bytes:
        """Return the next value type, with the heap type of a reference type."""
        start = self.at
        if self.byte() in (0x63, 0x64):
            self.skip_leb()
        return self.data[start : self.at]

    def limits(self) -> tuple[int, int, int | None]:
        """Return flags, minimum and maximum of the next limits."""
        flags = self.byte()
        least = self.number()
        return flags, least, self.number() if flags & 1 else None

    def expression(self) -> bytes:
        """Return the next constant expression, with its end.

        Raises:
            UnportableState: It has an instruction of a kind that is not copied.
        """
        start = self.at
        while (code := self.byte()) != END:
            if code in (0x41, 0x42, 0x23, 0xD0, 0xD2):  # numbers, global.get, ref.null, ref.func
                self.skip_leb()
            elif code in (0x43, 0x44):
                self.at += 4 if code == 0x43 else 8
            elif code == 0xFD:
                self.number()
                self.at += 16
            elif code not in (0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E):  # add, sub, mul
                raise UnportableState(
                    f"the module has the instruction {code:#04x} in a constant expression, which "
                    "cannot be exported"
                )
        return self.data[start : self.at]


def limits(flags: int, least: int, most: int | None) -> bytes:
    """Return limits."""
    return bytes([flags]) + unsigned(least) + (b"" if most is None else unsigned(most))


def joined(parts: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a module of sections."""
    return MAGIC + b"".join(section(kind, payload) for kind, payload in parts)


def data_segments(memory: int, view: memoryview, address64: bool) -> list[bytes]:
    """Return active segments with the bytes of a memory that are not zeros.

    Engines allow 100,000 segments. So zeros between two segments are written too where they are
    few, and more of them in a large memory.
    """
    gap = 64
    while True:
        spans = _spans(view, gap)
        if len(spans) <= 50_000:
            break
        gap *= 4
    head = b"\0" if not memory else b"\2" + unsigned(memory)
    opcode = b"\x42" if address64 else b"\x41"
    found = []
    for start, end in spans:
        place = opcode + signed(start if address64 else as_signed(start, 32)) + bytes([END])
        found.append(head + place + unsigned(end - start) + bytes(view[start:end]))
    return found


def _spans(view: memoryview, gap: int) -> list[tuple[int, int]]:
    """Return the parts of a memory that are not zeros, apart by `gap` bytes or more."""
    pattern = re.compile(rb"[^\0]+(?:\0{1,%d}[^\0]+)*" % (gap - 1))
    block = bytes(65536)
    found: list[tuple[int, int]] = []
    for base in range(0, len(view), len(block)):
        part = bytes(view[base : base + len(block)])
        if part == block:
            continue
        for match in pattern.finditer(part):
            start, end = base + match.start(), base + match.end()
            if found and start - found[-1][1] < gap:
                found[-1] = found[-1][0], end
            else:
                found.append((start, end))
    return found
