"""Whose argument is whose: `run`'s options, PROGRAM, and what the program gets untouched; and which
command is meant where none is named.

The rule: our options stand before or after PROGRAM, up to the first argument that is not ours or
`--`; everything from there on belongs to the program. click cannot say this (with interspersed
arguments it takes options from behind the program's first argument, without them none from behind
PROGRAM), so the line is divided first, and click, if it is needed at all, gets the parts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence

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
    """Divides `argv`.

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
    """What the variable WASMSR_STRICT says, as click reads flags."""
    return os.environ.get("WASMSR_STRICT", "").lower() in ("1", "true", "t", "yes", "y", "on")


def is_ended(argv: Sequence[str], parts: Split) -> bool:
    """Whether it was a `--` that ended our options; it is the one word that is in no part."""
    return len(argv) > len(parts.ours) + (parts.program is not None) + len(parts.rest)


def resembling(words: Sequence[str], options: Collection[str]) -> list[tuple[str, str]]:
    """Words that the program gets and that look like an option of ours: (word, option). They may
    be meant for us, with a letter missing or too late; a `--` says that what follows is not."""
    found = []
    names = {name.lstrip("-"): name for name in options}
    for word in words:
        if word == "--":
            break
        bare = word.partition("=")[0].lstrip("-").lower().replace("_", "-")
        if not word.startswith("-") or len(bare) < 3 or not bare[0].isalpha():
            continue
        if bare in names:
            found.append((word, names[bare]))
            continue
        from difflib import get_close_matches  # only here: few programs have such arguments

        swapped = [name for name in names if sorted(name) == sorted(bare)]
        close = swapped or get_close_matches(bare, names, 1, 0.8)
        if close:
            found.append((word, names[close[0]]))
    return found


GROUP_VALUED = "--log-level"
"""The option of `wasmsr` itself that has a value."""


def with_command(
    words: Sequence[str],
    commands: Collection[str],
    options: Collection[str],
    is_program: Callable[[str], bool],
) -> list[str]:
    """A command line with its command: `app.wasm` is `run app.wasm`, `help run` is `run --help`.

    Args:
        options: those of `run`; it is meant by a line that begins with one of them, or by one of
            wasmtime's, for which `run` has a sentence.
        is_program: whether a word is a program's name.
    """
    words = list(words)
    at = 0
    while at < len(words):
        word = words[at]
        is_flag = word in ("--verbose", "--quiet") or (len(word) > 1 and word.strip("vq") == "-")
        if not is_flag and word.partition("=")[0] != GROUP_VALUED:
            break
        at += 2 if word == GROUP_VALUED else 1
    if at >= len(words) or words[at] in commands:
        return words
    word = words[at]
    if word == "help":
        return [*words[:at], *words[at + 1 : at + 2], "--help"]
    ours = word.partition("=")[0] in options or word[:2] in ("-S", "-W", "-C", "-O", "-D")
    if ours or is_program(word):
        words.insert(at, "run")
    return words
