"""`python -m bench.suite`: this engine beside the strongest interpreters, over 22 programs.

    WASMSR_PEERS=FOLDER python -m bench.suite [--rounds N] [--engines NAME,…]
                                              [--markdown] [--json] [--plot FILE] [PROGRAM…]

Every engine runs each program as a process of its own, in turns, pinned to one core. Its CPU time
is taken, user and system, less what the same engine needs for a program that does nothing, and over
the rounds the least counts. So what is compared is loading the module, compiling and running it,
without the start of the engine (here: of Python). What they print must be equal. The suite is
CoreMark, seven of PolyBench, Lua, QuickJS, ten small kernels, a hash map and an interpreter loop;
four further kernels are reported beside it. Nothing is dropped after measuring.

An engine that fails at a program (it ends with an error, takes longer than --timeout, or prints
something else than most of the engines) has no time for that program, and no mean over it. The
table names each such failure, and the exit code is then 1. Ctrl-C shows what was measured so far.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench import plot
from bench.__main__ import Times, mean, outvoted, ratios
from bench.build import Missing
from bench.outside import ENGINES, Program, empty, folder, programs

BASE = "wasm3"
"""Whose time is 1: today's wasm3, built by gcc."""
TIMEOUT = 600.0
"""Seconds that one process may take, unless --timeout says otherwise."""


class Failed(Exception):
    """An engine could not run a program."""


@dataclass
class Measured:
    """What a run of the suite found.

    Attributes:
        times: program to engine to seconds, one for each round, starting subtracted.
        failures: program to engine to what went wrong; such an engine has no times there.
    """

    times: Times = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)


def process(words: Sequence[str], timeout: float = TIMEOUT) -> tuple[float, bytes]:
    """CPU time of a process, user and system, in seconds, and what it printed.

    Raises:
        Failed: it ended with another code than 0, or not within `timeout` seconds.
    """
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert child.stdout is not None
    overdue = threading.Event()

    def kill() -> None:
        overdue.set()
        child.kill()

    watch = threading.Timer(timeout, kill)
    watch.start()
    try:
        with child.stdout:
            printed = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
    except BaseException:
        child.kill()
        child.wait()
        raise
    finally:
        watch.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    if overdue.is_set():
        raise Failed(f"{' '.join(words[:5])}: no end within {timeout:g} s")
    if child.returncode:
        raise Failed(f"{' '.join(words[:5])}: exit code {child.returncode}")
    return used.ru_utime + used.ru_stime, printed


def present(names: Sequence[str], timeout: float = TIMEOUT) -> tuple[list[str], dict[str, str]]:
    """Return the engines that run the empty program, and why the others are missing."""
    here, absent = [], {}
    for name in names:
        words = ENGINES[name](empty())
        assert words is not None
        try:
            process(words, timeout)
        except (OSError, Failed) as error:
            absent[name] = str(error)
        else:
            here.append(name)
    return here, absent


def run_program(
    program: Program, engines: Sequence[str], rounds: int, timeout: float = TIMEOUT
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run one program in all engines that can, in turns.

    Returns:
        Engine to seconds, one for each round, and engine to why it failed. What most engines
        print is right; where as many say one thing as another, all of them failed.
    """
    seconds: dict[str, list[float]] = {}
    printed: dict[str, bytes] = {}
    failures: dict[str, str] = {}
    for _ in range(rounds):
        for engine in engines:
            words = ENGINES[engine](program)
            if words is None or engine in failures:
                continue
            try:
                used, output = process(words, timeout)
            except (OSError, Failed) as error:
                failures[engine] = str(error)
                continue
            if printed.setdefault(engine, output) != output:
                failures[engine] = f"prints {output!r} after {printed[engine]!r}"
            seconds.setdefault(engine, []).append(used)
    answers = {engine: printed[engine] for engine in seconds if engine not in failures}
    for engine in outvoted(answers):
        other = next(text for text in answers.values() if text != answers[engine])
        failures[engine] = f"prints {answers[engine]!r}, another engine {other!r}"
    return {name: used for name, used in seconds.items() if name not in failures}, failures


def measure(
    chosen: Sequence[Program], engines: Sequence[str], rounds: int, timeout: float = TIMEOUT
) -> Measured:
    """Run all programs. Ctrl-C ends the run with the programs that are complete."""
    found = Measured()
    try:
        starting, failed = run_program(empty(), engines, rounds, timeout)
        if failed:
            found.failures[empty().name] = failed
        start = {engine: min(values) for engine, values in starting.items()}
        print("start:", shown(starting), file=sys.stderr)
        for program in chosen:
            able = [engine for engine in engines if engine in start]
            seconds, failed = run_program(program, able, rounds, timeout)
            found.times[program.name] = {
                engine: [value - start[engine] for value in values]
                for engine, values in seconds.items()
            }
            if failed:
                found.failures[program.name] = failed
            said = [shown(found.times[program.name]), *(f"{e}: {why}" for e, why in failed.items())]
            print(f"{program.name}: {'; '.join(said)}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print(f"interrupted: {len(found.times)} of {len(chosen)} programs", file=sys.stderr)
    return found


def shown(times: Mapping[str, Sequence[float]]) -> str:
    """Return the least time of each engine."""
    return " ".join(f"{engine} {min(values):.3f}" for engine, values in times.items())


def table(
    found: Mapping[str, Mapping[str, plot.Spread]], chosen: Sequence[Program], *, markdown: bool
) -> str:
    """Ratios by program, the spread of this engine's, and the geometric means."""
    ran = {engine for row in found.values() for engine in row}
    engines = [engine for engine in ENGINES if engine in ran]
    if not engines:
        return f"nothing to compare: no program has a time of {BASE} and of another engine"
    rows = [[f"time / {BASE}", *engines, f"spread of {engines[0]}"]]
    for name, by_engine in found.items():
        cells = [f"{by_engine[e][0]:.3f}" if e in by_engine else "" for e in engines]
        spread = ""
        if engines[0] in by_engine:
            _, median, least, greatest = by_engine[engines[0]]
            spread = f"{median:.3f} ({least:.3f}..{greatest:.3f})"
        rows.append([name, *cells, spread])
    every = {program.name for program in chosen}
    suite = {program.name for program in chosen if program.suite}
    kernels = {program.name for program in chosen if program.kernel}
    for title, names in (
        (f"mean of the suite ({len(suite)})", suite),
        (f"mean of the kernels ({len(kernels)})", kernels),
        (f"mean of all ({len(every)})", every),
    ):
        row = [title]
        for engine in engines:
            rows_of = [found[name] for name in names if name in found]
            values = [row_of[engine][0] for row_of in rows_of if engine in row_of]
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
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.suite", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES), help="default %(default)s")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS")
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
        engines, absent = present(wanted, options.timeout)
        for name, why in absent.items():
            print(f"without {name}: {why}", file=sys.stderr)
        for name in {BASE, wanted[0]} & absent.keys():
            raise Missing(f"nothing to compare without {name}")
        if not chosen:
            raise Missing(f"nothing to compare: no program is in {folder()}")
        measured = measure(chosen, engines, options.rounds, options.timeout)
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    times = {name: by_engine for name, by_engine in measured.times.items() if BASE in by_engine}
    found = ratios(times, BASE)
    if options.json:
        content = {
            "machine": platform.platform(),
            "base": BASE,
            "seconds": measured.times,
            "failures": measured.failures,
        }
        print(json.dumps(content))
    else:
        print(table(found, chosen, markdown=options.markdown))
    for name, failed in measured.failures.items():
        for engine, why in failed.items():
            print(f"failed: {name} in {engine}: {why}", file=sys.stderr)
    if options.plot and found:
        plot.draw(found, BASE, options.plot)
    complete = len(measured.times) == len(chosen) and not measured.failures
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
