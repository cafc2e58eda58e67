"""Values as text and back, for the command line, its JSON, `inspect` and the trace.

Numbers have the form of the WebAssembly text format (section 6.3, Values), decimal or hexadecimal.
Text that `show` writes is read back as the same bits, NaNs with sign and payload included. A
literal is rounded once, to the nearest value of its type; a literal that would be rounded to
infinity is refused, for f32 as for f64. A value is a number of bits here, never a Python float: a
Python float cannot hold every NaN of an f32, and a literal that goes through it is rounded twice.
"""

from __future__ import annotations

import math
import struct

from wasmsr.interp.types import ValType

_HEX = r"[0-9a-fA-F](?:_?[0-9a-fA-F])*"
_DEC = r"\d(?:_?\d)*"
INTEGER = rf"[+-]?(?:0[xX]{_HEX}|{_DEC})"
FLOAT = (
    rf"[+-]?(?:inf|nan(?::0[xX]{_HEX})?"
    rf"|0[xX]{_HEX}(?:\.(?:{_HEX})?)?(?:[pP][+-]?{_DEC})?"
    rf"|(?:{_DEC}(?:\.(?:{_DEC})?)?|\.{_DEC})(?:[eE][+-]?{_DEC})?)"
)
_LONGEST = 64
"""Digits of an integer that can be one: 39 for 128 bits. Python refuses to read thousands."""
_KINDS = {
    ValType.I32: "an i32 (a whole number)",
    ValType.I64: "an i64 (a whole number)",
    ValType.V128: "a v128 (a whole number without sign, such as 0x1f)",
    ValType.F32: "an f32 (a number)",
    ValType.F64: "an f64 (a number)",
}
_REFERENCES = {
    ValType.FUNCREF: "function",
    ValType.EXTERNREF: "host object",
    ValType.EXNREF: "exception",
}


def parse_literal(type_: ValType, text: str) -> int:
    """Return the bits of the value that `text` writes.

    Raises:
        ValueError: The text is no value of the type; the message goes on with "must" or "is".
    """
    word = text.strip()
    if type_.reference:
        if word != "null":
            raise ValueError(f"is a {type_}: only null can be typed, not {text!r}")
        if not type_.nullable:
            raise ValueError(f"is a {type_}, which nothing that can be typed is")
        return 0
    if type_ not in (ValType.F32, ValType.F64):
        if not _matches(INTEGER, word):
            raise ValueError(f"must be {_KINDS[type_]}, not {text!r}")
        return _integer(type_, word)
    word = word.lower()
    if not _matches(FLOAT, word):
        raise ValueError(f"must be {_KINDS[type_]}, not {text!r}")
    bits = _float(type_, word.replace("_", ""))
    if bits is None:
        raise ValueError(f"must fit an {type_}; {word} does not")
    return bits


def _matches(pattern: str, word: str) -> bool:
    if word.isascii() and word.isdigit():
        return True  # the most frequent case, without the time that `re` takes
    import re

    return re.fullmatch(pattern, word, re.ASCII) is not None


def _integer(type_: ValType, word: str) -> int:
    width = {ValType.I32: 32, ValType.I64: 64}.get(type_, 128)
    sign, digits = (word[0], word[1:]) if word[0] in "+-" else ("", word)
    base = 16 if digits[:2] in ("0x", "0X") else 10
    digits = digits[2 if base == 16 else 0 :].replace("_", "").lstrip("0") or "0"
    lowest = 0 if width == 128 else -(1 << (width - 1))
    if len(digits) <= _LONGEST:
        value = int(sign + digits, base)
        if lowest <= value < 1 << width:
            return value & ((1 << width) - 1)
    raise ValueError(f"must fit {_KINDS[type_].partition(' (')[0]} ({width} bits); {word} does not")


# Floats ------------------------------------------------------------------------------------------


def _float(type_: ValType, word: str) -> int | None:
    """Return the bits of a literal in lower case; None if it does not fit the type."""
    size, fraction = (4, 23) if type_ is ValType.F32 else (8, 52)
    sign = (1 << (size * 8 - 1)) if word.startswith("-") else 0
    word = word.lstrip("+-")
    infinity = ((1 << (size * 8 - 1 - fraction)) - 1) << fraction
    if word == "inf":
        return sign | infinity
    if word.startswith("nan"):
        payload = int(word[6:], 16) if word[3:] else 1 << (fraction - 1)
        return sign | infinity | payload if 0 < payload < 1 << fraction else None
    bits = _nearest(type_, word)
    return None if bits >= infinity else sign | bits


def _nearest(type_: ValType, word: str) -> int:
    """Return the bits of the value nearest to a literal without sign.

    For a literal that is too large, return the bits of infinity.
    """
    try:
        value = float.fromhex(word) if word.startswith("0x") else float(word)
    except OverflowError:
        value = math.inf
    if type_ is ValType.F64:
        return _bits64(value)
    # Rounded to f64 so far. To round that to f32 is right unless it lies exactly between two of
    # them: then the literal itself says on which side it is.
    below = _truncated(value)
    low, high = _value32(below), _value32(below + 1)
    middle = low + (high - low) / 2
    if value == middle:
        side = _compare(word, value)
        return below + (side > 0 or (side == 0 and below & 1))
    return below + (value > middle)


def _truncated(value: float) -> int:
    """Return the bits of the largest f32 that is not above `value`, which is 0 or more."""
    if value >= 2.0**128:
        return 0x7F7FFFFF
    mantissa, exponent = math.frexp(value)
    if exponent < -125 or not value:  # subnormal, or zero
        return int(math.ldexp(value, 149))
    return ((exponent + 126) << 23) + int(math.ldexp(mantissa, 24)) - (1 << 23)


def _value32(bits: int) -> float:
    """Return the value of an f32; one past the largest is 2 to the 128th."""
    if bits == 0x7F800000:
        return 2.0**128
    value: float = struct.unpack("<f", bits.to_bytes(4, "little"))[0]
    return value


def _bits64(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


def _compare(word: str, value: float) -> int:
    """Compare a literal with a value that is nearly equal.

    Returns:
        -1, 0 or 1: the literal is less than, equal to or greater than the value.
    """
    if not word.startswith("0x"):
        from decimal import Decimal  # only here: literals between two f32 are rare

        exact = Decimal(word)
        return (exact > Decimal(value)) - (exact < Decimal(value))
    digits, _, power = word[2:].partition("p")
    whole, _, part = digits.partition(".")
    mine = int(whole + part, 16)
    shift = int(power[:1].strip("+0") + (power[1:].lstrip("0") or "0")) if power else 0
    shift -= 4 * len(part)
    number, divisor = value.as_integer_ratio()
    # mine * 2**shift against number / divisor: the exponent is near that of the value, or the
    # literal would have been zero or infinite, unless it has so many digits itself.
    left, right = mine * divisor, number
    left, right = (left << shift, right) if shift >= 0 else (left, right << -shift)
    return (left > right) - (left < right)


# To text -----------------------------------------------------------------------------------------


def format_literal(type_: ValType, bits: int) -> str:
    """Return a value as text, which `parse` reads back as the same bits, references apart."""
    if type_.reference:
        # The core counts an exception's uses in the high half.
        return "null" if bits == 0 else f"{_REFERENCES[type_.code]} {(bits & 0xFFFFFFFF) - 1}"
    if type_ is ValType.V128:
        return f"{bits:#034x}"
    value = json_value(type_, bits)
    return value if isinstance(value, str) else repr(value)


def json_value(type_: ValType, bits: int) -> int | float | str | None:
    """Return a value as JSON has it, or None for null.

    The value is a number where JSON has one that gives the same bits again, otherwise the text of
    `show`.
    """
    if type_ in (ValType.I32, ValType.I64):
        width = 32 if type_ is ValType.I32 else 64
        return bits - (1 << width) if bits >> (width - 1) else bits
    if type_ in (ValType.F32, ValType.F64):
        return _shown(type_, bits)
    return None if bits == 0 and type_.reference else format_literal(type_, bits)


def _shown(type_: ValType, bits: int) -> float | str:
    size, fraction = (4, 23) if type_ is ValType.F32 else (8, 52)
    data = bits.to_bytes(size, "little")
    value: float = struct.unpack("<f" if size == 4 else "<d", data)[0]
    if math.isfinite(value):
        return _shortest(value, bits) if size == 4 else value
    sign = "-" if bits >> (size * 8 - 1) else ""
    payload = bits & ((1 << fraction) - 1)
    if not payload:
        return f"{sign}inf"
    return f"{sign}nan" if payload == 1 << (fraction - 1) else f"{sign}nan:{payload:#x}"


def _shortest(value: float, bits: int) -> float:
    """Return the f64 with the fewest digits that gives this f32 again, rounded once or twice."""
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if _float(ValType.F32, text) == bits:
            found = float(text)
            try:
                if struct.pack("<f", found) == bits.to_bytes(4, "little"):
                    return found
            except OverflowError:  # rounded up, past the largest f32
                continue
    return value


__all__ = ["FLOAT", "INTEGER", "format_literal", "json_value", "parse_literal"]
