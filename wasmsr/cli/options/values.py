"""Arguments of an export as text, each read by its type in the export's signature.

`wasmsr.interp.literals` says what a literal is, and how a value is printed.
"""

from __future__ import annotations

from collections.abc import Sequence

from wasmsr.cli.options.usage import UsageError
from wasmsr.interp.literals import parse_literal
from wasmsr.interp.types import ValType


class ArgumentError(UsageError):
    """An argument of `--invoke` that its parameter's type does not hold."""


def signature(params: Sequence[int], results: Sequence[int]) -> str:
    """Return a function type in words: "(i32, f64) -> i32"."""
    return f"({_names(params)}) -> {_names(results) or 'nothing'}"


def _names(types: Sequence[int]) -> str:
    return ", ".join(str(ValType(code)) for code in types)


def parse_arguments(function: str, params: Sequence[int], texts: Sequence[str]) -> list[int]:
    """Return the bits of `texts`, one for each parameter of the export `function`.

    Raises:
        ArgumentError: There are too many or too few texts, or one is no value of its type.
    """
    if len(texts) != len(params):
        wanted = (
            "no arguments" if not params else f"{len(params)} argument{'s' * (len(params) > 1)}"
        )
        types = f" ({_names(params)})" if params else ""
        raise ArgumentError(f"{function} takes {wanted}{types}, and {len(texts)} were given.")
    bits = []
    for at, (code, text) in enumerate(zip(params, texts, strict=True), 1):
        try:
            bits.append(parse_literal(ValType(code), text))
        except ValueError as error:
            raise ArgumentError(f"Argument {at} of {function} {error}.") from None
    return bits
