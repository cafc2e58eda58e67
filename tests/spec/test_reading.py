"""The way from a script's text to commands: lexer, values and patterns, command forms."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .script import (
    AssertModule,
    AssertReturn,
    AssertTrap,
    Command,
    Get,
    InstanceCommand,
    Invoke,
    ModuleCommand,
    Perform,
    Register,
    Script,
    Source,
)
from .sexpr import Form, ScriptError, parse, unescape
from .values import (
    AnyExtern,
    Either,
    Extern,
    Lanes,
    Nan,
    Null,
    Number,
    Pattern,
    Reference,
    Value,
    all_match,
    constant,
    float_bits,
    int_bits,
    matches,
    pattern,
)


def forms(text: str) -> list[Form]:
    return list(parse(text))


def one(text: str) -> Form:
    (form,) = parse(text)
    return form


def commands(text: str) -> list[Command]:
    return list(Script("test", text).commands())


# Lexer.


def test_lists_nest_and_know_where_they_stand() -> None:
    text = '(a (b 1) "s")\n\n(c)'
    first, second = forms(text)
    assert first.head == "a"
    inner = first.items[1]
    assert isinstance(inner, Form)
    assert inner.items == ["b", "1"]
    assert first.items[2] == b"s"
    assert text[second.start : second.end] == "(c)"
    assert (first.line, second.line) == (1, 3)


@pytest.mark.parametrize(
    "text",
    [
        "(a ;; b) \n c)",
        "(a (; x ) (; y ;) ;) c)",
        "(a (;;) c)",
        "(a(@note ) c)",
        '(a (@note (x "(" ")") $y , ; ] #4g0-. (@ (@deep))) c)',
        "(a\tc\r\n)",
    ],
)
def test_comments_and_annotations_are_no_items(text: str) -> None:
    assert one(text).items == ["a", "c"]


def test_a_comment_inside_a_string_is_none() -> None:
    assert one('(a "(; ;; \\" ;)" b)').items == ["a", b'(; ;; " ;)', "b"]


def test_strings_and_atoms_need_no_space_between() -> None:
    assert one('(a"b"c)').items == ["a", b"b", "c"]
    assert one('(module $"a b")').items == ["module", "$a b"]


@pytest.mark.parametrize(
    ("literal", "content"),
    [
        (r'"\t\n\r\"\'\\"', b"\t\n\r\"'\\"),
        (r'"\00\fF\80"', b"\x00\xff\x80"),
        (r'"\u{48}\u{20AC}\u{1_F600}"', "H€😀".encode()),
        ('"ä"', "ä".encode()),
        ('""', b""),
    ],
)
def test_escapes(literal: str, content: bytes) -> None:
    assert unescape(literal) == content


@pytest.mark.parametrize(
    "text", ["(a", "(a))", "a (b)", '(a "b)', "(a (; b)", r'(a "\q")', r'(a "\u{110000}")']
)
def test_what_is_no_script_is_refused(text: str) -> None:
    with pytest.raises(ScriptError):
        forms(text)


# Numbers.


@pytest.mark.parametrize(
    ("text", "width", "bits"),
    [
        ("-1", 32, 0xFFFFFFFF),
        ("0xffff_ffff", 32, 0xFFFFFFFF),
        ("+7", 32, 7),
        ("-0x80000000", 32, 0x80000000),
        ("-0x1", 64, (1 << 64) - 1),
        ("010", 32, 10),
        ("-128", 8, 0x80),
    ],
)
def test_integers(text: str, width: int, bits: int) -> None:
    assert int_bits(text, width) == bits


@pytest.mark.parametrize("text", ["4294967296", "-2147483649", "x", "1.0"])
def test_integers_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        int_bits(text, 32)


@pytest.mark.parametrize(
    ("text", "type_", "bits"),
    [
        ("0", "f32", 0),
        ("-0.0", "f32", 0x80000000),
        ("1.5", "f32", 0x3FC00000),
        ("0x1.8p+0", "f64", 0x3FF8000000000000),
        ("0x1p-149", "f32", 1),
        ("0x1p-150", "f32", 0),  # a tie with zero, which is even
        ("0x1.8p-149", "f32", 2),  # a tie between subnormals
        ("0x1.fffffep127", "f32", 0x7F7FFFFF),
        ("0x1.fffffefffffff8000000p127", "f32", 0x7F7FFFFF),
        ("16777217", "f32", 0x4B800000),
        ("0x1.00000100000000001p+0", "f32", 0x3F800001),  # would round twice through f64
        ("1e-400", "f64", 0),
        ("inf", "f64", 0x7FF0000000000000),
        ("-inf", "f32", 0xFF800000),
        ("nan", "f32", 0x7FC00000),
        ("-nan:0x200000", "f32", 0xFFA00000),
        ("nan:0x4_0000_0000_0001", "f64", 0x7FF4000000000001),
        ("1_000.5e+0_0", "f64", 0x408F440000000000),
        ("0x.8", "f32", None),
    ],
)
def test_floats(text: str, type_: str, bits: int | None) -> None:
    if bits is None:
        with pytest.raises(ValueError, match=r".+"):
            float_bits(text, type_)
    else:
        assert float_bits(text, type_) == bits


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("0x1p128", "f32"),
        ("1e39", "f32"),
        ("1e309", "f64"),
        ("nan:0x800000", "f32"),
        ("nan:0x0", "f32"),
        ("nan:canonical", "f32"),
        ("", "f32"),
        ("1e", "f64"),
    ],
)
def test_floats_out_of_range_are_refused(text: str, type_: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        float_bits(text, type_)


@given(st.integers(0, (1 << 64) - 1))
def test_every_f64_reads_back(bits: int) -> None:
    number = struct.unpack("<d", bits.to_bytes(8, "little"))[0]
    if not math.isnan(number):
        assert float_bits(repr(number), "f64") == bits
        assert float_bits(number.hex(), "f64") == bits


@given(st.integers(0, (1 << 32) - 1))
def test_every_f32_reads_back(bits: int) -> None:
    number = struct.unpack("<f", bits.to_bytes(4, "little"))[0]
    if not math.isnan(number):
        assert float_bits(repr(number), "f32") == bits
        assert float_bits(number.hex(), "f32") == bits


# Patterns.


def expect(text: str) -> Pattern:
    return pattern(one(text))


def f32(bits: int) -> Number:
    return Number("f32", bits)


@pytest.mark.parametrize(
    ("bits", "canonical", "arithmetic"),
    [
        (0x7FC00000, True, True),
        (0xFFC00000, True, True),
        (0x7FC00001, False, True),
        (0xFFE00000, False, True),
        (0x7FA00000, False, False),  # signalling
        (0x7F800001, False, False),
        (0x7F800000, False, False),  # infinity
        (0x00000000, False, False),
        (0x40400000, False, False),
    ],
)
def test_nan_patterns_f32(bits: int, canonical: bool, arithmetic: bool) -> None:
    assert matches(expect("(f32.const nan:canonical)"), f32(bits)) is canonical
    assert matches(expect("(f32.const nan:arithmetic)"), f32(bits)) is arithmetic


@pytest.mark.parametrize(
    ("bits", "canonical", "arithmetic"),
    [
        (0x7FF8000000000000, True, True),
        (0xFFF8000000000000, True, True),
        (0x7FF8000000000001, False, True),
        (0xFFFC000000000000, False, True),
        (0x7FF4000000000000, False, False),
        (0x7FF0000000000000, False, False),
        (0x7FC00000, False, False),
    ],
)
def test_nan_patterns_f64(bits: int, canonical: bool, arithmetic: bool) -> None:
    value = Number("f64", bits)
    assert matches(expect("(f64.const nan:canonical)"), value) is canonical
    assert matches(expect("(f64.const nan:arithmetic)"), value) is arithmetic


def test_a_pattern_has_a_type() -> None:
    assert not matches(Nan("f64", "canonical"), f32(0x7FC00000))
    assert not matches(Number("i32", 1), Number("i64", 1))
    assert not matches(Number("f32", 0), Number("i32", 0))
    assert not matches(Number("i32", 0), Null("func"))


def test_numbers_match_bit_for_bit() -> None:
    assert matches(expect("(f32.const 0.0)"), f32(0))
    assert not matches(expect("(f32.const 0.0)"), f32(0x80000000))
    assert matches(expect("(f32.const nan:0x200000)"), f32(0x7FA00000))
    assert not matches(expect("(f32.const nan:0x200000)"), f32(0x7FE00000))
    assert not matches(expect("(f32.const nan)"), f32(0xFFC00000))


REFERENCES: list[tuple[str, list[Value], list[Value]]] = [
    ("(ref.null)", [Null("func"), Null("extern")], [Reference("func"), Extern(0)]),
    ("(ref.null func)", [Null("func"), Null("nofunc")], [Null("extern"), Reference("func")]),
    ("(ref.null extern)", [Null("extern")], [Null("func"), Extern(0)]),
    ("(ref.extern 3)", [Extern(3)], [Extern(2), Null("extern"), Reference("extern")]),
    ("(ref.extern)", [Extern(3), Reference("extern")], [Null("extern"), Reference("func")]),
    ("(ref.func)", [Reference("func")], [Null("func"), Extern(1), Number("i32", 1)]),
    ("(ref.eq)", [Reference("i31"), Reference("struct")], [Reference("host"), Null("eq")]),
    ("(ref.any)", [Reference("host"), Reference("array")], [Reference("func")]),
]


@pytest.mark.parametrize(("text", "yes", "no"), REFERENCES)
def test_references(text: str, yes: list[Value], no: list[Value]) -> None:
    assert [value for value in yes if not matches(expect(text), value)] == []
    assert [value for value in no if matches(expect(text), value)] == []


def test_vectors() -> None:
    one_two = expect("(v128.const i32x4 1 2 3 -1)")
    assert one_two == Number("v128", 0xFFFFFFFF_00000003_00000002_00000001)
    assert expect("(v128.const i8x16 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 -1)") == Number(
        "v128", 0xFF << 120 | 1
    )
    lanes = expect("(v128.const f32x4 1.0 nan:canonical nan:arithmetic 0)")
    assert isinstance(lanes, Lanes)
    good = 0x3F800000 | 0xFFC00000 << 32 | 0x7FE00000 << 64
    assert matches(lanes, Number("v128", good))
    assert not matches(lanes, Number("v128", good | 1))
    assert not matches(lanes, Number("v128", good | 1 << 32))
    assert not matches(lanes, Number("v128", good | 1 << 127))


def test_either() -> None:
    choice = expect("(either (i32.const 1) (i32.const 2))")
    assert isinstance(choice, Either)
    assert [matches(choice, Number("i32", bits)) for bits in range(4)] == [False, True, True, False]


def test_the_number_of_results_counts() -> None:
    two = [Number("i32", 1), Number("i32", 2)]
    assert all_match(two, two)
    assert not all_match(two, two[:1])
    assert not all_match(two[:1], two)
    assert all_match([], [])


@pytest.mark.parametrize(
    "text",
    [
        "(i32.const)",
        "(i32.const 1 2)",
        "(i16.const 1)",
        "(v128.const i32x4 1 2 3)",
        "(local.get 0)",
        "(f32.const x)",
        "(i32.const (a))",
        "(i32.const 4294967296)",
    ],
)
def test_what_is_no_constant_is_refused(text: str) -> None:
    with pytest.raises(ScriptError):
        pattern(one(text))


@pytest.mark.parametrize("text", ["(f32.const nan:canonical)", "(ref.extern)"])
def test_patterns_are_no_arguments(text: str) -> None:
    assert isinstance(pattern(one(text)), (Nan, AnyExtern))
    with pytest.raises(ScriptError):
        constant(one(text))


# Commands.


def test_modules() -> None:
    text = '(module $m (func (; c ;)))(module binary "\\00a" "sm")(module $q quote "(fu" "nc)")'
    assert commands(text) == [
        ModuleCommand(1, "$m", Source("text", b"(module $m (func (; c ;)))")),
        ModuleCommand(1, None, Source("binary", b"\0asm")),
        ModuleCommand(1, "$q", Source("quote", b"(fu nc)")),
    ]


def test_definitions_and_instances() -> None:
    text = '(module definition $d (func))\n(module definition binary "a")\n'
    text += "(module instance $i $d)\n(module instance)"
    first, second, third, fourth = commands(text)
    assert isinstance(first, ModuleCommand)
    assert first.definition_only
    assert first.name == "$d"
    assert first.source.data.split() == [b"(module", b"$d", b"(func))"]
    assert second == ModuleCommand(2, None, Source("binary", b"a"), True)
    assert third == InstanceCommand(3, "$i", "$d")
    assert fourth == InstanceCommand(4, None, None)


def test_fields_without_a_module_around_them_are_one() -> None:
    (command,) = commands('(func $f)\n(memory 1) (export "f" (func $f))')
    assert isinstance(command, ModuleCommand)
    assert command.source.data.split() == (
        b'(module (func $f) (memory 1) (export "f" (func $f)))'.split()
    )


def test_actions_and_assertions() -> None:
    text = """(register "M" $m) (register "N")
    (invoke $m "f \\22" (i32.const 1) (ref.null func))
    (assert_return (get "g") (i32.const 1) (f32.const nan:canonical))
    (assert_trap (invoke "f") "unreachable")
    (assert_trap (module (start 0)) "unreachable")
    (assert_invalid (module quote "(x)") "type mismatch")
    (assert_malformed (module binary "") "unexpected end")
    (assert_unlinkable (module) "unknown import")"""
    assert commands(text) == [
        Register(1, "M", "$m"),
        Register(1, "N", None),
        Perform(2, Invoke("$m", 'f "', (Number("i32", 1), Null("func")))),
        AssertReturn(3, Get(None, "g"), (Number("i32", 1), Nan("f32", "canonical"))),
        AssertTrap(4, Invoke(None, "f", ()), "unreachable"),
        AssertTrap(5, Source("text", b"(module (start 0))"), "unreachable"),
        AssertModule(6, "invalid", Source("quote", b"(x)"), "type mismatch"),
        AssertModule(7, "malformed", Source("binary", b""), "unexpected end"),
        AssertModule(8, "unlinkable", Source("text", b"(module)"), "unknown import"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '(assert_maybe (invoke "f"))',
        "(assert_return)",
        '(assert_trap (invoke "f"))',
        "(register)",
        "(invoke $m)",
        '(assert_return (call "f"))',
        "(module binary 1)",
    ],
)
def test_unknown_or_incomplete_commands_are_refused(text: str) -> None:
    with pytest.raises(ScriptError):
        commands(text)


def test_a_script_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.wast"
    path.write_bytes(b'(module quote "a\\r" "\xc3\xa4")\r\n(module)')
    first, second = Script.read(path, "a").commands()
    assert isinstance(first, ModuleCommand)
    assert first.source.data == b"a\r \xc3\xa4"
    assert second.line == 2
