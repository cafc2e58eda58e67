"""Which argument belongs to `run`, and which to the program.

The rule: our options can be before or after PROGRAM. The first argument after PROGRAM that is not
ours, or `--`, ends them; every argument from there on belongs to the program. click cannot express
this: with interspersed arguments it takes options after the program's first argument, and without
them none after PROGRAM. So the line is divided first, and click, if it is needed, gets the parts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from wasmsr.record import record

STRICT = "--strict"
"""Every argument after PROGRAM belongs to the program. The variable WASMSR_STRICT says the same."""


@record(frozen=True)
class Split:
    """A divided command line.

    Attributes:
        ours: Our options, with their values.
        program: PROGRAM, or None.
        rest: The program's own arguments.
        waiting: An option at the end of the line whose value is missing, or None.
    """

    ours: list[str]
    program: str | None
    rest: list[str]
    waiting: str | None = None


def split(argv: Sequence[str], options: Mapping[str, bool], *, strict: bool = False) -> Split:
    """Divide a command line.

    A word before PROGRAM that looks like an option and is none of ours counts as ours: click then
    refuses it by name.

    Args:
        argv: The words after `run`.
        options: Our options, each with whether a value follows it.
        strict: Whether every argument after PROGRAM belongs to the program, also `--`. The option
            `--strict` sets it too.
    """
    ours: list[str] = []
    program: str | None = None
    at = 0
    while at < len(argv):
        word = argv[at]
        if strict and program is not None:
            return Split(ours, program, list(argv[at:]))
        if word == "--":
            rest = list(argv[at + 1 :])
            if program is None and rest:
                program = rest.pop(0)
            return Split(ours, program, rest)
        name, equals, _ = word.partition("=")
        if name in options:
            width = 2 if options[name] and not equals else 1
            if at + width > len(argv):
                return Split(ours, program, [], word)
            ours += argv[at : at + width]
            at += width
            strict = strict or word == STRICT
        elif program is None:
            if word.startswith("-") and word != "-":
                ours.append(word)
            else:
                program = word
            at += 1
        else:
            return Split(ours, program, list(argv[at:]))
    return Split(ours, program, [])


def strict_wanted() -> bool:
    """Return what the variable WASMSR_STRICT says, as click reads flags."""
    return os.environ.get("WASMSR_STRICT", "").lower() in ("1", "true", "t", "yes", "y", "on")


def is_ended(argv: Sequence[str], parts: Split) -> bool:
    """Return whether a `--` ended our options. It is the one word that is in no part."""
    return len(argv) > len(parts.ours) + (parts.program is not None) + len(parts.rest)
