"""Arguments typed by a signature, results as text, sizes and times: text to values and back."""

from __future__ import annotations

import math
import struct

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmsr.cli.options import Count, Kind, Seconds, Size, Variable, human_size, human_time
from wasmsr.cli.typed import Typed
from wasmsr.cli.values import (
    EXTERNREF,
    F32,
    F64,
    FUNCREF,
    I32,
    I64,
    V128,
    ArgumentError,
    format_value,
    parse_arguments,
    signature,
)


@pytest.mark.parametrize(
    ("code", "text", "value"),
    [
        (I32, "9", 9),
        (I32, "-2147483648", -(2**31)),
        (I32, "4294967295", 2**32 - 1),
        (I32, "0xff", 255),
        (I32, "-0x1", -1),
        (I32, "1_000", 1000),
        (I64, "18446744073709551615", 2**64 - 1),
        (F32, "0.5", 0.5),
        (F64, "-1e300", -1e300),
        (F64, "0x1.8p3", 12.0),
        (F64, "inf", math.inf),
        (F64, "-INF", -math.inf),
        (F64, "3", 3.0),
        (FUNCREF, "null", None),
        (EXTERNREF, "null", None),
    ],
)
def test_right_arguments(code: int, text: str, value: object) -> None:
    assert parse_arguments("f", [code], [text]) == [value]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (I32, ""),
        (I32, "abc"),
        (I32, "1.0"),
        (I32, "4294967296"),
        (I32, "-2147483649"),
        (I32, "0x"),
        (I32, "٣"),
        (I64, "18446744073709551616"),
        (I64, "1e3"),
        (F32, "1e39"),
        (F32, "x"),
        (F64, "1_"),
        (F64, "."),
        (FUNCREF, "0"),
        (EXTERNREF, "x"),
        (V128, "0"),
    ],
)
def test_wrong_arguments(code: int, text: str) -> None:
    with pytest.raises(ArgumentError, match="Argument 1 of f") as caught:
        parse_arguments("f", [code], [text])
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("texts", [[], ["1", "2", "3"]])
def test_wrong_number(texts: list[str]) -> None:
    with pytest.raises(ArgumentError, match=r"f takes 2 arguments \(i32, f64\)"):
        parse_arguments("f", [I32, F64], texts)


def test_signature() -> None:
    assert signature([I32, F64], [I64]) == "(i32, f64) -> i64"
    assert signature([], []) == "() -> nothing"


@given(st.floats(width=32, allow_nan=False))
def test_f32_round_trip(value: float) -> None:
    text = format_value(F32, value)
    (again,) = parse_arguments("f", [F32], [text])
    assert struct.pack("<f", again) == struct.pack("<f", value)


@given(st.floats(allow_nan=False))
def test_f64_round_trip(value: float) -> None:
    (again,) = parse_arguments("f", [F64], [format_value(F64, value)])
    assert struct.pack("<d", again) == struct.pack("<d", value)


@given(st.integers(-(2**63), 2**63 - 1))
def test_i64_round_trip(value: int) -> None:
    assert parse_arguments("f", [I64], [format_value(I64, value)]) == [value]


def test_f32_is_short() -> None:
    (tenth,) = struct.unpack("<f", struct.pack("<f", 0.1))
    assert format_value(F32, tenth) == "0.1"
    assert format_value(F64, 0.1) == "0.1"
    assert format_value(FUNCREF, None) == "null"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("64K", 65536),
        ("64KiB", 65536),
        ("512M", 2**29),
        ("1.5g", 3 * 2**29),
        ("1 GB", 2**30),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Size().read(text) == size


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Size(), ""),
        (Size(), "-1"),
        (Size(), "1X"),
        (Seconds(), "0"),
        (Seconds(), "-1"),
        (Seconds(), "nan"),
        (Seconds(), "inf"),
        (Seconds(), "soon"),
        (Count(1), "0"),
        (Count(0), "-1"),
        (Count(0), "1.5"),
        (Variable(), "NAME"),
        (Variable(), "=x"),
        (Variable(), "a=\0"),
    ],
)
def test_wrong_options(kind: Kind, text: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        kind.read(text)
    with pytest.raises(click.BadParameter, match=r"\.$"):
        Typed(kind).convert(text, None, None)


def test_counts() -> None:
    assert Count(0).read("1_000_000") == 10**6
    assert Count(0).read("40G") == 40 * 10**9
    assert Count(0).read("123456789") == 123456789


def test_words() -> None:
    assert human_size(10) == "10 bytes"
    assert human_size(3 * 2**19) == "1.5 MiB"
    assert human_time(2.5e-5) == "25 µs"
    assert human_time(0.0123) == "12.3 ms"
    assert human_time(12.345) == "12.35 s"
