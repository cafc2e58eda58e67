"""The same assertions while the program is put away and taken out again between instructions.

A hop captures the store, encodes the snapshot, decodes it and restores a new store, which then
goes on. Every invocation (start functions too) is run twice: once straight, to learn how long it
is and what comes of it; once with hops before its first instruction, after every one of the first
1,000, after 200 or more spread over the rest, and at its end. Results, traps, calls of the host and
the whole final state must be the same; every restored store must capture to the very bytes that it
was restored from; and the invariants of the machine are checked on both sides of a hop.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Finished, Limits, Outcome, Paused, Trapped
from wasmsr.interp.store.instance import Imports
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import ValType
from wasmsr.snapshot import capture, format
from wasmsr.snapshot import restore as restoring
from wasmsr.snapshot.state import Lineage

from .engine import Numbers
from .ours import WasmsrSession, finished
from .values import Value

EVERY = 1000
"""So many instructions at the beginning of an invocation are all followed by a hop."""
SPREAD = 200
"""So many hops at least are spread over what comes after those."""
LONGEST = 200_000_000
"""An invocation that runs for more instructions than this is taken to be endless."""

PORTION = 900
"""Fuel of so few instructions is spent in precise code."""

FRAMES, SLOTS = 400, 60_000
"""Limits of the stack here: endless recursion must end while a snapshot of it is still small."""


class Differs(Exception):
    """Restoring changed something; the text says what."""


def stops(length: int) -> list[int]:
    """After how many instructions to hop, ascending, for an invocation of `length` of them.

    Beyond the first EVERY, the rest is divided into SPREAD equal parts and one place is drawn in
    each, always the same for the same length: evenly spaced stops would meet a loop always at the
    same instruction.
    """
    if length <= EVERY + SPREAD:
        return list(range(length + 1))
    draw = random.Random(length)
    bounds = [EVERY + (length - EVERY) * part // SPREAD for part in range(SPREAD + 1)]
    places = [draw.randint(low + 1, high) for low, high in pairwise(bounds)]
    return sorted({*range(EVERY + 1), *places, length})


class RestoredSession(WasmsrSession):
    """Stores of ours, each of which is replaced by a restored one at every stop.

    There is one store, but with `apart` for those modules that import nothing: each has its own. A
    script holds up to a hundred unrelated modules, and every snapshot would hold them all.
    """

    deterministic = False

    def __init__(self, *, apart: bool = False) -> None:
        self.numbers = Numbers()
        self._apart = apart
        super().__init__(Limits(stack_frames=FRAMES, stack_slots=SLOTS))
        self.store = self._fresh()
        self._stores = [self.store]
        # By the number that the runner knows: which store, and which instance of it.
        self._places: list[tuple[int, int]] = []

    def _fresh(self) -> Store:
        limits = Limits(stack_frames=FRAMES, stack_slots=SLOTS)
        return Store(limits=limits, deterministic=self.deterministic)

    @contextmanager
    def _in_store(self, number: int) -> Iterator[None]:
        self.store = self._stores[number]
        try:
            yield
        finally:
            self._stores[number] = self.store

    def instantiate(self, module: Module, registered: Mapping[str, int]) -> int:
        places = {name: self._places[number] for name, number in registered.items()}
        imports = {
            name: self._stores[store].instances[index].exports
            for name, (store, index) in places.items()
        }
        if self._apart and not module.imports:
            self._stores.append(self._fresh())
            return self._place(module, imports, len(self._stores) - 1)
        return self._place(module, imports)

    def _place(self, module: Module, imports: Imports, number: int = 0) -> int:
        with self._in_store(number):
            index = self.store.instantiate(module, imports, start=False).index
            if self.store.queue:
                self.drive(())
        self._places.append((number, index))
        return len(self._places) - 1

    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        number, index = self._places[instance]
        with self._in_store(number):
            return super().invoke(index, field, args)

    def get(self, instance: int, field: str) -> Value:
        number, index = self._places[instance]
        with self._in_store(number):
            return super().get(index, field)

    def drive(self, types: Sequence[ValType]) -> Finished:
        self.numbers.invocations += 1
        start, printed = self._encoded(self.store), len(self.printed)
        before = self.store.executed or 0
        # Once straight …
        outcome = self._straight()
        length = (self.store.executed or 0) - before
        if isinstance(outcome, Paused):
            raise Differs(f"not at an end after {length} instructions")
        end, calls = self._encoded(self.store), self.printed[printed:]
        # … and once with hops, from the same start.
        del self.printed[printed:]
        self.store = self._restore(start)
        again = self._run_with_hops(length)
        self.numbers.instructions += length
        straight, restored = _summary(outcome, types), _summary(again, types)
        if straight != restored:
            raise Differs(f"straight {straight}, restored {restored}")
        if self.printed[printed:] != calls:
            raise Differs(f"the host was called {len(calls)} times straight, otherwise restored")
        if self._encoded(self.store) != end:
            raise Differs("the state at the end is not that of the straight run")
        return finished(again)

    def _straight(self) -> Outcome:
        """Run to the end, as the hops do, in precise code.

        The bits of a NaN that the specification leaves open may differ between the codes, since the
        compiler may exchange the operands of an addition; tests/spec/test_codes.py compares the
        codes, with canonical NaNs.
        """
        outcome: Outcome = Paused("fuel")
        for _ in range(LONGEST // PORTION):
            outcome = self.store.run(fuel=PORTION)
            if outcome != Paused("fuel"):
                break
        return outcome

    def _run_with_hops(self, length: int) -> Outcome:
        at = 0
        outcome: Outcome | None = None
        for stop in stops(length):
            if stop > at:
                if isinstance(outcome, (Finished, Trapped)):
                    raise Differs(f"ended after {at} instructions, not {length}: {outcome}")
                outcome = self.store.run(fuel=stop - at)
                at = stop
            self._hop()
        if outcome is None or isinstance(outcome, Paused):
            # The last instruction has been executed; what is left is to return from the function.
            before = self.store.executed or 0
            outcome = self.store.run(fuel=1)
            if self.store.executed != before:
                raise Differs(f"not at an end after {length} instructions")
            self._hop()
        return outcome

    def _hop(self) -> None:
        self.store.check()
        self.store = self._restore(self._encoded(self.store))

    def _encoded(self, store: Store) -> bytes:
        # A snapshot's lineage says when and where it was taken; all else is the state.
        snapshot = replace(capture.capture(store), lineage=_LINEAGE)
        return b"".join(format.encode(snapshot, compress=False))

    def _restore(self, encoded: bytes) -> Store:
        snapshot = format.decode(encoded)
        store = restoring.restore(snapshot, modules=self.modules.values(), imports=self.host)
        self.numbers.restores += 1
        store.check()
        if self._encoded(store) != encoded:
            raise Differs("a restored store does not capture to what it was restored from")
        return store


_LINEAGE = Lineage(id=bytes(16), parent=None, created=0, host="spec", engine="spec")


def _summary(outcome: Outcome, types: Sequence[ValType]) -> Any:
    """What must be equal of two outcomes: results bit for bit, or the trap and where it struck.
    External references are objects here, since a snapshot numbers them anew."""
    if isinstance(outcome, Trapped):
        return outcome.trap.code, outcome.trap.backtrace
    assert isinstance(outcome, Finished), f"the run ended with {outcome}"
    return [
        result if kind.code is ValType.EXTERNREF else bits
        for kind, bits, result in zip(types, outcome.raw, outcome.results, strict=True)
    ]
