"""The console blocks of a document: what to type, and what must be printed."""

from __future__ import annotations

import re
from dataclasses import dataclass

FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$', re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title or an empty text, and what is in it."""

    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a console block, and what the document says it prints."""

    words: str
    output: str


def blocks(document: str) -> list[Block]:
    """Return the fenced blocks of a document in Markdown."""
    return [
        Block(m["language"], m["title"] or "", m["text"]) for m in FENCE.finditer(document)
    ]  # fmt: skip


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block. What follows two spaces and a `#` is a comment."""
    found = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        words, _, output = part.partition("\n")
        found.append(Command(re.split(r"\s{2,}#", words)[0].strip(), output))
    return found


def shown(expected: str, printed: str) -> bool:
    """Tell whether a command printed what a document shows.

    In the document, a line with nothing but `…` stands for any lines, and `…` in a line for any
    text. Nothing else differs, except that lines may end in spaces.
    """
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r" *\n"
    return re.fullmatch(pattern, printed) is not None
