"""Chooses the sequences of cells that share a handler, and writes core/sequences.h.

    python -m bench.sequences [--most N]

Runs the kernels and the real programs of `programs` in a build that counts dispatches and joins no
cells (`dispatches`), each weighted alike within its kind. All sequences up to four cells long that
would save a ten-thousandth of the dispatches are candidates; then, again and again, every line of
code is cut in the best way (as core/join.c does) and the tenth that saves least is dropped, until
`--most` are left. What is chosen depends on the programs measured, so they are named: the suite
that the speed is judged by (`suite`) is not among them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build import REPEATS, kernel
from bench.dispatches import ALONE, ROOT, Line, build, run
from bench.programs import CACHE, PROGRAMS

TARGET = ROOT / "wasmsr" / "core" / "sequences.h"
MOST = 1000
LONGEST = 4
"""WSR_LONGEST_SEQUENCE in core/fast.h."""
WORTH = 1e-4
"""Share of the dispatches that a candidate saves at least."""
SHARES = {"kernels": 0.45, "programs": 0.55}

HEADER = """\
/* Sequences of cells that share one handler. Written by `python -m bench.sequences`, which chose
 * them by how often they run in the kernels and in real programs. */
"""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Weighed:
    """A line of code: its handlers, and how often control enters at each, as a share of all
    dispatches of all programs, other than from the cell before."""

    names: Names
    entries: tuple[float, ...]


def weigh(found: Sequence[Line], share: float) -> Iterator[Weighed]:
    """The lines of one program, which counts for `share` of the whole."""
    total = sum(sum(line.counts) for line in found)
    for line in found:
        before = (0, *line.counts)
        entries = (max(0, n - m) for n, m in zip(line.counts, before, strict=False))
        weighed = Weighed(line.names, tuple(share * n / total for n in entries))
        if sum(weighed.entries) > 1e-8:
            yield weighed


def profiles() -> Iterator[tuple[str, list[str]]]:
    """Kind and arguments of `wasmsr run` of everything that is measured."""
    for name in REPEATS:
        made = kernel(name, quick=True)
        yield "kernels", ["--invoke", "run", str(made.wasm), str(max(1, made.n // 3))]
    for program in PROGRAMS.values():
        with tempfile.TemporaryDirectory() as folder:
            for file, content in program.inputs:
                (Path(folder) / file).write_text(content)
            yield "programs", [f"--dir={folder}::/w", str(CACHE / program.module), *program.args]


def measured() -> list[Weighed]:
    """All lines of all programs, weighed."""
    build(single=True)
    numbers = {"kernels": len(REPEATS), "programs": len(PROGRAMS)}
    found: list[Weighed] = []
    for kind, arguments in profiles():
        print(" ".join(arguments), file=sys.stderr)
        found += weigh(run(arguments, single=True), SHARES[kind] / numbers[kind])
    return found


def candidates(code: Sequence[Weighed]) -> set[Names]:
    """What is worth a look."""
    saved: defaultdict[Names, float] = defaultdict(float)
    for line in code:
        through = 0.0
        for start, entry in enumerate(line.entries):
            through += entry
            for length in range(2, min(LONGEST, len(line.names) - start) + 1):
                names = line.names[start : start + length]
                if names[-1] in ALONE:
                    break
                saved[names] += through * (length - 1)
    return {names for names, share in saved.items() if share > WORTH}


def cut(code: Sequence[Weighed], chosen: set[Names], used: defaultdict[Names, float]) -> float:
    """Cut every line in the best way; adds to `used` what each sequence saves.

    Returns:
        The dispatches that are left, on the scale of the entries.
    """
    left = 0.0
    for line in code:
        names, n = line.names, len(line.names)
        fewest = [0] * (n + 1)
        lengths = [1] * n
        for start in range(n - 1, -1, -1):
            fewest[start] = 1 + fewest[start + 1]
            for length in range(2, min(LONGEST, n - start) + 1):
                better = 1 + fewest[start + length]
                if better < fewest[start] and names[start : start + length] in chosen:
                    fewest[start], lengths[start] = better, length
        flow = [*line.entries, 0.0]
        for start, length in enumerate(lengths):
            left += flow[start]
            if length > 1 and flow[start] > 0:
                used[names[start : start + length]] += flow[start] * (length - 1)
            if start + length < n:
                flow[start + length] += flow[start]
    return left


def choose(code: Sequence[Weighed], most: int) -> set[Names]:
    """The sequences to build, at most that many."""
    chosen = candidates(code)
    before = cut(code, set(), defaultdict(float))
    while True:
        used: defaultdict[Names, float] = defaultdict(float)
        left = cut(code, chosen, used)
        print(f"{len(used)} sequences leave {left / before:.3f} of the dispatches", file=sys.stderr)
        if len(used) <= most:
            return set(used)
        best = sorted(used, key=lambda names: used[names], reverse=True)
        chosen = set(best[: max(most, len(used) * 9 // 10)])


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.sequences", description=__doc__)
    parser.add_argument("--most", type=int, default=MOST)
    options = parser.parse_args(argv)
    chosen = choose(measured(), options.most)
    rows = [f"SEQUENCE_{len(names)}({', '.join(names)})\n" for names in sorted(chosen)]
    TARGET.write_text(HEADER + "".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
