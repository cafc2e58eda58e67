"""Native code and precise code side by side, for hours: `python -m tests.fuzz.tier_campaign`.

    python -m tests.fuzz.tier_campaign [--points N] [--file FILE] [--seconds S]

Each turn takes one seed: a random module of numbers, vectors, everything or exceptions runs in
lockstep, with and without counts, with stops at calls and past them, and its states are compared.
FILE (JSON) keeps the next seed and the numbers, so that a campaign goes on where it ended. A
difference ends it with the seed and the kind; `trial(kind, seed)` repeats it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.differential import FEATURES
from tests.fuzz.everything import Everything
from tests.fuzz.stacks import source
from tests.fuzz.throwing import Throwing
from tests.fuzz.vectors import Vectors
from tests.lockstep import Pair
from wasmsr import Module, Paused, Store
from wasmsr.interp import tier

Choose = Callable[[int], int]
KINDS: dict[str, Callable[[Choose], str]] = {
    "numbers": source,
    "vectors": lambda choose: Vectors(choose).module(),
    "everything": lambda choose: Everything(choose).module(),
    "exceptions": lambda choose: Throwing(choose).module(),
}
MOST = 2_000
"""Comparisons of one pair."""


def fresh(module: Module) -> Store:
    """A store in which the module's function is about to run."""
    store = Store(deterministic=True, features=FEATURES)
    instance = store.instantiate(module)
    store.enqueue(instance.function("f" if "f" in instance.exports else "run"))
    return store


def trial(kind: str, seed: int) -> tuple[int, int]:
    """Run one module in lockstep; how many canonical points it passed, and how many compared."""
    module = Module.from_text(KINDS[kind](random.Random(seed).randrange), features=FEATURES)
    points = compared = 0
    for through_calls, counted in ((False, False), (True, False), (None, True)):
        tier.choose("native")
        pair = Pair(fresh(module), fresh(module), counted=counted)
        tier.choose(None)
        if pair.run(most=MOST, seed=seed, through_calls=through_calls) == Paused("requested"):
            pair.run(most=MOST, every=500, seed=seed, through_calls=through_calls)
        points += pair.points
        compared += pair.compared
    return points, compared


def campaign(file: Path | None, points: int, seconds: float) -> dict[str, int]:
    """Go on until so many points have been passed in all, or for so long; what was done in all."""
    done = {"seed": 0, "points": 0, "compared": 0}
    if file is not None and file.exists():
        done.update(json.loads(file.read_text()))
    began = time.monotonic()
    while done["points"] < points and time.monotonic() - began < seconds:
        for kind in KINDS:
            passed, compared = trial(kind, done["seed"])
            done["points"] += passed
            done["compared"] += compared
        done["seed"] += 1
        if file is not None:
            file.write_text(json.dumps(done))
    return done


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.tier_campaign", description=__doc__)
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    options = parser.parse_args(argv)
    if (why := tier.refusal()) is not None:
        print(f"there is no native code: {why}", file=sys.stderr)
        return 1
    done = campaign(options.file, options.points, options.seconds)
    print(f"{done['points']:,} points, {done['compared']:,} states, {done['seed']:,} seeds: equal")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
