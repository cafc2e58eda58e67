"""The part of THE table that is SIMD and relaxed SIMD: 236 and 20 rows, made of fewer.

`instructions` takes its rows from here, `generate_simd` makes of them the C of
core/numeric/simd_lanes.h. A row says what one lane of the result is; the loop over the lanes is the
same for all. Where one machine instruction of x86 does more than compilers see in that loop, the
row names it as well: what it gives must be the same, bit for bit, and tests compare the two.

Relaxed instructions have one deterministic lowering, the same on every CPU: that of the
deterministic profile (specification, appendix "Profiles", and the relaxed rows below).

Source: WebAssembly specification, section 5.4.9 (Vector Instructions) and 4.3 (Numerics).
"""

from __future__ import annotations

from collections.abc import Iterator

from wasmsr.interp.instruction_set.simd_numeric import conversions, floats, integers, widths
from wasmsr.interp.instruction_set.simd_row import SHAPES, Vector, each, lanes

PREFIX = 0xFD
"""First byte of the two-part opcodes of vectors."""

# ---- loads and stores


def _load(code: int, name: str, width: int, body: str) -> Vector:
    return Vector(code, name, "memarg", "i32", "v128", "load", body=body, width=width)


def _memory() -> Iterator[Vector]:
    yield _load(0x00, "v128.load", 16, "wsr_get128(p)")
    extended = (("8x8", "i16x8", "i8x16"), ("16x4", "i32x4", "i16x8"), ("32x2", "i64x2", "i32x4"))
    code = 0x01
    for name, to, of in extended:
        for sign in "su":
            body = f"wsr_{to}_extend_low_{of}_{sign}(wsr_low_half(wsr_get64(p)))"
            yield _load(code, f"v128.load{name}_{sign}", 8, body)
            code += 1
    for index, (shape, bits) in enumerate(list(SHAPES.items())[:4]):
        splat = f"wsr_{shape}_splat(wsr_get{bits}(p))"
        yield _load(0x07 + index, f"v128.load{bits}_splat", bits // 8, splat)
    yield _load(0x5C, "v128.load32_zero", 4, "wsr_low_half(wsr_get32(p))")
    yield _load(0x5D, "v128.load64_zero", 8, "wsr_low_half(wsr_get64(p))")
    yield Vector(
        0x0B,
        "v128.store",
        "memarg",
        "i32 v128",
        "",
        "store",
        body="wsr_put128(p, va)",
        width=16,
    )
    for index, (shape, bits) in enumerate(list(SHAPES.items())[:4]):
        sign = "_u" if bits < 32 else ""
        yield Vector(
            0x54 + index,
            f"v128.load{bits}_lane",
            "memarg lane",
            "i32 v128",
            "v128",
            "load",
            body=f"wsr_{shape}_replace_lane(va, wsr_get{bits}(p), lane)",
            width=bits // 8,
        )
        value = f"(uint{bits}_t)wsr_{shape}_extract_lane{sign}(va, lane)"
        yield Vector(
            0x58 + index,
            f"v128.store{bits}_lane",
            "memarg lane",
            "i32 v128",
            "",
            "store",
            body=f"wsr_put{bits}(p, {value})",
            width=bits // 8,
        )


# ---- constants, shuffles, lanes


def _moving() -> Iterator[Vector]:
    yield Vector(0x0C, "v128.const", "v128", "", "v128", "const", body="wsr_get128(k)")
    yield Vector(
        0x0D,
        "i8x16.shuffle",
        "lanes",
        "v128 v128",
        "v128",
        "shuffle",
        "u8",
        ("u8", "u8"),
        "k[i] < 16 ? A(k[i] & 15) : B(k[i] & 15)",
        v2="_mm_or_si128("
        "_mm_shuffle_epi8(I(va), _mm_adds_epu8(I(wsr_get128(k)), _mm_set1_epi8(0x70))), "
        "_mm_shuffle_epi8(I(vb), _mm_sub_epi8(I(wsr_get128(k)), _mm_set1_epi8(16))))",
    )
    yield lanes(
        0x0E,
        "i8x16.swizzle",
        "u8",
        "u8 u8",
        "b < 16 ? A(b & 15) : 0",
        v2="_mm_shuffle_epi8(I(va), _mm_adds_epu8(I(vb), _mm_set1_epi8(0x70)))",
    )
    scalars = {"i8x16": "i32", "i16x8": "i32", "i32x4": "i32", "i64x2": "i64"}
    for index, shape in enumerate(SHAPES):
        bits, scalar = SHAPES[shape], scalars.get(shape, shape[:3])
        yield Vector(
            0x0F + index,
            f"{shape}.splat",
            "",
            scalar,
            "v128",
            "lanes",
            f"u{bits}",
            (),
            "x",
            sse2="_mm_set1_epi8((char)x)" if bits == 8 else "",
        )
    code = 0x15
    for shape, bits in SHAPES.items():
        scalar = scalars.get(shape, shape[:3])
        for sign in ("_s", "_u") if bits < 32 else ("",):
            lane = ("i" if sign == "_s" else "u") + str(bits)
            body = "(uint32_t)A(lane)" if bits < 64 else "A(lane)"
            yield Vector(
                code,
                f"{shape}.extract_lane{sign}",
                "lane",
                "v128",
                scalar,
                "scalar",
                ins=(lane,),
                body=body,
            )
            code += 1
        yield Vector(
            code,
            f"{shape}.replace_lane",
            "lane",
            f"v128 {scalar}",
            "v128",
            "lanes",
            f"u{bits}",
            (f"u{bits}",),
            "i == lane ? x : a",
            sse2=f"wsr_x86_replace(I(va), I(wsr_{shape}_splat(x)), {bits.bit_length() - 4}, lane)",
        )
        code += 1


# ---- comparisons

_MACHINE = {"ne": "neq"}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">="}


def _comparisons() -> Iterator[Vector]:
    code = 0x23
    for bits, shape in ((8, "i8x16"), (16, "i16x8"), (32, "i32x4")):
        for operation, operator in _COMPARISONS.items():
            for sign in ("",) if operation in ("eq", "ne") else ("_s", "_u"):
                kind = ("u" if sign == "_u" else "i") + str(bits)
                body = f"a {operator} b ? -1 : 0"
                name = f"{shape}.{operation}{sign}"
                yield lanes(code, name, f"i{bits}", f"{kind} {kind}", body)
                code += 1
    for bits, shape in ((32, "f32x4"), (64, "f64x2")):
        for operation, operator in _COMPARISONS.items():
            kind = f"f{bits} f{bits}"
            body = f"a {operator} b ? -1 : 0"
            machine = f"_mm_cmp{_MACHINE.get(operation, operation)}_pd(D(va), D(vb))"
            sse2 = machine if bits == 64 else ""
            yield lanes(code, f"{shape}.{operation}", f"i{bits}", kind, body, sse2=sse2)
            code += 1
    ones = "_mm_set1_epi32(-1)"
    wide = {
        "eq": "_mm_cmpeq_epi64(I(va), I(vb))",
        "ne": f"_mm_xor_si128(_mm_cmpeq_epi64(I(va), I(vb)), {ones})",
        "lt_s": "_mm_cmpgt_epi64(I(vb), I(va))",
        "gt_s": "_mm_cmpgt_epi64(I(va), I(vb))",
        "le_s": f"_mm_xor_si128(_mm_cmpgt_epi64(I(va), I(vb)), {ones})",
        "ge_s": f"_mm_xor_si128(_mm_cmpgt_epi64(I(vb), I(va)), {ones})",
    }
    for index, (operation, v2) in enumerate(wide.items()):
        body = f"a {_COMPARISONS[operation[:2]]} b ? -1 : 0"
        yield lanes(0xD6 + index, f"i64x2.{operation}", "i64", "i64 i64", body, v2=v2)


# ---- bits


def _bitwise() -> Iterator[Vector]:
    yield lanes(0x4D, "v128.not", "u64", "u64", "~a")
    yield lanes(0x4E, "v128.and", "u64", "u64 u64", "a & b")
    yield lanes(0x4F, "v128.andnot", "u64", "u64 u64", "a & ~b")
    yield lanes(0x50, "v128.or", "u64", "u64 u64", "a | b")
    yield lanes(0x51, "v128.xor", "u64", "u64 u64", "a ^ b")
    yield lanes(0x52, "v128.bitselect", "u64", "u64 u64 u64", "(a & c) | (b & ~c)")
    yield Vector(
        0x53,
        "v128.any_true",
        "",
        "v128",
        "i32",
        "scalar",
        ins=("u64",),
        body="(A(0) | A(1)) != 0",
        sse2="_mm_movemask_epi8(_mm_cmpeq_epi8(I(va), _mm_setzero_si128())) != 0xFFFF",
    )
    zero = "_mm_setzero_si128()"
    tests = {
        "i8x16": (0x63, "_mm_movemask_epi8(I(va))"),
        "i16x8": (0x83, f"_mm_movemask_epi8(_mm_packs_epi16(I(va), {zero}))"),
        "i32x4": (0xA3, "_mm_movemask_ps(F(va))"),
        "i64x2": (0xC3, "_mm_movemask_pd(D(va))"),
    }
    for shape, (code, mask) in tests.items():
        bits = SHAPES[shape]
        equal = f"_mm_movemask_epi8(_mm_cmpeq_epi{bits}(I(va), {zero})) == 0"
        yield Vector(
            code,
            f"{shape}.all_true",
            "",
            "v128",
            "i32",
            "fold",
            ins=(f"u{bits}",),
            body="t & (a != 0)",
            start=1,
            sse2=equal if bits < 64 else "",
            v2=equal if bits == 64 else "",
        )
        yield Vector(
            code + 1,
            f"{shape}.bitmask",
            "",
            "v128",
            "i32",
            "fold",
            ins=(f"i{bits}",),
            body="t | (uint32_t)(a < 0) << i",
            sse2=f"(uint32_t){mask}",
        )


# ---- relaxed


def _relaxed(plain: dict[str, Vector]) -> Iterator[Vector]:
    """Each means what one instruction of SIMD means, or what its body says: products and sums are
    rounded apart, dot products take both operands as signed and wrap."""
    same = {
        0x100: ("i8x16.relaxed_swizzle", "i8x16.swizzle"),
        0x101: ("i32x4.relaxed_trunc_f32x4_s", "i32x4.trunc_sat_f32x4_s"),
        0x102: ("i32x4.relaxed_trunc_f32x4_u", "i32x4.trunc_sat_f32x4_u"),
        0x103: ("i32x4.relaxed_trunc_f64x2_s_zero", "i32x4.trunc_sat_f64x2_s_zero"),
        0x104: ("i32x4.relaxed_trunc_f64x2_u_zero", "i32x4.trunc_sat_f64x2_u_zero"),
        0x109: ("i8x16.relaxed_laneselect", "v128.bitselect"),
        0x10A: ("i16x8.relaxed_laneselect", "v128.bitselect"),
        0x10B: ("i32x4.relaxed_laneselect", "v128.bitselect"),
        0x10C: ("i64x2.relaxed_laneselect", "v128.bitselect"),
        0x10D: ("f32x4.relaxed_min", "f32x4.min"),
        0x10E: ("f32x4.relaxed_max", "f32x4.max"),
        0x10F: ("f64x2.relaxed_min", "f64x2.min"),
        0x110: ("f64x2.relaxed_max", "f64x2.max"),
        0x111: ("i16x8.relaxed_q15mulr_s", "i16x8.q15mulr_sat_s"),
    }
    for code, (name, meaning) in same.items():
        row = plain[meaning]
        yield Vector(**{**vars(row), "code": code, "name": name})
    # The cast rounds the product where machines would compute with more precision (s390x).
    for place, (operation, sign) in enumerate((("madd", ""), ("nmadd", "-"))):
        for shape, c_type, code in (("f32x4", "float", 0x105), ("f64x2", "double", 0x107)):
            body = f"{sign}({c_type})(a * b) + c"
            yield from each(f"relaxed_{operation}", "f", body, 3, {shape: code + place}, nan=True)
    pair = "A({0}) * B({0}) + A({0} + 1) * B({0} + 1)"
    dot = "wsr_x86_dot_epi8(I(va), I(vb))"
    body = pair.format("2 * i")
    yield lanes(0x112, "i16x8.relaxed_dot_i8x16_i7x16_s", "i16", "i8 i8", body, sse2=dot)
    halves = [f"(uint32_t)(int16_t)({pair.format(at)})" for at in ("4 * i", "4 * i + 2")]
    body = f"{halves[0]} + {halves[1]} + c"
    sse2 = f"_mm_add_epi32(_mm_madd_epi16({dot}, _mm_set1_epi16(1)), I(vc))"
    name = "i32x4.relaxed_dot_i8x16_i7x16_add_s"
    yield lanes(0x113, name, "u32", "i8 i8 u32", body, sse2=sse2)


def _all() -> Iterator[Vector]:
    plain: dict[str, Vector] = {}
    parts = (_moving, _comparisons, _bitwise, integers, widths, floats, conversions, _memory)
    for part in parts:
        for row in part():
            plain[row.name] = row
    yield from plain.values()
    for row in _relaxed(plain):
        yield Vector(**{**vars(row), "feature": "relaxed-simd"})


VECTORS: tuple[Vector, ...] = tuple(sorted(_all(), key=lambda row: row.code or 0))


def _canonical(shape: str, infinity: str, canonical: str) -> Vector:
    bits, kind = SHAPES[shape], "ps" if shape == "f32x4" else "pd"
    body = f"(a << 1) > ({infinity} << 1) ? {canonical} : a"
    sse2 = (
        f"wsr_x86_choose(I(_mm_cmpunord_{kind}({kind}(va), {kind}(va))), "
        f"I(wsr_{shape}_splat({canonical})), I(va))"
    )
    return lanes(None, f"canonical {shape}", f"u{bits}", f"u{bits}", body, sse2=sse2)


CELLS: tuple[Vector, ...] = (
    _canonical("f32x4", "0x7F800000U", "0x7FC00000U"),
    _canonical("f64x2", "0x7FF0000000000000U", "0x7FF8000000000000U"),
)
"""What the deterministic mode puts behind rows with `nan`."""
