"""The part of THE table that is atomic memory instructions: 67 rows, made of fewer.

`instructions` takes its rows from here, `generate` makes of them core/runtime/atomic_rows.h. A
program has one thread here, so no other can come between reading and writing: what remains of
"atomic" is that an address that is no multiple of the access's width traps, and that a program
cannot wait.

Source: threads proposal (github.com/WebAssembly/threads), whose chapters on validation, execution
and the binary format extend those of the specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PREFIX = 0xFE
"""First byte of the two-part opcodes of atomic instructions."""


@dataclass(frozen=True)
class Atomic:
    """One atomic instruction.

    Attributes:
        code: Second part of the opcode.
        name: Mnemonic of the text format.
        params, results: Operand types, space separated; an address comes first.
        form: "load"; "store"; "modify": the result is what was there, `body` is what is written;
            "exchange": likewise, but only where the second operand equals what was there the third
            is written; "notify", "wait" and "fence" are in core/runtime/atomics.c.
        bits: Of the place in memory; 0 for a fence, which has none.
        body: C expression over `a`, what was there, and `b`, the second operand.
    """

    code: int
    name: str
    params: str
    results: str
    form: str
    bits: int
    body: str = ""


_PLACES = (("i32", 32), ("i64", 64), ("i32", 8), ("i32", 16), ("i64", 8), ("i64", 16), ("i64", 32))
"""Type of the operands and bits in memory, in the order of the opcodes of every operation."""

_MODIFY = (
    ("add", "a + b"),
    ("sub", "a - b"),
    ("and", "a & b"),
    ("or", "a | b"),
    ("xor", "a ^ b"),
    ("xchg", "b"),
)


def _rows() -> Iterator[Atomic]:
    yield Atomic(0x00, "memory.atomic.notify", "i32 i32", "i32", "notify", 32)
    yield Atomic(0x01, "memory.atomic.wait32", "i32 i32 i64", "i32", "wait", 32)
    yield Atomic(0x02, "memory.atomic.wait64", "i32 i64 i64", "i32", "wait", 64)
    yield Atomic(0x03, "atomic.fence", "", "", "fence", 0)
    code = 0x10
    for kind, bits in _PLACES:
        narrow = "" if kind == f"i{bits}" else f"{bits}_u"
        yield Atomic(code, f"{kind}.atomic.load{narrow}", "i32", kind, "load", bits)
        code += 1
    for kind, bits in _PLACES:
        narrow = "" if kind == f"i{bits}" else str(bits)
        yield Atomic(code, f"{kind}.atomic.store{narrow}", f"i32 {kind}", "", "store", bits)
        code += 1
    for operation, body in (*_MODIFY, ("cmpxchg", "")):
        for kind, bits in _PLACES:
            wide = kind == f"i{bits}"
            name = f"{kind}.atomic.rmw{'' if wide else bits}.{operation}{'' if wide else '_u'}"
            if body:
                yield Atomic(code, name, f"i32 {kind}", kind, "modify", bits, body)
            else:
                yield Atomic(code, name, f"i32 {kind} {kind}", kind, "exchange", bits)
            code += 1


ATOMICS: tuple[Atomic, ...] = tuple(_rows())
