"""`python -m bench.tier`: native code against the interpreter and Wasmtime's compiler, Cranelift.

    python -m bench.tier [--rounds N] [--quick] [--parts PART,…] [KERNEL…]

Four parts. `kernels` are those of `python -m bench`, without and with counts of instructions;
`vectors` are those of `python -m bench.simd`. Both are pinned to one core, in turns, CPU time
without compilation, as multiples of Cranelift's: over the rounds the least, and how far the median
is above that. All results must be equal. `compile` makes precise, fast and native code of all
functions of real modules. `processes` are the programs of `python -m bench.programs`, and scripts
of one and of ten seconds, as whole processes with compilation: CPU time, the least of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import simd
from bench.__main__ import mean
from bench.build import REPEATS, Kernel, Missing, kernel, vectors
from bench.peers import Absent, Counted, Run, Wasmsr, Wasmtime
from bench.programs import CACHE, PROGRAMS, PYTHON, STONE, Program, commands
from bench.startup import process
from wasmsr import Module
from wasmsr._ffi import ffi, lib
from wasmsr.interp import tier

BASE = Wasmtime.name
PARTS = ("kernels", "vectors", "compile", "processes")
CODE_SECTION = 10


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


class CountedCode(Counted):
    """This engine with native code that counts instructions."""

    name = "with counts"

    def prepare(self, kernel: Kernel) -> Run:
        """Prepare the kernel for this peer."""
        tier.choose("native")
        return super().prepare(kernel)


def cpu() -> str:
    """Return the name of this CPU."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown CPU"


def measure(name: str, chosen: Kernel, rounds: int) -> dict[str, list[float]]:
    """Return the CPU times of a kernel in seconds, one for each round, by peer."""
    peers = (Interpreter(), NativeCode(), CountedCode(), Wasmtime())
    runs = {peer.name: peer.prepare(chosen) for peer in peers}
    results = {run() for run in runs.values()}
    assert len(results) == 1, f"{name}: results differ: {results}"
    times: dict[str, list[float]] = {peer: [] for peer in runs}
    for _ in range(rounds):
        for peer, run in runs.items():
            began = time.process_time()
            run()
            times[peer].append(time.process_time() - began)
    return times


def compare(names: Sequence[str], made: Callable[[str], Kernel], rounds: int) -> None:
    """Print a line for each kernel and their geometric means."""
    ratios: dict[str, list[float]] = {}
    for name in names:
        times = measure(name, made(name), rounds)
        base = min(times[BASE])
        parts = []
        for peer, seconds in times.items():
            ratios.setdefault(peer, []).append(min(seconds) / base)
            spread = statistics.median(seconds) / min(seconds) - 1
            parts.append(f"{peer} {min(seconds) / base:6.2f} (+{spread:.0%})")
        print(f"{name:12}", "  ".join(parts), flush=True)
    counted = mean(ratios[CountedCode.name]) / mean(ratios[NativeCode.name])
    print(f"{'mean':12}", "  ".join(f"{peer} {mean(all_):6.2f}" for peer, all_ in ratios.items()))
    print(f"counts cost {counted:.2f}; geometric means of {len(names)} kernels")


def code_size(binary: bytes) -> int:
    """Return how many bytes the code section of a module has (specification, section 5.5.13)."""
    at = 8
    while at < len(binary):
        kind, size, at = binary[at], 0, at + 1
        for shift in range(0, 35, 7):
            byte = binary[at]
            size |= (byte & 0x7F) << shift
            at += 1
            if byte < 0x80:
                break
        if kind == CODE_SECTION:
            return size
        at += size
    return 0


def compiling(name: str) -> str:
    """Return how fast code of all functions of a module is made, and how large it is."""
    module = Module.from_file(CACHE / PROGRAMS[name].module)
    first, last = module.counts.imported_functions, module.counts.functions
    made = ffi.new("wsr_native_listing *")
    code = without = 0
    began = time.process_time()
    for index in range(first, last):
        without += not lib.wsr_native_list(module.c, index, made)
        code += made.bytes
        lib.wsr_native_list_free(made)
    seconds = time.process_time() - began
    size = code_size(module.binary)
    return (
        f"{size / 1e6:.1f} MB of code, {size / seconds / 1e6:.1f} MB a second, "
        f"{code / size:.2f} bytes of native code a byte, {without} functions have none"
    )


def process_times(program: Program, rounds: int) -> dict[str, float]:
    """Return the least CPU times of whole processes, in seconds, by engine."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for file, content in program.inputs:
            (Path(folder) / file).write_text(content)
        words = commands(program, folder)
        ours = words["wasmsr"]
        at = ours.index("run") + 1
        chosen = {
            name: [*ours[:at], "--tier", name, *ours[at:]] for name in ("interpreter", "native")
        }
        for _ in range(rounds):
            for engine, line in (*chosen.items(), ("wasmtime", words["wasmtime"])):
                found[engine] = min(found.get(engine, 1e9), process(line, folder))
    return found


def processes(rounds: int) -> None:
    """Print a line for each program that is there."""
    programs = dict(PROGRAMS)
    for seconds in (1, 10):
        script = STONE.replace("60000", str(60_000 * seconds))
        programs[f"python, {seconds} s"] = Program(
            PYTHON, ("/w/stone.py",), (("stone.py", script),)
        )
    for name, program in programs.items():
        if not (CACHE / program.module).exists():
            print(f"without {name}: .cache/{program.module} is not there", file=sys.stderr)
            continue
        times = process_times(program, rounds)
        slow, fast, other = (times[n] for n in ("interpreter", "native", "wasmtime"))
        print(
            f"{name:14} interpreter {slow:.2f} s  native {fast:.2f} s, {fast / slow:.2f} of that  "
            f"wasmtime {other:.2f} s, native {fast / other:.2f} of that",
            flush=True,
        )


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.tier", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of each kernel")
    parser.add_argument("--parts", default=",".join(PARTS), metavar="PART,…")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL")
    options = parser.parse_args(argv)
    parts = options.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(cpu())
    try:
        if "kernels" in parts:
            names = options.kernels or list(REPEATS)
            compare(names, lambda name: kernel(name, quick=options.quick), options.rounds)
        if "vectors" in parts:
            compare(list(simd.REPEATS), with_vectors, options.rounds)
    except (Missing, Absent) as reason:
        print(reason, file=sys.stderr)
        return 1
    for name in ("python-print", "esbuild", "nextpnr") if "compile" in parts else ():
        if (CACHE / PROGRAMS[name].module).exists():
            print(f"{PROGRAMS[name].module}: {compiling(name)}", flush=True)
    if "processes" in parts:
        processes(min(options.rounds, 3))
    return 0


def with_vectors(name: str) -> Kernel:
    """Return a kernel of `bench.simd`, built with vector instructions."""
    wasm = vectors(name, simd=True)
    return Kernel(name, wasm, wasm, simd.REPEATS[name])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
