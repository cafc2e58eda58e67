"""The plain state: a snapshot as parts that a reader without msgpack and zstd understands.

`guest/plain.h` has the same in C. A plain state has a head of 16 bytes: the magic, `u32` version,
`u32` number of parts. Each part has `u32` kind, `u32` zero, `u64` length, its bytes, and zeros up
to a multiple of 8. Kinds ascend. Numbers are little-endian; a *string* is its length as `u32`, then
its bytes. The kinds below 256 are sections of version 2 of the snapshot format, as they are there:
globals (6), tables (7), threads (32), exception objects (39). The others:

- 256 limits: 8 `u64`: memory pages, table elements, stack slots, stack frames, deterministic,
  features, fuel (2⁶⁴ − 1: none), 0.
- 257 modules: `u32` count, `u32` size of each, then the binaries.
- 258 build: `u32` count of steps. A step is a host function (0, module, function, row of WASI) or
  an instance (1, module; then for functions, tables, memories, globals and tags the count and the
  addresses of its imports), all `u32`.
- 259 segments: for each instance two strings, of its element segments and of its data segments: a
  byte for each, 1 if it is dropped.
- 260 pushed calls: `u32` each, the number of the outermost frame.
- 261 template: what the program cannot change. A string with a byte for each module, 1 if it is
  embedded; then a snapshot of version 2, whose memories are zeros.
- 262 WASI: see `wasi_part`.
- 263 sizes: `u64` each, Wasm pages of the memories.
- 264 page runs: 4 `u32` each: memory, first page, count, 0.
- 265 pages: 4,096 bytes each, in the order of the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from struct import error as StructError

from wasmsr.errors import FormatError

MAGIC = b"\x89WSP\r\n\x1a\n"
VERSION = 1
MOST = 8 << 30
"""Bytes of the largest plain state that is read."""
GLOBALS, TABLES, THREADS, EXCEPTIONS = 6, 7, 32, 39
LIMITS, MODULES, BUILD, SEGMENTS, PUSHED, TEMPLATE, WASI, SIZES, RUNS, PAGES = range(256, 266)
HEAD = Struct("<8sII")
PART = Struct("<IIQ")
RUN = Struct("<IIII")
ALIGNMENT = 8
_U32, _U64 = Struct("<I"), Struct("<Q")


def is_plain(data: bytes) -> bool:
    """Return whether these are the first bytes of a plain state."""
    return data.startswith(MAGIC)


def join_parts(parts: Mapping[int, bytes]) -> bytes:
    """Return a plain state; empty parts are left out."""
    found = sorted((kind, data) for kind, data in parts.items() if data)
    pieces = [HEAD.pack(MAGIC, VERSION, len(found))]
    for kind, data in found:
        pieces += [PART.pack(kind, 0, len(data)), data, bytes(-len(data) % ALIGNMENT)]
    return b"".join(pieces)


def split_parts(data: memoryview) -> dict[int, memoryview]:
    """Return the parts of a plain state, without a copy.

    Raises:
        FormatError: It is none, or damaged.
    """
    if len(data) < HEAD.size:
        raise FormatError("the state file ends in its head")
    magic, version, count = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("the file is no state of a runnable snapshot")
    if version != VERSION:
        raise FormatError(f"the state file has version {version}, and this wasmsr reads {VERSION}")
    found: dict[int, memoryview] = {}
    place, last = HEAD.size, -1
    for _ in range(count):
        if place + PART.size > len(data):
            raise FormatError("the state file ends in the head of a part")
        kind, flags, size = PART.unpack_from(data, place)
        place += PART.size
        if flags or kind <= last or not size:
            raise FormatError(f"part {kind} of the state file is out of order")
        end = place + size
        if end + -size % ALIGNMENT > len(data):
            raise FormatError(f"part {kind} of the state file ends too early")
        found[kind] = data[place:end]
        place, last = end + -size % ALIGNMENT, kind
    if place != len(data):
        raise FormatError("bytes follow the last part of the state file")
    return found


def u32(*numbers: int) -> bytes:
    """Return numbers of four bytes each."""
    return b"".join(map(_U32.pack, numbers))


def u64(*numbers: int) -> bytes:
    """Return numbers of eight bytes each."""
    return b"".join(map(_U64.pack, numbers))


def string(data: bytes) -> bytes:
    """Return a string: its length, then its bytes."""
    return _U32.pack(len(data)) + data


class PartReader:
    """Reads numbers and strings of a part, which is not trusted.

    Args:
        data: The part.
        name: Its name, for messages.
    """

    def __init__(self, data: memoryview, name: str) -> None:
        self._data = data
        self._at = 0
        self._name = name

    def _short(self) -> FormatError:
        return FormatError(f"the part {self._name} of the state file ends too early")

    def u32(self) -> int:
        """Return the next number of four bytes. Raises FormatError at the end."""
        return self._number(_U32)

    def u64(self) -> int:
        """Return the next number of eight bytes. Raises FormatError at the end."""
        return self._number(_U64)

    def _number(self, form: Struct) -> int:
        try:
            (value,) = form.unpack_from(self._data, self._at)
        except StructError:
            raise self._short() from None
        self._at += form.size
        return int(value)

    def take(self, size: int) -> bytes:
        """Return the next bytes. Raises FormatError at the end."""
        if size > len(self._data) - self._at:
            raise self._short()
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def string(self) -> bytes:
        """Return the next string. Raises FormatError at the end."""
        return self.take(self.u32())

    def count(self, least: int) -> Iterator[int]:
        """Return an iterator over the numbers of what follows, at least `least` bytes each.

        Raises:
            FormatError: There is no room for so many.
        """
        count = self.u32()
        if count > (len(self._data) - self._at) // least:
            raise self._short()
        return iter(range(count))

    def flag(self) -> bool:
        """Return the next number, 0 or 1, as a truth value. Raises FormatError."""
        value = self.u32()
        if value > 1:
            raise FormatError(f"the part {self._name} of the state file has a flag of {value}")
        return bool(value)

    def rest(self) -> memoryview:
        """Return what is left."""
        found, self._at = self._data[self._at :], len(self._data)
        return found

    def end(self) -> None:
        """Check that nothing is left. Raises FormatError."""
        if self._at != len(self._data):
            raise FormatError(f"bytes follow the part {self._name} of the state file")
