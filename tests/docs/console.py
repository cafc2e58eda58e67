"""The console blocks of a document: what to type, and what must be printed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

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


PATIENCE = 60.0
"""Seconds after which a command is given up."""


def environment(*before: Path) -> dict[str, str]:
    """Return an environment in which commands of these folders come first."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WASMSR_", "PYTHON"))}
    path = os.pathsep.join([*map(str, before), kept.get("PATH", os.defpath)])
    return kept | {"PATH": path, "LANG": "C.UTF-8"}


def begin(words: str, folder: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-c", words], cwd=folder, env=variables, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def in_terminals(found: list[Block], folder: Path, variables: dict[str, str]) -> list[str]:
    """Run one command in each of several terminals at once, and return what each printed."""
    running, expected = [], []
    for block in found:
        (command,) = commands(block)
        running.append(begin(command.words, folder, variables))
        expected.append(command.output)
    try:
        printed = [process.communicate(timeout=PATIENCE)[0] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for process, block, output, said in zip(running, found, expected, printed, strict=True):
        assert process.returncode == 0, f"{block.title}:\n{said}"
        assert shown_by_both(output, said), f"{block.title}:\n{said}"
    return printed


def shown_by_both(expected: str, printed: str) -> bool:
    """Tell whether a moving program and wasmsr each printed, in order, what a document shows.

    The two are not in step on a busy machine: a program that arrived runs at once, and its next
    line may stand before the message that it arrived. Which terminal is first is not sure either;
    that one says that it waits.
    """
    printed = re.sub(r"^wasmsr: waiting for .*\n", "", printed, flags=re.MULTILINE)

    def of(text: str, ours: bool) -> str:
        lines = text.splitlines(keepends=True)
        return "".join(
            line for line in lines if line.strip() == "…" or line.startswith("wasmsr:") is ours
        )

    return all(shown(of(expected, ours), of(printed, ours)) for ours in (True, False))


def with_free_ports(document: str) -> str:
    """Return a document with two ports that are free here, in place of 50051 and 50052."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for name, one in zip(("50051", "50052"), sockets, strict=True):
        document = document.replace(name, str(one.getsockname()[1]))
        one.close()
    return document
