"""Arguments and results of an export as text, each by its type in the export's signature.

Types are the binary format's codes (`wasmsr.interp.types.ValType`). Floats are read and printed as
the text format writes them, decimal or hexadecimal, so that what is printed can be typed again.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from wasmsr.cli.options import UsageError

I32, I64, F32, F64, V128, FUNCREF, EXTERNREF = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F

NAMES = {
    I32: "i32",
    I64: "i64",
    F32: "f32",
    F64: "f64",
    V128: "v128",
    FUNCREF: "funcref",
    EXTERNREF: "externref",
}
ARTICLES = {I32: "an i32", I64: "an i64", F32: "an f32", F64: "an f64"}

INTEGER = r"[+-]?(0[xX][0-9a-fA-F]+(_[0-9a-fA-F]+)*|\d+(_\d+)*)"
FLOAT = (
    r"[+-]?(inf|nan|0[xX][0-9a-fA-F]+(\.[0-9a-fA-F]*)?([pP][+-]?\d+)?"
    r"|(\d+(_\d+)*(\.\d*)?|\.\d+)([eE][+-]?\d+)?)"
)


class ArgumentError(UsageError):
    """An argument of `--invoke` that its parameter's type does not hold."""


def signature(params: Sequence[int], results: Sequence[int]) -> str:
    """A function type in words: "(i32, f64) -> i32"."""
    returned = ", ".join(NAMES[code] for code in results) or "nothing"
    return f"({', '.join(NAMES[code] for code in params)}) -> {returned}"


def parse_arguments(
    function: str, params: Sequence[int], texts: Sequence[str]
) -> list[int | float | None]:
    """The values of `texts`, one for each parameter of the export `function`.

    Raises:
        ArgumentError: another number of arguments, or a text that is no value of its type.
    """
    if len(texts) != len(params):
        wanted = (
            "no arguments" if not params else f"{len(params)} argument{'s' * (len(params) > 1)}"
        )
        types = f" ({', '.join(NAMES[code] for code in params)})" if params else ""
        raise ArgumentError(f"{function} takes {wanted}{types}, and {len(texts)} were given.")
    pairs = enumerate(zip(params, texts, strict=True), 1)
    return [_parse(code, text, f"Argument {at} of {function}") for at, (code, text) in pairs]


def _parse(code: int, text: str, what: str) -> int | float | None:
    """The value of `text` as type `code`; `what` names it in the error."""
    word = text.strip()
    if code in (I32, I64):
        bits = 32 if code == I32 else 64
        if not _matches(INTEGER, word):
            raise ArgumentError(f"{what} must be {ARTICLES[code]} (a whole number), not {text!r}.")
        value = int(word, 16 if "x" in word.lower() else 10)
        if not -(2 ** (bits - 1)) <= value < 2**bits:
            raise ArgumentError(f"{what} must fit {ARTICLES[code]} ({bits} bits); {word} does not.")
        return value
    if code in (F32, F64):
        if not _matches(FLOAT, word.lower()):
            raise ArgumentError(f"{what} must be {ARTICLES[code]} (a number), not {text!r}.")
        return _parse_float(code, word.lower(), what)
    if code in (FUNCREF, EXTERNREF) and word == "null":
        return None
    if code in (FUNCREF, EXTERNREF):
        raise ArgumentError(f"{what} is a {NAMES[code]}: only null can be typed, not {text!r}.")
    raise ArgumentError(f"{what} has the type {NAMES.get(code, hex(code))}, which cannot be typed.")


def _matches(pattern: str, word: str) -> bool:
    if word.isascii() and word.isdigit():
        return True  # the most frequent case, without the time that `re` takes
    import re

    return re.fullmatch(pattern, word, re.ASCII) is not None


def _parse_float(code: int, word: str, what: str) -> float:
    value = float.fromhex(word) if "0x" in word else float(word)
    if code == F32 and math.isfinite(value):
        try:
            struct.pack("<f", value)
        except OverflowError:
            raise ArgumentError(f"{what} must fit an f32; {word} does not.") from None
    return value


def format_value(code: int, value: object) -> str:
    """A result as text; floats with the fewest digits that give the same bits again."""
    if value is None:
        return "null"
    if isinstance(value, float):
        if code == F32 and math.isfinite(value):
            return _shortest_f32(value)
        return repr(value)
    return str(value)


def _shortest_f32(value: float) -> str:
    bits = struct.pack("<f", value)
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        try:
            if struct.pack("<f", float(text)) == bits:
                return repr(float(text))
        except OverflowError:  # rounded up, past the largest f32
            continue
    return repr(value)
