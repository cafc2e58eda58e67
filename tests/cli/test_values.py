"""Arguments typed by a signature, sizes and times: text to values and back."""

from __future__ import annotations

import click
import pytest

from wasmsr.cli.options.click_types import ClickType
from wasmsr.cli.options.values import ArgumentError, parse_arguments, signature
from wasmsr.cli.words.units import human_size, human_time
from wasmsr.runspec.kinds import Count, OptionKind, Seconds, Size, Variable

I32, I64, F32, F64, V128, FUNCREF, EXTERNREF = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F


@pytest.mark.parametrize(
    ("code", "text", "value"),
    [
        (I32, "9", 9),
        (I32, "-2147483648", 2**31),
        (I32, "4294967295", 2**32 - 1),
        (I32, "0xff", 255),
        (I32, "-0x1", 2**32 - 1),
        (I32, "1_000", 1000),
        (I64, "18446744073709551615", 2**64 - 1),
        (F32, "0.5", 0x3F000000),
        (F64, "-1e300", 0xFE37E43C8800759C),
        (F64, "0x1.8p3", 0x4028000000000000),
        (F64, "inf", 0x7FF0000000000000),
        (F64, "-INF", 0xFFF0000000000000),
        (F64, "3", 0x4008000000000000),
        (FUNCREF, "null", 0),
        (EXTERNREF, "null", 0),
    ],
)
def test_right_arguments(code: int, text: str, value: int) -> None:
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
        (V128, "-1"),
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
def test_wrong_options(kind: OptionKind, text: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        kind.read(text)
    with pytest.raises(click.BadParameter, match=r"\.$"):
        ClickType(kind).convert(text, None, None)


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
