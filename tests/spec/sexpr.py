"""S-expressions with their places in the source: the first step on the way of a `.wast` script.

script text ──sexpr──▶ forms ──script──▶ commands ──runner──▶ verdicts

The lexical grammar is the text format's (specification, section 6.3) with two liberties that a
reader of tests can take: every run of other characters is an atom, reserved or not, and
annotations (`(@id …)`) are skipped whole, because the text of a module goes to the converter as
it stands in the source and never as we read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field


class ScriptError(Exception):
    """The script itself is not what a script can be; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass
class Form:
    """A parenthesised list: its items, where it stands in the source (`source[start:end]`) and
    the line that it begins in, counted from 1. `annotation` marks `(@id …)`."""

    start: int
    line: int
    end: int = -1
    annotation: bool = False
    items: list[Node] = field(default_factory=list)

    @property
    def head(self) -> str:
        """The keyword that the list begins with, or "" where it begins otherwise."""
        first = self.items[0] if self.items else None
        return first if isinstance(first, str) else ""


Node = Form | str | bytes
"""A list, an atom, or a string (whose escapes have been turned into bytes)."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<line>;;[^\r\n]*)
      | (?P<block>\(;)
      | (?P<note>\(@)
      | (?P<open>\()
      | (?P<close>\))
      | (?P<name>\$"(?:[^"\\]|\\.)*")
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<atom>[^ \t\r\n()";,\[\]{}]+)
      | (?P<other>[;,\[\]{}])
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK = re.compile(r"\(;|;\)")
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-fA-F_]+)\}|([0-9a-fA-F]{2})|([tnr\"'\\]))")
_SHORT = {"t": "\t", "n": "\n", "r": "\r", '"': '"', "'": "'", "\\": "\\"}


def unescape(literal: str) -> bytes:
    """The bytes that a string literal, given with its quotes, stands for (section 6.3.3).

    Raises:
        ValueError: an escape is none of the specification's.
    """
    body = literal[1:-1]
    out = bytearray()
    at = 0
    while (backslash := body.find("\\", at)) >= 0:
        out += body[at:backslash].encode()
        match = _ESCAPE.match(body, backslash)
        if match is None:
            raise ValueError(f"unknown escape {body[backslash : backslash + 2]!r}")
        code, byte, short = match.groups()
        if code is not None:
            out += chr(int(code.replace("_", ""), 16)).encode()
        elif byte is not None:
            out.append(int(byte, 16))
        else:
            out += _SHORT[short].encode()
        at = match.end()
    return bytes(out + body[at:].encode())


def _skip_block(source: str, start: int, line: int) -> int:
    """The end of the block comment that begins at `start`; block comments nest."""
    depth, at = 0, start
    while True:
        match = _BLOCK.search(source, at)
        if match is None:
            raise ScriptError("a block comment does not end", line)
        depth += 1 if match.group() == "(;" else -1
        at = match.end()
        if depth == 0:
            return at


def parse(source: str) -> Iterator[Form]:
    """Yield the top-level forms of a script, in order.

    Raises:
        ScriptError: parentheses do not match, a string or a comment does not end, or something
            other than a list stands at the top level.
    """
    open_forms: list[Form] = []
    at, line = 0, 1
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise ScriptError("a string does not end", line)
        kind, end = match.lastgroup, match.end()
        if kind == "block":
            end = _skip_block(source, at, line)
        elif kind in ("open", "note"):
            open_forms.append(Form(at, line, annotation=kind == "note"))
        elif kind == "close":
            if not open_forms:
                raise ScriptError("a parenthesis closes nothing", line)
            form = open_forms.pop()
            form.end = end
            if form.annotation:
                pass
            elif open_forms:
                open_forms[-1].items.append(form)
            else:
                yield form
        elif kind in ("atom", "other", "string", "name"):
            if not open_forms:
                raise ScriptError(f"{match.group()!r} stands outside any list", line)
            if not any(form.annotation for form in open_forms):
                open_forms[-1].items.append(_leaf(match.group(), line))
        line += source.count("\n", at, end)
        at = end
    if open_forms:
        raise ScriptError("a list does not end", open_forms[-1].line)


def _leaf(token: str, line: int) -> str | bytes:
    try:
        if token.startswith('"'):
            return unescape(token)
        if token.startswith('$"'):
            return "$" + unescape(token[1:]).decode()
    except ValueError as error:
        raise ScriptError(str(error), line) from error
    return token
