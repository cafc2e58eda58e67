"""Random modules with everything (`throwing`), here and under Wasmtime: the ends must be equal.

Compared are traps, results, globals, memories and tables, bit for bit; NaNs are canonical in both.
Here each module runs straight in fast code, in counted fast code, with a journey through bytes at
random instructions, and in fast and precise code side by side. Every fourth is a program with the
old exception instructions (`legacy`), which Wasmtime gets in other words. `test_differential` runs
some seeds; for longer, `python -m tests.fuzz.differential --seconds N [--seed S]`, which keeps what
differs.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import wasmtime

from tests.fuzz.legacy import assemble, pair
from tests.fuzz.throwing import FEATURES, source
from tests.interp.machines import hop
from tests.lockstep import Pair
from wasmsr import Finished, Memory, Module, Outcome, Paused, Store, Table, Trapped

MASK = (1 << 64) - 1
LONG = 50_000_000
"""Instructions that no module needs."""


@dataclass
class End:
    """What must be equal: the trap; and then bits of results and globals, digests of memories, and
    which elements of each table are null."""

    trap: str | None
    values: dict[str, int]
    memories: dict[str, bytes]
    tables: dict[str, str]


def _names(module: Module, letter: str) -> list[str]:
    return [e.name for e in module.exports if e.name[0] == letter and e.name[1:].isdigit()]


def _pattern(elements: Any) -> str:
    return "".join("f" if found else "-" for found in elements)


# ---- here


def _fresh(module: Module) -> Store:
    store = Store(deterministic=True, features=FEATURES)
    store.enqueue(store.instantiate(module).function("run"))
    return store


def _end(store: Store, outcome: Outcome) -> End:
    assert isinstance(outcome, (Finished, Trapped)), outcome
    store.check()
    instance = store.instances[0]
    instance.function("peek")()
    memories, tables = {}, {}
    for name, item in instance.exports.items():
        if isinstance(item, Memory):
            memories[name] = hashlib.sha256(item.data).digest()
        elif isinstance(item, Table):
            tables[name] = _pattern(item[i] is not None for i in range(len(item)))
    names = _names(instance.module, "r") + _names(instance.module, "p")
    values = {name: instance.global_(name).bits for name in names}
    trap = outcome.trap.code if isinstance(outcome, Trapped) else None
    return End(SAME.get(trap, trap) if trap else None, values, memories, tables)


def straight(module: Module) -> tuple[End, int]:
    """In fast code and in counted fast code; the end and the number of instructions."""
    store = _fresh(module)
    outcome = store.run(fuel=LONG)
    assert not isinstance(outcome, Paused), "it does not end"
    count = store.executed or 0
    counted = _end(store, outcome)
    store = _fresh(module)
    plain = _end(store, store.run())
    assert counted == plain, "counted fast code ends otherwise"
    return plain, count


def restored(module: Module, draw: random.Random, count: int) -> tuple[End, int, int]:
    """With a journey through bytes after some random numbers of instructions: the end, how many
    instructions, how many journeys."""
    store = _fresh(module)
    mean, journeys = max(1, count // 20), 0
    while isinstance(outcome := store.run(fuel=draw.randint(1, 2 * mean)), Paused):
        store = hop(store)
        journeys += 1
    executed = store.executed or 0
    return _end(store, outcome), executed, journeys


# ---- under Wasmtime


@cache
def engine() -> Any:
    """Wasmtime as it is compared with: all that both have is on, NaNs are canonical."""
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = True
    config.cranelift_opt_level = "none"
    config.memory_reservation = 1 << 20
    config.memory_guard_size = 1 << 16
    for feature in (
        "memory64",
        "multi_memory",
        "tail_call",
        "function_references",
        "exceptions",
        "threads",
    ):
        setattr(config, f"wasm_{feature}", True)
    config.wasm_wide_arithmetic = True
    config.wasm_relaxed_simd = True
    config.wasm_relaxed_simd_deterministic = True
    return wasmtime.Engine(config)


_TRAPS = (
    "unreachable",
    "integer divide by zero",
    "integer overflow",
    "invalid conversion to integer",
    "out of bounds memory access",
    "out of bounds table access",
    "uninitialized element",
    "indirect call type mismatch",
    "call stack exhausted",
    "null reference",
    "unaligned atomic",
    "atomic wait on non-shared memory",
)
SAME = {
    "undefined element": "out of bounds table access",
    "null function reference": "null reference",
    "null exception reference": "null reference",
    "expected shared memory": "atomic wait on non-shared memory",
}
"""Traps of ours that are one with others in Wasmtime."""


def trap_of(message: str) -> str:
    """Which trap Wasmtime's message is about."""
    return next(known for known in _TRAPS if known in message)


def oracle(module: Module) -> End:
    """The same under Wasmtime."""
    store = wasmtime.Store(engine())
    instance = wasmtime.Instance(store, wasmtime.Module(engine(), module.binary), [])
    exports: Any = instance.exports(store)
    trap: str | None = None
    try:
        exports["run"](store)
    except wasmtime.Trap as error:
        trap = trap_of(str(error))
    exports["peek"](store)
    memories, tables = {}, {}
    for item in module.exports:
        found = exports[item.name]
        if isinstance(found, wasmtime.Memory):
            data = bytes(found.read(store, 0, found.data_len(store)))
            memories[item.name] = hashlib.sha256(data).digest()
        elif isinstance(found, wasmtime.Table):
            # A null funcref comes back as a Val, not as None.
            elements = [found.get(store, i) for i in range(found.size(store))]
            tables[item.name] = _pattern(isinstance(e, wasmtime.Func) for e in elements)
    names = _names(module, "r") + _names(module, "p")
    values = {name: exports[name].value(store) & MASK for name in names}
    return End(trap, values, memories, tables)


# ---- together


@dataclass
class Trial:
    """How a module ended, and what that took: journeys through bytes, states compared in steps."""

    end: End
    instructions: int
    journeys: int
    states: int


def compare(module: Module, seed: int, *, other: Module | None = None) -> Trial:
    """Run one module in all ways; `other` is for Wasmtime, if that cannot take it.

    Raises:
        AssertionError: two ways differ.
    """
    plain, count = straight(module)
    assert oracle(other or module) == plain, "Wasmtime ends otherwise"
    again, executed, journeys = restored(module, random.Random(seed), count)
    assert again == plain, "with journeys it ends otherwise"
    assert executed == count
    pair = Pair(_fresh(module), _fresh(module), counted=seed % 2 == 0)
    outcome = pair.run(most=200, seed=seed)
    if outcome == Paused("requested"):
        outcome = pair.run(most=100_000, every=1000, seed=seed)
    assert _end(pair.fast, outcome) == plain, "in steps it ends otherwise"
    return Trial(plain, count, journeys, pair.compared)


def trial(text: str, seed: int) -> Trial:
    """Compare one module in the text format.

    Raises:
        AssertionError: two ways differ.
    """
    return compare(Module.from_text(text, features=FEATURES), seed)


def legacy_trial(old: str, new: str, seed: int) -> Trial:
    """Compare one program with the old exception instructions; needs wabt.

    Raises:
        AssertionError: two ways differ.
    """
    binary, other = assemble(old), Module.from_text(new)
    assert binary is not None, "wabt's wat2wasm is not installed"
    assert straight(other)[0] == oracle(other), "Wasmtime ends otherwise with the new instructions"
    return compare(Module(binary), seed, other=other)


def one(seed: int, folder: Path | None = None) -> Trial | Exception:
    """The trial that belongs to a number, or what went wrong; what differs is kept in `folder`."""
    draw = random.Random(seed).randrange
    old = seed % 4 == 3 and shutil.which("wat2wasm") is not None
    texts = list(pair(draw)) if old else [source(draw)]
    try:
        return legacy_trial(texts[0], texts[1], seed) if old else trial(texts[0], seed)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            for number, text in enumerate(texts):
                (folder / f"{seed}-{number}.wat").write_text(text)
        return error


def main() -> None:
    """Run for as many seconds as asked; modules that differ are kept in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--folder", type=Path, default=Path("build/differential"))
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    seed, done = options.seed, []
    wrong = 0
    print(f"seed {seed}", flush=True)
    while time.monotonic() < end:
        found = one(seed, options.folder)
        if isinstance(found, Trial):
            done.append(found)
        else:
            wrong += 1
            print(f"seed {seed}: {type(found).__name__}: {str(found)[:300]}", flush=True)
        seed += 1
    print(
        f"{options.seconds:.0f} s: {len(done) + wrong} modules, {wrong} differ; "
        f"{sum(t.end.trap is not None for t in done)} trapped, "
        f"{sum(t.instructions for t in done)} instructions, "
        f"{sum(t.journeys for t in done)} journeys, {sum(t.states for t in done)} states compared"
    )
    raise SystemExit(wrong != 0)


if __name__ == "__main__":
    main()
