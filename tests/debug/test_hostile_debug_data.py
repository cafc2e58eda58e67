"""Debug data that lies: there is an answer soon, and it is not large."""

from __future__ import annotations

import json

import pytest

from tests.debug import hostile_dwarf as dwarf
from tests.debug.hostile_dwarf import HEADER, Declared, abbreviations, leb, read, u32, unit
from wasmsr.debug import debug_data as reading

pytest.importorskip("elftools", reason="pyelftools reads debug data")
TOO_MUCH = "the module has more debug data than a page shows; some of it is left out"
UNIT = Declared(dwarf.UNIT, True, ())
VARIABLE = Declared(dwarf.VARIABLE, False, ((dwarf.NAME, dwarf.STRING), (dwarf.TYPE, dwarf.REF4)))


def variable(name: str, kind: int) -> bytes:
    """A variable, whose abbreviation is the second."""
    return b"\x02" + name.encode() + b"\0" + u32(kind)


def test_siblings_in_a_circle() -> None:
    """A member whose sibling is itself ends."""
    struct = Declared(dwarf.STRUCT, True, ())
    member = Declared(dwarf.MEMBER, True, ((dwarf.SIBLING, dwarf.REF4),))
    first = b"\x01" + variable("v", HEADER + 8)
    assert len(first) == 8
    entries = first + b"\x03" + b"\x04" + u32(HEADER + 9) + b"\0" * 4
    found, said = read(unit(entries), abbreviations(UNIT, VARIABLE, struct, member))
    assert not said
    assert [name for name, _, _ in found["variables"]] == ["v"]
    assert [len(one["members"]) for one in found["types"]] == [1]


def test_types_in_a_circle() -> None:
    pointer = Declared(dwarf.POINTER, False, ((dwarf.TYPE, dwarf.REF4),))
    entries = b"\x01" + variable("v", HEADER + 8) + b"\x03" + u32(HEADER + 8) + b"\0"
    found, said = read(unit(entries), abbreviations(UNIT, VARIABLE, pointer))
    assert not said and [one["of"] for one in found["types"]] == [0]


@pytest.mark.parametrize("tag", [dwarf.POINTER, dwarf.ARRAY])
def test_types_of_types_of_types(tag: int) -> None:
    """Neither names nor sizes grow with each; arrays have 2**63 elements."""
    base = Declared(dwarf.BASE, False, ((dwarf.SIZE, dwarf.UDATA),))
    over = Declared(tag, True, ((dwarf.TYPE, dwarf.REF4),))
    range_ = Declared(dwarf.SUBRANGE, False, ((dwarf.UPPER, dwarf.UDATA),))
    entries = b"\x01\x03\x08"
    at, pieces = HEADER + 1, []
    for number in range(400):
        here = HEADER + len(entries)
        entries += b"\x04" + u32(at) + b"\x05" + leb((1 << 63) - 1) + b"\0"
        at = here
        pieces.append(variable(f"v{number}", here))
    entries += b"".join(pieces) + b"\0"
    found, said = read(unit(entries), abbreviations(UNIT, VARIABLE, base, over, range_))
    assert not said and len(found["types"]) == 401
    assert max(len(one["name"]) for one in found["types"]) <= 200
    assert max(one["size"] for one in found["types"]) <= 1 << 32
    json.dumps(found)


def test_numbers_of_many_bits() -> None:
    """JSON gets none of them; 64 bits are exact, though numbers of JavaScript have 53."""
    constant = Declared(
        dwarf.VARIABLE, False, ((dwarf.NAME, dwarf.STRING), (dwarf.CONST_VALUE, dwarf.UDATA))
    )
    values = {"a": (1 << 64) - 1, "b": 1 << 64, "c": 1 << 400}
    entries = b"\x01"
    for name, value in values.items():
        entries += b"\x02" + name.encode() + b"\0" + leb(value)
    found, said = read(unit(entries + b"\0"), abbreviations(UNIT, constant))
    assert not said
    assert [place for _, _, place in found["variables"]] == [
        {"constant": "18446744073709551615"}, None, None,
    ]  # fmt: skip
    endless = unit(entries + b"\x02d\0" + b"\xff" * 100_000 + b"\1" + b"\0")
    found, said = read(endless, abbreviations(UNIT, constant))
    assert said == ["the debug data of the module is damaged in 1 of its units"]
    assert len(found["variables"]) == 3, "what is before the damage is there"


def test_fields_of_bits_and_bytes_without_a_sign() -> None:
    struct = Declared(dwarf.STRUCT, True, ())
    names = ((dwarf.NAME, dwarf.STRING), (dwarf.TYPE, dwarf.REF4))
    member = Declared(
        dwarf.MEMBER, False, (*names, (dwarf.BIT_SIZE, dwarf.UDATA), (dwarf.BIT_PLACE, dwarf.UDATA))
    )
    base = Declared(dwarf.BASE, False, ((dwarf.SIZE, dwarf.UDATA), (dwarf.ENCODING, dwarf.UDATA)))
    entries = b"\x01" + variable("v", HEADER + 8)
    kind = HEADER + len(entries) + 1 + 1 + 2 + 4 + 2 + 1
    entries += b"\x03" + b"\x04m\0" + u32(kind) + b"\x05\x0b" + b"\0" + b"\x05\x01\x08" + b"\0"
    found, said = read(unit(entries), abbreviations(UNIT, VARIABLE, struct, member, base))
    assert not said
    assert found["types"][0]["members"] == [("m", 1, 1, (3, 5))]
    assert found["types"][1]["kind"] == "uchar"


def line_table(version: int, after: bytes) -> bytes:
    """A line table with this after the lengths of its opcodes."""
    middle = b"\x04\0" if version == 5 else b""
    rest = b"\x01\x01\x01\xfb\x0e\x0d" + bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1]) + after
    table = version.to_bytes(2, "little") + middle + u32(len(rest)) + rest
    return u32(len(table)) + table


TABLED = Declared(dwarf.UNIT, False, ((dwarf.STMT_LIST, dwarf.SEC_OFFSET),))


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(b"\0" + leb(1 << 40), id="folders without bytes"),
        pytest.param(b"\0\0\0" + leb(1 << 40), id="files without bytes"),
        pytest.param(b"\x01\x01\x08" + leb(1 << 40) + b"a\0", id="more than there are"),
        pytest.param(b"\x01\x01\x19\x01", id="a form of no bytes"),
        pytest.param(b"\x01\x01\x08\x01a", id="a name without an end"),
    ],
)
def test_line_tables_that_count_what_is_not_there(after: bytes) -> None:
    found, said = read(unit(b"\x01" + u32(0)), abbreviations(TABLED), line_table(5, after))
    assert said == ["the debug data of the module is damaged in 1 of its units"]
    assert not found["at"]


def test_a_line_of_many_digits() -> None:
    """It is none."""
    opcodes = b"\0\x05\x02" + u32(1) + b"\x03" + leb(1 << 400) + b"\x01" + b"\0\x01\x01"
    after = b"\0" + b"a.c\0\0\0\0" + b"\0" + opcodes
    table = line_table(4, after)
    # The length of the header ends before the opcodes.
    header = u32(len(after) - len(opcodes) + 18)
    table = table[:6] + header + table[10:]
    found, said = read(unit(b"\x01" + u32(0)), abbreviations(TABLED), table)
    assert not said and found["files"] == ["a.c"] and found["line"] == [0]


def test_limits_end_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = b"\x01" + b"".join(variable(f"v{n}", HEADER) for n in range(300)) + b"\0"
    found, said = read(unit(entries), abbreviations(UNIT, VARIABLE))
    assert not said and len(found["variables"]) == 300
    monkeypatch.setattr(reading, "MOST_ENTRIES", 200)
    assert read(unit(entries), abbreviations(UNIT, VARIABLE))[1] == [TOO_MUCH]
    monkeypatch.undo()
    monkeypatch.setattr(reading, "MOST_READS", 200)
    assert read(unit(entries), abbreviations(UNIT, VARIABLE))[1] == [TOO_MUCH]


def test_entries_of_one_byte_with_many_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes that take no byte are counted, too."""
    many = Declared(dwarf.VARIABLE, False, [(0x2000 + n, dwarf.PRESENT) for n in range(5_000)])
    monkeypatch.setattr(reading, "MOST_ENTRIES", 100_000)
    entries = b"\x01" + b"\x02" * 10_000 + b"\0"
    assert read(unit(entries), abbreviations(UNIT, many))[1] == [TOO_MUCH]
