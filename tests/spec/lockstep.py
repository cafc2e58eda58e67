"""The same assertions in both codes side by side, compared where both can stop.

    python -m tests.spec.lockstep [--counted] [SCRIPT…]

Everything is done in two stores that are made alike. An invocation runs in fast code in one and in
precise code in the other, to the same canonical point after the same; there all that a snapshot
holds must be equal. The first EVERY points are all compared, then SPREAD more, ever further apart,
and the end. Calls are stopped at or passed by turns.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tests.lockstep import Differ, Pair
from wasmsr.errors import LinkError, Trap
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Finished, Limits, Outcome, Paused
from wasmsr.interp.store.externs import Function, HostFunction
from wasmsr.interp.store.instance import Imports
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import FuncType, ValType

from . import report, spectest, suite
from .execute import Runner, Tally
from .ours import WasmsrSession, _spectest, finished
from .restored import FRAMES, SLOTS
from .values import Number, Value

EVERY = 300
SPREAD = 40
GROWTH = 1.5
"""How much further apart each of the SPREAD points is than the one before."""


class LockstepSession(WasmsrSession):
    """Two stores of ours.

    Args:
        counted: fast code counts instructions, and the counts are compared too.
    """

    def __init__(self, *, counted: bool = False) -> None:
        super().__init__()
        limits = Limits(stack_frames=FRAMES, stack_slots=SLOTS)
        # Deterministic: which operand's bits a NaN keeps is the compiler's choice in each code.
        self.stores = [Store(limits=limits, deterministic=True) for _ in range(2)]
        self.store = self.stores[0]
        self.pair = Pair(*self.stores, counted=counted)
        self.echoed: list[tuple[Value, ...]] = []
        self.invocations = 0

    @cached_property
    def spectest(self) -> int:
        module = _spectest()
        echo = {
            spectest.HOST: {name: self._echo(params) for name, params in spectest.PRINTS.items()}
        }
        return self._place_both(module, [self.host, echo])

    def _echo(self, params: Sequence[str]) -> HostFunction:
        types = tuple(ValType[param.upper()] for param in params)

        def call(_caller: Any, *slots: int) -> None:
            self.echoed.append(tuple(map(Number, params, slots)))

        return HostFunction(FuncType(types, ()), call, raw=True)

    def instantiate(self, module: Module, registered: Mapping[str, int]) -> int:
        return self._place_both(
            module,
            [
                {name: store.instances[number].exports for name, number in registered.items()}
                for store in self.stores
            ],
        )

    def _place_both(self, module: Module, imports: Sequence[Imports]) -> int:
        ends = [
            _end_of(lambda s=store, i=given: s.instantiate(module, i, start=False).index)
            for store, given in zip(self.stores, imports, strict=True)
        ]
        if repr(ends[0]) != repr(ends[1]):
            raise Differ(f"instantiating: {ends[0]!r} and {ends[1]!r}")
        if isinstance(ends[0], Exception):
            raise ends[0]
        if self.store.queue:
            self.drive(())
        return ends[0]

    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        twin = self.stores[1]
        function = twin.instances[instance].exports.get(field)
        if isinstance(function, Function):
            self.store = twin
            try:
                slots = [self._slot(value) for value in args]
            finally:
                self.store = self.stores[0]
            twin.enqueue_raw(function.address, slots)
        return super().invoke(instance, field, args)

    def drive(self, types: Sequence[ValType]) -> Finished:
        self.invocations += 1
        outcome: Outcome = self.pair.run(most=EVERY, seed=self.invocations)
        every = 2.0
        while isinstance(outcome, Paused):
            # Beyond the last of those to be compared there is only the end.
            points = int(every) if every < GROWTH**SPREAD else 1 << 60
            outcome = self.pair.advance(points, through_calls=int(every) % 2 == 0)
            every *= GROWTH
        if self.echoed != self.printed:
            raise Differ("the host was called otherwise")
        return finished(outcome)


def _end_of(make: Callable[[], int]) -> int | Exception:
    try:
        return make()
    except (LinkError, Trap) as error:
        return error


def run_script(name: str, *, counted: bool = False) -> tuple[Tally, LockstepSession]:
    """Run one script in both codes; the verdicts, and the session for its numbers."""
    session = LockstepSession(counted=counted)
    return Runner(suite.load(name), session).run(), session


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code: 0, 1 where something failed."""
    counted = "--counted" in argv
    tallies, invocations, points, compared = [], 0, 0, 0
    for name in [word for word in argv if not word.startswith("-")] or suite.names():
        tally, session = run_script(name, counted=counted)
        tallies.append(tally)
        invocations += session.invocations
        points += session.pair.points
        compared += session.pair.compared
        print(*tally.failures, sep="\n", end="\n" if tally.failures else "", flush=True)
    print(report.summary(tallies))
    print(f"{invocations:,} invocations, {compared:,} states compared")
    return 1 if any(tally.failures for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
