"""The programs that move, and the words by which an end starts them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.programs import CACHE, PROGRAMS
from bench.snapshots.programs import FILM
from tests.real.fetch import Unavailable
from tests.real.fetch import nextpnr as fetch_nextpnr
from tests.real.fetch import python as fetch_python
from tests.real.netlist import feedback_register

WRITER = Path(__file__).with_name("writer.wat")
ENDLESS = 1 << 62
REGISTER = 7600
"""Bits of what nextpnr places: nearly all that its device has, so that it lasts for 20 moves."""
PAGES_A_SECOND = 2621
"""One hundredth of 1 GiB."""
COUNTING = """\
class Record:
    def __init__(self, n):
        self.n = n
        self.seen = {}
    def add(self, x):
        return self.n + x
record, total, i = Record(3), 0, 0
while True:
    i += 1
    total += record.add(i) % 7
    record.seen[i % 50] = [i, str(i)]
    if i & 3 == 0:
        total ^= len(record.seen)
    if i % 5000 == 0:
        print('count', i, flush=True)
"""
PROGRESS = ("-progress", "pipe:1", "-stats_period", "0.1")


def _fetched(fetch: Callable[[], object]) -> Callable[[], str | None]:
    """Return what fetches a program, and returns why it cannot be had, or None."""

    def try_it() -> str | None:
        try:
            fetch()
        except Unavailable as error:
            return str(error)
        return None

    return try_it


FETCHED = {"python-stone": _fetched(fetch_python), "nextpnr": _fetched(fetch_nextpnr)}
"""What fetches a program, by its name in `bench.programs`."""


@dataclass(frozen=True)
class Subject:
    """A program to move.

    Attributes:
        name: What options and tables call it.
        first: Seconds that it runs at the end that starts it, each time.
        then: Seconds that it runs at the other end.
        program: A packaged one, by its name in `bench.programs`; "" for the writer.
        memory: Pages of 64 KiB of the writer.
        rate: Pages of 4 KiB that the writer writes a second.
        size: MiB of its memory, about.
        packed: MiB that go over the wire for all of it, about.
        counted: How its output says how far it is, with the number in a group; None if it does not.
    """

    name: str
    first: float
    then: float
    program: str = ""
    memory: int = 1
    rate: float = 0.0
    size: int = 1
    packed: int = 1
    counted: str | None = r"count (\d+)"

    @property
    def missing(self) -> str | None:
        """Why it cannot be had here, or None."""
        if not self.program or (CACHE / PROGRAMS[self.program].module).exists():
            return None
        if self.program == "ffmpeg":
            return "`make ffmpeg` builds it, in some minutes"
        return FETCHED[self.program]()

    def prepared(self, folder: Path) -> tuple[list[str], list[str]]:
        """Lay out its files in an empty folder.

        Returns:
            The options that both ends are given, and the words of the one that starts it.
        """
        if not self.program:
            path = folder / "writer.wat"
            path.write_text(writer(self.memory, self.rate))
            return [], ["--program", str(path)]
        listed = PROGRAMS[self.program]
        inputs, args = dict(listed.inputs), _arguments(self.program, listed.args)
        if self.program == "nextpnr":
            inputs = {"design.json": feedback_register(REGISTER)}
        for file, content in inputs.items():
            (folder / file).write_text(content)
        options = [f"--dir={mount}" for mount in listed.mounts(folder)]
        return options, ["--program", str(CACHE / listed.module), "--", *args]

    def count(self, line: str) -> int | None:
        """Return how far it is by a line of its output; None if the line does not say it."""
        found = re.match(self.counted, line) if self.counted else None
        return int(found[1]) if found else None


def writer(memory: int, rate: float, seconds: float | None = None) -> str:
    """Return the text of the writer.

    Args:
        memory: Pages of 64 KiB, a power of two.
        rate: Pages of 4 KiB that it writes a second.
        seconds: How long it runs before it checks itself; None is for ever.
    """
    text = WRITER.read_text(encoding="utf-8")
    life = ENDLESS if seconds is None else int(seconds * 1e9)
    each = int(1e9 / rate) if rate else ENDLESS
    for word, value in (("MEMORY", memory), ("LIFE", life), ("EACH", each)):
        text = re.sub(rf"\b{word}\b", str(value), text)
    return text


def _arguments(program: str, args: Sequence[str]) -> list[str]:
    if program == "python-stone":
        return ["-c", COUNTING]
    if program == "ffmpeg":
        return [*FILM.split(), *PROGRESS, "-bitexact", "-y", "/w/out.avi"]
    return list(args)


SUBJECTS = (
    Subject("one page", 1, 1),
    Subject("FFmpeg", 3, 1, program="ffmpeg", counted=r"frame=\s*(\d+)", size=15, packed=5),
    Subject("CPython", 3, 1, program="python-stone", size=13, packed=7),
    Subject("nextpnr", 4, 2, program="nextpnr", counted=None, size=223, packed=35),
    Subject("1 GiB", 14, 3, memory=16384, rate=PAGES_A_SECOND, size=1024, packed=480),
)
