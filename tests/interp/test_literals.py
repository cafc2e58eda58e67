"""Values as text and back: rounded once, refused where they do not fit, the same bits again."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import wasmsr
from wasmsr import Module, Store, ValType
from wasmsr.interp.literals import format_literal, json_value, parse_literal

I32, I64, F32, F64, V128 = (ValType[name] for name in ("I32", "I64", "F32", "F64", "V128"))


def value_of(type_: ValType, bits: int) -> float:
    size, code = (4, "<f") if type_ is F32 else (8, "<d")
    value: float = struct.unpack(code, bits.to_bytes(size, "little"))[0]
    return value


@pytest.mark.parametrize(
    ("type_", "text", "bits"),
    [
        # Just above, at and just below what lies between two f32.
        (F32, "1.00000005960464477539063", 1065353217),
        (F32, "1.000000059604644775390625", 1065353216),
        (F32, "1.00000005960464477539062", 1065353216),
        (F32, "0x1.000001000000000000001p0", 1065353217),
        (F32, "0x1.000001p0", 1065353216),
        (F32, "0x1.000000ffffffffffffffffp0", 1065353216),
        (F32, "0x1.000003p0", 1065353218),
        (F32, "-1.00000005960464477539063", 1065353217 | 1 << 31),
        # Subnormal ones, and the largest.
        (F32, "7.0064923216240853546186479164495e-46", 0),
        (F32, "7.0064923216240853546186479164496e-46", 1),
        (F32, "0x1.00000000000000000001p-150", 1),
        (F32, "0x1p-150", 0),
        (F32, "0x1.fffffefffffffffffffffp127", 0x7F7FFFFF),
        (F32, "340282356779733661637539395458142568447", 0x7F7FFFFF),
        (F64, "1.7976931348623158e308", 0x7FEFFFFFFFFFFFFF),
        (F64, "4.9e-324", 1),
        (F64, "2e-324", 0),
        (F64, "-1e-400", 1 << 63),
        (F32, "-0", 1 << 31),
        (F32, "+0x0p99999999", 0),
        (F32, "0x1p" + "0" * 9000 + "1", 0x40000000),
        (F32, "16777217." + "0" * 9000 + "1", 0x4B800001),
        (F32, "1_6.2_5e0_1", 0x43228000),
        (F64, "0x1_0.8p-0_1", 0x4020800000000000),
        (F32, "nan", 0x7FC00000),
        (F32, "-nan", 0xFFC00000),
        (F32, "-nan:0x200001", 0xFFA00001),
        (F32, "nan:0x7f_ffff", 0x7FFFFFFF),
        (F64, "nan:0x1", 0x7FF0000000000001),
        (F64, "NaN:0x4000000000001", 0x7FF4000000000001),
        (F64, "+inf", 0x7FF0000000000000),
        (I32, "0" * 9000 + "7", 7),
        (I32, "-0x8000_0000", 1 << 31),
        (V128, "0xffffffffffffffffffffffffffffffff", (1 << 128) - 1),
        (V128, "12", 12),
        (ValType.EXNREF, "null", 0),
    ],
)
def test_text_to_bits(type_: ValType, text: str, bits: int) -> None:
    assert parse_literal(type_, text) == bits


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (F32, "1e39"),
        (F32, "340282356779733661637539395458142568448"),
        (F32, "0x1.ffffffp127"),
        (F32, "-0x1p128"),
        (F64, "1e309"),
        (F64, "-1e309"),
        (F64, "0x1p1024"),
        (F64, "1.797693134862315808e308"),
        (F64, "1e999999999999"),
        (F64, "0x1p" + "9" * 9000),
        (F32, "nan:0x0"),
        (F32, "nan:0x800000"),
        (F64, "nan:0x10000000000000"),
        (F64, "nan:"),
        (F64, "nan:canonical"),
        (F32, "infinity"),
        (F64, "1__0"),
        (F64, "0x"),
        (I32, "9" * 9000),
        (I64, "0x1" + "0" * 16),
        (V128, "-1"),
        (V128, "0x1" + "0" * 32),
        (ValType.FUNCREF, "0"),
        (ValType(0x170), "null"),
    ],
)
def test_what_is_no_value(type_: ValType, text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|is) "):
        parse_literal(type_, text)


@given(st.integers(0, 2**32 - 1))
@example(0x7F800001)
@example(0xFFC00000)
@example(0xFFFFFFFF)
@example(0x80000000)
def test_every_f32_is_read_back(bits: int) -> None:
    assert parse_literal(F32, format_literal(F32, bits)) == bits


@given(st.integers(0, 2**64 - 1))
@example(0x7FF0000000000001)
@example(0xFFF8000000000000)
def test_every_f64_is_read_back(bits: int) -> None:
    assert parse_literal(F64, format_literal(F64, bits)) == bits


@given(st.integers(0, 2**128 - 1))
def test_every_integer_is_read_back(bits: int) -> None:
    for type_, width in ((I32, 32), (I64, 64), (V128, 128)):
        assert parse_literal(type_, format_literal(type_, bits % (1 << width))) == bits % (
            1 << width
        )


def nearest(number: Fraction) -> int:
    """The bits of the f32 nearest to a number of 0 or more, by trying."""
    low, high = 0, 0x7F800000
    while high - low > 1:
        middle = (low + high) // 2
        exact = Fraction(value_of(F32, middle))
        low, high = (middle, high) if exact <= number else (low, middle)
    top = Fraction(2**128) if high == 0x7F800000 else Fraction(value_of(F32, high))
    below, above = number - Fraction(value_of(F32, low)), top - number
    return low if below < above or (below == above and low % 2 == 0) else high


@given(st.integers(0, 0x7F7FFFFE), st.integers(-2, 2), st.integers(1, 90))
def test_near_the_middle_of_two_f32(bits: int, side: int, depth: int) -> None:
    low, high = Fraction(value_of(F32, bits)), Fraction(value_of(F32, bits + 1))
    number = (low + high) / 2 + side * (high - low) / 2**depth
    if not low <= number <= high:
        return
    assert number.denominator & (number.denominator - 1) == 0
    power = number.denominator.bit_length() - 1
    wanted = nearest(number)
    assert parse_literal(F32, f"{number.numerator:#x}p-{power}") == wanted
    digits = str(number.numerator * 5**power)  # over 10**power
    assert parse_literal(F32, f"{digits}e-{power}") == wanted


@given(st.integers(-(2**140), 2**140))
@example(2**60 + 2**36 + 1)
@example(-(2**60 + 2**36 + 1))
def test_integers_are_rounded_once_to_f32_in_the_library_too(number: int) -> None:
    store = Store()
    kind = wasmsr.GlobalType(F32, mutable=True)
    bits = wasmsr.Global.new(store, kind, number).bits
    assert bits == nearest(Fraction(abs(number))) | (number < 0) << 31


def test_integers_that_no_float_holds() -> None:
    for type_ in (F32, F64):
        with pytest.raises(OverflowError):
            wasmsr.Global.new(Store(), wasmsr.GlobalType(type_), 10**400)


@pytest.mark.parametrize(
    ("type_", "bits", "text", "as_json"),
    [
        (F32, 0x3DCCCCCD, "0.1", 0.1),
        (F32, 0x7F7FFFFF, "3.4028235e+38", 3.4028235e38),
        (F32, 0xFFA00001, "-nan:0x200001", "-nan:0x200001"),
        (F64, 0x8000000000000000, "-0.0", -0.0),
        (F64, 0xFFF0000000000000, "-inf", "-inf"),
        (I64, 2**64 - 1, "-1", -1),
        (V128, 5, "0x" + "0" * 31 + "5", "0x" + "0" * 31 + "5"),
        (ValType.FUNCREF, 4, "function 3", "function 3"),
        (ValType.EXTERNREF, 0, "null", None),
    ],
)
def test_bits_to_text(type_: ValType, bits: int, text: str, as_json: object) -> None:
    assert format_literal(type_, bits) == text
    assert json_value(type_, bits) == as_json
    assert math.copysign(1, json_value(type_, bits) == -0.0 or 1) == 1


IDENTITY = """(module
  (func (export "b32") (param f32) (result i32) (i32.reinterpret_f32 (local.get 0)))
  (func (export "b64") (param f64) (result i64) (i64.reinterpret_f64 (local.get 0)))
  (func (export "f32") (param f32) (result f32) local.get 0 nop nop)
  (func (export "f64") (param f64) (result f64) (local.get 0))
  (func (export "v128") (param v128) (result v128) (local.get 0)))"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "m.wat").write_text(IDENTITY)
    line = [sys.executable, "-m", "wasmsr", *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("export", "given", "printed"),
    [
        ("b32", "1.00000005960464477539063", "1065353217"),
        ("b32", "nan:0x1", "2139095041"),
        ("b32", "-nan:0x200000", str(0xFFA00000 - 2**32)),
        ("b64", "-nan", str(0xFFF8000000000000 - 2**64)),
        ("f32", "nan:0x1", "nan:0x1"),
        ("f32", "-nan:0x3fffff", "-nan:0x3fffff"),
        ("f64", "nan:0x4000000000001", "nan:0x4000000000001"),
        ("v128", "0xff", "0x" + "0" * 30 + "ff"),
    ],
)
def test_on_the_command_line(tmp_path: Path, export: str, given: str, printed: str) -> None:
    assert run(tmp_path, "run", "m.wat", "--invoke", export, given).stdout.split() == [printed]
    line = ["run", "m.wat", "--json", "--hop", "1", "--invoke", export, given]
    (found,) = json.loads(run(tmp_path, *line).stdout)["results"][-1]
    assert str(found) == printed


@pytest.mark.parametrize("words", [("f32", "1e39"), ("f64", "1e309"), ("f64", "-0x1p1024")])
def test_too_large_on_the_command_line(tmp_path: Path, words: tuple[str, str]) -> None:
    done = run(tmp_path, "run", "m.wat", "--invoke", *words)
    assert done.returncode == 2 and f"must fit an {words[0]}" in done.stderr


def test_in_a_snapshot_and_in_a_trace(tmp_path: Path) -> None:
    line = ["run", "m.wat", "--trace", "--trace-state", "--snapshot-at", "1", "--invoke", "f32"]
    done = run(tmp_path, *line, "-nan:0x1234")
    assert done.returncode == 120 and "f32:-nan:0x1234" in done.stderr
    described = json.loads(run(tmp_path, "inspect", "snapshot.bin", "--json").stdout)
    values = described["call_stack"][0]["operands"]
    assert values == [{"type": "f32", "value": "-nan:0x1234"}]
    done = run(tmp_path, "run", "m.wat", "--from-snapshot", "snapshot.bin")
    assert done.stdout.split() == ["-nan:0x1234"]


def test_the_queue_of_a_moved_program_keeps_the_bits() -> None:
    module = Module.from_text(IDENTITY)
    store = Store()
    function = store.instantiate(module).function("f32")
    store.enqueue_raw(function.address, [0xFFA00001])
    store = wasmsr.Snapshot.of(store).restore(modules=[module])
    outcome = store.run()
    assert isinstance(outcome, wasmsr.Finished) and outcome.raw == (0xFFA00001,)
