"""The command: `python -m tests.ownership.model --help`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.ownership.model.broken import BROKEN
from tests.ownership.model.caught import caught
from tests.ownership.model.explore import Model, Search, Violation
from tests.ownership.model.node import Bounds


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.ownership.model",
        description="Explores the states of ownership, or the variants that lack a rule.",
    )
    parser.add_argument("--states", type=int, default=10_000_000, help="stop at so many states")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--attempts", type=int, default=6)
    parser.add_argument("--faults", type=int, default=2)
    parser.add_argument("--moves", type=int, default=2)
    parser.add_argument("--sample", type=int, default=64, help="settle one state in so many")
    parser.add_argument("--file", type=Path, help="continue from this file, and keep the search")
    parser.add_argument("--walk", type=int, default=0, help="steps of random walks instead")
    parser.add_argument("--seed", type=int, default=1, help="seed of the walks")
    parser.add_argument("--broken", action="store_true", help="the variants instead")
    given = parser.parse_args(words)
    if given.broken:
        missed = 0
        for name in BROKEN:
            begin = time.monotonic()
            how = caught(name)
            missed += how is None
            print(f"{time.monotonic() - begin:6.1f} s  {name}: {how or 'NOT CAUGHT'}", flush=True)
        print(f"{len(BROKEN) - missed} of {len(BROKEN)} variants are caught")
        return int(missed > 0)
    if given.file and given.file.exists():
        search = Search.load(given.file)
        print(f"continues with {len(search.seen)} states", flush=True)
    else:
        bounds = Bounds(given.nodes, given.epochs, given.attempts, given.faults, given.moves)
        search = Search(Model(bounds), sample=given.sample)
    begin, before = time.monotonic(), len(search.seen)
    try:
        if given.walk:
            search.walk(given.walk, given.seed)
            print(f"{given.walk} steps of random walks, no violation")
            return 0
        whole = search.run(given.states, given.seconds)
    except Violation as violation:
        print(violation)
        return 1
    took = time.monotonic() - begin
    print(
        f"{len(search.seen)} states, {search.depth} steps deep, {search.sampled} settled, no "
        f"violation; {(len(search.seen) - before) / max(took, 0.001):.0f} states a second"
        f"{'; these are all' if whole else ''}"
    )
    if given.file:
        search.save(given.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
