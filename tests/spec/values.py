"""Constants and result patterns of scripts, as bits: what goes into a call and what must come out.

Second step, with `script`: forms of `sexpr` become values here. Everything is compared as raw
bits, never as Python floats: 0.0 and -0.0, or two NaNs, are different answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from .sexpr import Form, Node, ScriptError


@dataclass(frozen=True)
class Number:
    """A number or vector: its type ("i32", "i64", "f32", "f64", "v128") and its bits, unsigned.
    A vector's bits are its 16 bytes read as one little-endian integer."""

    type: str
    bits: int

    def __str__(self) -> str:
        return f"{self.type}:{self.bits:#x}"


@dataclass(frozen=True)
class Null:
    """A null reference; `heap` is the heap type as written ("func", "extern", ...), None where
    the script leaves it open."""

    heap: str | None = None

    def __str__(self) -> str:
        return f"ref.null {self.heap or ''}".rstrip()


@dataclass(frozen=True)
class Extern:
    """The external reference that a script calls `ref.extern n`."""

    number: int

    def __str__(self) -> str:
        return f"ref.extern {self.number}"


@dataclass(frozen=True)
class Reference:
    """Some non-null reference of a heap type whose identity scripts cannot name."""

    heap: str

    def __str__(self) -> str:
        return f"ref.{self.heap}"


Value = Number | Null | Extern | Reference


@dataclass(frozen=True)
class Nan:
    """Any NaN of a set: "canonical" is the payload with only its top bit set, "arithmetic" any
    payload with its top bit set, both of either sign (specification, section 4.3.3)."""

    type: str
    set: str

    def __str__(self) -> str:
        return f"{self.type}:nan:{self.set}"


@dataclass(frozen=True)
class Lanes:
    """A vector given by lanes, the first in the low bits; each is a number or a set of NaNs."""

    lanes: tuple[Number | Nan, ...]

    def __str__(self) -> str:
        return "v128:[" + " ".join(map(str, self.lanes)) + "]"


@dataclass(frozen=True)
class AnyExtern:
    """`(ref.extern)` without a number: any external reference but null."""

    def __str__(self) -> str:
        return "ref.extern"


@dataclass(frozen=True)
class Either:
    """Any one of several patterns, for what the specification leaves open."""

    choices: tuple[Pattern, ...]

    def __str__(self) -> str:
        return "either(" + ", ".join(map(str, self.choices)) + ")"


Pattern = Number | Null | Extern | Reference | Nan | Lanes | AnyExtern | Either

WIDTH = {"i32": 32, "i64": 64, "f32": 32, "f64": 64, "v128": 128}
_FRACTION_BITS = {"f32": 23, "f64": 52}
_LANE_WIDTH = {"i8": 8, "i16": 16, **WIDTH}
_SUBTYPES = {
    "any": {"any", "eq", "i31", "struct", "array", "host"},
    "eq": {"eq", "i31", "struct", "array"},
}
_NULL_FAMILIES = (
    {"func", "nofunc"},
    {"extern", "noextern"},
    {"exn", "noexn"},
    {"any", "eq", "i31", "struct", "array", "none"},
)


def round_to_bits(magnitude: Fraction, type_: str) -> int:
    """The bits of the positive float of `type_` nearest to `magnitude`, ties to even.

    Raises:
        ValueError: the number rounds to infinity, which no literal may.
    """
    if magnitude == 0:
        return 0
    fraction_bits = _FRACTION_BITS[type_]
    exponent_bits = WIDTH[type_] - 1 - fraction_bits
    bias = (1 << (exponent_bits - 1)) - 1
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    exponent = max(exponent, 1 - bias)
    significand = round(magnitude / Fraction(2) ** (exponent - fraction_bits))
    # A significand that rounds up to the next power of two carries into the exponent by itself,
    # and a subnormal one has exponent field 0: both fall out of one addition.
    bits = ((exponent + bias - 1) << fraction_bits) + significand
    if bits >> fraction_bits >= (1 << exponent_bits) - 1:
        raise ValueError("the literal is out of range")
    return bits


_HEX_FLOAT = re.compile(r"0x([0-9a-f]+)(?:\.([0-9a-f]*))?(?:p([+-]?\d+))?")
_DEC_FLOAT = re.compile(r"(\d+)(?:\.(\d*))?(?:e([+-]?\d+))?")


def _magnitude(text: str) -> Fraction:
    for pattern, radix, base in ((_HEX_FLOAT, 16, 2), (_DEC_FLOAT, 10, 10)):
        match = pattern.fullmatch(text)
        if match is not None:
            whole, fraction, exponent = match.group(1), match.group(2) or "", match.group(3)
            digits = Fraction(int(whole + fraction, radix), radix ** len(fraction))
            return digits * Fraction(base) ** int(exponent or "0")
    raise ValueError(f"{text!r} is not a float")


def float_bits(text: str, type_: str) -> int:
    """The bits of a float literal (section 6.3.2), `inf`, `nan` and `nan:0x…` included.

    Raises:
        ValueError: `text` is no float literal, or out of range.
    """
    fraction_bits = _FRACTION_BITS[type_]
    sign = 1 << (WIDTH[type_] - 1) if text.startswith("-") else 0
    body = text.lstrip("+-").replace("_", "").lower()
    infinity = ((1 << (WIDTH[type_] - 1 - fraction_bits)) - 1) << fraction_bits
    if body == "inf":
        return sign | infinity
    if body == "nan":
        return sign | infinity | 1 << (fraction_bits - 1)
    if body.startswith("nan:0x"):
        payload = int(body[6:], 16)
        if not 0 < payload < 1 << fraction_bits:
            raise ValueError(f"{text!r} has no such payload")
        return sign | infinity | payload
    return sign | round_to_bits(_magnitude(body), type_)


def int_bits(text: str, width: int) -> int:
    """The bits of an integer literal in `width` bits; signed and unsigned spellings both count.

    Raises:
        ValueError: `text` is no integer, or out of range.
    """
    number = int(text.replace("_", ""), 0) if "x" in text.lower() else int(text.replace("_", ""))
    if not -(1 << (width - 1)) <= number < 1 << width:
        raise ValueError(f"{text} does not fit {width} bits")
    return number & ((1 << width) - 1)


def _scalar(type_: str, text: str) -> Number | Nan:
    if type_ in _FRACTION_BITS:
        if text in ("nan:canonical", "nan:arithmetic"):
            return Nan(type_, text[4:])
        return Number(type_, float_bits(text, type_))
    return Number(type_, int_bits(text, _LANE_WIDTH[type_]))


def join(lanes: Sequence[Number]) -> int:
    """One vector's bits from its lanes, the first lane lowest."""
    width = 128 // len(lanes)
    return sum(lane.bits << (index * width) for index, lane in enumerate(lanes))


def _atoms(form: Form, after: int) -> list[str]:
    atoms = [item for item in form.items[after:] if isinstance(item, str)]
    if len(atoms) != len(form.items) - after:
        raise ScriptError(f"{form.head} holds something other than literals", form.line)
    return atoms


def _vector(form: Form) -> Number | Lanes:
    atoms = _atoms(form, 1)
    shape, _, count = atoms[0].partition("x")
    if len(atoms) != 1 + int(count):
        raise ScriptError(f"{atoms[0]} does not have {len(atoms) - 1} lanes", form.line)
    lanes = tuple(_scalar(shape, text) for text in atoms[1:])
    numbers = [lane for lane in lanes if isinstance(lane, Number)]
    if len(numbers) == len(lanes):
        return Number("v128", join(numbers))
    return Lanes(lanes)


def pattern(node: Node) -> Pattern:
    """What an assertion expects of one result.

    Raises:
        ScriptError: `node` is no constant or pattern.
    """
    if not isinstance(node, Form):
        raise ScriptError(f"{node!r} is not a result", 0)
    head = node.head
    try:
        if head == "either":
            return Either(tuple(pattern(item) for item in node.items[1:]))
        if head == "v128.const":
            return _vector(node)
        type_, _, rest = head.partition(".")
        if rest == "const" and type_ in WIDTH:
            (text,) = _atoms(node, 1)
            return _scalar(type_, text)
        if type_ == "ref":
            return _reference(rest, _atoms(node, 1))
    except ValueError as error:
        raise ScriptError(f"{head}: {error}", node.line) from error
    raise ScriptError(f"{head!r} is not a constant", node.line)


def _reference(kind: str, atoms: list[str]) -> Pattern:
    if kind == "null":
        return Null(atoms[0] if atoms else None)
    if kind == "extern":
        return Extern(int_bits(atoms[0], 32)) if atoms else AnyExtern()
    if kind == "host":
        return Reference("host")
    return Reference(kind)


def constant(node: Node) -> Value:
    """An argument of a call: a pattern that leaves nothing open.

    Raises:
        ScriptError: `node` is no constant.
    """
    value = pattern(node)
    if isinstance(value, (Number, Null, Extern, Reference)):
        return value
    raise ScriptError(f"{value} is no constant", node.line if isinstance(node, Form) else 0)


def _nan_matches(expected: Nan, bits: int) -> bool:
    fraction_bits = _FRACTION_BITS[expected.type]
    infinity = ((1 << (WIDTH[expected.type] - 1 - fraction_bits)) - 1) << fraction_bits
    quiet = infinity | 1 << (fraction_bits - 1)
    unsigned = bits & ~(1 << (WIDTH[expected.type] - 1))
    return unsigned == quiet if expected.set == "canonical" else unsigned & quiet == quiet


def _lane_matches(expected: Number | Nan, bits: int) -> bool:
    return bits == expected.bits if isinstance(expected, Number) else _nan_matches(expected, bits)


def matches(expected: Pattern, actual: Value) -> bool:
    """Whether a result is what an assertion expects; numbers must agree in type and every bit."""
    if isinstance(expected, Either):
        return any(matches(choice, actual) for choice in expected.choices)
    if isinstance(expected, Nan):
        return (
            isinstance(actual, Number)
            and actual.type == expected.type
            and _nan_matches(expected, actual.bits)
        )
    if isinstance(expected, Lanes):
        if not isinstance(actual, Number) or actual.type != "v128":
            return False
        width = 128 // len(expected.lanes)
        return all(
            _lane_matches(lane, actual.bits >> (index * width) & ((1 << width) - 1))
            for index, lane in enumerate(expected.lanes)
        )
    if isinstance(expected, AnyExtern):
        return isinstance(actual, Extern) or actual == Reference("extern")
    if isinstance(expected, Null):
        return isinstance(actual, Null) and _same_family(expected.heap, actual.heap)
    if isinstance(expected, Reference):
        return isinstance(actual, Reference) and (
            actual.heap == expected.heap or actual.heap in _SUBTYPES.get(expected.heap, ())
        )
    return expected == actual


def _same_family(expected: str | None, actual: str | None) -> bool:
    if expected is None or actual is None or expected == actual:
        return True
    return any(expected in family and actual in family for family in _NULL_FAMILIES)


def all_match(expected: Sequence[Pattern], actual: Sequence[Value]) -> bool:
    """Whether a list of results is what an assertion expects, in number too."""
    return len(expected) == len(actual) and all(map(matches, expected, actual))
