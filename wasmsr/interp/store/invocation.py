"""Invocations: the queue of a store, and the loop that runs them to outcomes.

The C core runs until it finishes, traps, pauses or needs a host function; the loop performs the
host functions in between.

Source: WebAssembly specification, section 4.5.5 (Invocation).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from wasmsr._ffi import ffi, lib
from wasmsr.errors import (
    Exit,
    Frame,
    HostError,
    Interrupted,
    Trap,
    UncaughtException,
    WasmsrError,
)
from wasmsr.interp.instruction_set.traps import MESSAGES, NO_CODE
from wasmsr.interp.outcomes import Exited, Finished, Outcome, Paused, Trapped
from wasmsr.interp.store.exceptions import ThrownException, is_exception
from wasmsr.interp.store.externs import Callers, Function, Retry
from wasmsr.interp.store.frames import backtrace
from wasmsr.interp.store.linking import Linker
from wasmsr.interp.store.pausing import PauseControl
from wasmsr.interp.store.references import ReferenceTable
from wasmsr.interp.types import FuncType
from wasmsr.interp.values import from_slot, slot_count, slots_to_values, to_slot, values_to_slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.store.interface import StoreInterface

_LOAN = 1 << 62
"""Fuel for a call-back that has used up all there was: a call-back cannot pause."""
_HOST_CALL = lib.WSR_HOST_CALL


class Invoker:
    """The part of a store that runs invocations.

    Args:
        store: The store.
        linker: The host functions of the store.
        references: What its references refer to.
        pauses: Requests to pause it.

    Attributes:
        queue: Invocations to make when the thread's frames have returned: (address, slots).
        executed: Instructions executed in metered runs that have ended, or None.
        invocations: How many invocations have begun. The number does not change when a host call
            is made again after a pause.
        callers: A `Caller` for each instance.
        last: The outcome of the last invocation that finished.
        entry: Type of the function whose frame is the outermost.
    """

    def __init__(
        self,
        store: StoreInterface,
        linker: Linker,
        references: ReferenceTable,
        pauses: PauseControl,
    ) -> None:
        self._store = store
        self._linker = linker
        self._references = references
        self._pauses = pauses
        self.queue: list[tuple[int, tuple[int, ...]]] = []
        self.executed: int | None = None
        self.invocations = 0
        self.callers = Callers(store)
        self.last: Finished = Finished()
        self.entry: FuncType | None = None
        self._budget: Any = None
        self._lent = self._counted = 0
        self._exit = ffi.new("wsr_exit *")
        self._outer: list[Any] = []

    def take(self, source: Invoker) -> None:
        """Take over the queue, the counter and the outcome of another store in the same state."""
        self.queue[:] = source.queue
        self.executed = source.executed
        self.entry = source.entry
        self.last = Finished()
        for address, slots in self.queue:
            params = self._store.function_type(address).params
            if any(map(is_exception, params)):  # the new store keeps exceptions of its own
                self._references.hold(
                    [
                        self._store.referenced(type_, bits)
                        for type_, bits in zip(params, slots_to_values(params, slots), strict=True)
                        if is_exception(type_)
                    ]
                )

    @property
    def nested(self) -> bool:
        """Whether a host function is being performed that called back into the store."""
        return bool(self._outer)

    @property
    def instructions(self) -> int | None:
        """Instructions executed so far in metered runs; None if there was none."""
        if self._budget is None:
            return self.executed
        return (self.executed or 0) + int(lib.wsr_executed(self._store.c)) - self._counted

    def slots(self, function: Function, arguments: Sequence[Any]) -> tuple[int, ...]:
        """Return the slots of a call's arguments.

        Raises:
            TypeError, OverflowError: The arguments do not fit the function's type.
        """
        params = function.type.params
        if len(params) != len(arguments):
            raise TypeError(f"the function takes {len(params)} arguments, not {len(arguments)}")
        bits = [to_slot(self._store, t, a) for t, a in zip(params, arguments, strict=True)]
        if any(map(is_exception, params)):
            self._references.hold(arguments)
        return tuple(values_to_slots(params, bits))

    def enqueue(self, address: int, slots: tuple[int, ...]) -> None:
        """Add an invocation."""
        self.queue.append((address, slots))
        self._linker.tell("enqueue", function=address, slots=slots)

    def push(self, function: Function, arguments: Sequence[Any]) -> None:
        """Push a call above the frames of a paused program; see `Store.push_call`."""
        c = self._store.c
        self._pauses.enter()
        try:
            if not lib.wsr_frame_count(c):
                raise WasmsrError(
                    "no call of the store is paused", hint="enqueue() adds a call to an idle store"
                )
            if function.address in self._linker.hosts:
                raise WasmsrError(
                    "a host function cannot be pushed above paused frames",
                    hint="push a function of a module",
                )
            slots = self.slots(function, arguments)
            trap = lib.wsr_push_call(c, function.address, list(slots) or [0])
            if trap:
                raise self._trap(trap)
            self.invocations += 1
            self._linker.tell("push", function=function.address, slots=slots)
        finally:
            self._pauses.leave()

    def run(self, fuel: int | None) -> Outcome:
        """Run the frames, then the queue; see `Store.run`."""
        if fuel is not None and not 0 <= fuel < _LOAN:
            raise ValueError("fuel must be a number of instructions, 0 or more")
        c = self._store.c
        budget = None if fuel is None else ffi.new("uint64_t *", fuel)
        self._pauses.enter()
        self._references.release()
        self._budget, self._counted = budget, lib.wsr_executed(c)
        try:
            if self._pauses.requested and (lib.wsr_frame_count(c) or self.queue):
                self._pauses.end_if_interrupted()
                self._pauses.clear()
                outcome: Outcome = Paused("requested")
            else:
                outcome = self.run_queue(budget)
            self._linker.tell_growths()
            if isinstance(outcome, Paused):
                self._linker.tell("pause", reason=outcome.reason)
            return outcome
        except BaseException:
            self._pauses.forget_interrupt()
            self.queue.clear()
            self._references.let_go()
            lib.wsr_drop_frames(c)
            raise
        finally:
            self.executed = self.instructions
            self._budget = None
            self._lent = 0
            self._pauses.leave()

    def _settle(self) -> None:
        """Take back the fuel that was lent to a call-back."""
        self._budget[0] = self._lent = 0

    def run_queue(self, budget: Any) -> Outcome:
        """Run the frames, then the queue, on a store that this thread has entered.

        Args:
            budget: A `uint64_t *` with the instructions that remain, or None.
        """
        c = self._store.c
        while True:
            if not lib.wsr_frame_count(c):
                if not self.queue:
                    self._references.let_go()
                    return self.last
                address, slots = self.queue[0]
                if address in self._linker.hosts:
                    if budget is not None and not budget[0]:
                        return Paused("fuel")
                    outcome = self._host_entry(address, slots)
                    if outcome is not None:
                        if not isinstance(outcome, Paused):
                            self._clear()
                        return outcome
                    self.queue.pop(0)
                    continue
                self.queue.pop(0)
                self.invocations += 1
                trap = lib.wsr_begin(c, address, list(slots) or [0], ffi.new("wsr_activation *"))
                if trap:
                    self.queue.clear()
                    return Trapped(self._trap(trap, ()))
                self.entry = self._store.function_type(address)
            outcome = self._advance(budget)
            if outcome is not None:
                return outcome

    def _host_entry(self, address: int, slots: Sequence[int]) -> Outcome | None:
        """Invoke a host function that was enqueued itself."""
        self.invocations += 1
        type_ = self._linker.hosts[address][0].type
        array = ffi.new("uint64_t[]", max(1, slot_count(type_.params), slot_count(type_.results)))
        array[0 : len(slots)] = list(slots)
        while True:
            try:
                self._linker.perform_at[address](self.callers[None], array)
            except BaseException as error:  # noqa: BLE001 (what follows is decided there)
                outcome = self._not_performed(error)
                if outcome is not None:
                    return outcome
            else:
                self.last = self._finished(type_, array)
                return None

    def _finished(self, type_: FuncType, slots: Any) -> Finished:
        results = type_.results
        raw: tuple[int, ...] = ()
        if results:
            raw = tuple(slots_to_values(results, ffi.unpack(slots, slot_count(results))))
        store = self._store
        values = tuple(from_slot(store, t, v) for t, v in zip(results, raw, strict=True))
        return Finished(values, raw)

    def _advance(self, budget: Any) -> Outcome | None:
        """Run the frames that are there; None when they have returned."""
        c, exit_ = self._store.c, self._exit
        null = ffi.NULL if budget is None else budget
        functions, callers, outer = self._linker.perform_at, self.callers, self._outer
        again = lib.wsr_host_return_run
        code = lib.wsr_run(c, null, exit_)
        while True:
            # The commonest case is first and does nothing that can be done once: a program can
            # make a million of these calls a second.
            while code == _HOST_CALL:
                try:
                    functions[exit_.host_function](callers[exit_.host_instance], exit_.slots)
                except BaseException as error:  # noqa: BLE001 (what follows is decided there)
                    outcome = self._not_performed(error)
                    if self._lent and not outer:
                        self._settle()
                    if outcome is None:
                        continue  # once more
                    if isinstance(outcome, Trapped) and self._caught(outcome.trap):
                        code = lib.wsr_run(c, null, exit_)
                        continue
                    if isinstance(outcome, Paused):
                        lib.wsr_host_retry(c, null)
                    elif not outer:
                        self._clear()
                    return outcome
                if self._lent and not outer:
                    self._settle()
                code = again(c, null, exit_)
            if code == lib.WSR_FINISHED:
                if lib.wsr_end_pushed_call(c):  # what it was pushed above goes on
                    code = lib.wsr_run(c, null, exit_)
                    continue
                assert self.entry is not None
                self.last = self._finished(self.entry, exit_.slots)
                return None
            if code != lib.WSR_PAUSED:
                return self._trapped(code)
            if self._put_off(budget):
                code = lib.wsr_run(c, null, exit_)
                continue
            if self._pauses.requested:
                self._pauses.clear()
                return Paused("requested")
            return Paused("fuel")

    def _put_off(self, budget: Any) -> bool:
        """Put off a pause until the host function that waits for this call has returned."""
        requested = self._pauses.requested
        if requested:
            self._pauses.end_if_interrupted()
        if not self._outer:
            return False
        if requested:
            self._pauses.clear()
            self._outer[-1][1] = True
        else:
            budget[0] = _LOAN
            self._lent += _LOAN
        return True

    def _trapped(self, code: int) -> Outcome:
        """Return the outcome of frames that the core has left for a trap or an exception."""
        if code == lib.WSR_UNCAUGHT:
            trap: Trap = ThrownException(self._store, self._exit.exception).error()
            trap.backtrace = backtrace(self._store)
        else:
            trap = self._trap(self._exit.trap)
        if not self._outer:
            self._clear()
        return Trapped(trap)

    def _trap(self, code: int, frames: tuple[Frame, ...] | None = None) -> Trap:
        """Return the trap of a code.

        Raises:
            InvalidError: The function has no code because its body, which was not validated
                before, is invalid.
        """
        if MESSAGES[code] == NO_CODE:
            for instance in self._store.instances:
                error = instance.module.invalid()
                if error is not None:
                    raise error
        return Trap(MESSAGES[code], backtrace(self._store) if frames is None else frames)

    def _not_performed(self, error: BaseException) -> Outcome | None:
        """Return what follows when a host function raised; None if it is to be called again.

        Raises:
            HostError: The host function failed.
        """
        if isinstance(error, Retry):
            self._pauses.end_if_interrupted()
            if not self._outer:
                self._pauses.clear()
                return Paused("requested")
            if not self._pauses.requested:
                raise HostError("a host call gave up though nobody asked for a pause") from None
            # The host function that called back must end first: put the pause off, wait again.
            self._pauses.clear()
            self._outer[-1][1] = True
            return None
        if isinstance(error, Exit):
            return Exited(error.code)
        if isinstance(error, UncaughtException):
            error.backtrace = error.backtrace or backtrace(self._store)
            return Trapped(error)
        if isinstance(error, Trap):  # of a call-back, or of the host function's own making
            return Trapped(error if error.backtrace else Trap(error.code, backtrace(self._store)))
        if isinstance(error, WasmsrError) or not isinstance(error, Exception):
            raise error
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise HostError(f"a host function raised {said}") from error

    def _caught(self, trap: Trap) -> bool:
        """Return whether the program catches what the host function has thrown."""
        return (
            isinstance(trap, UncaughtException)
            and trap.exception.store is self._store
            and bool(lib.wsr_host_throw(self._store.c, trap.exception.bits))
        )

    def _clear(self) -> None:
        """Drop the frames and the queue: the program has ended."""
        self.queue.clear()
        self._references.let_go()
        lib.wsr_drop_frames(self._store.c)

    def call(self, function: Function, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Run a function to its end and return its results; see `Function.__call__`."""
        slots = self.slots(function, arguments)
        if self._pauses.running and self._pauses.thread == threading.get_ident():
            return self._call_back(function, slots)
        if not self._pauses.running:  # on another thread, that is; `run` says so
            if lib.wsr_frame_count(self._store.c) or self.queue:
                raise WasmsrError("the store's thread is paused", hint="run() it to its end first")
            self.queue.append((function.address, slots))
        outcome = self.run(None)
        if isinstance(outcome, Paused):
            raise Interrupted("the call was paused", hint="store.run() goes on with it")
        return _results(outcome, self.last)

    def _call_back(self, function: Function, slots: tuple[int, ...]) -> tuple[Any, ...]:
        """Run a function on top of the frames that wait for the host function that calls it."""
        entry, last = self.entry, self.last
        if function.address in self._linker.hosts:
            outcome = self._host_entry(function.address, slots)
            finished, self.last = self.last, last
            return _results(outcome, finished)
        activation = ffi.new("wsr_activation *")
        exit_ = self._exit
        outer_exit = (exit_.host_function, exit_.host_instance, exit_.slots)
        self.invocations += 1
        c = self._store.c
        trap = lib.wsr_begin(c, function.address, list(slots) or [0], activation)
        if trap:
            raise self._trap(trap, ())
        self.entry = self._store.function_type(function.address)
        level = [activation, False]
        self._outer.append(level)
        try:
            outcome = self._advance(self._budget)
            finished = self.last
        finally:
            self._outer.pop()
            lib.wsr_end(c, activation)
            self.entry, self.last = entry, last
            exit_.host_function, exit_.host_instance, exit_.slots = outer_exit
            if level[1]:
                self._pauses.pause()
        return _results(outcome, finished)


def _results(outcome: Outcome | None, last: Finished) -> tuple[Any, ...]:
    """Return the results of a call, or raise what ended it.

    Args:
        outcome: How the call ended, or None if it finished.
        last: The last invocation that finished.
    """
    if isinstance(outcome, Trapped):
        raise outcome.trap
    if isinstance(outcome, Exited):
        raise Exit(outcome.code)
    return outcome.results if isinstance(outcome, Finished) else last.results
