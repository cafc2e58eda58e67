"""`python -m bench.tier`: native code against the interpreter and Wasmtime's compiler, Cranelift.

    python -m bench.tier [--rounds N] [--quick] [KERNEL…]

The kernels of `python -m bench`, pinned to one core, in turns. Each CPU time is without
compilation: over the rounds its least, and how far the median is above that. All results must be
equal. The tables give times as multiples of Cranelift's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.__main__ import mean
from bench.build import REPEATS, Kernel, Missing, kernel
from bench.peers import Absent, Run, Wasmsr, Wasmtime
from wasmsr.interp import tier

BASE = Wasmtime.name


class Interpreter(Wasmsr):
    """This engine without native code."""

    name = "interpreter"

    def prepare(self, kernel: Kernel) -> Run:
        """Prepare the kernel for this peer."""
        tier.choose("interpreter")
        return super().prepare(kernel)


class NativeCode(Wasmsr):
    """This engine with native code."""

    name = "native code"

    def prepare(self, kernel: Kernel) -> Run:
        """Prepare the kernel for this peer."""
        if (why := tier.refusal()) is not None:
            raise Absent(why)
        tier.choose("native")
        return super().prepare(kernel)


def cpu() -> str:
    """Return the name of this CPU."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown CPU"


def measure(name: str, *, quick: bool, rounds: int) -> dict[str, list[float]]:
    """Return the CPU times of a kernel in seconds, one for each round, by peer."""
    chosen = kernel(name, quick=quick)
    runs = {peer.name: peer.prepare(chosen) for peer in (Interpreter(), NativeCode(), Wasmtime())}
    results = {run() for run in runs.values()}
    assert len(results) == 1, f"{name}: results differ: {results}"
    times: dict[str, list[float]] = {peer: [] for peer in runs}
    for _ in range(rounds):
        for peer, run in runs.items():
            began = time.process_time()
            run()
            times[peer].append(time.process_time() - began)
    return times


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.tier", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of each kernel")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL")
    options = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ratios: dict[str, list[float]] = {}
    try:
        for name in options.kernels or REPEATS:
            times = measure(name, quick=options.quick, rounds=options.rounds)
            base = min(times[BASE])
            parts = []
            for peer, seconds in times.items():
                ratios.setdefault(peer, []).append(min(seconds) / base)
                spread = statistics.median(seconds) / min(seconds) - 1
                parts.append(f"{peer} {min(seconds) / base:6.2f} (+{spread:.0%})")
            print(f"{name:12}", "  ".join(parts), flush=True)
    except (Missing, Absent) as reason:
        print(reason, file=sys.stderr)
        return 1
    print(f"{'mean':12}", "  ".join(f"{peer} {mean(all_):6.2f}" for peer, all_ in ratios.items()))
    print(f"{cpu()}; geometric mean of {len(next(iter(ratios.values())))} kernels")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
