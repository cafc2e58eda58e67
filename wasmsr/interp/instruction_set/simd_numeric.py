"""Rows of SIMD that compute: whole numbers, widths, floats and conversions. Part of `simd`."""

from __future__ import annotations

from collections.abc import Iterator

from wasmsr.interp.instruction_set.simd_row import SHAPES, Vector, each, lanes

# ---- whole numbers


EVERY = ("i8x16", "i16x8", "i32x4", "i64x2")
"""Shapes of integer vectors."""
SMALL = EVERY[:2]
"""Shapes with saturating arithmetic."""


def _at(place: int, *shapes: str) -> dict[str, int]:
    """Return the opcode of each shape.

    abs, neg, shl, shr_s, shr_u, add and sub have the same place in the opcodes of each shape.
    """
    base = dict(zip(EVERY, (0x60, 0x80, 0xA0, 0xC0), strict=True))
    return {shape: base[shape] + place for shape in shapes or EVERY}


def integers() -> Iterator[Vector]:
    """Yield the rows of integer vectors."""
    yield from _signs()
    yield from _shifts()
    yield from _sums_and_products()
    yield from _saturating()
    yield from _least_and_greatest()
    yield from _averages_and_dots()


def _signs() -> Iterator[Vector]:
    size = "a < 0 ? 0U - (uintN_t)a : (uintN_t)a"
    yield from each("abs", "i", size, 1, _at(0, *EVERY[:3]), out="u")
    wide = "wsr_x86_abs_epi64(I(va))"
    yield from each("abs", "i", size, 1, _at(0, "i64x2"), out="u", sse2=wide)
    yield from each("neg", "u", "0U - a", 1, _at(1))
    yield lanes(0x62, "i8x16.popcnt", "u8", "u8", "wsr_popcnt8(a)")


def _shifts() -> Iterator[Vector]:
    count = "_mm_cvtsi32_si128((int)(x & 7))"
    narrow = {
        "shl": f"_mm_and_si128(_mm_sll_epi16(I(va), {count}), "
        "_mm_set1_epi8((char)(0xFFU << (x & 7))))",
        "shr_s": "_mm_packs_epi16("
        "_mm_sra_epi16(_mm_unpacklo_epi8(I(va), I(va)), _mm_cvtsi32_si128((int)(x & 7) + 8)), "
        "_mm_sra_epi16(_mm_unpackhi_epi8(I(va), I(va)), _mm_cvtsi32_si128((int)(x & 7) + 8)))",
        "shr_u": f"_mm_and_si128(_mm_srl_epi16(I(va), {count}), "
        "_mm_set1_epi8((char)(0xFFU >> (x & 7))))",
    }
    shifts = (
        ("shl", "u", "(1U * a) << (x & (N - 1))", "sll"),
        ("shr_s", "i", "a >> (x & (N - 1))", "sra"),
        ("shr_u", "u", "a >> (x & (N - 1))", "srl"),
    )
    for place, (name, kind, body, machine) in enumerate(shifts, start=0xB):
        wide = f"_mm_{machine}_epiN(I(va), _mm_cvtsi32_si128((int)(x & (N - 1))))"
        for shape in EVERY:
            sse2 = narrow[name] if shape == "i8x16" else wide
            if (name, shape) == ("shr_s", "i64x2"):
                sse2 = "wsr_x86_sra_epi64(I(va), x & 63)"
            yield from each(name, kind, body, 1, _at(place, shape), scalar="i32", sse2=sse2)


def _sums_and_products() -> Iterator[Vector]:
    yield from each("add", "u", "1U * a + b", 2, _at(0xE))
    yield from each("sub", "u", "1U * a - b", 2, _at(0x11))
    yield from each("mul", "u", "1U * a * b", 2, _at(0x15, "i16x8"))
    wide = "_mm_mullo_epi32(I(va), I(vb))"
    yield from each("mul", "u", "1U * a * b", 2, _at(0x15, "i32x4"), v2=wide)
    yield from each("mul", "u", "1U * a * b", 2, _at(0x15, "i64x2"), sse2="va * vb")


def _saturating() -> Iterator[Vector]:
    for name, operator, place in (("add", "+", 0xF), ("sub", "-", 0x12)):
        for sign, kind in (("s", "i"), ("u", "u")):
            machine = f"_mm_{name}s_ep{kind}N(I(va), I(vb))"
            yield from each(
                f"{name}_sat_{sign}",
                kind,
                f"WSR_SATURATE_{kind}N(a {operator} b)",
                2,
                _at(place + (sign == "u"), *SMALL),
                sse2=machine,
            )


def _least_and_greatest() -> Iterator[Vector]:
    for operation, operator in (("min", "<"), ("max", ">")):
        for sign, kind in (("s", "i"), ("u", "u")):
            place = 0x16 + 2 * (operation == "max") + (sign == "u")
            for shape in EVERY[:3]:
                machine = f"_mm_{operation}_ep{kind}N(I(va), I(vb))"
                old = (sign, shape) in (("u", "i8x16"), ("s", "i16x8"))
                yield from each(
                    f"{operation}_{sign}",
                    kind,
                    f"a {operator} b ? a : b",
                    2,
                    _at(place, shape),
                    sse2=machine if old else "",
                    v2="" if old else machine,
                )


def _averages_and_dots() -> Iterator[Vector]:
    yield from each("avgr_u", "u", "(a + b + 1) >> 1", 2, _at(0x1B, *SMALL))
    yield lanes(
        0x82,
        "i16x8.q15mulr_sat_s",
        "i16",
        "i16 i16",
        "WSR_SATURATE_i16((a * b + 0x4000) >> 15)",
        v2="wsr_x86_q15mulr(I(va), I(vb))",
    )
    yield lanes(
        0xBA,
        "i32x4.dot_i16x8_s",
        "u32",
        "i16 i16",
        "(uint32_t)(A(2 * i) * B(2 * i)) + (uint32_t)(A(2 * i + 1) * B(2 * i + 1))",
        sse2="_mm_madd_epi16(I(va), I(vb))",
    )


def widths() -> Iterator[Vector]:
    """Integers of one width from those of another."""
    narrowing = (
        (0x65, "i8x16.narrow_i16x8_s", "i8", "i16", "_mm_packs_epi16(I(va), I(vb))", ""),
        (0x66, "i8x16.narrow_i16x8_u", "u8", "i16", "_mm_packus_epi16(I(va), I(vb))", ""),
        (0x85, "i16x8.narrow_i32x4_s", "i16", "i32", "_mm_packs_epi32(I(va), I(vb))", ""),
        (0x86, "i16x8.narrow_i32x4_u", "u16", "i32", "", "_mm_packus_epi32(I(va), I(vb))"),
    )
    for code, name, out, kind, sse2, v2 in narrowing:
        half = 64 // int(out[1:])
        body = f"WSR_SATURATE_{out}(i < {half} ? A(i % {half}) : B(i % {half}))"
        yield lanes(code, name, out, f"{kind} {kind}", body, sse2=sse2, v2=v2)
    # To twice the width: all there is to know is how x86 does it.
    steps = (("i16x8", "i8x16", 0x87), ("i32x4", "i16x8", 0xA7), ("i64x2", "i32x4", 0xC7))
    for to, of, code in steps:
        wide, bits = SHAPES[to], SHAPES[of]
        half = 64 // bits
        for index, (part, sign) in enumerate((p, s) for s in "su" for p in ("low", "high")):
            kind = ("i" if sign == "s" else "u") + str(bits)
            take = f"i + {half}" if part == "high" else "i"
            unpack = f"_mm_unpack{part[:2]}_epi{bits}"
            signs = "_mm_cmpgt_epi32(_mm_setzero_si128(), I(va))"
            sse2 = f"{unpack}(I(va), _mm_setzero_si128())"
            if sign == "s":
                sse2 = f"_mm_srai_epi{wide}({unpack}(I(va), I(va)), {bits})"
                if wide == 64:
                    sse2 = f"{unpack}(I(va), {signs})"
            out = ("i" if sign == "s" else "u") + str(wide)
            name = f"{to}.extend_{part}_{of}_{sign}"
            yield lanes(code + index, name, out, kind, f"A({take})", sse2=sse2)
            product = f"({'int' if sign == 's' else 'uint'}{max(wide, 32)}_t)A({take}) * B({take})"
            extended = f"wsr_{to}_extend_{part}_{of}_{sign}"
            twice = f"_mm_unpack{part[:2]}_epi32"
            machine = {
                16: f"_mm_mullo_epi16(I({extended}(va)), I({extended}(vb)))",
                32: f"{unpack}(_mm_mullo_epi16(I(va), I(vb)), "
                f"_mm_mulhi_ep{sign.replace('s', 'i')}16(I(va), I(vb)))",
                64: f"_mm_mul_ep{sign.replace('s', 'i')}32"
                f"({twice}(I(va), I(va)), {twice}(I(vb), I(vb)))",
            }[wide]
            late = wide == 64 and sign == "s"
            yield lanes(
                code + 0x15 + index,
                f"{to}.extmul_{part}_{of}_{sign}",
                out,
                f"{kind} {kind}",
                product,
                sse2="" if late else machine,
                v2=machine if late else "",
            )
    pairs = (
        (
            0x7C,
            "i16x8.extadd_pairwise_i8x16_s",
            "_mm_add_epi16(_mm_srai_epi16(I(va), 8), _mm_srai_epi16(_mm_slli_epi16(I(va), 8), 8))",
        ),
        (
            0x7D,
            "i16x8.extadd_pairwise_i8x16_u",
            "_mm_add_epi16(_mm_srli_epi16(I(va), 8), _mm_and_si128(I(va), _mm_set1_epi16(0xFF)))",
        ),
        (
            0x7E,
            "i32x4.extadd_pairwise_i16x8_s",
            "_mm_madd_epi16(I(va), _mm_set1_epi16(1))",
        ),
        (
            0x7F,
            "i32x4.extadd_pairwise_i16x8_u",
            "_mm_add_epi32(_mm_srli_epi32(I(va), 16), "
            "_mm_and_si128(I(va), _mm_set1_epi32(0xFFFF)))",
        ),
    )
    for code, name, sse2 in pairs:
        kind, bits = ("u" if name.endswith("u") else "i"), SHAPES[name[:5]]
        body = "A(2 * i) + A(2 * i + 1)"
        yield lanes(code, name, f"{kind}{bits}", f"{kind}{bits // 2}", body, sse2=sse2)


# ---- floats


def floats() -> Iterator[Vector]:
    """Yield the rows of floating-point vectors."""
    sign = {"f32x4": "0x80000000U", "f64x2": "0x8000000000000000U"}
    for shape, code in (("f32x4", 0xE0), ("f64x2", 0xEC)):
        bits = f"u{SHAPES[shape]}"
        yield lanes(code, f"{shape}.abs", bits, bits, f"a & ~{sign[shape]}")
        yield lanes(code + 1, f"{shape}.neg", bits, bits, f"a ^ {sign[shape]}")
    rounding = (
        ("ceil", 10, 0x67, 0x74),
        ("floor", 9, 0x68, 0x75),
        ("trunc", 11, 0x69, 0x7A),
        ("nearest", 8, 0x6A, 0x94),
    )
    for operation, mode, f32x4, f64x2 in rounding:
        yield from each(
            operation,
            "f",
            f"wsr_{operation}N(a)",
            1,
            {"f32x4": f32x4, "f64x2": f64x2},
            sse2=f"wsr_x86_{operation}_P(P(va))",
            v2=f"_mm_round_P(P(va), {mode})",
            nan=True,
        )
    yield from each("sqrt", "f", "sqrtf(a)", 1, {"f32x4": 0xE3}, nan=True)
    yield from each("sqrt", "f", "sqrt(a)", 1, {"f64x2": 0xEF}, nan=True)
    places = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
    for place, (operation, operator) in enumerate(places.items()):
        yield from each(
            operation,
            "f",
            f"a {operator} b",
            2,
            {"f32x4": 0xE4 + place, "f64x2": 0xF0 + place},
            nan=True,
        )
    for place, operation in enumerate(("min", "max")):
        yield from each(
            operation,
            "f",
            f"wsr_{operation}N(a, b)",
            2,
            {"f32x4": 0xE8 + place, "f64x2": 0xF4 + place},
            sse2=f"wsr_x86_{operation}_P(P(va), P(vb))",
            nan=True,
        )
    for place, (operation, test) in enumerate((("pmin", "b < a"), ("pmax", "a < b"))):
        yield from each(
            operation,
            "f",
            f"{test} ? b : a",
            2,
            {"f32x4": 0xEA + place, "f64x2": 0xF6 + place},
            sse2=f"_mm_{operation[1:]}_P(P(vb), P(va))",
        )


def conversions() -> Iterator[Vector]:
    """Yield the rows that convert between vectors."""
    yield lanes(
        0x5E,
        "f32x4.demote_f64x2_zero",
        "f32",
        "f64",
        "i < 2 ? (float)A(i & 1) : 0",
        sse2="_mm_cvtpd_ps(D(va))",
        nan="f32",
    )
    yield lanes(0x5F, "f64x2.promote_low_f32x4", "f64", "f32", "(double)A(i)", nan="f64")
    yield lanes(
        0xF8,
        "i32x4.trunc_sat_f32x4_s",
        "u32",
        "f32",
        "wsr_sat_i32(a)",
        sse2="wsr_x86_sat_i32(F(va))",
    )
    yield lanes(
        0xF9,
        "i32x4.trunc_sat_f32x4_u",
        "u32",
        "f32",
        "wsr_sat_u32(a)",
        sse2="wsr_x86_sat_u32(F(va))",
    )
    yield lanes(0xFA, "f32x4.convert_i32x4_s", "f32", "i32", "(float)a")
    yield lanes(0xFB, "f32x4.convert_i32x4_u", "f32", "u32", "(float)a")
    for code, sign in ((0xFC, "s"), (0xFD, "u")):
        helper = f"wsr_sat_{'i' if sign == 's' else 'u'}32"
        body = f"i < 2 ? {helper}(A(i & 1)) : 0"
        sse2 = f"wsr_x86{helper[3:]}_zero(D(va))"
        yield lanes(code, f"i32x4.trunc_sat_f64x2_{sign}_zero", "u32", "f64", body, sse2=sse2)
    yield lanes(0xFE, "f64x2.convert_low_i32x4_s", "f64", "i32", "(double)A(i)")
    yield lanes(0xFF, "f64x2.convert_low_i32x4_u", "f64", "u32", "(double)A(i)")
