"""THE table: every instruction is one row here, and nowhere else.

`generate` makes of it the C rows that decoder and validator read, the handlers of the hot loop and
docs/instructions.md; `trace` disassembles with it. To add a numeric instruction, add its row. A
control instruction needs a row, a rule in core/compile/validate.c and a handler in
core/precise/loop.h; a test notices what is missing.

Source: WebAssembly specification, section 5.4 (Binary Format, Instructions) and 4.3 (Numerics).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from wasmsr.interp.instruction_set import atomics, simd
from wasmsr.interp.instruction_set.atomics import Atomic
from wasmsr.interp.instruction_set.simd_row import Vector

PREFIX = 0xFC
"""First byte of the other two-part opcodes (bulk memory, saturating truncation)."""


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        code: Opcode; `PREFIX << 8 | second part` for two-part opcodes (`atomics.PREFIX` likewise),
            for those of SIMD `simd.PREFIX << 16 | second part`; None for a cell that the compiler
            adds and that no binary holds.
        name: Mnemonic of the text format.
        immediates: What follows the opcode, as named in `IMMEDIATES`.
        params, results: Operand types, space separated; "" where a rule in validate.c decides.
        body: C expression of the result over operands a, b of the parameters' C types; for a load
            or store the C type in memory (and, after a comma, the type it extends through); of an
            atomic instruction as in `atomics`.
        traps: (condition in C, trap name in `traps`), tested in order before `body`.
        kind: "numeric", "load", "store", "const" (handlers are generated), "vector" (a row of
            `simd`), "atomic" (a row of `atomics`), or "special".
        bits: Operands and result of floats are taken as bit patterns.
        nan: The result, or a lane of it, may be a NaN whose bits the specification leaves open:
            the cell that the deterministic mode puts behind it.
        counted: Counts as one instruction for fuel, traces and `--snapshot-at`.
        feature: The one of `features` that it came with; "" for the first version of WebAssembly.
        width: Bytes that a vector's or atomic access touches.
    """

    code: int | None
    name: str
    immediates: str = ""
    params: str = ""
    results: str = ""
    body: str = ""
    traps: tuple[tuple[str, str], ...] = ()
    kind: str = "special"
    bits: bool = False
    nan: str = ""
    counted: bool = True
    feature: str = ""
    width: int = 0

    @property
    def symbol(self) -> str:
        """The name in C, without prefix: `I32_TRUNC_SAT_F32_S`."""
        return self.name.replace(".", "_").replace(" ", "_").upper()


IMMEDIATES: tuple[str, ...] = (
    "",
    "block",  # block type, s33
    "block catches",  # block type, vector of catch clauses
    "tag",
    "label",
    "labels",  # vector of labels, default label
    "function",
    "type",
    "type table",
    "types",  # vector of value types
    "local",
    "global",
    "table",
    "memarg",  # alignment, offset
    "memory",
    "i32",
    "i64",
    "f32",
    "f64",
    "reftype",
    "data memory",
    "data",
    "memory memory",
    "element table",
    "element",
    "table table",
    "v128",  # 16 bytes
    "lanes",  # 16 lanes of two vectors
    "lane",
    "memarg lane",
    "zero",  # a byte that is zero
)
"""The kinds of immediates, in the order of their C codes."""


def _special(
    code: int | None,
    name: str,
    immediates: str = "",
    params: str = "",
    results: str = "",
    *,
    counted: bool = True,
    feature: str = "",
) -> Instruction:
    return Instruction(code, name, immediates, params, results, counted=counted, feature=feature)


def _numeric(
    code: int,
    name: str,
    signature: str,
    body: str,
    *traps: tuple[str, str],
    bits: bool = False,
    nan: bool = False,
    feature: str = "",
) -> Instruction:
    params, _, results = signature.partition("->")
    return Instruction(
        code,
        name,
        "",
        params.strip(),
        results.strip(),
        body,
        traps,
        "numeric",
        bits=bits,
        nan=f"canonical {results.strip()}" if nan else "",
        feature=feature,
    )


def _load(code: int, name: str, body: str) -> Instruction:
    return Instruction(code, name, "memarg", "i32", name[:3], body, kind="load")


def _store(code: int, name: str, body: str) -> Instruction:
    return Instruction(code, name, "memarg", f"i32 {name[:3]}", "", body, kind="store")


def _const(code: int, name: str) -> Instruction:
    return Instruction(code, name, name[:3], "", name[:3], kind="const")


def _vector(row: Vector) -> Instruction:
    assert row.code is not None
    return Instruction(
        simd.PREFIX << 16 | row.code,
        row.name,
        row.immediates,
        row.params,
        row.results,
        row.body,
        kind="vector",
        nan={"": "", "f32": "canonical f32x4", "f64": "canonical f64x2"}[row.nan],
        feature=row.feature,
        width=row.width,
    )


def _atomic(row: Atomic) -> Instruction:
    return Instruction(
        atomics.PREFIX << 8 | row.code,
        row.name,
        "memarg" if row.bits else "zero",
        row.params,
        row.results,
        row.body,
        kind="atomic",
        feature="threads",
        width=row.bits // 8,
    )


_REFERENCES, _BULK = "reference-types", "bulk-memory"
_FUNCTION_REFERENCES = "function-references"
_EXCEPTIONS, _LEGACY = "exceptions", "legacy-exceptions"
_SIGN, _SATURATING = "sign-extension", "saturating-conversions"
_DIV0 = ("b == 0", "DIVIDE_BY_ZERO")
_NAN = ("a != a", "CONVERSION")


def _range(low: str, high: str) -> tuple[str, str]:
    return (f"!(a {low} && a {high})", "OVERFLOW")


INSTRUCTIONS: tuple[Instruction, ...] = (
    # Control (5.4.1)
    _special(0x00, "unreachable"),
    _special(0x01, "nop"),
    _special(0x02, "block", "block"),
    _special(0x03, "loop", "block"),
    _special(0x04, "if", "block"),
    _special(0x05, "else", counted=False),
    _special(0x0B, "end", counted=False),
    _special(0x0C, "br", "label"),
    _special(0x0D, "br_if", "label"),
    _special(0x0E, "br_table", "labels"),
    _special(0x0F, "return"),
    _special(0x10, "call", "function"),
    _special(0x11, "call_indirect", "type table"),
    _special(0x12, "return_call", "function", feature="tail-calls"),
    _special(0x13, "return_call_indirect", "type table", feature="tail-calls"),
    _special(0x14, "call_ref", "type", feature=_FUNCTION_REFERENCES),
    _special(0x15, "return_call_ref", "type", feature=_FUNCTION_REFERENCES),
    _special(0xD5, "br_on_null", "label", feature=_FUNCTION_REFERENCES),
    _special(0xD6, "br_on_non_null", "label", feature=_FUNCTION_REFERENCES),
    _special(0x08, "throw", "tag", feature=_EXCEPTIONS),
    _special(0x0A, "throw_ref", feature=_EXCEPTIONS),
    _special(0x1F, "try_table", "block catches", feature=_EXCEPTIONS),
    _special(0x06, "try", "block", feature=_LEGACY),
    _special(0x07, "catch", "tag", counted=False, feature=_LEGACY),
    _special(0x19, "catch_all", counted=False, feature=_LEGACY),
    _special(0x18, "delegate", "label", counted=False, feature=_LEGACY),
    _special(0x09, "rethrow", "label", feature=_LEGACY),
    # Reference (5.4.2)
    _special(0xD0, "ref.null", "reftype", feature=_REFERENCES),
    _special(0xD1, "ref.is_null", feature=_REFERENCES),
    _special(0xD2, "ref.func", "function", feature=_REFERENCES),
    _special(0xD4, "ref.as_non_null", feature=_FUNCTION_REFERENCES),
    # Parametric (5.4.3)
    _special(0x1A, "drop"),
    _special(0x1B, "select"),
    _special(0x1C, "select t", "types", feature=_REFERENCES),
    # Variable (5.4.4)
    _special(0x20, "local.get", "local"),
    _special(0x21, "local.set", "local"),
    _special(0x22, "local.tee", "local"),
    _special(0x23, "global.get", "global"),
    _special(0x24, "global.set", "global"),
    # Table (5.4.5)
    _special(0x25, "table.get", "table", feature=_REFERENCES),
    _special(0x26, "table.set", "table", feature=_REFERENCES),
    _special(0xFC0C, "table.init", "element table", feature=_BULK),
    _special(0xFC0D, "elem.drop", "element", feature=_BULK),
    _special(0xFC0E, "table.copy", "table table", feature=_BULK),
    _special(0xFC0F, "table.grow", "table", feature=_REFERENCES),
    _special(0xFC10, "table.size", "table", feature=_REFERENCES),
    _special(0xFC11, "table.fill", "table", feature=_REFERENCES),
    # Memory (5.4.6)
    _load(0x28, "i32.load", "uint32_t"),
    _load(0x29, "i64.load", "uint64_t"),
    _load(0x2A, "f32.load", "uint32_t"),
    _load(0x2B, "f64.load", "uint64_t"),
    _load(0x2C, "i32.load8_s", "uint8_t, int8_t"),
    _load(0x2D, "i32.load8_u", "uint8_t"),
    _load(0x2E, "i32.load16_s", "uint16_t, int16_t"),
    _load(0x2F, "i32.load16_u", "uint16_t"),
    _load(0x30, "i64.load8_s", "uint8_t, int8_t"),
    _load(0x31, "i64.load8_u", "uint8_t"),
    _load(0x32, "i64.load16_s", "uint16_t, int16_t"),
    _load(0x33, "i64.load16_u", "uint16_t"),
    _load(0x34, "i64.load32_s", "uint32_t, int32_t"),
    _load(0x35, "i64.load32_u", "uint32_t"),
    _store(0x36, "i32.store", "uint32_t"),
    _store(0x37, "i64.store", "uint64_t"),
    _store(0x38, "f32.store", "uint32_t"),
    _store(0x39, "f64.store", "uint64_t"),
    _store(0x3A, "i32.store8", "uint8_t"),
    _store(0x3B, "i32.store16", "uint16_t"),
    _store(0x3C, "i64.store8", "uint8_t"),
    _store(0x3D, "i64.store16", "uint16_t"),
    _store(0x3E, "i64.store32", "uint32_t"),
    _special(0x3F, "memory.size", "memory", "", "i32"),
    _special(0x40, "memory.grow", "memory", "i32", "i32"),
    _special(0xFC08, "memory.init", "data memory", "i32 i32 i32", feature=_BULK),
    _special(0xFC09, "data.drop", "data", feature=_BULK),
    _special(0xFC0A, "memory.copy", "memory memory", "i32 i32 i32", feature=_BULK),
    _special(0xFC0B, "memory.fill", "memory", "i32 i32 i32", feature=_BULK),
    # Numeric (5.4.7)
    _const(0x41, "i32.const"),
    _const(0x42, "i64.const"),
    _const(0x43, "f32.const"),
    _const(0x44, "f64.const"),
    _numeric(0x45, "i32.eqz", "i32 -> i32", "a == 0"),
    _numeric(0x46, "i32.eq", "i32 i32 -> i32", "a == b"),
    _numeric(0x47, "i32.ne", "i32 i32 -> i32", "a != b"),
    _numeric(0x48, "i32.lt_s", "i32 i32 -> i32", "(int32_t)a < (int32_t)b"),
    _numeric(0x49, "i32.lt_u", "i32 i32 -> i32", "a < b"),
    _numeric(0x4A, "i32.gt_s", "i32 i32 -> i32", "(int32_t)a > (int32_t)b"),
    _numeric(0x4B, "i32.gt_u", "i32 i32 -> i32", "a > b"),
    _numeric(0x4C, "i32.le_s", "i32 i32 -> i32", "(int32_t)a <= (int32_t)b"),
    _numeric(0x4D, "i32.le_u", "i32 i32 -> i32", "a <= b"),
    _numeric(0x4E, "i32.ge_s", "i32 i32 -> i32", "(int32_t)a >= (int32_t)b"),
    _numeric(0x4F, "i32.ge_u", "i32 i32 -> i32", "a >= b"),
    _numeric(0x50, "i64.eqz", "i64 -> i32", "a == 0"),
    _numeric(0x51, "i64.eq", "i64 i64 -> i32", "a == b"),
    _numeric(0x52, "i64.ne", "i64 i64 -> i32", "a != b"),
    _numeric(0x53, "i64.lt_s", "i64 i64 -> i32", "(int64_t)a < (int64_t)b"),
    _numeric(0x54, "i64.lt_u", "i64 i64 -> i32", "a < b"),
    _numeric(0x55, "i64.gt_s", "i64 i64 -> i32", "(int64_t)a > (int64_t)b"),
    _numeric(0x56, "i64.gt_u", "i64 i64 -> i32", "a > b"),
    _numeric(0x57, "i64.le_s", "i64 i64 -> i32", "(int64_t)a <= (int64_t)b"),
    _numeric(0x58, "i64.le_u", "i64 i64 -> i32", "a <= b"),
    _numeric(0x59, "i64.ge_s", "i64 i64 -> i32", "(int64_t)a >= (int64_t)b"),
    _numeric(0x5A, "i64.ge_u", "i64 i64 -> i32", "a >= b"),
    _numeric(0x5B, "f32.eq", "f32 f32 -> i32", "a == b"),
    _numeric(0x5C, "f32.ne", "f32 f32 -> i32", "a != b"),
    _numeric(0x5D, "f32.lt", "f32 f32 -> i32", "a < b"),
    _numeric(0x5E, "f32.gt", "f32 f32 -> i32", "a > b"),
    _numeric(0x5F, "f32.le", "f32 f32 -> i32", "a <= b"),
    _numeric(0x60, "f32.ge", "f32 f32 -> i32", "a >= b"),
    _numeric(0x61, "f64.eq", "f64 f64 -> i32", "a == b"),
    _numeric(0x62, "f64.ne", "f64 f64 -> i32", "a != b"),
    _numeric(0x63, "f64.lt", "f64 f64 -> i32", "a < b"),
    _numeric(0x64, "f64.gt", "f64 f64 -> i32", "a > b"),
    _numeric(0x65, "f64.le", "f64 f64 -> i32", "a <= b"),
    _numeric(0x66, "f64.ge", "f64 f64 -> i32", "a >= b"),
    _numeric(0x67, "i32.clz", "i32 -> i32", "wsr_clz32(a)"),
    _numeric(0x68, "i32.ctz", "i32 -> i32", "wsr_ctz32(a)"),
    _numeric(0x69, "i32.popcnt", "i32 -> i32", "wsr_popcnt64(a)"),
    _numeric(0x6A, "i32.add", "i32 i32 -> i32", "a + b"),
    _numeric(0x6B, "i32.sub", "i32 i32 -> i32", "a - b"),
    _numeric(0x6C, "i32.mul", "i32 i32 -> i32", "a * b"),
    _numeric(
        0x6D,
        "i32.div_s",
        "i32 i32 -> i32",
        "(uint32_t)((int32_t)a / (int32_t)b)",
        _DIV0,
        ("a == 0x80000000U && b == 0xFFFFFFFFU", "OVERFLOW"),
    ),
    _numeric(0x6E, "i32.div_u", "i32 i32 -> i32", "a / b", _DIV0),
    _numeric(
        0x6F,
        "i32.rem_s",
        "i32 i32 -> i32",
        "b == 0xFFFFFFFFU ? 0U : (uint32_t)((int32_t)a % (int32_t)b)",
        _DIV0,
    ),
    _numeric(0x70, "i32.rem_u", "i32 i32 -> i32", "a % b", _DIV0),
    _numeric(0x71, "i32.and", "i32 i32 -> i32", "a & b"),
    _numeric(0x72, "i32.or", "i32 i32 -> i32", "a | b"),
    _numeric(0x73, "i32.xor", "i32 i32 -> i32", "a ^ b"),
    _numeric(0x74, "i32.shl", "i32 i32 -> i32", "a << (b & 31)"),
    _numeric(0x75, "i32.shr_s", "i32 i32 -> i32", "wsr_sar32(a, b & 31)"),
    _numeric(0x76, "i32.shr_u", "i32 i32 -> i32", "a >> (b & 31)"),
    _numeric(0x77, "i32.rotl", "i32 i32 -> i32", "a << (b & 31) | a >> (-b & 31)"),
    _numeric(0x78, "i32.rotr", "i32 i32 -> i32", "a >> (b & 31) | a << (-b & 31)"),
    _numeric(0x79, "i64.clz", "i64 -> i64", "wsr_clz64(a)"),
    _numeric(0x7A, "i64.ctz", "i64 -> i64", "wsr_ctz64(a)"),
    _numeric(0x7B, "i64.popcnt", "i64 -> i64", "wsr_popcnt64(a)"),
    _numeric(0x7C, "i64.add", "i64 i64 -> i64", "a + b"),
    _numeric(0x7D, "i64.sub", "i64 i64 -> i64", "a - b"),
    _numeric(0x7E, "i64.mul", "i64 i64 -> i64", "a * b"),
    _numeric(
        0x7F,
        "i64.div_s",
        "i64 i64 -> i64",
        "(uint64_t)((int64_t)a / (int64_t)b)",
        _DIV0,
        ("a == 0x8000000000000000U && b == 0xFFFFFFFFFFFFFFFFU", "OVERFLOW"),
    ),
    _numeric(0x80, "i64.div_u", "i64 i64 -> i64", "a / b", _DIV0),
    _numeric(
        0x81,
        "i64.rem_s",
        "i64 i64 -> i64",
        "b == 0xFFFFFFFFFFFFFFFFU ? 0U : (uint64_t)((int64_t)a % (int64_t)b)",
        _DIV0,
    ),
    _numeric(0x82, "i64.rem_u", "i64 i64 -> i64", "a % b", _DIV0),
    _numeric(0x83, "i64.and", "i64 i64 -> i64", "a & b"),
    _numeric(0x84, "i64.or", "i64 i64 -> i64", "a | b"),
    _numeric(0x85, "i64.xor", "i64 i64 -> i64", "a ^ b"),
    _numeric(0x86, "i64.shl", "i64 i64 -> i64", "a << (b & 63)"),
    _numeric(0x87, "i64.shr_s", "i64 i64 -> i64", "wsr_sar64(a, b & 63)"),
    _numeric(0x88, "i64.shr_u", "i64 i64 -> i64", "a >> (b & 63)"),
    _numeric(0x89, "i64.rotl", "i64 i64 -> i64", "a << (b & 63) | a >> (-b & 63)"),
    _numeric(0x8A, "i64.rotr", "i64 i64 -> i64", "a >> (b & 63) | a << (-b & 63)"),
    _numeric(0x8B, "f32.abs", "f32 -> f32", "a & 0x7FFFFFFFU", bits=True),
    _numeric(0x8C, "f32.neg", "f32 -> f32", "a ^ 0x80000000U", bits=True),
    _numeric(0x8D, "f32.ceil", "f32 -> f32", "wsr_quiet32(ceilf(a))", nan=True),
    _numeric(0x8E, "f32.floor", "f32 -> f32", "wsr_quiet32(floorf(a))", nan=True),
    _numeric(0x8F, "f32.trunc", "f32 -> f32", "wsr_quiet32(truncf(a))", nan=True),
    _numeric(0x90, "f32.nearest", "f32 -> f32", "wsr_quiet32(nearbyintf(a))", nan=True),
    _numeric(0x91, "f32.sqrt", "f32 -> f32", "sqrtf(a)", nan=True),
    _numeric(0x92, "f32.add", "f32 f32 -> f32", "a + b", nan=True),
    _numeric(0x93, "f32.sub", "f32 f32 -> f32", "a - b", nan=True),
    _numeric(0x94, "f32.mul", "f32 f32 -> f32", "a * b", nan=True),
    _numeric(0x95, "f32.div", "f32 f32 -> f32", "a / b", nan=True),
    _numeric(0x96, "f32.min", "f32 f32 -> f32", "wsr_min32(a, b)", nan=True),
    _numeric(0x97, "f32.max", "f32 f32 -> f32", "wsr_max32(a, b)", nan=True),
    _numeric(
        0x98,
        "f32.copysign",
        "f32 f32 -> f32",
        "(a & 0x7FFFFFFFU) | (b & 0x80000000U)",
        bits=True,
    ),
    _numeric(0x99, "f64.abs", "f64 -> f64", "a & 0x7FFFFFFFFFFFFFFFU", bits=True),
    _numeric(0x9A, "f64.neg", "f64 -> f64", "a ^ 0x8000000000000000U", bits=True),
    _numeric(0x9B, "f64.ceil", "f64 -> f64", "wsr_quiet64(ceil(a))", nan=True),
    _numeric(0x9C, "f64.floor", "f64 -> f64", "wsr_quiet64(floor(a))", nan=True),
    _numeric(0x9D, "f64.trunc", "f64 -> f64", "wsr_quiet64(trunc(a))", nan=True),
    _numeric(0x9E, "f64.nearest", "f64 -> f64", "wsr_quiet64(nearbyint(a))", nan=True),
    _numeric(0x9F, "f64.sqrt", "f64 -> f64", "sqrt(a)", nan=True),
    _numeric(0xA0, "f64.add", "f64 f64 -> f64", "a + b", nan=True),
    _numeric(0xA1, "f64.sub", "f64 f64 -> f64", "a - b", nan=True),
    _numeric(0xA2, "f64.mul", "f64 f64 -> f64", "a * b", nan=True),
    _numeric(0xA3, "f64.div", "f64 f64 -> f64", "a / b", nan=True),
    _numeric(0xA4, "f64.min", "f64 f64 -> f64", "wsr_min64(a, b)", nan=True),
    _numeric(0xA5, "f64.max", "f64 f64 -> f64", "wsr_max64(a, b)", nan=True),
    _numeric(
        0xA6,
        "f64.copysign",
        "f64 f64 -> f64",
        "(a & 0x7FFFFFFFFFFFFFFFU) | (b & 0x8000000000000000U)",
        bits=True,
    ),
    _numeric(0xA7, "i32.wrap_i64", "i64 -> i32", "(uint32_t)a"),
    _numeric(
        0xA8,
        "i32.trunc_f32_s",
        "f32 -> i32",
        "(uint32_t)(int32_t)a",
        _NAN,
        _range(">= -0x1p31f", "< 0x1p31f"),
    ),
    _numeric(
        0xA9, "i32.trunc_f32_u", "f32 -> i32", "(uint32_t)a", _NAN, _range("> -1.0f", "< 0x1p32f")
    ),
    _numeric(
        0xAA,
        "i32.trunc_f64_s",
        "f64 -> i32",
        "(uint32_t)(int32_t)a",
        _NAN,
        _range("> -2147483649.0", "< 2147483648.0"),
    ),
    _numeric(
        0xAB, "i32.trunc_f64_u", "f64 -> i32", "(uint32_t)a", _NAN, _range("> -1.0", "< 0x1p32")
    ),
    _numeric(0xAC, "i64.extend_i32_s", "i32 -> i64", "(uint64_t)(int64_t)(int32_t)a"),
    _numeric(0xAD, "i64.extend_i32_u", "i32 -> i64", "a"),
    _numeric(
        0xAE,
        "i64.trunc_f32_s",
        "f32 -> i64",
        "(uint64_t)(int64_t)a",
        _NAN,
        _range(">= -0x1p63f", "< 0x1p63f"),
    ),
    _numeric(
        0xAF, "i64.trunc_f32_u", "f32 -> i64", "(uint64_t)a", _NAN, _range("> -1.0f", "< 0x1p64f")
    ),
    _numeric(
        0xB0,
        "i64.trunc_f64_s",
        "f64 -> i64",
        "(uint64_t)(int64_t)a",
        _NAN,
        _range(">= -0x1p63", "< 0x1p63"),
    ),
    _numeric(
        0xB1, "i64.trunc_f64_u", "f64 -> i64", "(uint64_t)a", _NAN, _range("> -1.0", "< 0x1p64")
    ),
    _numeric(0xB2, "f32.convert_i32_s", "i32 -> f32", "(float)(int32_t)a"),
    _numeric(0xB3, "f32.convert_i32_u", "i32 -> f32", "(float)a"),
    _numeric(0xB4, "f32.convert_i64_s", "i64 -> f32", "(float)(int64_t)a"),
    _numeric(0xB5, "f32.convert_i64_u", "i64 -> f32", "(float)a"),
    _numeric(0xB6, "f32.demote_f64", "f64 -> f32", "(float)a", nan=True),
    _numeric(0xB7, "f64.convert_i32_s", "i32 -> f64", "(double)(int32_t)a"),
    _numeric(0xB8, "f64.convert_i32_u", "i32 -> f64", "(double)a"),
    _numeric(0xB9, "f64.convert_i64_s", "i64 -> f64", "(double)(int64_t)a"),
    _numeric(0xBA, "f64.convert_i64_u", "i64 -> f64", "(double)a"),
    _numeric(0xBB, "f64.promote_f32", "f32 -> f64", "(double)a", nan=True),
    _numeric(0xBC, "i32.reinterpret_f32", "f32 -> i32", "a", bits=True),
    _numeric(0xBD, "i64.reinterpret_f64", "f64 -> i64", "a", bits=True),
    _numeric(0xBE, "f32.reinterpret_i32", "i32 -> f32", "a", bits=True),
    _numeric(0xBF, "f64.reinterpret_i64", "i64 -> f64", "a", bits=True),
    _numeric(0xC0, "i32.extend8_s", "i32 -> i32", "(uint32_t)(int32_t)(int8_t)a", feature=_SIGN),
    _numeric(0xC1, "i32.extend16_s", "i32 -> i32", "(uint32_t)(int32_t)(int16_t)a", feature=_SIGN),
    _numeric(0xC2, "i64.extend8_s", "i64 -> i64", "(uint64_t)(int64_t)(int8_t)a", feature=_SIGN),
    _numeric(0xC3, "i64.extend16_s", "i64 -> i64", "(uint64_t)(int64_t)(int16_t)a", feature=_SIGN),
    _numeric(0xC4, "i64.extend32_s", "i64 -> i64", "(uint64_t)(int64_t)(int32_t)a", feature=_SIGN),
    _numeric(
        0xFC00, "i32.trunc_sat_f32_s", "f32 -> i32", "wsr_sat_i32((double)a)", feature=_SATURATING
    ),
    _numeric(
        0xFC01, "i32.trunc_sat_f32_u", "f32 -> i32", "wsr_sat_u32((double)a)", feature=_SATURATING
    ),
    _numeric(0xFC02, "i32.trunc_sat_f64_s", "f64 -> i32", "wsr_sat_i32(a)", feature=_SATURATING),
    _numeric(0xFC03, "i32.trunc_sat_f64_u", "f64 -> i32", "wsr_sat_u32(a)", feature=_SATURATING),
    _numeric(
        0xFC04, "i64.trunc_sat_f32_s", "f32 -> i64", "wsr_sat_i64((double)a)", feature=_SATURATING
    ),
    _numeric(
        0xFC05, "i64.trunc_sat_f32_u", "f32 -> i64", "wsr_sat_u64((double)a)", feature=_SATURATING
    ),
    _numeric(0xFC06, "i64.trunc_sat_f64_s", "f64 -> i64", "wsr_sat_i64(a)", feature=_SATURATING),
    _numeric(0xFC07, "i64.trunc_sat_f64_u", "f64 -> i64", "wsr_sat_u64(a)", feature=_SATURATING),
    # Vector (5.4.9)
    *map(_vector, simd.VECTORS),
    # Atomic memory (threads proposal)
    *map(_atomic, atomics.ATOMICS),
    # Wide arithmetic: two results, low half first
    _special(0xFC13, "i64.add128", feature="wide-arithmetic"),
    _special(0xFC14, "i64.sub128", feature="wide-arithmetic"),
    _special(0xFC15, "i64.mul_wide_s", feature="wide-arithmetic"),
    _special(0xFC16, "i64.mul_wide_u", feature="wide-arithmetic"),
    # Cells that only the compiler makes
    _special(None, "jump", counted=False),  # end of a then-branch, over the else-branch
    _special(None, "return at end", counted=False),  # falling off the function's last `end`
    _special(None, "leave catch", counted=False),  # its results go to their place behind the block
    _special(None, "br back"),  # br to a loop: may pause there
    _special(None, "br_if back"),
    _special(None, "br_on_null back"),
    _special(None, "br_on_non_null back"),
    _special(None, "local.get v128"),  # moves of two slots
    _special(None, "local.set v128"),
    _special(None, "local.tee v128"),
    _special(None, "global.get v128"),
    _special(None, "global.set v128"),
    _special(None, "select v128"),
    _special(None, "canonical f32", counted=False),  # deterministic mode, after `nan` rows
    _special(None, "canonical f64", counted=False),
    _special(None, "canonical f32x4", counted=False),
    _special(None, "canonical f64x2", counted=False),
)

BY_CODE: dict[int, Instruction] = {i.code: i for i in INSTRUCTIONS if i.code is not None}

UNSUPPORTED: tuple[tuple[int, int, str], ...] = (
    (0xD3, 0xD3, "gc"),
    (0xE0, 0xE6, "stack-switching"),
    (0xFB, 0xFB, "gc"),
)
"""(first opcode, last opcode, feature): opcodes that have no row, by the feature that they need."""

_VALUE_TYPES = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x70: "funcref",
    0x6F: "externref",
    0x69: "exnref",
    0x73: "nullfuncref",
    0x72: "nullexternref",
    0x74: "nullexnref",
}
_HEAP_TYPES = {
    0x70: "func",
    0x6F: "extern",
    0x69: "exn",
    0x73: "nofunc",
    0x72: "noextern",
    0x74: "noexn",
}


class _Reader:
    def __init__(self, binary: bytes, at: int) -> None:
        self.binary, self.at = binary, at

    def byte(self) -> int:
        self.at += 1
        return self.binary[self.at - 1]

    def u(self) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    def s(self) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result - (1 << shift) if byte & 0x40 else result


def _heap_type(read: _Reader) -> str:
    value = read.s()
    return str(value) if value >= 0 else _HEAP_TYPES.get(value & 0x7F, hex(value & 0x7F))


def _value_type(read: _Reader) -> str:
    code = read.byte()
    if code in (0x63, 0x64):
        return f"(ref {'null ' if code == 0x63 else ''}{_heap_type(read)})"
    return _VALUE_TYPES.get(code, hex(code))


def _immediate_texts(kind: str, read: _Reader) -> Iterator[str]:
    if kind.startswith("block"):
        first = read.binary[read.at]
        if first == 0x40:
            read.byte()
        elif 0x40 < first < 0x80:
            yield _value_type(read)
        else:
            yield f"type={read.s()}"
        for _ in range(read.u() if kind == "block catches" else 0):
            clause = read.byte()
            operands = " ".join(str(read.u()) for _ in range(2 if clause < 2 else 1))
            yield f"({('catch', 'catch_ref', 'catch_all', 'catch_all_ref')[clause]} {operands})"
    elif kind == "labels":
        for _ in range(read.u() + 1):
            yield str(read.u())
    elif kind == "types":
        for _ in range(read.u()):
            yield _value_type(read)
    elif kind == "reftype":
        yield _heap_type(read)
    elif kind in ("memarg", "memarg lane"):
        align = read.u()
        if align & 64:  # a memory other than the first
            yield str(read.u())
        yield f"offset={read.u()}"
        yield f"align={1 << (align & 63)}"
        if kind == "memarg lane":
            yield str(read.byte())
    elif kind in ("i32", "i64"):
        yield str(read.s())
    elif kind in ("f32", "f64"):
        size = int(kind[1:]) // 8
        raw = read.binary[read.at : read.at + size]
        read.at += size
        value = struct.unpack("<f" if size == 4 else "<d", raw)[0]
        yield repr(value) if value == value else f"nan:0x{int.from_bytes(raw, 'little'):x}"
    elif kind == "v128":
        yield "i32x4"
        for _ in range(4):
            yield f"0x{sum(read.byte() << shift for shift in (0, 8, 16, 24)):08x}"
    elif kind == "lanes":
        for _ in range(16):
            yield str(read.byte())
    elif kind == "zero":
        read.byte()
    else:
        for _ in kind.split():
            yield str(read.u())


def disassemble(binary: bytes, offset: int) -> tuple[str, str, int]:
    """Read the instruction at `offset` of a validated module's binary.

    Returns:
        mnemonic, immediates as text (space separated, "" if none), and length in bytes.

    Raises:
        KeyError: No instruction of this engine starts there.
    """
    read = _Reader(binary, offset)
    code = read.byte()
    if code in (PREFIX, atomics.PREFIX):
        code = code << 8 | read.u()
    elif code == simd.PREFIX:
        code = simd.PREFIX << 16 | read.u()
    row = BY_CODE[code]
    texts = " ".join(_immediate_texts(row.immediates, read))
    return row.name.removesuffix(" t"), texts, read.at - offset
