"""Puts a plain state into `core.wasm`: one module that goes on from the state.

The state is deflated (RFC 1951) in blocks, which become one data segment behind the core's own
memory. `guest/main.c` describes the blocks.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from struct import Struct

from wasmsr.errors import UnportableState
from wasmsr.snapshot.runnable.outgoing import PlainProgram
from wasmsr.snapshot.state import PAGE
from wasmsr.snapshot.tools import module_binary as wasm
from wasmsr.snapshot.tools.module_binary import BinaryCursor

PLACE = Struct("<IIII")
"""What the core has in place of the address and the size of the blocks: a mark, and two zeros."""
MARK = (0x5253574D, 0x0A0D1A89)
BLOCK = Struct("<III")
"""Plain length, stored length, CRC-32 of the plain bytes."""
MOST_PAGES = 65536
LEVEL = 9
"""Of zlib: about as small as zstd 1, and fast to inflate."""


@cache
def core() -> bytes:
    """Return the core as a WASI command without a program, from the package."""
    return (files(__package__) / "core.wasm").read_bytes()


def _block(data: bytes) -> bytes:
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -15, 9)
    stored = deflate.compress(data) + deflate.flush()
    return BLOCK.pack(len(data), len(stored), zlib.crc32(data)) + stored


def _blocks(program: PlainProgram) -> Iterator[bytes]:
    yield _block(program.head)
    yield from map(_block, program.pages())


def compose(program: PlainProgram) -> bytes:
    """Return a WASI command that goes on from a state.

    Args:
        program: The state.

    Raises:
        UnportableState: It is too large for a memory of 4 GiB.
    """
    blocks = b"".join(_blocks(program))
    sections = list(wasm.sections(core()))
    flags, least, most = BinaryCursor(_one(sections, wasm.MEMORY), 1).limits()
    place = (least + 1) * PAGE  # the heap's own marks are in the page before and in the one after
    pages = least + -(-len(blocks) // PAGE) + 2
    if pages > MOST_PAGES // 2:
        raise UnportableState(
            f"the snapshot cannot be made runnable: its state has {len(blocks)} bytes, compressed"
        )
    found = []
    for kind, payload in sections:
        if kind == wasm.MEMORY:
            payload = wasm.vector([wasm.limits(flags, pages, most)])
        elif kind == wasm.DATA_COUNT:
            payload = wasm.unsigned(BinaryCursor(payload).number() + 1)
        elif kind == wasm.DATA:
            payload = _with_blocks(payload, place, blocks)
        found.append((kind, payload))
    return wasm.joined(found)


def _one(sections: list[tuple[int, bytes]], wanted: int) -> bytes:
    return next(payload for kind, payload in sections if kind == wanted)


def _with_blocks(payload: bytes, place: int, blocks: bytes) -> bytes:
    """Return a data section with one segment more, of which the core knows the place."""
    cursor = BinaryCursor(payload)
    count = cursor.number()
    old = payload[cursor.at :]
    mark = PLACE.pack(*MARK, 0, 0)
    if old.count(mark) != 1:
        raise ValueError("core.wasm has no place for a state")
    told = old.replace(mark, PLACE.pack(*MARK, place, len(blocks)))
    offset = b"\x41" + wasm.signed(wasm.as_signed(place, 32)) + bytes([wasm.END])
    segment = b"\0" + offset + wasm.unsigned(len(blocks)) + blocks
    return wasm.unsigned(count + 1) + told + segment


__all__ = ["compose", "core"]
