"""What a move costs: two ends on lines that are made for it, each figure beside its limit.

    python -m bench.migrate [--json FOUND.json] [--minutes N] [--moves N] [--cores 1|2|both]
        [--line NAME…] [--method userfaultfd|private|both] [--mode MODE] [--plan] [PROGRAM…]

Each program goes to and fro between two processes of `wasmsr remote`, in rounds and by
stop-and-copy. Lines: loopback; two network namespaces with a cable of 1 Gbit/s (`tc tbf`); two
namespaces with a bridge in user space, 100 Mbit/s and 20 ms each way. All of it is made and
removed; it needs root, iproute2 and /dev/net/tun. CPython and nextpnr are fetched from package
registries; `make ffmpeg` builds FFmpeg. What cannot be had is named and left out.

`--plan` shows the cells in the order of their value, with the time that each takes. `--minutes`
takes as many as fit. With `--json`, each cell is written as soon as it is measured, and a later run
with the same file leaves out the cells that it has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from bench.migrate.cases import COPY, FEWEST, LONGEST, METHODS, ROUNDS, Case, cases, key_of, within
from bench.migrate.lines import LINES, NotHere, Place, scratch, sweep
from bench.migrate.moves import median, moves
from bench.migrate.pair import Pair, Stuck
from bench.migrate.probes import probe, scan_seconds
from bench.migrate.subjects import SUBJECTS
from bench.migrate.table import HEAD, LEGEND, Cell, against
from bench.migrate.verdicts import misses
from wasmsr.snapshot.memory.dirty_pages import METHODS as METHODS_OF_PAGES
from wasmsr.snapshot.memory.dirty_pages import VARIABLE


class Absent:
    """What cannot be had here, each told once.

    Attributes:
        reasons: Why, by name; None for what can be had.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str | None] = {}

    def note(self, name: str, reason: str | None) -> None:
        """Note whether something can be had."""
        if reason is not None and self.reasons.get(name) is None:
            print(f"without {name}: {reason}", file=sys.stderr, flush=True)
        self.reasons[name] = reason

    def needs(self, case: Case) -> bool:
        """Return whether something is missing that a case needs."""
        if case.subject.name not in self.reasons:
            self.note(case.subject.name, case.subject.missing)
        for method in METHODS_OF_PAGES:
            if method.name == case.method and method.name not in self.reasons:
                self.note(method.name, method.refusal())
        return any(self.reasons.get(one) for one in (case.subject.name, case.method))

    def plain(self) -> dict[str, str]:
        """Return what is missing, for JSON."""
        return {name: reason for name, reason in self.reasons.items() if reason is not None}


def measured(case: Case, places: tuple[Place, Place], folder: Path) -> Cell:
    """Move one program on one line, and return what that cost."""
    environment = {VARIABLE: case.method} if case.method else {}
    with scratch(folder) as inside:
        found = probe(places, inside)
        with Pair(case.subject, places, inside, case.cores, case.words, environment) as pair:
            since = pair.move(case.moves)
            peaks = {name: end.status("VmHWM") for name, end in pair.ends.items()}
            alone, failed = pair.alone, pair.refusals()
        moved = moves(pair, since)[: case.moves]
    if not moved:
        raise Stuck("no move was measured")
    load = os.getloadavg()[0]
    name, line, cores, mode, method = case.key
    scan = 0.0
    if method == METHODS[0]:
        scan = scan_seconds(case.subject.size << 20)
    return Cell(name, line, cores, mode, found, moved, alone, peaks, load, failed, method, scan)


def cells(chosen: Sequence[Case], folder: Path, absent: Absent) -> Iterator[Cell | str]:
    """Measure cases; yield cells, and sentences about what failed."""
    for line, group in groupby(chosen, lambda case: case.line):
        try:
            with line.made() as places:
                for case in group:
                    begun = time.monotonic()
                    try:
                        yield measured(case, places, folder)
                    except (Stuck, OSError, subprocess.SubprocessError) as error:
                        yield f"{case.name}: {error}"
                    spent = time.monotonic() - begun
                    told = f"({case.name}: {spent:.0f} s, of {case.seconds:.0f} expected)"
                    print(told, file=sys.stderr, flush=True)
        except NotHere as reason:
            absent.note(line.name, str(reason))


def cpu() -> str:
    """Return the name of the processor."""
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def _interrupted(number: int, _: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # what cleans up is not interrupted again
    raise SystemExit(128 + number)


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.migrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [one.name for one in SUBJECTS]
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(names))
    parser.add_argument(
        "--moves", type=int, default=20, help="of each, fewer of slow cells; default 20"
    )
    parser.add_argument("--cores", choices=["1", "2", "both"], default="both")
    parser.add_argument("--line", action="append", choices=[line.name for line in LINES])
    parser.add_argument("--mode", choices=[ROUNDS, COPY], help="only this way to move")
    parser.add_argument("--method", choices=[*METHODS, "both"], default="both")
    parser.add_argument("--minutes", type=float, help="measure what fits in so many, by value")
    parser.add_argument(
        "--longest", type=float, default=LONGEST, metavar="SECONDS",
        help=f"that a cell's moves take at most, if {FEWEST} remain; default {LONGEST:.0f}",
    )  # fmt: skip
    parser.add_argument("--plan", action="store_true", help="show the cells, and measure nothing")
    parser.add_argument("--json", metavar="FILE", type=Path, help="keep everything there")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the ends' files"
    )
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.programs) - set(names)):
        parser.error(f"no such program: {', '.join(unknown)}")
    return options


def chosen_cases(options: argparse.Namespace, found: Sequence[Cell], absent: Absent) -> list[Case]:
    """Return the cases that are to be measured, without those that are found or cannot be had."""
    there = {key_of(cell) for cell in found}
    wanted = [one for one in cases(options) if one.key not in there and not absent.needs(one)]
    return list(within(wanted, options.minutes))


def _show_plan(chosen: Sequence[Case]) -> None:
    total = 0.0
    for case in chosen:
        total += case.seconds
        print(f"{case.seconds:5.0f} s, {total / 60:5.1f} min: {case.moves:2} moves, {case.name}")


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    options = _parsed(argv)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _interrupted) for number in signals}
    try:
        return _measure(options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _measure(options: argparse.Namespace) -> int:
    found = _read(options.json)
    absent = Absent()
    if len(os.sched_getaffinity(0)) == 1 and options.cores != "1":
        absent.note("two cores", "there is one")
    chosen = chosen_cases(options, found, absent)
    if options.plan:
        _show_plan(chosen)
        return 0
    for name in sweep(options.folder):
        print(f"removed {name}, which an earlier run had left", file=sys.stderr)
    load = os.getloadavg()[0]
    print(f"{cpu()}, {os.cpu_count()} cores, Linux {platform.release()}, load {load:.1f}")
    print(f"{LEGEND}\n{HEAD}")
    failures: list[str] = []
    try:
        for cell in cells(chosen, options.folder, absent):
            if isinstance(cell, str):
                failures.append(cell)
                print(f"failed: {cell}", file=sys.stderr, flush=True)
                continue
            found.append(cell)
            copy = [
                median([move.size for move in other.moves])
                for other in found
                if (other.program, other.mode) == (cell.program, COPY)
            ]
            print(f"{cell.row(copy[-1] if copy else None)}\n{cell.beside()}", flush=True)
            _write(options.json, found, failures, absent)
    finally:
        print("\n".join([*against(found), *(f"missed: {text}" for text in misses(found))]))
        _write(options.json, found, failures, absent)
    return 1 if failures else 0


def _read(path: Path | None) -> list[Cell]:
    """Return the cells that an earlier run has written."""
    if path is None or not path.exists():
        return []
    return [Cell.of(values) for values in json.loads(path.read_text())["cells"]]


def _write(
    path: Path | None, found: Sequence[Cell], failures: Sequence[str], absent: Absent
) -> None:
    if path is None:
        return
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({**_plain(found, failures), "absent": absent.plain()}) + "\n")
    part.replace(path)


def _plain(found: Sequence[Cell], failures: Sequence[str]) -> dict[str, Any]:
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "linux": platform.release(),
        "cells": [cell.plain() for cell in found],
        "failures": list(failures),
        "missed": list(misses(found)),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
