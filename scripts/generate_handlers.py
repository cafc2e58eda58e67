"""The handlers of fast code that the instruction table gives, written out as C.

Called by `generate`. A row becomes one function for each combination of operand classes: S is a
slot of the frame, A the accumulator, C a constant in the cell. A last letter says where the result
goes: A, the accumulator only; W, a slot too. A comparison also becomes branches on it: `_1`
branches where it is true, `_0` where it is false, `_back` to a loop header that polls for a pause.
docs/anatomy-of-a-handler.md explains one of them from Wasm bytes to machine code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from wasmsr.interp.instruction_set.instructions import INSTRUCTIONS, Instruction

C_TYPES = {"i32": "uint32_t", "i64": "uint64_t", "f32": "float", "f64": "double"}
C_TYPES |= {"b32": "uint32_t", "b64": "uint64_t"}  # the bits of an f32 and of an f64

TWO_OPERANDS = ("SS", "SA", "SC", "AS", "AC")
"""Classes of two operands: never both the one accumulator, and a constant comes last."""
ADDRESS_AND_VALUE = ("SS", "SA", "SC", "AS", "AA", "AC", "CS", "CA", "CC")
SUMS = ("SC", "AC", "SS", "SA")
"""Classes of an address that is a sum."""
MEMORY64_STORES = ADDRESS_AND_VALUE[:6]

_INVERSE = {"eq": "ne", "lt_s": "ge_s", "lt_u": "ge_u", "gt_s": "le_s", "gt_u": "le_u"}
_COMMUTES = ("add", "mul", "and", "or", "xor", "eq", "ne")
_CANONICAL = {
    "CANONICAL_F32": ("b32", "(a & 0x7FFFFFFFU) > 0x7F800000U ? 0x7FC00000U : a"),
    "CANONICAL_F64": (
        "b64",
        "(a & 0x7FFFFFFFFFFFFFFFU) > 0x7FF0000000000000U ? UINT64_C(0x7FF8000000000000) : a",
    ),
}
"""Deterministic mode's canonical NaN, as two more unary rows."""


def operand_type(name: str, bits: bool) -> str:
    """How an operand is taken: as a value, or as the bits of a float."""
    return name.replace("f", "b") if bits else name


def width(i: Instruction) -> int:
    """Bytes that a load or store accesses."""
    return int("".join(c for c in i.body.partition(",")[0] if c.isdigit())) // 8


def is_compare(i: Instruction) -> bool:
    """Two operands to a truth value: it can be fused with the branch that tests it."""
    return (
        i.kind == "numeric"
        and i.results == "i32"
        and (i.name.split(".")[1].rsplit("_", 1)[0] in ("eq", "ne", "lt", "gt", "le", "ge"))
    )


# ---- operands and results --------------------------------------------------------------------


def operand(kind: str, operand_class: str, field: int, held: str = "r->") -> str:
    """Return the C expression of an operand; `held` says where the accumulators are."""
    place = {
        "S": f"fp[field(pc, {field})]",
        "A": {"f32": f"{held}fs", "f64": f"{held}fd", "b32": f"{held}fs", "b64": f"{held}fd"}.get(
            kind, f"{held}acc"
        ),
        "C": "pc[2]",
    }[operand_class]
    if operand_class == "A" and kind in ("b32", "b64"):
        bits = f"wsr_bits_f{kind[1:]}({place})"
        return f"(uint32_t){bits}" if kind == "b32" else bits
    if kind in ("i32", "b32"):
        return f"(uint32_t){place}"
    if kind in ("f32", "f64") and operand_class != "A":
        return f"wsr_{kind}({place})"
    return place


def result(kind: str, value: str, written: str, field: int) -> list[str]:
    """Statements that put a value of this kind into its accumulator and, for W, into a slot."""
    accumulator, assigned, slot = {
        "i32": ("acc", f"(uint32_t)({value})", "r->acc"),
        "i64": ("acc", f"(uint64_t)({value})", "r->acc"),
        "f32": ("fs", f"{value}", "wsr_bits_f32(r->fs)"),
        "f64": ("fd", f"{value}", "wsr_bits_f64(r->fd)"),
        "b32": ("fs", f"wsr_f32((uint32_t)({value}))", "wsr_bits_f32(r->fs)"),
        "b64": ("fd", f"wsr_f64({value})", "wsr_bits_f64(r->fd)"),
    }[kind]
    lines = [f"r->{accumulator} = {assigned};"]
    return [*lines, f"fp[field(pc, {field})] = {slot};"] if written == "W" else lines


def words(operand_class: str) -> int:
    """Return the length, in words, of a cell whose last operand is of this class."""
    return 3 if operand_class == "C" else 2


def step(name: str, length: int, body: list[str]) -> Iterator[str]:
    """Yield a handler that continues with the next cell."""
    yield f"STEP({name}, {length}) {{"
    yield from (f"  {line}" for line in body)
    yield "  DONE;"
    yield "}"
    yield f"HANDLER({name})"


# ---- numerics --------------------------------------------------------------------------------


def declared(c_type: str, names: str, values: list[str]) -> str:
    """Return a declaration of C variables with their values."""
    pairs = ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
    return f"const {c_type} {pairs};"


def unary(name: str, taken: str, given: str, value: str, checks: list[str]) -> Iterator[str]:
    """Yield a handler with one operand."""
    for a in "SA":
        for written in "AW":
            body = [declared(C_TYPES[taken], "a", [operand(taken, a, 0)]), *checks]
            yield from step(f"{name}_{a}{written}", 2, body + result(given, value, written, 3))


def binary(i: Instruction, taken: str, given: str, checks: list[str]) -> Iterator[str]:
    """Yield a handler with two operands."""
    for a, b in map(tuple, TWO_OPERANDS):
        for written in "AW":
            values = [operand(taken, a, 0), operand(taken, b, 1)]
            body = [declared(C_TYPES[taken], "ab", values), *checks]
            body += result(given, i.body, written, 3)
            yield from step(f"{i.symbol}_{a}{b}{written}", words(b), body)


def branches(i: Instruction, taken: str) -> Iterator[str]:
    """Yield the comparison and the branch on it in one cell."""
    for a, b in map(tuple, TWO_OPERANDS):
        values = [operand(taken, a, 0, ""), operand(taken, b, 1, "")]
        compared = declared(C_TYPES[taken], "ab", values)
        for truth in "10":
            condition = i.body if truth == "1" else f"!({i.body})"
            name = f"{i.symbol}_{a}{b}_{truth}"
            yield f"END({name}) {{"
            yield f"  {compared}"
            yield f"  if ({condition}) NEXT(distance(pc));"
            yield f"  NEXT({words(b)});"
            yield "}"
            yield f"END({name}_back) {{"
            yield f"  {compared}"
            yield f"  if ({condition}) {{"
            yield f"    if (pausing(thread)) return leave(thread, low(pc[{words(b)}]), WSR_PAUSED);"
            yield "    NEXT(distance(pc));"
            yield "  }"
            yield f"  NEXT({words(b) + 1});"
            yield "}"


# ---- loads and stores of memory 0 with 32-bit addresses --------------------------------------

ADDRESS = {
    "S": "(uint64_t)(uint32_t)fp[field(pc, 0)] + offset_of(pc)",
    "A": "(uint64_t)(uint32_t)r->acc + offset_of(pc)",
    "C": "pc[2]",
}
SUM = {
    "SC": "(uint32_t)fp[field(pc, 0)] + low(pc[2])",
    "AC": "(uint32_t)r->acc + low(pc[2])",
    "SS": "(uint32_t)fp[field(pc, 0)] + (uint32_t)fp[field(pc, 2)]",
    "SA": "(uint32_t)fp[field(pc, 0)] + (uint32_t)r->acc",
}


def loaded(i: Instruction) -> tuple[str, str]:
    """Return the kind of the result, and the value at `at`."""
    value = f"wsr_get{width(i) * 8}(at)"
    if signed := i.body.partition(",")[2].strip():
        wide = "32" if i.results == "i32" else "64"
        value = f"(uint{wide}_t)(int{wide}_t)({signed}){value}"
    return operand_type(i.results, True), value


def stored(i: Instruction) -> tuple[str, str]:
    """Return the kind of the value, and the statement that stores `b` at `at`."""
    kind = operand_type(i.params.split()[1], True)
    return kind, f"wsr_put{width(i) * 8}(at, ({i.body})b);"


def within(address: str, bytes_: int, const: str) -> list[str]:
    """Return the statements that check an address."""
    return [
        f"const uint64_t address = {address};",
        f"if (address + {bytes_} > size) TRAP(MEMORY_BOUNDS);",
        f"{const}uint8_t *const at = memory + address;",
    ]


def load(i: Instruction) -> Iterator[str]:
    """Yield the handlers of a load."""
    kind, value = loaded(i)
    for a in "SAC":
        for written in "AW":
            body = within(ADDRESS[a], width(i), "const ")
            body += result_of_load(kind, value, written)
            yield from step(f"{i.symbol}_{a}{written}", words(a), body)
    for ab in SUMS:
        for written in "AW":
            address = f"(uint64_t)(uint32_t)({SUM[ab]}) + high(pc[2])"
            body = within(address, width(i), "const ")
            body += result_of_load(kind, value, written)
            yield from step(f"{i.symbol}_{ab}_{written}", 3, body)


def result_of_load(kind: str, value: str, written: str) -> list[str]:
    """Return the statements that store what was loaded."""
    return result(kind, value, written, 1)


def store(i: Instruction) -> Iterator[str]:
    """Yield the handlers of a store."""
    kind, put = stored(i)
    for a, b in map(tuple, ADDRESS_AND_VALUE):
        value = operand(kind, b, 1)
        if b == "C":  # behind the constant address, if there is one
            value = f"({C_TYPES[kind]})pc[{words(a)}]"
        body = within(ADDRESS[a], width(i), "")
        body += [f"const {C_TYPES[kind]} b = {value};", put]
        yield from step(f"{i.symbol}_{a}{b}", words(a) + (b == "C"), body)


# ---- loads and stores of other memories ------------------------------------------------------

MEMORY64_SUM = {
    "SC": "fp[field(pc, 0)] + pc[3]",
    "AC": "r->acc + pc[3]",
    "SS": "fp[field(pc, 0)] + fp[field(pc, 2)]",
    "SA": "fp[field(pc, 0)] + r->acc",
}


def memory64(base: str, offset: str, bytes_: int) -> list[str]:
    """64-bit addresses: address, offset and width together stay below 2^64."""
    return [
        f"const uint64_t past = (uint64_t){offset} + {bytes_}, end = {base} + past;",
        "if (end < past || end > size) TRAP(MEMORY_BOUNDS);",
        f"uint8_t *const at = memory + (end - {bytes_});",
    ]


def any_memory(bytes_: int) -> list[str]:
    """Any memory: it is looked up."""
    return [
        f"uint8_t *const at = locate(thread, pc, fp, {bytes_});",
        "if (!at) TRAP(MEMORY_BOUNDS);",
    ]


def load_other(i: Instruction) -> Iterator[str]:
    """Yield the handlers of a load from another memory."""
    kind, value = loaded(i)
    for a in "SA":
        for written in "AW":
            body = memory64(operand("i64", a, 0), "offset_of(pc)", width(i))
            body += result_of_load(kind, value, written)
            yield from step(f"{i.symbol}_memory64_{a}{written}", 2, body)
    for ab in SUMS:
        for written in "AW":
            body = memory64(MEMORY64_SUM[ab], "low(pc[2])", width(i))
            body += result_of_load(kind, value, written)
            yield from step(f"{i.symbol}_memory64_{ab}_{written}", 4 if "C" in ab else 3, body)
    for written in "AW":
        body = any_memory(width(i)) + result_of_load(kind, value, written)
        yield from step(f"{i.symbol}_any_memory_{written}", 4, body)


def store_other(i: Instruction) -> Iterator[str]:
    """Yield the handlers of a store to another memory."""
    kind, put = stored(i)
    for a, b in map(tuple, MEMORY64_STORES):
        body = [f"const {C_TYPES[kind]} b = {operand(kind, b, 1)};"]
        body += [*memory64(operand("i64", a, 0), "offset_of(pc)", width(i)), put]
        yield from step(f"{i.symbol}_memory64_{a}{b}", words(b), body)
    body = [f"const {C_TYPES[kind]} b = {operand(kind, 'S', 1)};", *any_memory(width(i)), put]
    yield from step(f"{i.symbol}_any_memory", 4, body)


# ---- the files -------------------------------------------------------------------------------


def _numeric(i: Instruction) -> Iterator[str]:
    params = i.params.split()
    taken, given = operand_type(params[0], i.bits), operand_type(i.results, i.bits)
    checks = [f"if ({condition}) TRAP({trap});" for condition, trap in i.traps]
    if len(params) == 1:
        yield from unary(i.symbol, taken, given, i.body, checks)
    else:
        yield from binary(i, taken, given, checks)
    if is_compare(i):
        yield from branches(i, taken)


def handlers(mark: str) -> str:
    """core/fast/handlers_regular.inc."""
    out = [mark, "/* What the numeric instructions, loads and stores of the table become. */"]
    made = {"numeric": _numeric, "load": load, "store": store}
    for i in INSTRUCTIONS:
        if i.kind in made:
            out += ["", f"/* {i.name} */", *made[i.kind](i)]
    for name, (kind, value) in _CANONICAL.items():
        out += ["", "/* the canonical NaN of deterministic mode */"]
        out += unary(name, kind, kind, value, [])
    return "\n".join(out) + "\n"


def other_handlers(mark: str) -> str:
    """core/fast/handlers_other_memories.inc."""
    out = [mark, "/* Loads and stores other than those on memory 0 with 32-bit addresses. */"]
    made = {"load": load_other, "store": store_other}
    for i in INSTRUCTIONS:
        if i.kind in made:
            out += ["", f"/* {i.name} */", *made[i.kind](i)]
    return "\n".join(out) + "\n"


def table(
    declaration: str,
    wanted: Callable[[Instruction], bool],
    names: Callable[[str], list[str]],
    more: tuple[str, ...] = (),
) -> Iterator[str]:
    """Yield a table of handlers by row; an empty text means no handler."""
    yield f"{declaration} = {{"
    for symbol in [*(i.symbol for i in INSTRUCTIONS if wanted(i)), *more]:
        yield f"    [WSR_OP_{symbol}] = {{{', '.join(n or 'NULL' for n in names(symbol))}}},"
    yield "};"


def _is(kind: str, operands: int = 0) -> Callable[[Instruction], bool]:
    return lambda i: i.kind == kind and (not operands or len(i.params.split()) == operands)


def tables(mark: str) -> str:
    """core/fast/handler_tables.inc: handlers by row and operand classes; fast.h declares it."""

    def two(name: str) -> list[str]:
        return [
            f"{name}_{a}{b}{w}" if a + b != "AA" else "" for a in "SA" for b in "SAC" for w in "AW"
        ]

    def ends(name: str) -> list[str]:
        return [
            f"{name}_{a}{b}_{end}" if a + b != "AA" else ""
            for a in "SA"
            for b in "SAC"
            for end in ("1", "1_back", "0", "0_back")
        ]

    out = [mark]
    out += table(
        "wsr_handler *const wsr_fast_unary[WSR_OP_COUNT][4]",
        _is("numeric", 1),
        lambda n: [f"{n}_{a}{w}" for a in "SA" for w in "AW"],
        tuple(_CANONICAL),
    )
    count = "[WSR_OP_COUNT]"
    out += table(f"wsr_handler *const wsr_fast_binary{count}[12]", _is("numeric", 2), two)
    out += table(f"wsr_handler *const wsr_fast_branch{count}[24]", is_compare, ends)
    out += table(
        f"wsr_handler *const wsr_fast_load{count}[6]",
        _is("load"),
        lambda n: [f"{n}_{a}{w}" for a in "SAC" for w in "AW"],
    )
    out += table(
        f"wsr_handler *const wsr_fast_load_sum{count}[8]",
        _is("load"),
        lambda n: [f"{n}_{ab}_{w}" for ab in SUMS for w in "AW"],
    )
    out += table(
        f"wsr_handler *const wsr_fast_store{count}[9]",
        _is("store"),
        lambda n: [f"{n}_{ab}" for ab in ADDRESS_AND_VALUE],
    )
    by_name = {i.name: i for i in INSTRUCTIONS}
    out += ["/* The integer comparison that is true where this one is false: its row plus one. */"]
    out += [f"const uint16_t wsr_fast_inverse{count} = {{"]
    for i in INSTRUCTIONS:
        type_, _, operation = i.name.partition(".")
        if i.kind == "numeric" and type_ in ("i32", "i64") and operation in _INVERSE:
            other = by_name[f"{type_}.{_INVERSE[operation]}"].symbol
            out.append(f"    [WSR_OP_{i.symbol}] = WSR_OP_{other} + 1,")
            out.append(f"    [WSR_OP_{other}] = WSR_OP_{i.symbol} + 1,")
    out += ["};", "/* Whether the operands may be exchanged. */"]
    out += [f"const uint8_t wsr_fast_commutes{count} = {{"]
    for i in INSTRUCTIONS:
        type_, _, operation = i.name.partition(".")
        if i.kind == "numeric" and type_ in ("i32", "i64") and operation in _COMMUTES:
            out.append(f"    [WSR_OP_{i.symbol}] = 1,")
    return "\n".join([*out, "};"]) + "\n"


def other_tables(mark: str) -> str:
    """core/fast/handler_tables_other_memories.inc."""
    count = "[WSR_OP_COUNT]"
    out = [mark]
    out += table(
        f"wsr_handler *const wsr_memory64_load{count}[4]",
        _is("load"),
        lambda n: [f"{n}_memory64_{a}{w}" for a in "SA" for w in "AW"],
    )
    out += table(
        f"wsr_handler *const wsr_memory64_load_sum{count}[8]",
        _is("load"),
        lambda n: [f"{n}_memory64_{ab}_{w}" for ab in SUMS for w in "AW"],
    )
    out += table(
        f"wsr_handler *const wsr_any_memory_load{count}[2]",
        _is("load"),
        lambda n: [f"{n}_any_memory_{w}" for w in "AW"],
    )
    out += table(
        f"wsr_handler *const wsr_memory64_store{count}[6]",
        _is("store"),
        lambda n: [f"{n}_memory64_{ab}" for ab in MEMORY64_STORES],
    )
    out += [f"wsr_handler *const wsr_any_memory_store{count} = {{"]
    out += [
        f"    [WSR_OP_{i.symbol}] = {i.symbol}_any_memory,"
        for i in INSTRUCTIONS
        if i.kind == "store"
    ]
    return "\n".join([*out, "};"]) + "\n"
