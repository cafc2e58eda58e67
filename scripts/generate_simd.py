"""The C that is made of the rows of `simd`: one function for each instruction, and rows for macros.

Called by `generate`. core/numeric/simd_lanes.h has the functions, on vectors in registers;
core/numeric/simd_rows.h names them by what they take and give, for the handlers of
core/precise/vectors.c. `generate_vector_handlers` makes the handlers of fast code.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from wasmsr.interp.instruction_set.simd import CELLS, VECTORS
from wasmsr.interp.instruction_set.simd_row import Vector

_SCALARS = {"i32": "uint32_t", "i64": "uint64_t", "f32": "uint32_t", "f64": "uint64_t"}
"""C types of operands and results that are no vectors; floats are moved as bits."""
_FAST_TYPES = {"v128": "v128", "i32": "i32", "i64": "i64", "f32": "b32", "f64": "b64"}


def _c_type(lane: str) -> str:
    return {"f32": "float", "f64": "double"}.get(lane) or (
        ("uint" if lane[0] == "u" else "int") + lane[1:] + "_t"
    )


def parameters(row: Vector) -> list[str]:
    """Its C function's parameters, in order."""
    found = []
    if row.width:
        found.append("uint8_t *p" if row.form == "store" else "const uint8_t *p")
    for index, _ in enumerate([p for p in row.params.split() if p == "v128"]):
        found.append(f"wsr_vector v{'abc'[index]}")
    if not row.width:
        found += [f"{_SCALARS[p]} x" for p in row.params.split() if p != "v128"]
    if row.immediates.endswith("lane"):
        found.append("uint32_t lane")
    if row.form in ("const", "shuffle"):
        found.append("const uint8_t *k")
    return found


def _result(row: Vector) -> str:
    return "wsr_vector" if row.results == "v128" else _SCALARS.get(row.results, "void")


def _loop(row: Vector) -> str:
    """Return the statements over all lanes."""
    body, lines = row.body, []
    bits = int((row.out or row.ins[0])[1:])
    for index, lane in enumerate(row.ins):
        letter = "abc"[index]
        upper = letter.upper()
        used = re.search(rf"\b{upper}\(", body) is not None
        plain = re.search(rf"\b{letter}\b", body) is not None
        lines.append(f"const wsr_lanes {upper}_ = {{.v = v{letter}}};")
        body = re.sub(rf"\b{upper}\(", f"WSR_LANE({lane}, {upper}_, ", body)
        assert used or plain, row.name
    inner = [
        f"const {_c_type(lane)} {'abc'[index]} = WSR_LANE({lane}, {'abc'[index].upper()}_, i);"
        for index, lane in enumerate(row.ins)
        if re.search(rf"\b{'abc'[index]}\b", body)
    ]
    if row.form == "fold":
        lines.append(f"uint32_t t = {row.start};")
        inner.append(f"t = {body};")
    else:
        lines.append("wsr_lanes r_;")
        inner.append(f"WSR_LANE({row.out}, r_, i) = ({_c_type(row.out)})({body});")
    lines.append(f"for (uint32_t i = 0; i < {128 // bits}; i++) {{ {' '.join(inner)} }}")
    lines.append("return t;" if row.form == "fold" else "return r_.v;")
    return " ".join(lines)


def _plain(row: Vector) -> str:
    if row.form in ("lanes", "shuffle", "fold"):
        return _loop(row)
    if row.form == "scalar":
        (lane,) = row.ins
        body = re.sub(r"\bA\(", f"WSR_LANE({lane}, A_, ", row.body)
        return f"const wsr_lanes A_ = {{.v = va}}; return {body};"
    return f"{row.body};" if row.form == "store" else f"return {row.body};"


def _function(row: Vector) -> list[str]:
    """Return the function, and the machine instruction if there is a better one."""
    head = f"static inline {_result(row)} {row.function}"
    rest = f"({', '.join(parameters(row))})"
    cast = f"({_result(row)})"
    out = []
    if row.sse2:
        out += ["#if WSR_X86", f"{head}{rest} {{ return {cast}({row.sse2}); }}", "#else"]
    out.append(f"{head}{rest} {{ {_plain(row)} }}")
    if row.sse2:
        out.append("#endif")
    if row.v2:
        line = f"WSR_V2 {head}_v2{rest} {{ return {cast}({row.v2}); }}"
        out += ["#if WSR_X86", line, "#endif"]
    return out


def _late(row: Vector) -> bool:
    return row.width > 0  # loads and stores are made of the others


def lanes(mark: str) -> str:
    """core/numeric/simd_lanes.h."""
    out = [
        mark,
        "/* a, b, c: operands; k: 16 bytes after the opcode; p: an address; v2: see simd.h */",
    ]
    for row in sorted((*VECTORS, *CELLS), key=_late):
        out += _function(row)
    return "\n".join(out) + "\n"


def symbol(row: Vector) -> str:
    """Return the name in C, without prefix."""
    return row.name.replace(".", "_").replace(" ", "_").upper()


class VectorRow(NamedTuple):
    """What the handlers of a vector instruction need of its row."""

    kind: str
    """ONE, TWO or THREE by the number of operands, or what is special about it."""
    name: str
    symbol: str
    function: str
    """The C function."""
    width: int = 0
    """Bytes that a load or store accesses."""
    types: tuple[str, ...] = ()
    """ONE: of operand and result; REPLACE: of the lane; EXTRACT: of result and lane, as C."""


def described(row: Vector, ending: str = "") -> VectorRow:
    """Return what the handlers of a row need; `ending` is that of its function."""
    types = [_FAST_TYPES[p] for p in row.params.split()]
    result = _FAST_TYPES.get(row.results, "")
    known = (row.name, symbol(row), row.function + ending)
    if row.form in ("const", "shuffle"):
        return VectorRow(row.form.upper(), *known)
    if row.width:
        kind = row.form.upper() + ("_LANE" if row.immediates.endswith("lane") else "")
        return VectorRow(kind, *known, width=row.width)
    if row.immediates == "lane":
        if result == "v128":
            return VectorRow("REPLACE", *known, types=(types[1],))
        return VectorRow("EXTRACT", *known, types=(result, _c_type(row.ins[0])))
    kind = ("ONE", "TWO", "THREE")[len(types) - 1]
    if kind == "ONE":
        return VectorRow(kind, *known, types=(types[0], result))
    return VectorRow("SHIFT" if kind == "TWO" and types[1] != "v128" else kind, *known)


def _row(row: Vector) -> str:
    made = described(row)
    width = (str(made.width),) if made.width else ()
    return f"VECTOR_{made.kind}({', '.join((made.symbol, *width, *made.types, made.function))})"


def rows(mark: str) -> str:
    """core/numeric/simd_rows.h."""
    out = [
        mark,
        "/* ONE: name, operand type, result type, function; REPLACE, EXTRACT: name, type (and lane",
        " * type), function; LOAD, STORE: name, width, function; all others take vectors. */",
        *map(_row, (*VECTORS, *CELLS)),
    ]
    return "\n".join(out) + "\n"
