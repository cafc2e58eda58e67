"""The rows of SIMD against Wasmtime's assembler: names, opcodes, operands, immediates."""

from __future__ import annotations

import pytest
import wasmtime

from wasmsr import InvalidError, MalformedError, Module
from wasmsr.interp.instruction_set.instructions import disassemble
from wasmsr.interp.instruction_set.simd import PREFIX, VECTORS
from wasmsr.interp.instruction_set.simd_row import Vector

IMMEDIATES = {
    "": "",
    "lane": "1",
    "memarg": "offset=5 align=1",
    "memarg lane": "offset=5 align=1 1",
    "v128": "i32x4 0x00000001 0x80000000 0x00000003 0x00000004",
    "lanes": "0 31 2 3 4 5 6 7 8 9 10 11 12 13 14 16",
}


def assembled(row: Vector) -> tuple[bytes, int]:
    """A module that holds the instruction, and where it stands."""
    params = row.params.split()
    result = f"(result {row.results})" if row.results else ""
    operands = " ".join(f"(local.get {i})" for i in range(len(params)))
    text = IMMEDIATES[row.immediates]
    body = f"{operands} {row.name} {text}"
    source = f"(module (memory 1) (func (param {' '.join(params)}) {result} {body}))"
    binary = bytes(wasmtime.wat2wasm(source))
    before = b"".join(bytes([0x20, i]) for i in range(len(params)))
    assert row.code is not None
    second = [row.code] if row.code < 128 else [row.code & 127 | 128, row.code >> 7]
    opcode = bytes([PREFIX, *second])
    return binary, binary.index(before + opcode) + len(before)


def test_there_are_all() -> None:
    assert sum(row.feature == "simd" for row in VECTORS) == 236
    assert sum(row.feature == "relaxed-simd" for row in VECTORS) == 20


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row.name)
def test_row(row: Vector) -> None:
    binary, at = assembled(row)
    assert Module(binary).counts.code_size > 0
    assert disassemble(binary, at) == (row.name, IMMEDIATES[row.immediates], len(binary) - at - 1)


@pytest.mark.parametrize("row", [r for r in VECTORS if r.immediates.endswith("lane")], ids=str)
def test_lane_out_of_range(row: Vector) -> None:
    binary, _ = assembled(row)
    lane = len(binary) - 2
    with pytest.raises(InvalidError, match="lane"):
        Module(binary[:lane] + b"\x10" + binary[lane + 1 :])


def test_cut_off_in_an_immediate() -> None:
    for row in VECTORS:
        if row.immediates in ("v128", "lanes"):
            binary, at = assembled(row)
            # Too few bytes for the immediate, and for its section.
            with pytest.raises(MalformedError):
                Module(binary[: at + 6])
