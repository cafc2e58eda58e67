"""Random modules (`generate`) straight, restored every few instructions, and under Wasmtime.

All three must agree on results bit for bit, traps, memory and globals. NaNs are canonical in all:
`deterministic` here, Cranelift's canonicalisation there.
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.generate import TYPES, Generator
from tests.interp.machines import hop
from wasmsr import Finished, Module, Outcome, Paused, Store, Trapped

wasmtime = pytest.importorskip("wasmtime", reason="Wasmtime is what the results are compared with")

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "60"))


@dataclass
class End:
    """What must be equal: the trap or the results' bits, the memory, the globals' bits."""

    trap: str | None
    results: tuple[int, ...]
    memory: bytes
    globals: tuple[int, ...]


def _digest(data: Any) -> bytes:
    return hashlib.sha256(data).digest()


def _end(store: Store, outcome: Outcome) -> End:
    exports = store.instances[0]
    values = tuple(exports.global_(f"g{i}").bits for i in range(4))
    memory = _digest(exports.memory().data)
    if isinstance(outcome, Trapped):
        return End(outcome.trap.code, (), memory, values)
    assert isinstance(outcome, Finished), outcome
    return End(None, outcome.raw, memory, values)


def _fresh(module: Module) -> Store:
    store = Store(deterministic=True)
    store.enqueue(store.instantiate(module).function("f"))
    return store


def straight(module: Module) -> tuple[End, int, End]:
    """Unmetered; the number of instructions; and metered."""
    store = _fresh(module)
    plain = _end(store, store.run())
    store = _fresh(module)
    metered = _end(store, store.run(fuel=10_000_000))
    return plain, store.executed or 0, metered


def restored(module: Module, every: int) -> tuple[End, int]:
    """With a journey through bytes after every so many instructions."""
    store = _fresh(module)
    while isinstance(outcome := store.run(fuel=every), Paused):
        store = hop(store)
    return _end(store, outcome), store.executed or 0


@cache
def _engine() -> Any:
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = True
    config.cranelift_opt_level = "none"
    config.memory_reservation = 1 << 20
    config.memory_guard_size = 1 << 16
    return wasmtime.Engine(config)


_TRAPS = {
    "unreachable": "unreachable",
    "integer divide by zero": "integer divide by zero",
    "integer overflow": "integer overflow",
    "invalid conversion to integer": "invalid conversion to integer",
    "out of bounds memory access": "out of bounds memory access",
    "undefined element": "undefined element",
    "uninitialized element": "uninitialized element",
    "indirect call type mismatch": "indirect call type mismatch",
    "call stack exhausted": "call stack exhausted",
}


def _bits(type_: str, value: Any) -> int:
    if type_ == "i32":
        return int(value) & 0xFFFFFFFF
    if type_ == "i64":
        return int(value) & 0xFFFFFFFFFFFFFFFF
    if type_ == "f32":
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def oracle(module: Module) -> End:
    """The same under Wasmtime."""
    engine = _engine()
    store = wasmtime.Store(engine)
    instance = wasmtime.Instance(store, wasmtime.Module(engine, module.binary), [])
    exports = instance.exports(store)
    trap: str | None = None
    results: tuple[int, ...] = ()
    types = [str(t) for t in exports["f"].type(store).results]
    try:
        found = exports["f"](store)
    except wasmtime.Trap as error:
        trap = next(ours for theirs, ours in _TRAPS.items() if theirs in str(error))
    else:
        all_of_them = found if isinstance(found, list) else [found]
        results = tuple(_bits(t, v) for t, v in zip(types, all_of_them, strict=True))
    memory = exports["memory"]
    data = bytes(memory.read(store, 0, memory.data_len(store)))
    values = tuple(_bits(t, exports[f"g{i}"].value(store)) for i, t in enumerate(TYPES))
    return End(trap, results, _digest(data), values)


def trial(source: str, every: int | None = None) -> End:
    """Compare all ways to run one module."""
    module = Module.from_text(source)
    plain, count, metered = straight(module)
    assert metered == plain
    assert oracle(module) == plain
    again, counted = restored(module, every or max(1, count // 60))
    assert again == plain
    assert counted == count
    return plain


@settings(
    max_examples=ROUNDS,
    deadline=None,
    derandomize="WASMSR_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_generated_modules(data: st.DataObject) -> None:
    generator = Generator(lambda n: data.draw(st.integers(0, n - 1)))
    trial(generator.module())


def test_seeded_modules() -> None:
    """Larger ones than Hypothesis likes to make; most must not trap, or little is compared."""
    ends = []
    for seed in range(ROUNDS):
        source = Generator(random.Random(seed).randrange).module()
        ends.append(trial(source))
    assert sum(end.trap is None for end in ends) > ROUNDS // 3
    assert sum(end.trap is not None for end in ends) > ROUNDS // 20


@pytest.mark.parametrize("seed", range(5))
def test_every_instruction(seed: int) -> None:
    """A journey between every two instructions."""
    trial(Generator(random.Random(1000 + seed).randrange).module(), every=1)
