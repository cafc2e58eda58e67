"""Whose argument is whose: `run`'s options, PROGRAM, and what the program gets untouched.

The rule: our options stand before or after PROGRAM, up to the first argument that is not ours or
`--`; everything from there on belongs to the program. click cannot say this (with interspersed
arguments it takes options from behind the program's first argument, without them none from behind
PROGRAM), so the line is divided first, and click, if it is needed at all, gets the parts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from wasmsr.record import record

STRICT = "--strict"
"""All behind PROGRAM is the program's; so says the variable too."""


@record(frozen=True)
class Split:
    """A command line divided: our options with their values, PROGRAM, and the program's own;
    `waiting` is an option at the very end whose value is missing."""

    ours: list[str]
    program: str | None
    rest: list[str]
    waiting: str | None = None


def split(argv: Sequence[str], options: Mapping[str, bool], *, strict: bool = False) -> Split:
    """Divide `argv`.

    `options` names our options, each with whether a value follows it. What looks like an option
    before PROGRAM and is none of ours goes among ours, for click to refuse by name. If `strict`, or
    from `--strict` on, all that stands behind PROGRAM is the program's, `--` too.
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
    """Return whether it was a `--` that ended our options; it is the one word that is in no
    part."""
    return len(argv) > len(parts.ours) + (parts.program is not None) + len(parts.rest)
