"""From the text of an option to its value: sizes, seconds, lists; one sentence if it is wrong."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # older releases of click do not take a type argument
    ParamType = click.ParamType

PAGE = 65536

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Size(ParamType):
    """A number of bytes: `65536`, `64K`, `512M`, `1.5GiB`. Units are powers of 1,024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(
            r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", value, re.IGNORECASE | re.ASCII
        )
        if not match:
            self.fail(f"{value!r} is not a size such as 65536, 512M or 1GiB.", param, ctx)
        number, unit = match.groups()
        # Not through a float where there is no fraction: sizes are exact.
        scale = UNITS[unit.upper()]
        return int(number) * scale if "." not in number else int(float(number) * scale)


class Seconds(ParamType):
    """A span of time in seconds, more than nothing and less than for ever."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        if not (math.isfinite(seconds) and seconds > 0):
            self.fail(f"{value!r} is not a positive number of seconds.", param, ctx)
        return seconds


class Count(ParamType):
    """A number of instructions, at least `least`; `1_000_000` and `40G` (powers of 1,000) too."""

    name = "count"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(\d+(?:_\d+)*)([kMG]?)\s*", value, re.ASCII)
        if not match:
            self.fail(f"{value!r} is not a whole number of instructions.", param, ctx)
        digits, unit = match.groups()
        number = int(digits.replace("_", "")) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[unit]
        if number < self.least:
            self.fail(f"{value!r} is less than {self.least}.", param, ctx)
        return number


class Features(ParamType):
    """Switches of features of WebAssembly: `-simd,+wide-arithmetic`."""

    name = "features"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from wasmsr.interp.features import chosen

        try:
            chosen(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        return str(value)


class Lines(ParamType):
    """Text of an option that may be given several times; its variable holds one value a line."""

    name = "text"

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.splitlines() if line]


class Variable(Lines):
    """An environment variable for the program: `NAME=VALUE`."""

    name = "variable"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not text.partition("=")[0] or "=" not in text:
            self.fail(f"{text!r} is not of the form NAME=VALUE.", param, ctx)
        if "\0" in text:
            self.fail("a variable cannot hold a zero byte.", param, ctx)
        return text


def human_size(count: float) -> str:
    """`count` bytes in words: "1.5 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def human_time(seconds: float) -> str:
    """A span of time in words: "0.42 ms", "3.1 s"."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
