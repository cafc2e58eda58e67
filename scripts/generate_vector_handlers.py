"""The handlers of fast code for vectors, written out as C.

Called by `generate`. A row of `simd` becomes one function for each combination of operand classes,
as `generate_handlers` makes them for numbers; the vector accumulator is `va`. The rows that a CPU
of x86-64 level 2 does better become a second set, whose names end in `_v2`. Each set has a table by
row; the order of a row's handlers is that of core/fast/translate_simd.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from scripts.generate_handlers import ADDRESS, SUM, SUMS, operand, result, step, within, words
from scripts.generate_simd import VectorRow, described
from wasmsr.interp.instruction_set.simd import CELLS, VECTORS

_STORES = ("SS", "SA", "AS", "AA", "CS", "CA")
_LANES = ("SS", "SA", "AS", "AA")

Cell = tuple[str, int, list[str]]
"""The letters of a handler, the words of its cell, and what it does."""


def _taken(kind: str, operand_class: str, field: int) -> str:
    """Return the C expression of an operand."""
    if kind != "v128":
        return operand(kind, operand_class, field)
    return {
        "S": f"wsr_slots_get(fp + field(pc, {field}))",
        "A": "r->va",
        "C": "wsr_slots_get(pc + 2)",
    }[operand_class]


def _given(kind: str, value: str, written: str, field: int = 3) -> list[str]:
    """Return the statements that put a value into its accumulator and, for W, into slots."""
    if kind != "v128":
        return result(kind, value, written, field)
    lines = [f"r->va = {value};"]
    return [*lines, f"wsr_slots_put(fp + field(pc, {field}), r->va);"] if written == "W" else lines


def _both(
    letters: str,
    length: int,
    kind: str,
    value: str,
    *,
    before: Iterable[str] = (),
    field: int = 3,
) -> Iterator[Cell]:
    """Yield the two cells of a value: with the accumulator only, and with slots too."""
    for written in "AW":
        yield letters + written, length, [*before, *_given(kind, value, written, field)]


def _one(row: VectorRow) -> Iterator[Cell]:
    taken, given = row.types
    for a in "SA":
        value = f"{row.function}({_taken(taken, a, 0)})"
        yield from _both(a, 2, given, value)


def _pairs(
    row: VectorRow, kind: str, combinations: tuple[str, ...], more: str = ""
) -> Iterator[Cell]:
    for a, b in map(tuple, combinations):
        value = f"{row.function}({_taken('v128', a, 0)}, {_taken(kind, b, 1)}{more})"
        length = 2 if b != "C" else 4 if kind == "v128" else 3
        yield from _both(a + b, length, "v128", value)


def _two(row: VectorRow) -> Iterator[Cell]:
    yield from _pairs(row, "v128", ("SS", "SA", "SC", "AS", "AC"))


def _shift(row: VectorRow) -> Iterator[Cell]:
    yield from _pairs(row, "i32", ("SS", "SA", "SC", "AS", "AA", "AC"))


def _replace(row: VectorRow) -> Iterator[Cell]:  # field c: the lane
    yield from _pairs(row, row.types[0], _LANES, ", field(pc, 2)")


def _shuffle(row: VectorRow) -> Iterator[Cell]:  # third and fourth word: the 16 lanes
    for letters, _, body in _pairs(row, "v128", ("SS", "SA", "AS"), ", (const uint8_t *)(pc + 2)"):
        yield letters, 4, body


def _const(row: VectorRow) -> Iterator[Cell]:  # third and fourth word: the constant
    value = f"{row.function}((const uint8_t *)(pc + 2))"
    yield from _both("", 4, "v128", value)


def _three(row: VectorRow) -> Iterator[Cell]:
    for classes in ("SSS", "ASS", "SAS", "SSA"):
        operands = ", ".join(_taken("v128", c, k) for k, c in enumerate(classes))
        value = f"{row.function}({operands})"
        yield from _both(classes, 2, "v128", value)


def _extract(row: VectorRow) -> Iterator[Cell]:  # field b: where the lane begins, in bytes
    kind, lane = row.types
    get = [
        f"{lane} lane;",
        "memcpy(&lane, (const char *)(fp + field(pc, 0)) + field(pc, 1), sizeof lane);",
    ]
    yield from _both("S", 2, kind, "lane", before=get)


def _load(row: VectorRow) -> Iterator[Cell]:
    value = f"{row.function}(at)"
    for a in "SAC":
        check = within(ADDRESS[a], row.width, "const ")
        yield from _both(a, words(a), "v128", value, before=check, field=1)
    for ab in SUMS:
        check = within(f"(uint64_t)({SUM[ab]}) + high(pc[2])", row.width, "const ")
        yield from _both(f"{ab}_", 3, "v128", value, before=check, field=1)


def _store(row: VectorRow) -> Iterator[Cell]:
    for a, b in map(tuple, _STORES):
        put = f"{row.function}(at, {_taken('v128', b, 1)});"
        yield a + b, words(a), [*within(ADDRESS[a], row.width, ""), put]


def _load_lane(row: VectorRow) -> Iterator[Cell]:  # third word: the vector's slot, and the lane
    for a, b in map(tuple, _LANES):
        vector = "r->va" if b == "A" else "wsr_slots_get(fp + low(pc[2]))"
        value = f"{row.function}(at, {vector}, high(pc[2]))"
        check = within(ADDRESS[a], row.width, "const ")
        yield from _both(a + b, 3, "v128", value, before=check, field=1)


def _store_lane(row: VectorRow) -> Iterator[Cell]:  # third word: where the lane begins, in bytes
    for a in "SA":
        put = f"memcpy(at, (const char *)(fp + field(pc, 1)) + pc[2], {row.width});"
        yield f"{a}S", 3, [*within(ADDRESS[a], row.width, ""), put]


_CELLS: dict[str, Callable[[VectorRow], Iterator[Cell]]] = {
    "ONE": _one,
    "TWO": _two,
    "SHIFT": _shift,
    "THREE": _three,
    "EXTRACT": _extract,
    "REPLACE": _replace,
    "SHUFFLE": _shuffle,
    "CONST": _const,
    "LOAD": _load,
    "STORE": _store,
    "LOAD_LANE": _load_lane,
    "STORE_LANE": _store_lane,
}


def _file(mark: str, rows: list[VectorRow], ending: str) -> str:
    out = [mark, "/* What the vector instructions of the table become, and the table of them. */"]
    table = []
    for row in rows:
        out += ["", f"/* {row.name} */"]
        names = []
        for letters, length, body in _CELLS[row.kind](row):
            name = f"{row.symbol}_{letters}{ending}"
            out += step(name, length, body)
            names.append(name)
        if row.kind == "TWO":  # no handler takes the one accumulator twice
            names[8:8] = ["NULL", "NULL"]
        listed = ", ".join(names)
        table.append(f"    [WSR_OP_{row.symbol}] = (wsr_handler *const[]){{{listed}}},")
    out += ["", f"static wsr_handler *const *const vector{ending}[WSR_OP_COUNT] = {{"]
    return "\n".join([*out, *table, "};"]) + "\n"


def handlers(mark: str) -> str:
    """core/fast/handlers_simd.inc."""
    return _file(mark, [described(row) for row in (*VECTORS, *CELLS)], "")


def v2_handlers(mark: str) -> str:
    """core/fast/handlers_simd_v2.inc."""
    return _file(mark, [described(row, "_v2") for row in VECTORS if row.v2], "_v2")
