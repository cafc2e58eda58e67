"""The cells that `bench.migrate` can measure, in the order of their value, and how long each takes.

The estimates are of an EPYC with two cores and little other work. They choose what fits in a given
time, and how many moves a slow cell gets.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.migrate.lines import LINES, Line
from bench.migrate.subjects import SUBJECTS, Subject
from bench.migrate.table import Cell
from wasmsr.cli.options.remote_options import RemoteOptions

ROUNDS, COPY = "rounds", "stop-and-copy"
METHODS = ("userfaultfd", "private")
"""How dirty pages are found; by the first where nothing else is said."""
WANTED = ("loopback", "1 Gbit/s", "100 Mbit/s, 20 ms")
"""The lines that are measured if no other is named."""

START_SECONDS = 6.0
"""What a cell takes beside its moves: the line's probe, two processes, the program's start."""
READ = 250e6
"""Bytes a second that an end reads, digests and packs."""
LOCAL = 400e6
"""Bytes a second on a line without a limit."""
LONGEST = 300.0
"""Seconds that the moves of a cell take at most, if at least `FEWEST` remain."""
FEWEST = 3
COPIES = 4
"""Moves in rounds for each one by stop-and-copy, whose downtimes differ less."""


@dataclass(frozen=True)
class Case:
    """A cell that is to be measured.

    Attributes:
        subject: The program.
        line: The line.
        cores: The processors of both ends.
        mode: `ROUNDS` or `COPY`.
        method: How dirty pages are found; "" for `COPY`.
        wanted: How many moves the user wants in rounds.
        longest: Seconds that the moves may take.
    """

    subject: Subject
    line: Line
    cores: frozenset[int]
    mode: str
    method: str
    wanted: int
    longest: float = LONGEST

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        """What makes it the same cell in two runs."""
        return self.subject.name, self.line.name, len(self.cores), self.mode, self.method

    @property
    def name(self) -> str:
        """What messages call it."""
        by = f" by {self.method}" if self.method else ""
        return f"{self.subject.name}, {self.line.name}, --cores {len(self.cores)}, {self.mode}{by}"

    @property
    def words(self) -> list[str]:
        """The options of `wasmsr remote` for it."""
        return ["--stop-and-copy"] if self.mode == COPY else []

    @property
    def each(self) -> float:
        """About how many seconds one move takes, with the time between two moves."""
        subject = self.subject
        packed = subject.packed << 20
        sending = max(packed / (self.line.rate / 8 * 0.9 or LOCAL), (subject.size << 20) / READ)
        rounds = 3 if self.mode == ROUNDS and subject.size > 1 else 1
        slower = 1.5 if len(self.cores) == 1 else 1.0
        return (subject.first + subject.then) / 2 + slower * sending + rounds * 4 * self.line.delay

    @property
    def moves(self) -> int:
        """How many moves it gets: fewer than wanted if it is slow."""
        wanted = self.wanted if self.mode == ROUNDS else max(FEWEST, self.wanted // COPIES)
        return min(self.wanted, wanted, max(FEWEST, int(self.longest / self.each)))

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return START_SECONDS + self.subject.first + self.moves * self.each


def processors(wanted: str) -> list[frozenset[int]]:
    """Return the sets of processors for --cores, the larger first."""
    here = sorted(os.sched_getaffinity(0))
    one, two = frozenset(here[-1:]), frozenset(here[-2:])
    return {"1": [one], "2": [two], "both": [two, one] if len(here) > 1 else [one]}[wanted]


def modes() -> list[str]:
    """Return the ways to move that `wasmsr remote` has."""
    has_rounds = "stop_and_copy" in RemoteOptions.__dataclass_fields__
    return [ROUNDS, COPY] if has_rounds else [COPY]


def cases(options: argparse.Namespace) -> list[Case]:
    """Return the cells that are asked for, the most valuable first.

    The methods and processors that most people have come first; each program's rounds come before
    its stop-and-copy, to which they are compared.
    """
    lines = [one for one in LINES if one.name in (options.line or WANTED)]
    subjects = [one for one in SUBJECTS if not options.programs or one.name in options.programs]
    methods = [one for one in METHODS if options.method in (one, "both")]
    kinds = [(ROUNDS, method) for method in methods if ROUNDS in modes()] + [(COPY, "")]
    kinds = [kind for kind in kinds if options.mode in (None, kind[0])]
    found = [
        Case(subject, line, cores, mode, method, options.moves, options.longest)
        for cores in processors(options.cores)
        for line in lines
        for subject in subjects
        for mode, method in kinds
    ]
    return sorted(found, key=_rank)


def _rank(case: Case) -> int:
    """Return a number that is smaller for what is wanted sooner."""
    return 2 * (len(case.cores) == 1) + (case.method == METHODS[1])


def within(chosen: Sequence[Case], minutes: float | None) -> Iterator[Case]:
    """Yield the cases that fit in a time, the first ones first; None: all."""
    left = float("inf") if minutes is None else minutes * 60
    for case in chosen:
        if case.seconds <= left:
            left -= case.seconds
            yield case


def key_of(cell: Cell) -> tuple[str, str, int, str, str]:
    """Return what makes a measured cell the same as a case."""
    return cell.program, cell.line, cell.cores, cell.mode, cell.method


__all__ = ["COPY", "METHODS", "ROUNDS", "Case", "cases", "key_of", "within"]
