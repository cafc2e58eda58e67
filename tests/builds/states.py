"""`python -m tests.builds.states`: states of programs at canonical points, as digests, in JSON.

    python -m tests.builds.states [--stops N] [--modules N] [KERNEL.wasm=ARGUMENT…]

Whatever CPU, compiler and loop the wasmsr is that runs this, the output must be the same. Programs
are the kernels named (run(ARGUMENT) of each), and random modules made from fixed seeds. The stops
lie ever further apart; every fourth stop passes calls, so that fast code makes them itself. Beside
the digests stand the outcome and the state at the end.

Run by test_builds here and by tests/cross in guests.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.generate import Generator
from tests.fuzz.stacks import source as stacks
from tests.fuzz.throwing import FEATURES
from tests.fuzz.throwing import source as everything
from tests.lockstep import advance
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Finished, Limits, Outcome, Paused, Trapped
from wasmsr.interp.store.store import Store
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.format import content_digest

GROWTH = 1.12


def _store(module: Module) -> Store:
    limits = Limits(stack_slots=60_000, stack_frames=2000)
    store = Store(limits=limits, deterministic=True, features=module.allowed_features)
    store.instantiate(module)
    return store


def _end(outcome: Outcome) -> str:
    if isinstance(outcome, Trapped):
        return f"trap: {outcome.trap.code}, {outcome.trap.backtrace}"
    return f"results: {outcome.raw}" if isinstance(outcome, Finished) else repr(outcome)


def states(store: Store, stops: int) -> Iterator[str]:
    """A digest for each of so many stops, then how it ended and a digest of the end."""
    gap = 1.0
    for stop in range(stops):
        outcome = advance(store, int(gap), 0, through_calls=stop % 4 == 3)
        if not isinstance(outcome, Paused):
            break
        yield content_digest(capture(store)).hex()[:16]
        gap *= GROWTH
    else:
        outcome = store.run()
    yield _end(outcome)
    yield content_digest(capture(store)).hex()


def programs(kernels: list[str], modules: int) -> Iterator[tuple[str, Store]]:
    """Names and stores in which a function has been called, but nothing run yet."""
    for named in kernels:
        path, _, argument = named.partition("=")
        store = _store(Module.from_file(path))
        store.enqueue(store.instances[-1].function("run"), int(argument))
        yield Path(path).stem, store
    for seed in range(modules):
        choose = random.Random(seed).randrange
        if seed % 3 == 2:  # vectors, atomics, several memories, 64-bit addresses, exceptions, …
            store = _store(Module.from_text(everything(choose), features=FEATURES))
            store.enqueue(store.instances[-1].function("run"))
        else:
            text = stacks(choose) if seed % 3 else Generator(choose).module()
            store = _store(Module.from_text(text))
            store.enqueue(store.instances[-1].function("f"))
        yield f"module {seed}", store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kernels", nargs="*")
    parser.add_argument("--stops", type=int, default=60)
    parser.add_argument("--modules", type=int, default=20)
    options = parser.parse_args()
    found = {
        name: [*states(store, options.stops)]
        for name, store in programs(options.kernels, options.modules)
    }
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
