"""`python -m bench.suite`: this engine beside the strongest interpreters, over 22 programs.

    WASMSR_PEERS=FOLDER python -m bench.suite [--rounds N] [--engines NAME,…]
                                              [--markdown] [--json] [--plot FILE] [PROGRAM…]

Every engine runs each program as a process of its own, in turns, pinned to one core. Its CPU time
is taken, user and system, less what the same engine needs for a program that does nothing, and over
the rounds the least counts. So what is compared is loading the module, compiling and running it,
without the start of the engine (here: of Python). What they print must be equal. The suite is
CoreMark, seven of PolyBench, Lua, QuickJS, ten small kernels, a hash map and an interpreter loop;
four further kernels are reported beside it. Nothing is dropped after measuring.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence

from bench import plot
from bench.__main__ import Times, mean, ratios
from bench.build import Missing
from bench.outside import ENGINES, Program, empty, folder, programs

BASE = "wasm3"
"""Whose time is 1: today's wasm3, built by gcc."""


class Failed(Exception):
    """An engine could not run a program, or printed something else than the others."""


def process(words: Sequence[str]) -> tuple[float, bytes]:
    """CPU time of a process, user and system, in seconds, and what it printed.

    Raises:
        Failed: it ended with another code than 0.
    """
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        printed = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise Failed(f"{' '.join(words[:5])}: exit code {child.returncode}")
    return used.ru_utime + used.ru_stime, printed


def present(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The engines that are here and run the program that does nothing; why the others are not."""
    here, absent = [], {}
    for name in names:
        words = ENGINES[name](empty())
        assert words is not None
        try:
            process(words)
        except (OSError, Failed) as error:
            absent[name] = str(error)
        else:
            here.append(name)
    return here, absent


def one_round(program: Program, engines: Sequence[str], said: set[bytes]) -> dict[str, float]:
    """Seconds of each engine that can run the program.

    Raises:
        Failed: what was printed is not what was printed before.
    """
    seconds = {}
    for engine in engines:
        words = ENGINES[engine](program)
        if words is None:
            continue
        seconds[engine], printed = process(words)
        said.add(printed)
        if len(said) > 1:
            raise Failed(f"{program.name}: {engine} prints {printed!r}, another {said}")
    return seconds


def measure(chosen: Sequence[Program], engines: Sequence[str], rounds: int) -> Times:
    """Program to engine to seconds, one for each round, starting subtracted."""
    times: Times = {}
    start: dict[str, float] = {}
    for _ in range(rounds):
        for engine, seconds in one_round(empty(), engines, set()).items():
            start[engine] = min(seconds, start.get(engine, seconds))
    print("start:", shown({name: [value] for name, value in start.items()}), file=sys.stderr)
    for program in chosen:
        said: set[bytes] = set()
        times[program.name] = {}
        for _ in range(rounds):
            for engine, seconds in one_round(program, engines, said).items():
                times[program.name].setdefault(engine, []).append(seconds - start[engine])
        print(f"{program.name}: {shown(times[program.name])}", file=sys.stderr, flush=True)
    return times


def shown(times: Mapping[str, Sequence[float]]) -> str:
    """The least of each engine."""
    return " ".join(f"{engine} {min(values):.3f}" for engine, values in times.items())


def table(
    found: Mapping[str, Mapping[str, plot.Spread]], chosen: Sequence[Program], *, markdown: bool
) -> str:
    """Ratios by program, the spread of this engine's, and the geometric means."""
    engines = list(dict.fromkeys(engine for row in found.values() for engine in row))
    rows = [[f"time / {BASE}", *engines, f"spread of {engines[0]}"]]
    for name, by_engine in found.items():
        cells = [f"{by_engine[e][0]:.3f}" if e in by_engine else "" for e in engines]
        _, median, least, greatest = by_engine[engines[0]]
        rows.append([name, *cells, f"{median:.3f} ({least:.3f}..{greatest:.3f})"])
    suite = {program.name for program in chosen if program.suite}
    kernels = {program.name for program in chosen if program.kernel}
    for title, names in (
        (f"mean of the suite ({len(suite)})", suite),
        (f"mean of the kernels ({len(kernels)})", kernels),
        (f"mean of all ({len(chosen)})", set(found)),
    ):
        row = [title]
        for engine in engines:
            values = [found[name][engine][0] for name in names if engine in found[name]]
            complete = names and len(values) == len(names)
            row.append(f"{mean(values):.3f}" if complete else "")
        rows.append([*row, ""])
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join([lines[0], "|---|" + "---:|" * len(engines) + "---|", *lines[1:]])
    return "\n".join(
        f"{row[0]:26}" + "".join(f"{cell:>12}" for cell in row[1:-1]) + f"   {row[-1]}"
        for row in rows
    )


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.suite", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES), help="default %(default)s")
    parser.add_argument("--markdown", action="store_true", help="a table for the documentation")
    parser.add_argument("--json", action="store_true", help="print all times as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw the ratios (needs matplotlib)")
    options = parser.parse_args(argv)
    wanted = options.engines.split(",")
    if unknown := sorted(set(wanted) - set(ENGINES)):
        parser.error(f"no such engine: {', '.join(unknown)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        every = programs()
        if unknown := sorted(set(options.programs) - {program.name for program in every}):
            parser.error(f"no such program: {', '.join(unknown)}")
        chosen = [p for p in every if not options.programs or p.name in options.programs]
        for program in [p for p in chosen if not p.module.exists()]:
            print(f"without {program.name}: {program.module.name} is not there", file=sys.stderr)
            chosen.remove(program)
        engines, absent = present(wanted)
        for name, why in absent.items():
            print(f"without {name}: {why}", file=sys.stderr)
        for name in {BASE, wanted[0]} & absent.keys():
            raise Missing(f"nothing to compare without {name}")
        if not chosen:
            raise Missing(f"nothing to compare: no program is in {folder()}")
        times = measure(chosen, engines, options.rounds)
    except (Missing, Failed) as error:
        print(error, file=sys.stderr)
        return 1
    found = ratios(times, BASE)
    if options.json:
        print(json.dumps({"machine": platform.platform(), "base": BASE, "seconds": times}))
    else:
        print(table(found, chosen, markdown=options.markdown))
    if options.plot:
        plot.draw(found, BASE, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
