"""What a program costs that goes on in another engine: speed, size, and the time until it goes on.

    python -m bench.anywhere [--rounds N] [--quick] [--json FILE] [KERNEL…]

Each kernel is saved after 100,000 instructions. Then it runs to its end from there: in this
interpreter, and as a runnable module under Wasmtime and Node, in turns. CPU seconds of the
program alone: in an engine those of `_start`, here those of a process beyond one that resumes a
program which is about to end. Printed are ratios to this interpreter, as medians with the least and
the greatest; the size of the module against that of the compressed state and the module; and the
seconds from a compiled module to the program's end for one that is about to end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.build import REPEATS, Missing, command
from bench.tier import cpu

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ("calls", "crc", "hashmap", "interpreter", "matrix", "recursion", "sha256", "sorting")
FIRST = 100_000
"""Instructions before a kernel is saved."""

WASMTIME = """
import sys, time, wasmtime
engine = wasmtime.Engine()
module = wasmtime.Module.from_file(engine, sys.argv[1])
linker = wasmtime.Linker(engine)
linker.define_wasi()
store = wasmtime.Store(engine)
wasi = wasmtime.WasiConfig()
wasi.inherit_stdout()
store.set_wasi(wasi)
began = time.process_time()
start = linker.instantiate(store, module).exports(store)["_start"]
try:
    start(store)
except wasmtime.ExitTrap as ended:
    assert not ended.code, ended
print(time.process_time() - began, file=sys.stderr)
"""
NODE_COMMAND = ("node", "--no-turbo-fast-api-calls", "-e")
NODE = """
const { readFileSync } = require("fs");
const { WASI } = require("node:wasi");
const wasi = new WASI({ version: "preview1", returnOnExit: true });
WebAssembly.compile(readFileSync(process.argv[1])).then(async (module) => {
  const before = process.cpuUsage();
  const instance = await WebAssembly.instantiate(module, wasi.getImportObject());
  if (wasi.start(instance)) throw new Error("it failed");
  const used = process.cpuUsage(before);
  console.error((used.user + used.system) / 1e6);
});
"""


def _run(words: Sequence[str]) -> tuple[bytes, bytes, float]:
    """Run a process; its two outputs, and its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 120):
        raise SystemExit(f"{' '.join(words[:4])} …: {done.stderr.decode()}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, done.stderr, spent


class Saved:
    """A program that was saved, as a snapshot and as a runnable module."""

    def __init__(self, program: Path, folder: Path, after: int) -> None:
        self.program, name = program, program.stem
        self.snapshot, self.module = folder / f"{name}.bin", folder / f"{name}.wasm"
        words = [f"--snapshot-at={after}", f"--snapshot-file={self.snapshot}", str(program)]
        _run([sys.executable, "-m", "wasmsr", "run", *words])
        words = [str(self.snapshot), "--program", str(program), "-o", str(self.module)]
        _run([sys.executable, "-m", "wasmsr", "snapshot", "export", "--runnable", *words])

    def here(self) -> tuple[bytes, float]:
        """Run it in this interpreter; its output, and CPU seconds of the process."""
        words = [f"--from-snapshot={self.snapshot}", str(self.program)]
        output, _, spent = _run([sys.executable, "-m", "wasmsr", "run", *words])
        return output, spent

    def there(self, engine: str) -> tuple[bytes, float]:
        """Run its module in an engine; its output, and CPU seconds from instantiating on."""
        words = [sys.executable, "-c", WASMTIME] if engine == "wasmtime" else [*NODE_COMMAND, NODE]
        output, said, _ = _run([*words, str(self.module)])
        return output, float(said.split()[-1])


def measure(kernels: Sequence[str], rounds: int, quick: bool) -> dict[str, object]:
    """Return all figures, in seconds and bytes."""
    engines = ("wasmtime", "node")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = Saved(command("crc", 1), folder, 100)
        found: dict[str, object] = {"cpu": cpu(), "python": platform.python_version()}
        least = [small.here()[1] for _ in range(rounds)]
        found["resume"] = {
            "wasmsr, whole process": least,
            **{one: [small.there(one)[1] for _ in range(rounds)] for one in engines},
        }
        for kernel in kernels:
            saved = Saved(command(kernel, REPEATS[kernel] // (10 if quick else 1)), folder, FIRST)
            times: dict[str, list[float]] = {"wasmsr": [], **{one: [] for one in engines}}
            for _ in range(rounds):
                output, spent = saved.here()
                times["wasmsr"].append(spent - min(least))
                for one in engines:
                    same, spent = saved.there(one)
                    assert same == output, f"{kernel} under {one}: {same!r}, not {output!r}"
                    times[one].append(spent)
            sizes = [p.stat().st_size for p in (saved.module, saved.snapshot, saved.program)]
            found[kernel] = {"seconds": times, "bytes": sizes}
            _show(kernel, times, sizes)
    return found


def _show(kernel: str, times: dict[str, list[float]], sizes: Sequence[int]) -> None:
    cells = []
    for engine in ("wasmtime", "node"):
        ratios = [there / here for there, here in zip(times[engine], times["wasmsr"], strict=True)]
        middle = statistics.median(ratios)
        cells.append(f"{engine} {middle:5.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    more = sizes[0] - sizes[1] - sizes[2]
    here = statistics.median(times["wasmsr"])
    print(
        f"{kernel:12} {here:6.3f} s here   {'   '.join(cells)}   {more / 1000:+.0f} KB", flush=True
    )


def main(argv: Sequence[str]) -> int:
    """Carry out the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Programs that go on in another engine.")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of each kernel")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(argv)
    try:
        found = measure(options.kernels or KERNELS, options.rounds, options.quick)
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    print(f"on {found['cpu']}; resuming a program that ends at once:")
    for name, seconds in dict(found["resume"]).items():  # type: ignore[call-overload]
        print(f"  {name}: {statistics.median(seconds):.3f} s")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + os.linesep)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
