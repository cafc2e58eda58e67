"""Which cells of fast code run, and in which order: from this the next fusions are chosen.

    python -m bench.dispatches [--top N] [--json] -- PROGRAM [ARGS of `wasmsr run`…]

Builds the extension once more below build/count with -DWSR_COUNT, where every dispatch is counted
(core/count.h), runs the program in it, and prints how many dispatches there were, how many Wasm
instructions they stand for (counted by a second, metered run), and the most frequent handlers,
pairs and triples, in percent of all dispatches. A pair of p percent that becomes one cell saves p
percent of the dispatches.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "count"
EXTENSION = BUILD / "lib" / "wasmsr"
PLENTY = 10**15

Names = tuple[str, ...]


def build() -> None:
    """Build, or bring up to date, the extension that counts."""
    command = [sys.executable, "setup.py", "-q", "build"]
    command += ["--build-base", str(BUILD), "--build-lib", str(BUILD / "lib")]
    environment = {**os.environ, "WASMSR_CFLAGS": "-DWSR_COUNT"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)


def handlers() -> dict[int, str]:
    """The name of each handler by its distance from `wsr_count_anchor`."""
    (library,) = EXTENSION.glob("_ffi*.so")
    listing = subprocess.run(["nm", str(library)], check=True, capture_output=True, text=True)
    symbols = re.findall(r"^([0-9a-f]+) [tT] (\S+)$", listing.stdout, re.MULTILINE)
    anchor = next(int(address, 16) for address, name in symbols if name == "wsr_count_anchor")
    return {int(address, 16) - anchor: name for address, name in symbols}


def run(arguments: Sequence[str]) -> tuple[Counter[Names], int]:
    """Run the program twice: how often each triple of handlers ran, and the instructions executed.

    Raises:
        SystemExit: the program could not be run.
    """
    words = [sys.executable, "-m", "wasmsr", "run"]
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        environment = {**os.environ, "WSR_COUNT_FILE": str(counts), "PYTHONSAFEPATH": "1"}
        environment["PYTHONPATH"] = str(BUILD / "lib")
        subprocess.run([*words, *arguments], env=environment, stdout=subprocess.DEVNULL)
        if not counts.exists():
            raise SystemExit("nothing was counted: is fast code built here?")
        lines = counts.read_text().splitlines()
    metered = [*words, "--json", f"--fuel={PLENTY}", *arguments]
    output = subprocess.run(metered, stdout=subprocess.PIPE).stdout
    found = re.findall(rb'"executed": ?(\d+)', output)
    if not found:
        raise SystemExit("the metered run gave no count")
    names = handlers()
    triples: Counter[Names] = Counter()
    for line in lines:
        *distances, count = map(int, line.split())
        triples[tuple(names.get(distance, "?") for distance in distances)] += count
    return triples, int(found[-1])


def last(triples: Counter[Names], length: int) -> Counter[Names]:
    """The frequencies of sequences of `length` handlers, 1 to 3."""
    shorter: Counter[Names] = Counter()
    for names, count in triples.items():
        shorter[names[3 - length :]] += count
    return shorter


def classes(name: str) -> str:
    """The instruction of a handler, without operand classes: `I32_ADD_SCW` is `I32_ADD`."""
    return re.sub(r"_[SAC]{1,2}[AW]?(_[01](_back)?)?$", lambda m: m[1] or "", name)


def table(counts: Counter[Names], total: int, top: int) -> Iterable[str]:
    for names, count in counts.most_common(top):
        yield f"  {100 * count / total:6.2f} %  {' '.join(names)}"


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.dispatches", description=__doc__)
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-build", action="store_true", help="the counting extension is there")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    arguments = [word for word in options.program if word != "--"] or parser.error("no program")
    if not options.no_build:
        build()
    triples, executed = run(arguments)
    total = sum(triples.values())
    if options.json:
        content = {
            "dispatches": total,
            "instructions": executed,
            "triples": [[*names, count] for names, count in triples.most_common()],
        }
        print(json.dumps(content))
        return 0
    print(f"{total:,} dispatches for {executed:,} instructions: {total / executed:.3f} each")
    grouped: Counter[Names] = Counter()
    for names, count in last(triples, 1).items():
        grouped[(classes(names[0]),)] += count
    for title, counts in (
        ("instructions, all operand classes together", grouped),
        *((f"sequences of {n}", last(triples, n)) for n in (1, 2, 3)),
    ):
        print(f"\n{title}")
        print(*table(counts, total, options.top), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
