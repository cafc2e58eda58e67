"""What a move costs: two ends on lines that are made for it, each figure beside its limit.

    python -m bench.migrate [--moves N] [--cores 1|2|both] [--line NAME…] [--json FILE] [PROGRAM…]

Each program goes to and fro between two processes of `wasmsr remote`, in rounds and by
stop-and-copy. Lines: loopback; two network namespaces with a cable of 1 Gbit/s or 100 Mbit/s (`tc
tbf`); two namespaces with a bridge in user space, 100 Mbit/s and 20 ms each way. All of it is made
and removed; it needs root, iproute2 and /dev/net/tun. What cannot be had is named and left out.
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
from pathlib import Path
from typing import Any, NoReturn

from bench.migrate.lines import LINES, Line, NotHere, Place, scratch, sweep
from bench.migrate.moves import median, moves
from bench.migrate.pair import Pair, Stuck
from bench.migrate.probes import probe
from bench.migrate.subjects import SUBJECTS, Subject
from bench.migrate.table import HEAD, LEGEND, Cell, against
from bench.migrate.verdicts import misses
from wasmsr.cli.options.remote_options import RemoteOptions

ROUNDS, COPY = "rounds", "stop-and-copy"


def modes() -> dict[str, list[str]]:
    """Return the ways to move that `wasmsr remote` has, each with its options."""
    if "stop_and_copy" in RemoteOptions.__dataclass_fields__:
        return {COPY: ["--stop-and-copy"], ROUNDS: []}
    return {COPY: []}


def cores(wanted: str) -> list[frozenset[int]]:
    """Return the sets of processors for --cores."""
    here = sorted(os.sched_getaffinity(0))
    one, two = frozenset(here[-1:]), frozenset(here[-2:])
    if len(here) == 1 and wanted != "1":
        print("without two cores: there is one", file=sys.stderr)
        return [one]
    return {"1": [one], "2": [two], "both": [two, one]}[wanted]


def measured(
    subject: Subject,
    line: Line,
    places: tuple[Place, Place],
    options: argparse.Namespace,
    chosen: frozenset[int],
    mode: str,
    words: list[str],
) -> Cell:
    """Move one program on one line, and return what that cost."""
    with scratch(options.folder) as folder:
        found = probe(places, folder)
        with Pair(subject, places, folder, chosen, words) as pair:
            since = pair.move(options.moves)
            peaks = {name: end.status("VmHWM") for name, end in pair.ends.items()}
            alone, failed = pair.alone, pair.refusals()
        moved = moves(pair, since)[: options.moves]
    if not moved:
        raise Stuck("no move was measured")
    load = os.getloadavg()[0]
    return Cell(
        subject.name, line.name, len(chosen), mode, found, moved, alone, peaks, load, failed
    )


def cells(options: argparse.Namespace) -> Iterator[Cell | str]:
    """Measure everything; yield cells, and sentences about what failed."""
    subjects = [one for one in SUBJECTS if not options.programs or one.name in options.programs]
    for subject in subjects:
        if subject.missing:
            print(f"without {subject.name}: {subject.missing}", file=sys.stderr)
    for line in LINES:
        if options.line and line.name not in options.line:
            continue
        try:
            with line.made() as places:
                for subject in subjects:
                    if subject.missing:
                        continue
                    for chosen in cores(options.cores):
                        for mode, words in modes().items():
                            if options.mode and mode != options.mode:
                                continue
                            begun = time.monotonic()
                            where = f"{subject.name}, {line.name}, --cores {len(chosen)}, {mode}"
                            try:
                                yield measured(subject, line, places, options, chosen, mode, words)
                            except (Stuck, OSError, subprocess.SubprocessError) as error:
                                yield f"{where}: {error}"
                            spent = time.monotonic() - begun
                            print(f"({where}: {spent:.0f} s)", file=sys.stderr, flush=True)
        except NotHere as reason:
            print(f"without {line.name}: {reason}", file=sys.stderr)


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
    parser = argparse.ArgumentParser(prog="python -m bench.migrate", description=__doc__)
    names = [one.name for one in SUBJECTS]
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(names))
    parser.add_argument("--moves", type=int, default=20, help="of each; default 20")
    parser.add_argument("--cores", choices=["1", "2", "both"], default="both")
    parser.add_argument("--line", action="append", choices=[line.name for line in LINES])
    parser.add_argument("--mode", choices=[ROUNDS, COPY], help="only this way to move")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything there")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="for the ends' files"
    )
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.programs) - set(names)):
        parser.error(f"no such program: {', '.join(unknown)}")
    return options


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    options = _parsed(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    for name in sweep(options.folder):
        print(f"removed {name}, which an earlier run had left", file=sys.stderr)
    load = os.getloadavg()[0]
    print(f"{cpu()}, {os.cpu_count()} cores, Linux {platform.release()}, load {load:.1f}")
    print(f"{LEGEND}\n{HEAD}")
    found: list[Cell] = []
    failures: list[str] = []
    try:
        for cell in cells(options):
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
    finally:
        print("\n".join([*against(found), *(f"missed: {text}" for text in misses(found))]))
        if options.json:
            options.json.write_text(json.dumps(_plain(found, failures)) + "\n")
    return 1 if failures else 0


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
