"""Chooses the sequences of cells that share a handler, and writes core/fast/superinstructions.inc.

    python -m bench.superinstructions [--pairs N] [--longer N] [--output FILE] [PROGRAM…]

Runs real programs (`programs`) and those of bench/training in a build that counts dispatches and
joins no cells (`dispatches`), with and without counting of instructions. First pairs are chosen,
then longer sequences beside them: again and again every line of code is cut in the best way (as
core/fast/superinstructions.c does) and those that save least are dropped. Pairs are what helps
programs that were not measured; longer sequences help those that were. So the programs by which the
speed is judged (the kernels, `suite`) are not among the measured ones: they would only show how
well they were learnt.

Named programs are measured instead of all of them; then --output must say where the result goes,
because a choice from a part is not what core/fast/superinstructions.inc is for.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build import TRAINED, Missing, training
from bench.dispatches import ALONE, ROOT, Line, build, run
from bench.programs import CACHE, PROGRAMS

TARGET = ROOT / "wasmsr" / "core" / "fast" / "superinstructions.inc"
PAIRS, LONGER = 1300, 700
LONGEST = 4
"""WSR_LONGEST_SUPERINSTRUCTION in core/fast/fast.h."""
WORTH = 2e-5
"""Share of the dispatches that a candidate saves at least."""
SHARES = {"training": 0.5, "programs": 0.5}
COUNTED = 0.25
"""Share of a program's run that counts instructions, with cells of its own (`spend`, `decide`)."""
PLENTY = 10**15
EVERY = (*TRAINED, *PROGRAMS)
"""The programs that are measured, by name."""

HEADER = """\
/* Sequences of cells that share one handler. `python -m bench.superinstructions` chose them
 * by how often they run in real programs and in those of bench/training. */
"""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Weighed:
    """A line of code: its handlers, and how often control enters at each, as a share of all
    dispatches of all programs, other than from the cell before."""

    names: Names
    entries: tuple[float, ...]


def weigh(found: Sequence[Line], share: float) -> Iterator[Weighed]:
    """Add the lines of one program, which counts for `share` of the whole."""
    total = sum(sum(line.counts) for line in found)
    for line in found:
        before = (0, *line.counts)
        entries = (max(0, n - m) for n, m in zip(line.counts, before, strict=False))
        weighed = Weighed(line.names, tuple(share * n / total for n in entries))
        if sum(weighed.entries) > 1e-8:
            yield weighed


def profiles(names: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Kind and arguments of `wasmsr run` of each named program of TRAINED and PROGRAMS."""
    for name in [name for name in TRAINED if name in names]:
        module, n = training(name)
        yield "training", ["--invoke", "run", str(module), str(n)]
    for program in [program for name, program in PROGRAMS.items() if name in names]:
        with tempfile.TemporaryDirectory() as folder:
            for file, content in program.inputs:
                (Path(folder) / file).write_text(content)
            mounts = [f"--dir={mount}" for mount in program.mounts(folder)]
            yield "programs", [*mounts, str(CACHE / program.module), *program.args]


def measured(names: Collection[str]) -> list[Weighed]:
    """All lines of the named programs, weighed."""
    build(single=True)
    numbers = {
        "training": sum(name in names for name in TRAINED),
        "programs": sum(name in names for name in PROGRAMS),
    }
    found: list[Weighed] = []
    for kind, arguments in profiles(names):
        share = SHARES[kind] / numbers[kind]
        print(" ".join(arguments), file=sys.stderr)
        found += weigh(run(arguments, single=True), share * (1 - COUNTED))
        metered = [f"--fuel={PLENTY}", *arguments]
        found += weigh(run(metered, single=True), share * COUNTED)
    return found


def candidates(code: Sequence[Weighed]) -> set[Names]:
    """Return the sequences that are candidates."""
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


def choose(code: Sequence[Weighed], pairs: int, longer: int) -> set[Names]:
    """Return the sequences to build: at most so many pairs, and so many longer ones."""
    every = candidates(code)
    kept = thin(code, {names for names in every if len(names) == 2}, set(), pairs)
    return kept | thin(code, {names for names in every if len(names) > 2}, kept, longer)


def thin(code: Sequence[Weighed], chosen: set[Names], beside: set[Names], most: int) -> set[Names]:
    """Drop those of `chosen` that save least, `beside` others that stay, until `most` are left."""
    before = cut(code, set(), defaultdict(float))
    while True:
        used: defaultdict[Names, float] = defaultdict(float)
        left = cut(code, chosen | beside, used)
        best = sorted(chosen & used.keys(), key=lambda names: used[names], reverse=True)
        print(f"{len(best)} leave {left / before:.3f} of the dispatches", file=sys.stderr)
        if len(best) <= most:
            return set(best)
        chosen = set(best[: max(most, len(best) * 17 // 20)])


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.superinstructions", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--longer", type=int, default=LONGER)
    parser.add_argument("--output", type=Path, default=TARGET, metavar="FILE")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(EVERY))
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.programs) - set(EVERY)):
        parser.error(f"no such program: {', '.join(unknown)}")
    if options.programs and options.output == TARGET:
        parser.error("a choice from some of the programs needs --output FILE")
    try:
        chosen = choose(measured(options.programs or EVERY), options.pairs, options.longer)
    except Missing as reason:
        print(reason, file=sys.stderr)
        return 1
    rows = [f"SUPERINSTRUCTION_{len(names)}({', '.join(names)})\n" for names in sorted(chosen)]
    options.output.write_text(HEADER + "".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
