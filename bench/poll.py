"""What it costs to ask for a pause request at every loop header and call: `python -m bench.poll`.

    python -m bench.poll [--rounds N] [--json] [KERNEL…]

Builds the extension once more below build/no-poll with -DWSR_NO_POLL, where fast code never asks
(and so cannot be paused), and runs the kernels in both builds in turns, each in a process of its
own, pinned to one core. Printed is the time of the usual build over that of the other: the least
CPU time of the rounds, and the geometric mean.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from math import exp, log
from pathlib import Path

from bench.build import REPEATS, kernel

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "no-poll"
RUN = """\
import sys, time
from wasmsr import Module, Store
function = Store().instantiate(Module.from_file(sys.argv[1])).function("run")
function(max(1, int(sys.argv[2]) // 50))
begin = time.process_time()
function(int(sys.argv[2]))
print(time.process_time() - begin)
"""


def build() -> None:
    """Build, or bring up to date, the extension that never asks."""
    command = [sys.executable, "setup.py", "-q", "build"]
    command += ["--build-base", str(BUILD), "--build-lib", str(BUILD / "lib")]
    environment = {**os.environ, "WASMSR_CFLAGS": "-DWSR_NO_POLL"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)


def seconds(package: Path, module: Path, n: int) -> float:
    """CPU time of run(n) by the package that lies in that folder."""
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}
    words = [sys.executable, "-c", RUN, str(module), str(n)]
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.poll", description=__doc__)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=", ".join(REPEATS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.kernels) - set(REPEATS)):
        parser.error(f"no such kernel: {', '.join(unknown)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    build()
    ratios: dict[str, float] = {}
    for name in options.kernels or REPEATS:
        made = kernel(name)
        asking, silent = [], []
        for _ in range(options.rounds):
            asking.append(seconds(ROOT, made.wasm, made.n))
            silent.append(seconds(BUILD / "lib", made.wasm, made.n))
        ratios[name] = min(asking) / min(silent)
        if not options.json:
            print(f"{name:<12}{ratios[name]:8.3f}", flush=True)
    mean = exp(sum(log(ratio) for ratio in ratios.values()) / len(ratios))
    if options.json:
        print(json.dumps({"ratios": ratios, "mean": mean}))
    else:
        print(f"{'mean':<12}{mean:8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
