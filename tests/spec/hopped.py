"""The same assertions while the program is stopped, put away and taken out again in fast code.

An invocation runs straight in fast code once, to learn what comes of it. Then it runs again and
is stopped at every canonical point of the first EVERY, and at SPREAD more, ever further apart. At
each it is captured, encoded, decoded and restored, and goes on in fast code: to the next point; and
at some points a second copy right to the end, with every call made by fast code itself. Results,
traps, calls of the host and the whole final state must be those of the straight run, and every
restored store must capture to the very bytes that it was restored from.

What all the states were is summed up in `Numbers.states`, so that builds of wasmsr for other loops,
compilers and CPUs can be compared (tests/cross, tests/spec/test_builds.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from tests.lockstep import advance
from wasmsr._ffi import ffi, lib
from wasmsr.interp.outcomes import Finished, Outcome, Paused
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import ValType

from .ours import finished
from .restored import Differs, RestoredSession, _summary

EVERY = 200
"""So many canonical points at the beginning of an invocation are all stopped at."""
SPREAD = 30
GROWTH = 1.5
"""How much further apart each of the SPREAD points is than the one before."""
BRANCHES = 10
"""From so many points at the beginning of an invocation a copy is also run to its end."""

FAST = ffi.string(lib.wsr_variant()) == b"tail calls"


class HoppedSession(RestoredSession):
    """Stores of ours, in deterministic mode: which bits a NaN keeps is the compiler's choice."""

    deterministic = True

    def drive(self, types: Sequence[ValType]) -> Finished:
        self.numbers.invocations += 1
        start, printed = self._encoded(self.store), len(self.printed)
        outcome = self._to_the_end(self.store)
        wanted = _summary(outcome, types)
        end, calls = self._encoded(self.store), self.printed[printed:]
        del self.printed[printed:]
        self.store = self._restore(start)
        points, gap = 0, 1.0
        while True:
            passed = self.printed[printed:]
            if points < BRANCHES or (points >= EVERY and self.numbers.restores % 4 == 0):
                self._branch(types, wanted, end, calls, passed)
            many = int(gap) if gap < GROWTH**SPREAD else 1 << 60
            # Calls are passed by turns where the points are far apart.
            outcome = advance(self.store, many, 0, through_calls=many > 1 and many % 2 == 0)
            if not isinstance(outcome, Paused):
                break
            points += 1
            gap = gap * GROWTH if points >= EVERY else 1.0
            self._hop()
            self.numbers.stops += 1
            self.numbers.entered += lib.wsr_enters_fast(self.store.c)
        if _summary(outcome, types) != wanted:
            raise Differs(f"straight {wanted}, hopped {_summary(outcome, types)}")
        if self.printed[printed:] != calls:
            raise Differs(f"the host was called {len(calls)} times straight, otherwise hopped")
        if self._encoded(self.store) != end:
            raise Differs("the state at the end is not that of the straight run")
        return finished(outcome)

    def _branch(
        self,
        types: Sequence[ValType],
        wanted: object,
        end: bytes,
        calls: Sequence[object],
        passed: Sequence[object],
    ) -> None:
        """Run a copy of the store to its end without a stop."""
        here, before = self.store, len(self.printed)
        try:
            self.store = self._restore(self._encoded(here))
            outcome = self._to_the_end(self.store)
            if _summary(outcome, types) != wanted:
                raise Differs(f"straight {wanted}, from a point {_summary(outcome, types)}")
            if [*passed, *self.printed[before:]] != [*calls]:
                raise Differs(f"the host was called {len(calls)} times straight, otherwise here")
            if self._encoded(self.store) != end:
                raise Differs("the state at the end is not that of the straight run")
        finally:
            self.store = here
            del self.printed[before:]

    def _to_the_end(self, store: Store) -> Outcome:
        outcome = store.run()
        if isinstance(outcome, Paused):
            raise Differs(f"stopped though nobody asked: {outcome}")
        return outcome

    def _hop(self) -> None:
        self.store.check()
        encoded = self._encoded(self.store)
        digest = int.from_bytes(blake2b(encoded, digest_size=8).digest(), "big")
        self.numbers.states = (self.numbers.states + digest) % (1 << 64)
        self.store = self._restore(encoded)
