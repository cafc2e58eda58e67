"""Small DWARF 4, put together by hand, in a module: what no compiler writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.debug.test_debug_data import custom
from wasmsr import Module
from wasmsr.debug.debug_data import debug_data

REF4, UDATA, SDATA, STRING, PRESENT, SEC_OFFSET, ADDR = 0x13, 0x0F, 0x0D, 0x08, 0x19, 0x17, 0x01
SIBLING, NAME, SIZE, STMT_LIST, CONST_VALUE = 0x01, 0x03, 0x0B, 0x10, 0x1C
UPPER, ENCODING, TYPE, BIT_SIZE, BIT_PLACE = 0x2F, 0x3E, 0x49, 0x0D, 0x6B
ARRAY, ENUMERATION, MEMBER, POINTER, UNIT = 0x01, 0x04, 0x0D, 0x0F, 0x11
STRUCT, SUBRANGE, BASE, VARIABLE = 0x13, 0x21, 0x24, 0x34
HEADER = 11
"""Bytes of the header of a unit: offsets of entries count from its start."""


class Declared(NamedTuple):
    """An abbreviation."""

    tag: int
    children: bool
    attributes: Sequence[tuple[int, int]]


def leb(value: int) -> bytes:
    """A number in the form ULEB128."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def abbreviations(*declared: Declared) -> bytes:
    """The section `.debug_abbrev`; the first has the code 1."""
    pieces = []
    for code, one in enumerate(declared, 1):
        pieces.append(leb(code) + leb(one.tag) + bytes([one.children]))
        pieces += [leb(name) + leb(form) for name, form in one.attributes]
        pieces.append(b"\0\0")
    return b"".join([*pieces, b"\0"])


def unit(entries: bytes) -> bytes:
    """A unit of `.debug_info` with these entries."""
    rest = (4).to_bytes(2, "little") + u32(0) + b"\x04" + entries
    return u32(len(rest)) + rest


def module(info: bytes, abbrev: bytes, line: bytes = b"") -> Module:
    """A module with these sections."""
    binary = bytes(Module.from_text("(module (func))").binary)
    sections = {"info": info, "abbrev": abbrev, "line": line}
    return Module(
        binary + b"".join(custom(f".debug_{name}", data) for name, data in sections.items())
    )


def read(info: bytes, abbrev: bytes, line: bytes = b"") -> tuple[dict[str, Any], list[str]]:
    """What is found in these sections, and what is said of them."""
    said: list[str] = []
    found = debug_data(module(info, abbrev, line), said.append)
    assert found is not None
    return found, said
