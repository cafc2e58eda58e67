"""How long a program takes to stand after a request: real programs, and a fill of 1 GiB.

    python -m bench.pause [--samples N] [--realtime] [--json] [PROGRAM…]

The program runs on its worker thread, as under the command line; this thread lets it run for a
random time, asks it to pause, and waits until it stands. That span is one sample. Then it goes on.
A program that has ended is launched again, its module decoded anew, so that the compilation of
functions when they are first called is met as often as in a process of its own.
`fill` fills 1 GiB again and again: `memory.fill` stops between pieces. Wall-clock time is what is
wanted here, so other load on the machine shows: a thread that waits for its turn on a processor is
late by the scheduler's slice. `--realtime` (needs the privilege) takes precedence over such load.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from bench.programs import CACHE, PROGRAMS
from wasmsr.interp.modules.module import Module, assemble
from wasmsr.program.program import Program
from wasmsr.program.state import ProgramState
from wasmsr.runspec.grants import HostGrants
from wasmsr.wasi.filesystem.mounts import Mount

LONGEST = 0.1
"""The program runs on for at most so many seconds between two requests."""
REST = 0.15
"""Then nothing runs for this part of that time: Linux takes the processor from real-time threads
that never rest."""

GIB = """\
(module (memory 16384) (func (export "_start")
  (loop (memory.fill (i32.const 0) (i32.const 7) (i32.const 0x40000000)) (br 0))))
"""
FILL = "fill"


def samples(launch: Callable[[], Program], wanted: int, seed: int) -> list[float]:
    """So many latencies, in seconds."""
    draw = random.Random(seed)
    found: list[float] = []
    while len(found) < wanted:
        with closing(launch()) as program:
            while len(found) < wanted and program.state in (
                ProgramState.PAUSED,
                ProgramState.RUNNING,
            ):
                program.start()
                span = draw.uniform(0, LONGEST)
                time.sleep(span)
                asked = time.perf_counter()
                program.pause()
                latency = time.perf_counter() - asked
                if program.state is ProgramState.PAUSED:
                    found.append(latency)
                time.sleep(REST * span)
            program.wait()  # raises what failed
    return found


def launcher(name: str, folder: Path, null: int) -> Callable[[], Program]:
    """Return a function that makes the program anew, before its first instruction."""
    grants = HostGrants(stdin=null, stdout=null, stderr=null)
    if name == FILL:
        text = assemble(GIB.encode())
        return lambda: Program.launch(Module(text), grants=grants)
    chosen = PROGRAMS[name]
    binary = (CACHE / chosen.module).read_bytes()
    for file, content in chosen.inputs:
        (folder / file).write_text(content)
    grants = HostGrants(
        mounts=[Mount.parse(text) for text in chosen.mounts(folder)],
        stdin=null,
        stdout=null,
        stderr=null,
    )
    return lambda: Program.launch(Module(binary), argv=(name, *chosen.args), grants=grants)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and greatest, in milliseconds."""
    ordered = sorted(values)
    at = {"median": 0.5, "p99": 0.99, "greatest": 1.0}
    return {
        name: 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]
        for name, part in at.items()
    }


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.pause", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join([*PROGRAMS, FILL]))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--realtime", action="store_true", help="precedence over other processes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.programs) - {*PROGRAMS, FILL}):
        parser.error(f"no such program: {', '.join(unknown)}")
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    found: dict[str, dict[str, float]] = {}
    null = os.open(os.devnull, os.O_RDWR)
    for name in options.programs or [*PROGRAMS, FILL]:
        if name in PROGRAMS and not (CACHE / PROGRAMS[name].module).exists():
            print(f"without {name}: .cache/{PROGRAMS[name].module} is not there", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            values = samples(launcher(name, Path(folder), null), options.samples, seed=len(name))
        found[name] = spread(values)
        if not options.json:
            shown = "  ".join(f"{key} {value:.3f} ms" for key, value in found[name].items())
            print(f"{name:14} {shown}", flush=True)
    if options.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
