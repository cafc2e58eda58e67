"""Which cells of fast code run, and in which order: from this the next fusions are chosen.

    python -m bench.dispatches [--top N] [--single] [--json] -- PROGRAM [ARGS of `wasmsr run`…]

Builds the extension once more below build/count with -DWSR_COUNT, where every dispatch is counted
(core/fast/count.h), runs the program in it, and prints how many dispatches there were, how many
Wasm instructions they stand for (counted by a second, metered run), and the most frequent handlers,
and sequences of two and three that follow each other without a branch between them, in percent of
all dispatches. With --single no cells are joined into sequences: the build in which `sequences`
looks for those worth joining.
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLENTY = 10**15
COMMAND = "import sys; from wasmsr.cli import main; sys.exit(main())"
"""The command `wasmsr`, ending as Python programs end. `python -m wasmsr` ends with `os._exit`,
which runs no destructors, and the counts are written by one."""
WORD = 8
"""Bytes of a word of fast code."""
LONGEST = 6
"""Words of the longest cell that goes on with the one behind it."""

ENDS = re.compile(
    r"_[01](_back)?$|^(branch|branch_back|true_.*|false_.*|table_.*|call|call_own|call_ref|call_indirect|tail_.*|return_.*"
    r"|unreachable)$"
)
"""Handlers that choose where to go on: the last of a sequence."""
ALONE = frozenset({"slow", "not_here", "host_call", "first_call", "change_instance", "?"})
"""What cannot be part of a sequence."""


@dataclass(frozen=True)
class Line:
    """Cells that lie behind each other, up to one that chooses where to go on.

    Attributes:
        names: their handlers.
        counts: how often each was dispatched to.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]


def folder(single: bool) -> Path:
    """Where that build lies."""
    return ROOT / "build" / ("count-single" if single else "count")


def build(*, single: bool) -> None:
    """Build, or bring up to date, the extension that counts."""
    base = folder(single)
    command = [sys.executable, "setup.py", "-q", "build"]
    command += ["--build-base", str(base), "--build-lib", str(base / "lib")]
    flags = "-DWSR_COUNT" + (" -DWSR_NO_SUPERINSTRUCTIONS" if single else "")
    environment = {**os.environ, "WASMSR_CFLAGS": flags}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stderr=subprocess.DEVNULL)


def handlers(single: bool) -> dict[int, str]:
    """Return the name of each handler by its distance from `wsr_count_anchor`."""
    (library,) = (folder(single) / "lib" / "wasmsr").glob("_ffi*.so")
    listing = subprocess.run(["nm", str(library)], check=True, capture_output=True, text=True)
    symbols = re.findall(r"^([0-9a-f]+) [tT] (\S+)$", listing.stdout, re.MULTILINE)
    anchor = next(int(address, 16) for address, name in symbols if name == "wsr_count_anchor")
    return {int(address, 16) - anchor: name for address, name in symbols}


def run(arguments: Sequence[str], *, single: bool) -> list[Line]:
    """Run the program once, as `wasmsr run` would, and tell how often its cells ran.

    Raises:
        SystemExit: the program could not be run.
    """
    words = [sys.executable, "-c", COMMAND, "run"]
    with tempfile.TemporaryDirectory() as temporary:
        counts = Path(temporary) / "counts"
        environment = {**os.environ, "WSR_COUNT_FILE": str(counts), "PYTHONSAFEPATH": "1"}
        environment["PYTHONPATH"] = str(folder(single) / "lib")
        ran = subprocess.run([*words, *arguments], env=environment, stdout=subprocess.DEVNULL)
        if not counts.exists():
            raise SystemExit(
                f"nothing was counted (exit code {ran.returncode}): either the program did not "
                "run, or this compiler builds no fast code"
            )
        rows = [tuple(map(int, line.split())) for line in counts.read_text().splitlines()]
    names = handlers(single)
    cells = sorted((address, names.get(distance, "?"), count) for address, distance, count in rows)
    return list(lines(cells))


def executed(arguments: Sequence[str]) -> int:
    """Return the number of Wasm instructions that the program executes.

    Raises:
        SystemExit: the metered run gave no count.
    """
    metered = [sys.executable, "-m", "wasmsr", "run", "--json", f"--fuel={PLENTY}", *arguments]
    output = subprocess.run(metered, stdout=subprocess.PIPE).stdout
    found = re.findall(rb'"executed": ?(\d+)', output)
    if not found:
        raise SystemExit("the metered run gave no count")
    return int(found[-1])


def lines(cells: Sequence[tuple[int, str, int]]) -> Iterator[Line]:
    """Cut cells (address, handler, count), ascending, into lines.

    The length of a cell is the least distance to a next one seen for its handler.
    """
    lengths: dict[str, int] = {}
    for (address, name, _), (behind, _, _) in pairwise(cells):
        length = (behind - address) // WORD
        if 0 < length <= LONGEST:
            lengths[name] = min(lengths.get(name, LONGEST), length)
    names: list[str] = []
    counts: list[int] = []
    expected = 0
    for address, name, count in cells:
        if names and (address != expected or ENDS.search(names[-1]) or names[-1] in ALONE):
            yield Line(tuple(names), tuple(counts))
            names, counts = [], []
        names.append(name)
        counts.append(count)
        expected = address + WORD * lengths.get(name, 0)
    if names:
        yield Line(tuple(names), tuple(counts))


def sequences(found: Iterable[Line], length: int) -> Counter[tuple[str, ...]]:
    """How often sequences of `length` handlers were run through."""
    counted: Counter[tuple[str, ...]] = Counter()
    for line in found:
        for start in range(len(line.names) - length + 1):
            counted[line.names[start : start + length]] += min(line.counts[start : start + length])
    return counted


def classes(name: str) -> str:
    """Return the instruction of a handler: `I32_ADD` for `I32_ADD_SCW`."""
    return re.sub(r"_[SAC]{1,2}[AW]?(_[01](_back)?)?$", lambda m: m[1] or "", name)


def table(counts: Counter[tuple[str, ...]], total: int, top: int) -> Iterable[str]:
    """Yield the lines of a table of the most frequent sequences."""
    for names, count in counts.most_common(top):
        yield f"  {100 * count / total:6.2f} %  {' '.join(names)}"


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.dispatches", description=__doc__)
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--single", action="store_true", help="without sequences")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    arguments = [word for word in options.program if word != "--"] or parser.error("no program")
    build(single=options.single)
    found = run(arguments, single=options.single)
    instructions = executed(arguments)
    total = sum(sum(line.counts) for line in found)
    if options.json:
        content = {
            "dispatches": total,
            "instructions": instructions,
            "lines": [[*line.names, *line.counts] for line in found],
        }
        print(json.dumps(content))
        return 0
    print(
        f"{total:,} dispatches for {instructions:,} instructions: {total / instructions:.3f} each"
    )
    grouped: Counter[tuple[str, ...]] = Counter()
    for names, count in sequences(found, 1).items():
        grouped[(classes(names[0]),)] += count
    for title, counts in (
        ("instructions, all operand classes together", grouped),
        *((f"sequences of {n}", sequences(found, n)) for n in (1, 2, 3)),
    ):
        print(f"\n{title}")
        print(*table(counts, total, options.top), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
